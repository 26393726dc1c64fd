//! What the spool reports to the journal. Sentences hold counts, sizes and our own numbers, never a UID or a name.

use crate::journal::{Event, Level};

use super::error::SpoolError;

/// An event of the spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpoolEvent {
    /// The store was opened.
    StoreOpened {
        /// Instances in it.
        n_instances: u64,
        /// Studies in it, evicted ones included.
        n_studies: u64,
        /// What their files take, bytes.
        bytes: u64,
    },
    /// Files of instances that were never answered were removed at start.
    IncomingSwept {
        /// Half-received files.
        n_incoming: u64,
        /// Complete files without an index row.
        n_orphans: u64,
    },
    /// Index rows whose files are gone: somebody or something deleted them.
    InstancesLost {
        /// How many.
        n: u64,
    },
    /// An instance became durable.
    InstanceStored {
        /// Its number in the store.
        number: u64,
        /// Size, bytes.
        n_bytes: u64,
    },
    /// An instance came again with the same content.
    InstanceDuplicated,
    /// An instance came again with other content.
    InstanceConflicted {
        /// Whether the new one was kept as evidence; false when enough are kept already.
        kept: bool,
    },
    /// A concluded and delivered study made room.
    StudyEvicted {
        /// Instances deleted.
        n_instances: u64,
        /// Bytes freed.
        n_bytes: u64,
    },
    /// New instances are refused from now on.
    StoreFull {
        /// Why.
        error: SpoolError,
    },
    /// There is room again.
    StoreRoomMade,
    /// The disk or the index failed.
    StoreFailed {
        /// Why.
        error: SpoolError,
    },
    /// Writing works again.
    StoreRecovered,
    /// A file could not be removed; it will be at the next start.
    FileLeft {
        /// What the operating system said.
        reason: String,
    },
    /// A verdict was kept.
    VerdictRecorded {
        /// Its number.
        number: u64,
        /// The answer.
        kind: &'static str,
        /// The one that it replaced.
        supersedes: Option<u64>,
    },
    /// A notice waits in the outbox.
    NoticeQueued {
        /// The verdict that it tells.
        verdict_number: u64,
        /// Which channel.
        channel: String,
    },
    /// The list of procedure steps was full: the oldest made room.
    StepsDropped {
        /// How many.
        n: u64,
    },
    /// Somebody has taken note of a study.
    StudyAcknowledged {
        /// The latest verdict that it covers.
        verdict_number: u64,
    },
}

impl Event for SpoolEvent {
    fn room(&self) -> &'static str {
        "spool"
    }

    fn name(&self) -> &'static str {
        match self {
            Self::StoreOpened { .. } => "StoreOpened",
            Self::IncomingSwept { .. } => "IncomingSwept",
            Self::InstancesLost { .. } => "InstancesLost",
            Self::InstanceStored { .. } => "InstanceStored",
            Self::InstanceDuplicated => "InstanceDuplicated",
            Self::InstanceConflicted { .. } => "InstanceConflicted",
            Self::StudyEvicted { .. } => "StudyEvicted",
            Self::StoreFull { .. } => "StoreFull",
            Self::StoreRoomMade => "StoreRoomMade",
            Self::StoreFailed { .. } => "StoreFailed",
            Self::StoreRecovered => "StoreRecovered",
            Self::FileLeft { .. } => "FileLeft",
            Self::VerdictRecorded { .. } => "VerdictRecorded",
            Self::NoticeQueued { .. } => "NoticeQueued",
            Self::StepsDropped { .. } => "StepsDropped",
            Self::StudyAcknowledged { .. } => "StudyAcknowledged",
        }
    }

    fn level(&self) -> Level {
        match self {
            Self::InstanceStored { .. } | Self::InstanceDuplicated | Self::NoticeQueued { .. } => Level::Debug,
            Self::StoreOpened { .. }
            | Self::StudyEvicted { .. }
            | Self::StoreRoomMade
            | Self::StoreRecovered
            | Self::VerdictRecorded { .. }
            | Self::StepsDropped { .. }
            | Self::StudyAcknowledged { .. } => Level::Info,
            Self::IncomingSwept { .. } | Self::InstanceConflicted { .. } | Self::FileLeft { .. } => Level::Warn,
            Self::InstancesLost { .. } | Self::StoreFull { .. } | Self::StoreFailed { .. } => Level::Error,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::StoreOpened { n_instances, n_studies, bytes } => {
                format!("The store holds {n_instances} instances of {n_studies} studies, {bytes} bytes.")
            }
            Self::IncomingSwept { n_incoming, n_orphans } => format!(
                "Removed {n_incoming} half-received and {n_orphans} unanswered instances of an earlier run; their senders will repeat them."
            ),
            Self::InstancesLost { n } => {
                format!("The files of {n} stored instances are gone: check the disk; send those studies again.")
            }
            Self::InstanceStored { number, n_bytes } => format!("Instance {number} is durable, {n_bytes} bytes."),
            Self::InstanceDuplicated => "An instance came again with the same content; stored once.".to_owned(),
            Self::InstanceConflicted { kept: true } => {
                "An instance came again with other content; the first stays, the other is kept as evidence.".to_owned()
            }
            Self::InstanceConflicted { kept: false } => {
                "An instance came again with yet other content; refused, enough evidence is kept.".to_owned()
            }
            Self::StudyEvicted { n_instances, n_bytes } => {
                format!(
                    "A concluded and delivered study made room: {n_instances} instances, {n_bytes} bytes; its verdicts are kept."
                )
            }
            Self::StoreFull { error } | Self::StoreFailed { error } => format!("New instances are refused: {error}."),
            Self::StoreRoomMade => "There is room for new instances again.".to_owned(),
            Self::StoreRecovered => "Writing to the store works again.".to_owned(),
            Self::FileLeft { reason } => format!("A file could not be removed and is left for the next start: {reason}."),
            Self::VerdictRecorded { number, kind, supersedes: None } => format!("Verdict {number} is kept: {kind}."),
            Self::VerdictRecorded { number, kind, supersedes: Some(earlier) } => {
                format!("Verdict {number} is kept: {kind}; it supersedes verdict {earlier}.")
            }
            Self::NoticeQueued { verdict_number, channel } => {
                format!("A notice of verdict {verdict_number} waits for {channel}.")
            }
            Self::StepsDropped { n } => {
                format!(
                    "The list of procedure steps was full: the {n} oldest made room; a change of theirs is answered as unknown."
                )
            }
            Self::StudyAcknowledged { verdict_number } => {
                format!("The verdicts up to {verdict_number} of a study are acknowledged.")
            }
        }
    }
}
