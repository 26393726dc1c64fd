//! What other rooms need from the store, as traits, so that each can be tested with a fake.
//!
//! [`InstanceSink`] is all that `receive` sees: bytes in -> a durable instance out. [`Store`] is what `deliver`, `web` and the service
//! use. All calls block (they wait for the disk): from async code call them inside `spawn_blocking`.

use std::path::Path;
use std::sync::Arc;

use super::error::SpoolError;
use super::services::ServiceStore;
use super::types::{
    Committed, Notice, OutboxEntry, OutboxStats, StoredInstanceRecord, StudyDetail, StudySummary, Usage, VerdictRecord,
};
use crate::domain::{InstanceHeader, Monotonic, Uid, WallTime};

/// Where instances go.
pub trait InstanceSink: Send + Sync {
    /// Opens room for one instance that is about to arrive.
    ///
    /// # Errors
    /// [`SpoolError::Full`] when there is no room, [`SpoolError::Failing`] when the disk fails.
    fn begin(&self) -> Result<Box<dyn IncomingInstance>, SpoolError>;

    /// Where procedure steps and storage commitments go; `None` for a store of images alone, which offers no such service.
    fn services(&self) -> Option<Arc<dyn ServiceStore>> {
        None
    }
}

/// One instance while it arrives. Dropped without [`IncomingInstance::commit`], it leaves nothing behind.
pub trait IncomingInstance: Send {
    /// Appends bytes of the Part-10 file: preamble, File Meta group, then the data set as received. When this returns, the bytes can be
    /// read through [`IncomingInstance::path`].
    ///
    /// # Errors
    /// [`SpoolError::Full`], [`SpoolError::TooLarge`] or [`SpoolError::Failing`]; after an error only drop it.
    fn write(&mut self, bytes: &[u8]) -> Result<(), SpoolError>;

    /// Says that the next byte written is the first of the data set: the hash begins here, so that the same instance sent by two
    /// associations is recognised although its File Meta group differs. Without this call the whole file is hashed.
    fn data_set_begins(&mut self);

    /// The unfinished file, for the header scan.
    fn path(&self) -> &Path;

    /// Makes the instance durable. `Ok` means that data, directory entry and index row survive power loss: only then may the peer be
    /// answered 0x0000.
    ///
    /// # Errors
    /// [`SpoolError::Failing`] or [`SpoolError::TooManyConflicts`]; nothing is left behind then.
    fn commit(self: Box<Self>, header: InstanceHeader, association_id: u64, now: Monotonic) -> Result<Committed, SpoolError>;
}

/// The durable store: instances, verdicts, outbox and acknowledgements.
pub trait Store: InstanceSink {
    /// At start: all instances of each study that has no verdict, or has instances that its latest verdict has not seen. Ordered by
    /// study and arrival. As many records as the byte budget holds instances.
    ///
    /// # Errors
    /// [`SpoolError::Failing`] or [`SpoolError::Damaged`] when the index cannot be read.
    fn pending(&self) -> Result<Vec<StoredInstanceRecord>, SpoolError>;

    /// The instances of one study in order of arrival, at most `limit`; none when it is unknown or evicted.
    ///
    /// # Errors
    /// As [`Store::pending`].
    fn instances_of(&self, study_instance_uid: &Uid, limit: usize) -> Result<Vec<StoredInstanceRecord>, SpoolError>;

    /// Keeps a verdict and queues its notices in one transaction; returns the verdict's number. The study's earlier verdicts are kept
    /// and superseded.
    ///
    /// # Errors
    /// [`SpoolError::Failing`]: nothing was kept, call again.
    fn record_verdict(&self, record: &VerdictRecord, notices: &[Notice]) -> Result<u64, SpoolError>;

    /// Notices that are due at `now`, the longest due first, at most `limit`. A notice whose time lies more than
    /// [`super::RETRY_AHEAD_MS_MAX`] ahead counts as due: the box's clock has been set back.
    ///
    /// # Errors
    /// [`SpoolError::Failing`] or [`SpoolError::Damaged`] when the index cannot be read.
    fn outbox_due(&self, now: WallTime, limit: usize) -> Result<Vec<OutboxEntry>, SpoolError>;

    /// As [`Store::outbox_due`], of one channel alone: the backlog of one channel must not hide what is due on another.
    /// This default filters a long listing; a store with an index does better.
    ///
    /// # Errors
    /// As [`Store::outbox_due`].
    fn outbox_due_on(&self, channel: &str, now: WallTime, limit: usize) -> Result<Vec<OutboxEntry>, SpoolError> {
        let due = self.outbox_due(now, limit.saturating_mul(64))?;
        Ok(due.into_iter().filter(|entry| entry.channel == channel).take(limit).collect())
    }

    /// A notice has reached its receiver. An unknown or already delivered `id` changes nothing.
    ///
    /// # Errors
    /// [`SpoolError::Failing`]: the notice will be sent once more.
    fn outbox_delivered(&self, id: u64, at: WallTime) -> Result<(), SpoolError>;

    /// An attempt has failed; the notice waits until `next_attempt_at` and is never given up. An unknown or delivered `id` changes nothing.
    ///
    /// # Errors
    /// [`SpoolError::Failing`]: the notice stays due.
    fn outbox_failed(&self, id: u64, error: &str, next_attempt_at: WallTime) -> Result<(), SpoolError>;

    /// The outbox in figures.
    ///
    /// # Errors
    /// [`SpoolError::Failing`] when the index cannot be read.
    fn outbox_stats(&self) -> Result<OutboxStats, SpoolError>;

    /// Somebody (`by`, cut at 128 characters) has taken note of the study. It covers the verdicts up to now; a later, more urgent one
    /// needs a new acknowledgement. `false` when there was nothing to acknowledge: study unknown, or nothing open on it.
    ///
    /// # Errors
    /// [`SpoolError::Failing`]: nothing was recorded.
    fn acknowledge(&self, study_instance_uid: &Uid, by: &str, at: WallTime) -> Result<bool, SpoolError>;

    /// Studies that wait for an acknowledgement, the most urgent first.
    ///
    /// # Errors
    /// [`SpoolError::Failing`] or [`SpoolError::Damaged`] when the index cannot be read.
    fn unacknowledged(&self) -> Result<Vec<StudySummary>, SpoolError>;

    /// The studies that received something last, newest first, at most `limit` and [`super::STUDIES_LISTED_MAX`].
    ///
    /// # Errors
    /// [`SpoolError::Failing`] or [`SpoolError::Damaged`] when the index cannot be read.
    fn studies(&self, limit: usize) -> Result<Vec<StudySummary>, SpoolError>;

    /// One study in full.
    ///
    /// # Errors
    /// [`SpoolError::Failing`] or [`SpoolError::Damaged`] when the index cannot be read.
    fn study(&self, study_instance_uid: &Uid) -> Result<Option<StudyDetail>, SpoolError>;

    /// How full the store is.
    ///
    /// # Errors
    /// [`SpoolError::Failing`] when the file system or the index cannot be asked.
    fn usage(&self) -> Result<Usage, SpoolError>;

    /// Studies whose instances were evicted since the last call, oldest first, at most 1,024 (older ones are forgotten): whoever holds
    /// paths of theirs must let go.
    fn take_evicted(&self) -> Vec<Uid>;
}
