//! Spool: instances, verdicts and notices that survive power loss, inside a byte budget. Bytes of an instance in -> `StoredInstance` out.
//!
//! ```text
//! begin -> incoming/N.part --write*--> --commit--> file synced --> instances/N.dcm --> directory synced --> index row --> answered
//!               | dropped, error, crash: removed    |------------- group commit: once for all that wait -------------|
//! ```
//!
//! | Part | Holds |
//! | --- | --- |
//! | `sink`, `types`, `error`, `events` | what other rooms see |
//! | `incoming`, `committer` | an instance's way to durability; the first that waits commits for all, in its own thread |
//! | `budget`, `evict` | room, and how it is made |
//! | `schema`, `index`, `verdicts`, `outbox`, `queries` | the tables |
//! | `services`, `steps`, `commitments` | what the DIMSE-N services keep |
//! | `disk`, `layout`, `shared` | files, the lock, what happens at start |
//!
//! **One file per instance, not a log.** Compared by a throw-away script before this was written, on the development disk (ext4 on
//! virtio, loaded; 525,534-byte instances one after the other, three rounds of 60; a 12 KiB overwrite + fdatasync stood in for the index
//! commit): file + sync + rename + directory sync 11.2 to 14.2 ms, preallocated log + fdatasync 8.1 to 8.9 ms each. A quarter to a third
//! cheaper is not worth a log's own reclaiming, torn tails and copying out of evidence; a log with several senders was not measured.
//! The code below with its real index, same size, three rounds of 100 at a load of 15 on 2 cores: 18.9 to 26.8 ms each from one thread,
//! 6.2 to 7.1 ms each from four. The index (SQLite, WAL, `synchronous=FULL`) alone says what is stored.
//!
//! Proof: `tests/system/power_cut.py`, 2 x 100 cuts of the whole appliance (what ext4 had sent to the disk; a disk with a volatile write
//! cache): 0 of 112,872 checks of acknowledged instances failed, and each of the three syncs is needed: left out, 10 of 10 cuts lose.
//! SQLite is built with fdatasync (`.cargo/config.toml`): with fsync its log made ext4 commit its journal once more for each round.

mod budget;
mod commitments;
mod committer;
mod disk;
mod error;
mod events;
mod evict;
mod incoming;
mod index;
mod layout;
mod outbox;
mod queries;
mod schema;
mod services;
mod shared;
mod sink;
mod steps;
#[cfg(test)]
mod tests;
mod types;
mod verdicts;

use std::path::Path;
use std::sync::Arc;

pub use error::{FullBecause, SpoolError};
pub use events::SpoolEvent;
pub use services::{
    COMMITMENTS_BYTES_MAX, COMMITMENTS_DONE_MAX, COMMITMENTS_PER_REQUESTER_MAX, COMMITMENTS_WAITING_MAX, CommitmentStats,
    STEPS_BYTES_MAX, STEPS_LISTED_MAX, STEPS_MAX, ServiceStore, StepChange, StepChanged, StepCreated, WaitingCommitment,
};
pub use sink::{IncomingInstance, InstanceSink, Store};
pub use types::{
    Acknowledgement, Committed, Delivery, Notice, OutboxEntry, OutboxStats, SpoolOptions, StoredInstanceRecord, StoredVerdict,
    StudyDetail, StudyState, StudySummary, Usage, VerdictRecord,
};

use crate::domain::{Uid, WallTime};
use crate::journal::Journal;
use budget::CHUNK_BYTES;
use committer::{Job, Rounds};
use disk::{Disk, OsDisk};
use shared::Shared;

/// A notice that has waited longer than this is stale: the device condition `AlertsUndelivered` is due. 10 minutes.
pub const NOTICE_STALE_MS: i64 = 10 * 60 * 1000;
/// Longest wait before the next attempt that the outbox accepts; a later time is brought forward to it. 1 hour.
pub const RETRY_AHEAD_MS_MAX: i64 = 60 * 60 * 1000;
/// Most studies that one listing returns.
pub const STUDIES_LISTED_MAX: usize = 1000;
/// Most verdicts, notices or acknowledgements that one study's detail returns, each.
pub const DETAIL_ROWS_MAX: usize = 64;

/// A handle to the durable store; clones share it. All calls block: from async code use `spawn_blocking`.
#[derive(Clone)]
pub struct Spool {
    inner: Arc<Inner>,
}

/// The open store. It is closed with the last handle and the last arriving instance.
struct Inner {
    shared: Shared,
    rounds: Rounds,
}

impl Inner {
    /// Commits a synced instance, with others that wait.
    fn commit(&self, job: Job) -> Result<Committed, SpoolError> {
        self.rounds.commit(&self.shared, job)
    }
}

impl Spool {
    /// Opens the state folder `dir`, making it where it is missing: one process at a time. Half-received instances of an earlier run
    /// are removed, and the index is brought to this version's schema.
    ///
    /// # Errors
    /// [`SpoolError::InUse`], [`SpoolError::SchemaNewer`], [`SpoolError::Damaged`], [`SpoolError::Full`] or [`SpoolError::Failing`].
    pub fn open(dir: &Path, options: SpoolOptions, journal: Journal, clock: fn() -> WallTime) -> Result<Self, SpoolError> {
        Self::open_on(dir, options, journal, clock, Box::new(OsDisk))
    }

    fn open_on(
        dir: &Path,
        options: SpoolOptions,
        journal: Journal,
        clock: fn() -> WallTime,
        disk: Box<dyn Disk>,
    ) -> Result<Self, SpoolError> {
        let shared = Shared::open(dir, options, journal, clock, disk)?;
        Ok(Self { inner: Arc::new(Inner { shared, rounds: Rounds::default() }) })
    }
}

impl InstanceSink for Spool {
    fn begin(&self) -> Result<Box<dyn IncomingInstance>, SpoolError> {
        Ok(Box::new(incoming::IncomingFile::begin(Arc::clone(&self.inner))?))
    }

    fn services(&self) -> Option<Arc<dyn ServiceStore>> {
        Some(Arc::new(self.clone()))
    }
}

impl Store for Spool {
    fn pending(&self) -> Result<Vec<StoredInstanceRecord>, SpoolError> {
        let shared = &self.inner.shared;
        index::pending(&shared.reader(), &shared.layout)
    }

    fn instances_of(&self, study_instance_uid: &Uid, limit: usize) -> Result<Vec<StoredInstanceRecord>, SpoolError> {
        let shared = &self.inner.shared;
        queries::instances_of(&shared.reader(), &shared.layout, study_instance_uid, limit)
    }

    fn record_verdict(&self, record: &VerdictRecord, notices: &[Notice]) -> Result<u64, SpoolError> {
        let shared = &self.inner.shared;
        let result = verdicts::record(&mut shared.writer(), record, notices, (shared.clock)());
        let (number, events) = shared.noted(result)?;
        events.iter().for_each(|event| shared.record(event));
        Ok(number)
    }

    fn outbox_due(&self, now: WallTime, limit: usize) -> Result<Vec<OutboxEntry>, SpoolError> {
        outbox::due(&self.inner.shared.reader(), None, now, limit)
    }

    fn outbox_due_on(&self, channel: &str, now: WallTime, limit: usize) -> Result<Vec<OutboxEntry>, SpoolError> {
        outbox::due(&self.inner.shared.reader(), Some(channel), now, limit)
    }

    fn outbox_delivered(&self, id: u64, at: WallTime) -> Result<(), SpoolError> {
        let shared = &self.inner.shared;
        let result = outbox::delivered(&shared.writer(), id, at);
        shared.noted(result)
    }

    fn outbox_failed(&self, id: u64, error: &str, next_attempt_at: WallTime) -> Result<(), SpoolError> {
        let shared = &self.inner.shared;
        let result = outbox::failed(&shared.writer(), id, error, next_attempt_at, (shared.clock)());
        shared.noted(result)
    }

    fn outbox_stats(&self) -> Result<OutboxStats, SpoolError> {
        let shared = &self.inner.shared;
        outbox::stats(&shared.reader(), (shared.clock)())
    }

    fn acknowledge(&self, study_instance_uid: &Uid, by: &str, at: WallTime) -> Result<bool, SpoolError> {
        let shared = &self.inner.shared;
        let result = verdicts::acknowledge(&mut shared.writer(), study_instance_uid, by, at);
        let covered = shared.noted(result)?;
        if let Some(verdict_number) = covered {
            shared.record(&SpoolEvent::StudyAcknowledged { verdict_number });
        }
        Ok(covered.is_some())
    }

    fn unacknowledged(&self) -> Result<Vec<StudySummary>, SpoolError> {
        queries::unacknowledged(&self.inner.shared.reader())
    }

    fn studies(&self, limit: usize) -> Result<Vec<StudySummary>, SpoolError> {
        queries::studies(&self.inner.shared.reader(), limit)
    }

    fn study(&self, study_instance_uid: &Uid) -> Result<Option<StudyDetail>, SpoolError> {
        let shared = &self.inner.shared;
        queries::study(&shared.reader(), study_instance_uid, (shared.clock)())
    }

    fn usage(&self) -> Result<Usage, SpoolError> {
        let shared = &self.inner.shared;
        let space = shared.disk.space(shared.layout.root()).map_err(SpoolError::failing("asking for free space"))?;
        let reader = shared.reader();
        let (n_instances, n_studies) = queries::counts(&reader)?;
        let bytes_evictable = evict::evictable_bytes(&reader, shared.held_since())?;
        drop(reader);
        let (full, failing) = shared.health();
        let SpoolOptions { bytes_max, free_bytes_min, .. } = shared.options;
        let (bytes, free_bytes) = (shared.budget.bytes(), space.free_bytes);
        // A refusal is over once there is room for the next instance, even while nobody sends one.
        let has_room = free_bytes >= free_bytes_min.saturating_add(CHUNK_BYTES)
            && bytes.saturating_sub(bytes_evictable).saturating_add(CHUNK_BYTES) <= bytes_max;
        let full = full && !has_room;
        Ok(Usage { bytes, bytes_evictable, bytes_max, free_bytes, free_bytes_min, n_instances, n_studies, full, failing })
    }

    fn take_evicted(&self) -> Vec<Uid> {
        self.inner.shared.take_evicted()
    }
}
