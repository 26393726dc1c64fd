//! Service: owns the clocks and the bounded channels, and is the only file that knows every room.
//!
//! Configuration in -> a running appliance. The conductor (`service/conductor.rs`) reads as the table of stages: what receive stored
//! goes to assemble, what assemble closed goes to the pipeline thread (prepare, infer, triage), what triage decided goes to the
//! spool with its notices, to signal, and from there to the lamp and the outbox.
//!
//! | Channel | Bound | At the bound |
//! | --- | --- | --- |
//! | receive -> conductor | 256 notices | the association waits, so the peer waits |
//! | conductor -> pipeline | 1 study in work, `infer.queue_max` closed ones waiting, a snapshot per open study | new instances are refused with 0xA700 until one is done |
//! | pipeline -> conductor | 4 verdicts | the pipeline waits |
//! | web -> conductor | 32 commands | the page answers 503 |
//! | conductor -> PACS worker | 1 order | the next one waits in the keeper, where 16 studies may; a further one is not asked for |
//! | PACS worker -> conductor | 1 report | the worker waits |
//! | conductor, for the PACS | 16 closed studies held, each `pacs.wait_s` at most | a further one goes on as it is |
//! | conductor -> lamp | 8 lamp states | the newest is offered again at the next tick |

mod appliance;
mod backlog;
pub mod budget;
mod conductor;
pub mod events;
mod facts;
mod fetch;
pub mod folder;
mod health_file;
mod listening;
pub mod npu;
mod past;
pub mod pipeline;
mod receivers;
mod settings;
mod sink;
mod sockets;
pub mod speed;
pub mod stage_bench;
mod status;
mod untagged;
mod verdicts;
mod vitals;

pub use appliance::Service;
pub use settings::certificate_notes;
pub use sockets::Handed;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::broadcast;

use crate::domain::{Lamp, Monotonic, Verdict, WallTime};

/// What the demonstration and the tests may listen to.
#[derive(Clone, Debug)]
pub enum ServiceEvent {
    /// An association opened.
    AssociationOpened {
        /// Number.
        id: u64,
        /// Calling AE title and address.
        peer: String,
    },
    /// An association ended.
    AssociationClosed {
        /// Number.
        id: u64,
        /// Released in order, not aborted.
        released: bool,
        /// Instances that it brought.
        n_instances: u64,
    },
    /// The series that the model needs have arrived, the rest is coming: a provisional look begins.
    StudyReady {
        /// Study Instance UID.
        study_instance_uid: String,
        /// How many instances have arrived and are looked at.
        n_instances: usize,
    },
    /// A study closed.
    StudyClosed {
        /// Study Instance UID.
        study_instance_uid: String,
        /// Why.
        because: &'static str,
        /// How many instances.
        n_instances: usize,
    },
    /// A verdict is durable.
    VerdictReached(Box<Verdict>),
    /// The lamp shows something else.
    LampChanged(Lamp),
}

/// Most events that a slow listener may lag behind before it loses some.
const EVENTS_MAX: usize = 1024;

/// How to run, beside the configuration.
#[derive(Clone, Debug)]
pub struct ServiceOptions {
    /// Where everything that must last lies.
    pub state_dir: PathBuf,
    /// Folder of model packages.
    pub models_dir: Option<PathBuf>,
    /// Listeners to events.
    pub events: broadcast::Sender<ServiceEvent>,
}

impl ServiceOptions {
    /// Options for a state folder.
    #[must_use]
    pub fn new(state_dir: PathBuf, models_dir: Option<PathBuf>) -> Self {
        Self { state_dir, models_dir, events: broadcast::Sender::new(EVENTS_MAX) }
    }
}

/// Why the service could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// the configuration names something that is not there
    #[error("{0}")]
    Configuration(String),
    /// the store cannot be opened
    #[error("the store in {dir} cannot be opened: {source}")]
    Spool {
        /// The folder.
        dir: PathBuf,
        /// The cause.
        source: crate::spool::SpoolError,
    },
    /// a listener cannot be bound
    #[error("cannot listen on {address} for {purpose}: {source}; choose another address or stop what uses it")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What for.
        purpose: &'static str,
        /// The cause.
        source: std::io::Error,
    },
    /// the board cannot be driven
    #[error("the board cannot be driven: {0}")]
    Board(String),
}

static STARTED: OnceLock<Instant> = OnceLock::new();

/// Time since the process first asked; never goes back.
#[must_use]
pub fn uptime() -> Duration {
    STARTED.get_or_init(Instant::now).elapsed()
}

/// [`uptime`] in milliseconds, as the rooms are told it.
#[must_use]
pub fn monotonic_now() -> Monotonic {
    Monotonic(u64::try_from(uptime().as_millis()).unwrap_or(u64::MAX))
}

/// The box's clock.
#[must_use]
pub fn wall_now() -> WallTime {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    WallTime(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}
