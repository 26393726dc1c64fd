//! Engine: the trait behind which a runtime turns a [`PreparedStudy`] into [`Findings`], and everything that can go wrong there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::domain::verdict::Refusal;
use crate::domain::{Findings, PreparedStudy, QualityNote, Reason, ReasonCode, SeriesUse, WorkSteps};

/// Runs one model.
pub trait Engine: Send {
    /// Runs the model on `study` and gives up after `budget`.
    ///
    /// # Errors
    /// [`EngineError::WrongShape`] when the study is not on the model's grid, [`EngineError::Deadline`] when the budget was spent or the run
    /// was cancelled, [`EngineError::Failed`] when the runtime failed.
    fn run(&mut self, study: &PreparedStudy, budget: Duration) -> Result<Findings, EngineError>;

    /// The flag that ends a run from another thread; the engine looks at it between layers.
    fn cancel(&self) -> Cancel {
        Cancel::default()
    }

    /// Where the engine counts its steps, at least one in [`crate::domain::work::INFERRING_STILL_MS_MAX`], unless it says otherwise there. An
    /// engine that counts none would look stuck.
    fn steps(&self) -> WorkSteps {
        WorkSteps::default()
    }
}

/// A flag shared between the one who waits and the engine.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks the engine to stop at the next layer.
    pub fn request(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Takes the request back, before the next run.
    pub fn clear(&self) {
        self.0.store(false, Ordering::Release);
    }

    /// Whether a stop was asked for.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Why there are no findings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// the model file cannot be read as a network
    #[error("the model file cannot be read as a network: {0}; reinstall the model package")]
    Load(String),
    /// the network needs something that this engine does not do
    #[error("the network cannot be run here: {0}; the model package and this version of scanside do not fit together")]
    Unsupported(String),
    /// the study or the network's answer does not have the shape that the manifest names
    #[error("wrong shape: {0}")]
    WrongShape(String),
    /// the time budget was spent
    #[error("inference did not finish within {budget_ms} ms")]
    Deadline {
        /// The budget, ms.
        budget_ms: u64,
    },
    /// the queue is full
    #[error("{waiting} studies already wait for inference; this one must be tried again later")]
    Busy {
        /// The queue's bound.
        waiting: usize,
    },
    /// an earlier run is past its deadline and has not come back
    #[error("an earlier inference is past its deadline and has not come back; restart the service")]
    Stuck,
    /// the runtime panicked; the study is lost to inference, the service is not
    #[error("inference failed inside: {0}; report this to the vendor")]
    Panicked(String),
    /// the runtime reported an error
    #[error("inference failed: {0}")]
    Failed(String),
    /// a golden case does not come out as it must
    #[error("golden case {name}: {problem}; the model must not be used on this machine")]
    Golden {
        /// Which case.
        name: String,
        /// What is wrong.
        problem: String,
    },
}

impl EngineError {
    /// The reason as it stands in an indeterminate verdict.
    #[must_use]
    pub fn reason(&self) -> Reason {
        let code = match self {
            Self::Deadline { .. } | Self::Busy { .. } | Self::Stuck => ReasonCode::BudgetExceeded,
            Self::Load(_)
            | Self::Unsupported(_)
            | Self::WrongShape(_)
            | Self::Panicked(_)
            | Self::Failed(_)
            | Self::Golden { .. } => ReasonCode::InternalFault,
        };
        Reason::new(code, format!("The study could not be assessed: {self}."))
    }

    /// The refusal that becomes an indeterminate verdict, with what `prepare` had seen.
    #[must_use]
    pub fn into_refusal(self, quality: Vec<QualityNote>, series: Vec<SeriesUse>) -> Refusal {
        Refusal { reasons: vec![self.reason()], quality, series }
    }
}
