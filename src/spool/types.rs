//! What goes into the spool and what comes out: options, records and answers. Plain data, no behaviour beyond names.

use std::path::PathBuf;

use crate::domain::{StoredInstance, Uid, Urgency, Verdict, VerdictKind, WallTime};

/// Bounds of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpoolOptions {
    /// Most bytes that instance files may take, each rounded up to a 4 KiB block. Beyond it concluded and delivered
    /// studies are evicted, oldest first; when none is left, new instances are refused.
    pub bytes_max: u64,
    /// Bytes that must stay free on the file system of the state folder, so that the index, results and settings can always be
    /// written. Below it the same happens as above `bytes_max`.
    pub free_bytes_min: u64,
    /// Largest single instance file, bytes; a larger one is refused while it arrives.
    pub instance_bytes_max: u64,
    /// A study with committed instances is not evicted before it has been so for this long, ms by the box's clock (PS3.4 annex J: who
    /// commits takes responsibility).
    pub commitment_hold_ms: i64,
}

impl Default for SpoolOptions {
    /// 16 GiB of instances, 512 MiB kept free, 1 GiB for one instance, committed ones held for 30 days.
    fn default() -> Self {
        Self { bytes_max: 16 << 30, free_bytes_min: 512 << 20, instance_bytes_max: 1 << 30, commitment_hold_ms: 30 * 86_400_000 }
    }
}

/// How an instance was stored. In each case its content is durable and the peer may be told so.
#[derive(Clone, Debug, PartialEq)]
pub enum Committed {
    /// First time that this SOP Instance UID was seen.
    New(StoredInstance),
    /// The same SOP Instance UID with the same data set was there already; it is stored once. `path` is the first one's.
    Duplicate(StoredInstance),
    /// The same SOP Instance UID with another data set was there already: the first is untouched, this one is kept beside it as
    /// evidence and takes no part in triage.
    ConflictKept(StoredInstance),
}

impl Committed {
    /// The stored instance, whichever way it was stored.
    #[must_use]
    pub fn instance(&self) -> &StoredInstance {
        match self {
            Self::New(instance) | Self::Duplicate(instance) | Self::ConflictKept(instance) => instance,
        }
    }
}

/// What the index knows about a stored instance; the header is read again from the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredInstanceRecord {
    /// The Part-10 file.
    pub path: PathBuf,
    /// SOP Instance UID.
    pub sop_instance_uid: Uid,
    /// Study Instance UID.
    pub study_instance_uid: Uid,
    /// Size of the file, bytes.
    pub n_bytes: u64,
    /// SHA-256 of the data set's bytes as received.
    pub sha256: [u8; 32],
    /// When it became durable.
    pub received_at: WallTime,
}

/// A verdict to be kept.
#[derive(Clone, Debug, PartialEq)]
pub struct VerdictRecord {
    /// Study Instance UID.
    pub study_instance_uid: Uid,
    /// Accession Number.
    pub accession_number: Option<String>,
    /// The answer.
    pub kind: VerdictKind,
    /// How urgent; `None` unless flagged.
    pub urgency: Option<Urgency>,
    /// Highest component score, if there is one.
    pub score: Option<f64>,
    /// The whole verdict as JSON (DESIGN.md section 4).
    pub json: String,
    /// How many instances of the study it looked at. An instance beyond that number makes the study pending again.
    pub n_instances: usize,
    /// Whether the rest of the study was still arriving: then the study stays pending, whatever the number.
    pub provisional: bool,
    /// When it was decided.
    pub decided_at: WallTime,
}

impl VerdictRecord {
    /// The record of a verdict over `n_instances` instances, whose JSON is `json`.
    #[must_use]
    pub fn of(verdict: &Verdict, json: String, n_instances: usize) -> Self {
        Self {
            study_instance_uid: verdict.study_instance_uid.clone(),
            accession_number: verdict.accession_number.clone(),
            kind: verdict.kind,
            urgency: verdict.urgency,
            score: verdict.score,
            json,
            n_instances,
            provisional: verdict.provisional,
            decided_at: verdict.decided_at,
        }
    }
}

/// A notice that must reach somebody: goes to the durable outbox in the same transaction as its verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Which channel of the configuration, such as `webhook:0`.
    pub channel: String,
    /// The receiver can recognise a repetition by it. A key that is in the outbox already is not queued twice.
    pub idempotency_key: String,
    /// What is sent.
    pub body: String,
}

/// A notice that waits for delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxEntry {
    /// Number in the outbox.
    pub id: u64,
    /// The study that it is about.
    pub study_instance_uid: Uid,
    /// The verdict that it tells.
    pub verdict_number: u64,
    /// Which channel of the configuration.
    pub channel: String,
    /// See [`Notice::idempotency_key`].
    pub idempotency_key: String,
    /// What is sent.
    pub body: String,
    /// Failed attempts so far.
    pub attempts: u32,
    /// When it was queued.
    pub created_at: WallTime,
    /// When it is due.
    pub next_attempt_at: WallTime,
    /// What went wrong last.
    pub last_error: Option<String>,
}

/// The outbox in figures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutboxStats {
    /// Notices that wait.
    pub n_waiting: u64,
    /// Of these, how many have failed at least once.
    pub n_failing: u64,
    /// Of these, how many have waited longer than [`super::NOTICE_STALE_MS`].
    pub n_stale: u64,
    /// Notices that were delivered.
    pub n_delivered: u64,
    /// When the oldest waiting one was queued.
    pub oldest_waiting_at: Option<WallTime>,
    /// The latest error of a waiting one.
    pub last_error: Option<String>,
}

/// Where a study stands in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StudyState {
    /// No verdict yet, or instances that the latest verdict has not seen.
    Pending,
    /// The latest verdict covers every instance.
    Concluded,
    /// Concluded, delivered, and its instances deleted to make room; the verdicts are kept.
    Evicted,
}

impl StudyState {
    /// Stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Concluded => "concluded",
            Self::Evicted => "evicted",
        }
    }
}

/// One study on one line.
#[derive(Clone, Debug, PartialEq)]
pub struct StudySummary {
    /// Study Instance UID.
    pub study_instance_uid: Uid,
    /// Accession Number, at most 64 characters.
    pub accession_number: Option<String>,
    /// Instances in the store now.
    pub n_instances: u64,
    /// Instances with a known UID and other content, kept as evidence.
    pub n_conflicts: u64,
    /// Where it stands.
    pub state: StudyState,
    /// The latest verdict.
    pub verdict: Option<VerdictKind>,
    /// The latest verdict's urgency.
    pub urgency: Option<Urgency>,
    /// The most urgent of all its verdicts: a later verdict never lowers it (DESIGN.md rule 5).
    pub standing_urgency: Option<Urgency>,
    /// The latest verdict's score.
    pub score: Option<f64>,
    /// Whether the latest verdict is provisional: the rest of the study was still arriving.
    pub provisional: bool,
    /// The latest verdict's number.
    pub verdict_number: Option<u64>,
    /// When the latest verdict was decided.
    pub decided_at: Option<WallTime>,
    /// When the first instance came.
    pub received_at: WallTime,
    /// When the latest instance came.
    pub last_received_at: WallTime,
    /// When its instances were last deleted to make room; others may have come since.
    pub evicted_at: Option<WallTime>,
    /// Whether somebody still has to acknowledge: flagged or indeterminate, and no acknowledgement since it became that urgent.
    pub needs_acknowledgement: bool,
    /// Who acknowledged last.
    pub acknowledged_by: Option<String>,
    /// When.
    pub acknowledged_at: Option<WallTime>,
    /// Notices that wait for delivery.
    pub n_notices_waiting: u64,
}

/// One verdict as kept.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredVerdict {
    /// Running number over all studies.
    pub number: u64,
    /// Number of the verdict on the same study that it replaced.
    pub supersedes: Option<u64>,
    /// The answer.
    pub kind: VerdictKind,
    /// How urgent.
    pub urgency: Option<Urgency>,
    /// Highest component score.
    pub score: Option<f64>,
    /// Whether the rest of the study was still arriving.
    pub provisional: bool,
    /// How many instances it looked at.
    pub n_instances: u64,
    /// When it was decided.
    pub decided_at: WallTime,
    /// The whole verdict.
    pub json: String,
}

/// One notice of a study, delivered or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The verdict that it tells.
    pub verdict_number: u64,
    /// Which channel.
    pub channel: String,
    /// Failed attempts.
    pub attempts: u32,
    /// When it was queued.
    pub created_at: WallTime,
    /// When it was delivered; `None` while it waits.
    pub delivered_at: Option<WallTime>,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// Waits longer than [`super::NOTICE_STALE_MS`].
    pub stale: bool,
}

/// Somebody has taken note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    /// Who, as the web page or the button named them.
    pub by: String,
    /// When.
    pub at: WallTime,
    /// The latest verdict at that moment: this one and all before it are covered.
    pub verdict_number: u64,
}

/// One study in full.
#[derive(Clone, Debug, PartialEq)]
pub struct StudyDetail {
    /// The line of the list.
    pub summary: StudySummary,
    /// Its verdicts, newest first, at most [`super::DETAIL_ROWS_MAX`].
    pub verdicts: Vec<StoredVerdict>,
    /// Its notices, newest first, at most [`super::DETAIL_ROWS_MAX`].
    pub deliveries: Vec<Delivery>,
    /// Who acknowledged, newest first, at most [`super::DETAIL_ROWS_MAX`].
    pub acknowledgements: Vec<Acknowledgement>,
}

/// How full the store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// What instance files take, whole 4 KiB blocks, those still arriving included.
    pub bytes: u64,
    /// Of these, what eviction could free at once, whole blocks.
    pub bytes_evictable: u64,
    /// The budget.
    pub bytes_max: u64,
    /// Bytes free on the file system.
    pub free_bytes: u64,
    /// Bytes that must stay free.
    pub free_bytes_min: u64,
    /// Instances stored.
    pub n_instances: u64,
    /// Studies known, evicted ones included.
    pub n_studies: u64,
    /// Whether the last request for room was refused, and there is still none.
    pub full: bool,
    /// Whether the last write failed.
    pub failing: bool,
}
