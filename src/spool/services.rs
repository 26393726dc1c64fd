//! What the DIMSE-N services keep: procedure steps and storage commitments. Records in -> rows out, as a trait, so that `receive` and
//! `deliver` can be tested with a fake. All calls block: from async code call them inside `spawn_blocking`.

use super::error::SpoolError;
use super::types::StoredInstanceRecord;
use super::{Spool, commitments, index, steps};
use crate::domain::{Commitment, ProcedureStep, ReferencedSeries, StepStatus, Uid, WallTime};

/// Procedure steps that are kept; at the bound the oldest are dropped, finished ones first.
pub const STEPS_MAX: u64 = 2_000;
/// Bytes of their lists that are kept; the same at the bound.
pub const STEPS_BYTES_MAX: u64 = 32 << 20;
/// Procedure steps that one listing returns, the latest.
pub const STEPS_LISTED_MAX: usize = 512;
/// Commitments that wait for their requester; a further request is refused.
pub const COMMITMENTS_WAITING_MAX: u64 = 256;
/// Of these, commitments of one requester.
pub const COMMITMENTS_PER_REQUESTER_MAX: u64 = 64;
/// Bytes of their lists.
pub const COMMITMENTS_BYTES_MAX: u64 = 64 << 20;
/// Commitments that are done with and kept as a record; the oldest are dropped.
pub const COMMITMENTS_DONE_MAX: u64 = 1_000;

/// What became of a new step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepCreated {
    /// Durable; so many of the oldest were dropped for it.
    Kept {
        /// How many.
        n_dropped: u64,
    },
    /// A step of that UID is there already; it stays as it is.
    Duplicate,
}

/// What a modality changes in a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepChange {
    /// Which step.
    pub sop_instance_uid: Uid,
    /// Its new status, if it is told.
    pub status: Option<StepStatus>,
    /// Its series, if they are told: they replace the earlier list (PS3.4 section F.7.2.2.2).
    pub series: Option<ReferencedSeries>,
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepChanged {
    /// Durable; this is the step now.
    Kept(ProcedureStep),
    /// There is no such step.
    Unknown,
    /// It is completed or discontinued and may not change any more.
    Final,
}

/// A commitment that waits to be told to its requester.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingCommitment {
    /// Number in the store.
    pub id: u64,
    /// Request and answer.
    pub commitment: Commitment,
    /// Failed attempts to tell it.
    pub attempts: u32,
    /// When it was asked for.
    pub requested_at: WallTime,
}

/// The commitments in figures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitmentStats {
    /// How many wait.
    pub n_waiting: u64,
    /// Since when the oldest waits.
    pub oldest_waiting_at: Option<WallTime>,
    /// How many were given up since the time that was asked for.
    pub n_given_up: u64,
    /// What went wrong last with one that waits.
    pub last_error: Option<String>,
}

/// The durable store as the services see it.
pub trait ServiceStore: Send + Sync {
    /// Keeps a new step. `Ok(Kept)` means that it survives power loss.
    ///
    /// # Errors
    /// [`SpoolError::Failing`] or [`SpoolError::Full`]: nothing was kept.
    fn create_step(&self, step: &ProcedureStep) -> Result<StepCreated, SpoolError>;

    /// Keeps a change of a step. `Ok(Kept)` means that it survives power loss.
    ///
    /// # Errors
    /// [`SpoolError::Failing`] or [`SpoolError::Full`]: nothing was changed.
    fn change_step(&self, change: &StepChange) -> Result<StepChanged, SpoolError>;

    /// At start: steps of studies that have no final verdict, those without an image so far included; the latest [`STEPS_LISTED_MAX`],
    /// in order of creation.
    ///
    /// # Errors
    /// [`SpoolError::Failing`] or [`SpoolError::Damaged`] when the index cannot be read.
    fn pending_steps(&self) -> Result<Vec<ProcedureStep>, SpoolError>;

    /// The steps of one study, the latest [`STEPS_LISTED_MAX`], in order of creation.
    ///
    /// # Errors
    /// As [`ServiceStore::pending_steps`].
    fn steps_of_study(&self, study_instance_uid: &Uid) -> Result<Vec<ProcedureStep>, SpoolError>;

    /// What the index holds under a SOP Instance UID.
    ///
    /// # Errors
    /// As [`ServiceStore::pending_steps`].
    fn stored_instance(&self, sop_instance_uid: &Uid) -> Result<Option<StoredInstanceRecord>, SpoolError>;

    /// Keeps a commitment and, in the same transaction, holds the studies of its instances back from eviction. An instance that has been
    /// evicted since the caller looked becomes a failure: `commitment` is brought up to date. A repeated request of the same requester
    /// and Transaction UID replaces the earlier one. It is first due at `due_at`. `None` when too many wait.
    ///
    /// # Errors
    /// [`SpoolError::Failing`] or [`SpoolError::Full`]: nothing was kept.
    fn keep_commitment(&self, commitment: &mut Commitment, due_at: WallTime) -> Result<Option<u64>, SpoolError>;

    /// Commitments that are due at `now`, the longest due first, at most `limit`.
    ///
    /// # Errors
    /// As [`ServiceStore::pending_steps`].
    fn commitments_due(&self, now: WallTime, limit: usize) -> Result<Vec<WaitingCommitment>, SpoolError>;

    /// The requester has taken the answer. An unknown or finished `id` changes nothing.
    ///
    /// # Errors
    /// [`SpoolError::Failing`]: it will be told once more.
    fn commitment_delivered(&self, id: u64, at: WallTime) -> Result<(), SpoolError>;

    /// An attempt has failed; the next is due then. An unknown or finished `id` changes nothing.
    ///
    /// # Errors
    /// [`SpoolError::Failing`]: it stays due.
    fn commitment_failed(&self, id: u64, error: &str, next_attempt_at: WallTime) -> Result<(), SpoolError>;

    /// It is not tried any more. The studies stay held back: the instances were committed.
    ///
    /// # Errors
    /// [`SpoolError::Failing`]: it stays due.
    fn commitment_given_up(&self, id: u64, at: WallTime) -> Result<(), SpoolError>;

    /// The commitments in figures; given up ones count from `since` on.
    ///
    /// # Errors
    /// As [`ServiceStore::pending_steps`].
    fn commitment_stats(&self, since: WallTime) -> Result<CommitmentStats, SpoolError>;

    /// The box's clock, as the store's rows are stamped.
    fn now(&self) -> WallTime;
}

impl Spool {
    fn note_dropped(&self, n: u64) {
        if n > 0 {
            self.inner.shared.record(&super::SpoolEvent::StepsDropped { n });
        }
    }
}

impl ServiceStore for Spool {
    fn create_step(&self, step: &ProcedureStep) -> Result<StepCreated, SpoolError> {
        let shared = &self.inner.shared;
        let result = steps::create(&mut shared.writer(), step, (shared.clock)());
        let created = shared.noted(result)?;
        if let StepCreated::Kept { n_dropped } = created {
            self.note_dropped(n_dropped);
        }
        Ok(created)
    }

    fn change_step(&self, change: &StepChange) -> Result<StepChanged, SpoolError> {
        let shared = &self.inner.shared;
        let result = steps::change(&mut shared.writer(), change, (shared.clock)());
        let (changed, n_dropped) = shared.noted(result)?;
        self.note_dropped(n_dropped);
        Ok(changed)
    }

    fn pending_steps(&self) -> Result<Vec<ProcedureStep>, SpoolError> {
        steps::pending(&self.inner.shared.reader())
    }

    fn steps_of_study(&self, study_instance_uid: &Uid) -> Result<Vec<ProcedureStep>, SpoolError> {
        steps::of_study(&self.inner.shared.reader(), study_instance_uid)
    }

    fn stored_instance(&self, sop_instance_uid: &Uid) -> Result<Option<StoredInstanceRecord>, SpoolError> {
        let shared = &self.inner.shared;
        index::record(&shared.reader(), &shared.layout, sop_instance_uid)
    }

    fn keep_commitment(&self, commitment: &mut Commitment, due_at: WallTime) -> Result<Option<u64>, SpoolError> {
        let shared = &self.inner.shared;
        let result = commitments::keep(&mut shared.writer(), commitment, (shared.clock)(), due_at);
        shared.noted(result)
    }

    fn commitments_due(&self, now: WallTime, limit: usize) -> Result<Vec<WaitingCommitment>, SpoolError> {
        commitments::due(&self.inner.shared.reader(), now, limit)
    }

    fn commitment_delivered(&self, id: u64, at: WallTime) -> Result<(), SpoolError> {
        let shared = &self.inner.shared;
        let result = commitments::finish(&mut shared.writer(), id, commitments::Finish::Delivered, at);
        shared.noted(result)
    }

    fn commitment_failed(&self, id: u64, error: &str, next_attempt_at: WallTime) -> Result<(), SpoolError> {
        let shared = &self.inner.shared;
        let result = commitments::failed(&shared.writer(), id, error, next_attempt_at, (shared.clock)());
        shared.noted(result)
    }

    fn commitment_given_up(&self, id: u64, at: WallTime) -> Result<(), SpoolError> {
        let shared = &self.inner.shared;
        let result = commitments::finish(&mut shared.writer(), id, commitments::Finish::GivenUp, at);
        shared.noted(result)
    }

    fn commitment_stats(&self, since: WallTime) -> Result<CommitmentStats, SpoolError> {
        commitments::stats(&self.inner.shared.reader(), since)
    }

    fn now(&self) -> WallTime {
        (self.inner.shared.clock)()
    }
}
