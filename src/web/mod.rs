//! Web: the page, the interface for programs and the metrics. Queries of the store, the journal and a [`StatusSnapshot`] in -> HTML, JSON
//! and Prometheus text out; one command out: acknowledge.
//!
//! Everything that comes from the network is bounded here: connections, header and body sizes, times, subscribers of the event stream.
//! Nothing here decides anything: the lamp, the device state and the verdicts are made elsewhere and only shown.
//!
//! `server.rs` and `stream.rs` bind routes and bounds, `guard.rs` and `login.rs` check who asks, `api.rs` and `metrics.rs` answer programs, `page.rs`,
//! `study_page.rs` and `login_page.rs` answer people, `view.rs` and `lamp_view.rs` hold what the pages share, `live.rs` the event stream.

mod api;
mod events;
mod guard;
mod lamp_view;
mod live;
mod login;
mod login_limiter;
mod login_page;
mod metrics;
mod page;
mod server;
mod sessions;
pub mod speed;
mod status;
mod stream;
mod study_page;
mod view;

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use crate::domain::speed::SpeedTable;
use crate::domain::{Uid, WallTime};
use crate::journal::Journal;
use crate::spool::Store;

pub use events::WebEvent;
pub use login::{Login, LoginError};
pub use server::{PageListener, WebError, serve};
pub use status::{
    BoxFacts, Lights, ModelStatus, NamedText, Probe, SNAPSHOT_AGE_MS_MAX, Stage, StatusSnapshot, VersionInfo, WorkItem,
};

/// Longest name of whoever acknowledges, characters.
pub const BY_CHARS_MAX: usize = 64;

/// What a page asks the service to do.
#[derive(Debug)]
pub enum WebCommand {
    /// Somebody has taken note of a study.
    Acknowledge {
        /// Study Instance UID.
        study: Uid,
        /// Who, as the page names them: at most [`BY_CHARS_MAX`] characters, no control characters.
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
    /// The stored measurement of this box, if there is one; read at each request, so that a new one shows at once.
    pub speed: Arc<dyn Fn() -> Option<SpeedTable> + Send + Sync>,
    /// What the page asks of those who come from other machines; `None`: nothing.
    pub login: Option<Arc<Login>>,
    /// What the system says of this box; read at each request, as above.
    pub facts: Arc<dyn Fn() -> BoxFacts + Send + Sync>,
    /// The wall clock, for ages on the page.
    pub clock: fn() -> WallTime,
}

impl WebState {
    /// The state of the box as it may be believed now.
    fn snapshot(&self) -> StatusSnapshot {
        self.status.borrow().clone().seen_at((self.clock)())
    }

    /// The stored measurement of this box.
    async fn speed(&self) -> Option<SpeedTable> {
        let read = Arc::clone(&self.speed);
        tokio::task::spawn_blocking(move || read()).await.unwrap_or_default()
    }

    /// What the system says of this box.
    async fn facts(&self) -> BoxFacts {
        let read = Arc::clone(&self.facts);
        tokio::task::spawn_blocking(move || read()).await.unwrap_or_default()
    }

    /// Runs a query, which waits for the disk, on a blocking thread.
    async fn query<T: Send + 'static>(
        &self,
        call: impl FnOnce(&dyn Store) -> Result<T, crate::spool::SpoolError> + Send + 'static,
    ) -> Result<T, String> {
        let store = Arc::clone(&self.store);
        match tokio::task::spawn_blocking(move || call(store.as_ref())).await {
            Ok(outcome) => outcome.map_err(|error| error.to_string()),
            Err(error) => Err(format!("the query's thread ended: {error}")),
        }
    }
}
