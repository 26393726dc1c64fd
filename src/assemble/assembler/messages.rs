//! What the assembler is told and what it answers: options, events, actions, notes. Plain data.

use core::fmt;
use std::sync::Arc;

use crate::domain::{AvailableInstances, InputChannel, ProcedureStep, StoredInstance, Study, Uid};

/// When studies close, and how much is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssembleOptions {
    /// A study without a new instance for this long is closed, seconds.
    pub quiet_s: u64,
    /// A study whose required roles are complete is closed this long after its last instance or association, seconds.
    pub settle_s: u64,
    /// A study is closed this long after it was opened or reopened, seconds.
    pub deadline_s: u64,
    /// While a procedure step of the study is IN PROGRESS: a study without an instance or a word of the step for this long is closed, and
    /// the deadline is this much later, seconds. At least `quiet_s` is waited.
    pub step_s_max: u64,
    /// Whether the required series are read as soon as they are complete, while the rest still arrives.
    pub provisional: bool,
    /// A series that does not say how many images it has counts as arrived after this long without one, seconds.
    pub provisional_settle_s: u64,
    /// Instances of one study; further ones are left out and named in a note.
    pub instances_per_study_max: usize,
    /// Studies open at once; at the bound the one that is idle longest is closed early.
    pub open_studies_max: usize,
    /// Closed studies that are kept for late instances; the one closed first is forgotten.
    pub closed_kept_max: usize,
    /// Instances of all kept closed studies together.
    pub closed_instances_kept_max: usize,
    /// Fewer slices than this are no complete series.
    pub slices_min: usize,
    /// The series roles that the model can use.
    pub roles: Vec<InputChannel>,
}

impl Default for AssembleOptions {
    fn default() -> Self {
        Self {
            quiet_s: 60,
            settle_s: 15,
            deadline_s: 1800,
            step_s_max: 1800,
            provisional: true,
            provisional_settle_s: 3,
            instances_per_study_max: 20_000,
            open_studies_max: 32,
            closed_kept_max: 16,
            closed_instances_kept_max: 50_000,
            slices_min: 10,
            roles: Vec::new(),
        }
    }
}

/// What happened.
#[derive(Clone, Debug)]
pub enum AssembleEvent {
    /// An instance became durable, or one that is durable already was sent again.
    InstanceStored(Arc<StoredInstance>),
    /// Earlier instances of a study that the assembler no longer knows, from the spool: they come before a late one. They had their verdict.
    StudyReloaded {
        /// All of one study.
        instances: Vec<Arc<StoredInstance>>,
    },
    /// A modality told how far a procedure step is (MPPS). It may come before the first instance of its study, or after it closed.
    StepReported(Arc<ProcedureStep>),
    /// A peer told which instances of a study can be had (Instance Availability Notification).
    InstancesAvailable(Arc<AvailableInstances>),
    /// A peer opened an association.
    AssociationOpened {
        /// Its number.
        id: u64,
    },
    /// It was released, aborted or lost.
    AssociationClosed {
        /// Its number.
        id: u64,
    },
    /// The spool deleted the study: nothing may be kept of it.
    StudyForgotten {
        /// Study Instance UID.
        study_instance_uid: Uid,
    },
    /// Time passed.
    Tick,
}

/// What the service has to do, in this order.
#[derive(Clone, Debug)]
pub enum AssembleAction {
    /// The series that the model needs are here, the rest still arrives: read this provisional snapshot. The study stays open.
    StudyReady(Study),
    /// Prepare and read it.
    StudyClosed(Study),
    /// A late instance came: the study will close again, and the new verdict supersedes the earlier one.
    StudyReopened {
        /// Study Instance UID.
        study_instance_uid: Uid,
    },
    /// Write it to the journal.
    Noted(AssembleNote),
}

/// What the journal should know beyond closing and reopening.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AssembleNote {
    /// The study holds as many instances as it may: this one is durable but will not be read.
    InstanceLeftOut {
        /// Study Instance UID.
        study_instance_uid: Uid,
        /// The bound.
        instances_per_study_max: usize,
    },
    /// Too many studies were open: this one, idle longest, was closed before its time.
    StudyClosedEarly {
        /// Study Instance UID.
        study_instance_uid: Uid,
        /// The bound.
        open_studies_max: usize,
    },
    /// Too many procedure steps and availability notifications were told: the oldest were forgotten, and their studies close by the clocks.
    EvidenceForgotten {
        /// How many reports.
        n_reports: usize,
    },
}

impl AssembleNote {
    /// Stable name for the journal.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::InstanceLeftOut { .. } => "InstanceLeftOut",
            Self::StudyClosedEarly { .. } => "StudyClosedEarly",
            Self::EvidenceForgotten { .. } => "EvidenceForgotten",
        }
    }
}

impl fmt::Display for AssembleNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InstanceLeftOut { study_instance_uid, instances_per_study_max } => write!(
                f,
                "study {study_instance_uid} holds {instances_per_study_max} instances already: a further one was left out (raise \
                 assemble.instances_per_study_max)"
            ),
            Self::StudyClosedEarly { study_instance_uid, open_studies_max } => write!(
                f,
                "study {study_instance_uid} was closed early: {open_studies_max} studies are open (raise assemble.open_studies_max)"
            ),
            Self::EvidenceForgotten { n_reports } => write!(
                f,
                "{n_reports} of the oldest procedure steps or availability notifications were forgotten to make room: their studies close by \
                 time alone"
            ),
        }
    }
}
