//! NPU: the second engine's outer half. Which libraries to load -> a worker process that runs the network's QDQ twin, and when it may serve.
//!
//! ```text
//!   fallback ──> standing (may it serve?)          worker process (`scanside npu-worker`)
//!      │    └──> golden (does it agree?)              worker ──> engine_ort ──> vendor's libraries
//!      └───────> worker_handle <── protocol, socket ──┘
//! ```
//!
//! A vendor's library can hang, crash or write where it likes. Inside the service nobody could end a hang, and a crash would end the service;
//! a process can be killed. The service itself loads no such library, and starts without any.
//!
//! | File | Holds |
//! | --- | --- |
//! | [`protocol`] | the frames between the two |
//! | [`worker`] | the worker's end |
//! | [`worker_handle`] | the service's end: start, ask, kill |
//! | [`golden`] | whether a device's answers are near enough, with the same verdicts |
//! | [`standing`] | the state machine: probing, serving, benched with back-off |
//! | [`fallback`] | the engine: NPU where it may serve, else, and after any fault, the processor |

pub mod fallback;
pub mod golden;
pub mod protocol;
pub mod standing;
pub mod worker;
pub mod worker_handle;

use std::time::Duration;

use super::engine::Cancel;
use protocol::Ready;

/// Which libraries run the network, and on what: `[infer.npu]` of the configuration or `[npu]` of a board profile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NpuOptions {
    /// File of the ONNX Runtime library.
    pub runtime_library: String,
    /// File of a plug-in execution provider.
    pub provider_library: Option<String>,
    /// Name of the execution provider.
    pub provider: String,
    /// Its options, and session options (keys that begin with `session.`).
    pub options: Vec<(String, String)>,
}

/// What went wrong with a worker. Each one costs the worker.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NpuFault {
    /// no worker could be started
    #[error("{0}")]
    Unstartable(String),
    /// the worker ended
    #[error("the worker ended ({0})")]
    Ended(String),
    /// the worker did not answer in time
    #[error("no answer within {budget_ms} ms")]
    Late {
        /// How long it had.
        budget_ms: u64,
    },
    /// the service asked for a stop
    #[error("stopped on request")]
    Cancelled,
    /// the worker's answer is none
    #[error("an answer that is none: {0}")]
    Nonsense(String),
    /// the worker says that it failed
    #[error("{0}")]
    Said(String),
    /// a golden case does not come out as it must
    #[error("golden case {name}: {problem}")]
    Golden {
        /// Which case.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// our own end panicked
    #[error("the service's own end failed: {0}")]
    Panicked(String),
}

/// Something that runs the network on raw tensors; dropping it ends it.
pub trait TensorRunner: Send {
    /// What it says it is.
    fn ready(&self) -> &Ready;

    /// Runs int8 `[n_in, k, j, i]` -> int8 `[n_out, k, j, i]`, and gives up after `budget` or when `cancel` is asked for.
    ///
    /// # Errors
    /// [`NpuFault`]; after one the runner must not be used again.
    fn run(&mut self, input: &[i8], budget: Duration, cancel: &Cancel) -> Result<Vec<i8>, NpuFault>;

    /// Whether it still lives, without asking it anything.
    ///
    /// # Errors
    /// [`NpuFault::Ended`].
    fn check(&mut self) -> Result<(), NpuFault>;
}

/// Starts runners.
pub trait Launcher: Send {
    /// Starts one that is ready to run; may take long, and gives up when `cancel` is asked for.
    ///
    /// # Errors
    /// [`NpuFault`].
    fn launch(&mut self, cancel: &Cancel) -> Result<Box<dyn TensorRunner>, NpuFault>;
}
