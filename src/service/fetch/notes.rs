//! What the journal is told of fetching. Variant in -> name, level, sentence; study UIDs, counts and addresses, nothing of the patient.

use super::keeper::Fetched;
use crate::domain::Uid;
use crate::journal::{Event, Level};

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::service) enum FetchNote {
    /// The PACS sent images of a study.
    SeriesFetched { study_instance_uid: Uid, n_series: usize, n_sent: u32, n_failed: u32, n_left: usize, trouble: Option<String> },
    /// The PACS has nothing that is not here.
    NothingFetched { study_instance_uid: Uid, n_left: usize, trouble: Option<String> },
    /// The PACS could not be asked; it will be asked again.
    Failed { study_instance_uid: Uid, error: String, retry_ms: u64 },
    /// The PACS is not asked for this study any more.
    GivenUp { study_instance_uid: Uid, error: String },
    /// The PACS is not asked for this study.
    Skipped { study_instance_uid: Uid, because: &'static str },
    /// The study goes on before there is an answer.
    Overdue { study_instance_uid: Uid, waited_ms: u64 },
    /// The PACS is of no use.
    PacsFailing { error: String },
    /// It is of use again.
    PacsRecovered,
}

impl FetchNote {
    pub(super) fn fetched(study_instance_uid: &Uid, fetched: &Fetched) -> Self {
        let (study_instance_uid, n_left) = (study_instance_uid.clone(), fetched.n_left);
        let trouble = fetched.trouble.as_ref().map(ToString::to_string);
        if fetched.n_sent == 0 && fetched.n_failed == 0 {
            return Self::NothingFetched { study_instance_uid, n_left, trouble };
        }
        let (n_series, n_sent, n_failed) = (fetched.tried.len(), fetched.n_sent, fetched.n_failed);
        Self::SeriesFetched { study_instance_uid, n_series, n_sent, n_failed, n_left, trouble }
    }
}

impl Event for FetchNote {
    fn room(&self) -> &'static str {
        "fetch"
    }

    fn name(&self) -> &'static str {
        match self {
            Self::SeriesFetched { .. } => "SeriesFetched",
            Self::NothingFetched { .. } => "NothingFetched",
            Self::Failed { .. } => "FetchFailed",
            Self::GivenUp { .. } => "FetchGivenUp",
            Self::Skipped { .. } => "FetchSkipped",
            Self::Overdue { .. } => "FetchOverdue",
            Self::PacsFailing { .. } => "PacsFailing",
            Self::PacsRecovered => "PacsRecovered",
        }
    }

    fn level(&self) -> Level {
        match self {
            Self::SeriesFetched { n_failed: 0, trouble: None, .. } | Self::NothingFetched { trouble: None, .. } => Level::Info,
            Self::PacsRecovered => Level::Info,
            Self::PacsFailing { .. } | Self::GivenUp { .. } => Level::Error,
            Self::SeriesFetched { .. }
            | Self::NothingFetched { .. }
            | Self::Failed { .. }
            | Self::Skipped { .. }
            | Self::Overdue { .. } => Level::Warn,
        }
    }

    fn text(&self) -> String {
        let rest = |n_left: usize, trouble: &Option<String>| {
            let left =
                if n_left == 0 { String::new() } else { format!("; {n_left} series stay there (too large, or not online)") };
            let trouble = trouble.as_ref().map(|trouble| format!("; {trouble}")).unwrap_or_default();
            format!("{left}{trouble}")
        };
        match self {
            Self::SeriesFetched { study_instance_uid, n_series, n_sent, n_failed, n_left, trouble } => format!(
                "the PACS sent {n_sent} images of {n_series} series of study {study_instance_uid}, {n_failed} failed{}",
                rest(*n_left, trouble)
            ),
            Self::NothingFetched { study_instance_uid, n_left, trouble } => {
                format!("the PACS sends nothing more of study {study_instance_uid}{}", rest(*n_left, trouble))
            }
            Self::Failed { study_instance_uid, error, retry_ms } => format!(
                "missing series of study {study_instance_uid} were not fetched: {error}; asked again in {} s",
                retry_ms / 1000
            ),
            Self::GivenUp { study_instance_uid, error } => {
                format!("missing series of study {study_instance_uid} are not asked for any more: {error}; send them by hand")
            }
            Self::Skipped { study_instance_uid, because } => {
                format!("the PACS is not asked for missing series of study {study_instance_uid}: {because}")
            }
            Self::Overdue { study_instance_uid, waited_ms } => format!(
                "study {study_instance_uid} waited {} s for the PACS and is assessed as it is; what still comes is looked at again",
                waited_ms / 1000
            ),
            Self::PacsFailing { error } => format!("the PACS is of no use: {error}"),
            Self::PacsRecovered => "the PACS answers again".into(),
        }
    }
}
