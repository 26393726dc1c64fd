//! What a modality or a PACS says about a study beside the images: a performed procedure step (PS3.4 annex F), or which instances it
//! made available (Instance Availability Notification, PS3.4 annex R). Both are evidence for when a study is complete, never for what it shows.

use std::collections::{BTreeMap, BTreeSet};

use super::Uid;

/// Performed Procedure Step Status (0040,0252).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StepStatus {
    /// The scanner is still at it.
    InProgress,
    /// The scanner is done: the series lists are final.
    Completed,
    /// The scanner gave it up; what it sent before may still be read.
    Discontinued,
}

impl StepStatus {
    /// The defined term of (0040,0252).
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InProgress => "IN PROGRESS",
            Self::Completed => "COMPLETED",
            Self::Discontinued => "DISCONTINUED",
        }
    }

    /// The status of that defined term.
    #[must_use]
    pub fn by_term(term: &str) -> Option<Self> {
        [Self::InProgress, Self::Completed, Self::Discontinued].into_iter().find(|status| status.as_str() == term)
    }
}

/// The instances of each series, by UID: whoever fills it bounds it.
pub type ReferencedSeries = BTreeMap<Uid, BTreeSet<Uid>>;

/// A performed procedure step as the scanner last described it. A modality may leave the series out until it is completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcedureStep {
    /// SOP Instance UID of the step.
    pub sop_instance_uid: Uid,
    /// How far it is.
    pub status: StepStatus,
    /// Studies that it is part of (0040,0270) > (0020,000D).
    pub study_instance_uids: BTreeSet<Uid>,
    /// Its series (0040,0340) with the images and other composite objects that they hold.
    pub series: ReferencedSeries,
}

/// Instances of one study that a peer says can be had, as of an Instance Availability Notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AvailableInstances {
    /// Study Instance UID.
    pub study_instance_uid: Uid,
    /// What it holds.
    pub series: ReferencedSeries,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_read_by_its_defined_term_alone() {
        for status in [StepStatus::InProgress, StepStatus::Completed, StepStatus::Discontinued] {
            assert_eq!(StepStatus::by_term(status.as_str()), Some(status));
        }
        assert_eq!(StepStatus::by_term("completed"), None);
    }
}
