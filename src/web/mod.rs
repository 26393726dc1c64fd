//! Web: the page, the interface for programs and the metrics. Queries of the store, the journal and a [`StatusSnapshot`] in -> HTML, JSON
//! and Prometheus text out; one command out: acknowledge.
//!
//! Everything that comes from the network is bounded here: connections, header and body sizes, times, subscribers of the event stream.
//! Nothing here decides anything: the lamp, the device state and the verdicts are made elsewhere and only shown.

mod status;

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use crate::domain::{Uid, WallTime};
use crate::journal::Journal;
use crate::spool::Store;

pub use status::{Lights, ModelStatus, NamedText, Probe, Stage, StatusSnapshot, VersionInfo, WorkItem};

/// What a page asks the service to do.
#[derive(Debug)]
pub enum WebCommand {
    /// Somebody has taken note of a study.
    Acknowledge {
        /// Study Instance UID.
        study: Uid,
        /// Who, as the page names them: at most 64 characters, no control characters.
        by: String,
        /// Whether there was something to acknowledge, or a sentence about why it could not be recorded.
        reply: oneshot::Sender<Result<bool, String>>,
    },
}

/// Everything that the pages are made from; clones share it.
#[derive(Clone)]
pub struct WebState {
    /// Read-only queries. Calls block, so they run on the blocking threads.
    pub store: Arc<dyn Store>,
    /// The latest state of the box.
    pub status: watch::Receiver<StatusSnapshot>,
    /// What happened.
    pub journal: Journal,
    /// Commands to the service; bounded by the service, a full channel is answered with 503.
    pub commands: mpsc::Sender<WebCommand>,
    /// Names by which browsers may call the page, beyond addresses and `localhost` (`web.host_names`).
    pub host_names: Vec<String>,
    /// The wall clock, for ages on the page.
    pub clock: fn() -> WallTime,
}
