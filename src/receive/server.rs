//! The listener: connections in -> one task each, bounded in number, and the end of each reported whatever happened in it.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::domain::Monotonic;
use crate::journal::Journal;
use crate::spool::InstanceSink;

use super::association::{Tally, run};
use super::connection::{Connection, Shared};
use super::ending::Ending;
use super::events::{ReceiveEvent, ReceiveNotice};
use super::options::ReceiveOptions;

/// Failures of `accept` in a row after which the listener gives up; with the pause between them 20 s.
const ACCEPT_FAILURES_MAX: u32 = 200;
/// Pause after such a failure, for the shortage (file handles, memory) to pass.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections may take so long to end once we are told to stop.
const STOP_WAIT: Duration = Duration::from_secs(10);

/// Why receiving stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// the listener fails
    #[error("the DICOM listener fails: {0}")]
    Listener(std::io::Error),
}

/// Serves associations until `shutdown` turns true (or its sender is gone); then messages under way have a few seconds to end.
///
/// `events` is told of every instance and association; while it is full the associations wait, and with them their peers.
///
/// # Errors
/// [`ReceiveError::Listener`] when no connection can be taken any more.
pub async fn serve(
    listener: TcpListener,
    options: Arc<ReceiveOptions>,
    sink: Arc<dyn InstanceSink>,
    events: mpsc::Sender<ReceiveNotice>,
    journal: Journal,
    clock: fn() -> Monotonic,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), ReceiveError> {
    let address = listener.local_addr().map_err(ReceiveError::Listener)?;
    journal.record(&ReceiveEvent::ListenerStarted(address));
    let shared = Arc::new(Shared::new(options, sink, events, journal, clock));
    let mut tasks = JoinSet::new();
    let (mut next_id, mut n_failures) = (1, 0);
    let ended = loop {
        if *shutdown.borrow() {
            break Ok(());
        }
        tokio::select! {
            changed = shutdown.changed() => if changed.is_err() { break Ok(()) },
            Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    n_failures = 0;
                    let connection = Connection::new(Arc::clone(&shared), next_id, peer.ip().to_canonical(), stream, shutdown.clone());
                    tasks.spawn(attend(Arc::clone(&shared), next_id, connection));
                    next_id += 1;
                }
                // The peer was gone before we took it.
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                Err(error) => {
                    n_failures += 1;
                    shared.journal.record(&ReceiveEvent::ConnectionRefused { error: error.to_string() });
                    if n_failures > ACCEPT_FAILURES_MAX {
                        break Err(ReceiveError::Listener(error));
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    };
    drop(listener);
    let all_ended = timeout(STOP_WAIT, async { while tasks.join_next().await.is_some() {} }).await;
    let because = match (&ended, all_ended) {
        (Err(_), _) => "it failed",
        (Ok(()), Ok(())) => "told to stop",
        (Ok(()), Err(_)) => "told to stop, and some associations had to be cut off",
    };
    shared.journal.record(&ReceiveEvent::ListenerStopped(because));
    ended
}

/// Runs one connection in a task of its own, so that even a panic in it costs only itself, and reports how it ended.
async fn attend(shared: Arc<Shared>, id: u64, connection: Connection) {
    let tally = Arc::new(Tally::default());
    let ending = tokio::spawn(run(connection, Arc::clone(&tally))).await.unwrap_or(Ending::StoreFault);
    shared.leave(id);
    if !tally.opened.load(Ordering::Relaxed) {
        return;
    }
    let n_instances = tally.n_instances.load(Ordering::Relaxed);
    let released = matches!(ending, Ending::Released);
    shared.journal.record(&if released {
        ReceiveEvent::AssociationReleased { id, n_instances }
    } else {
        ReceiveEvent::AssociationBroken { id, n_instances, because: ending.to_string() }
    });
    shared.tell(ReceiveNotice::AssociationClosed { id, released, n_instances }).await;
}

/// Binds the listener of the options.
///
/// # Errors
/// What the operating system says: address in use, or not ours.
pub async fn bind(options: &ReceiveOptions) -> std::io::Result<TcpListener> {
    TcpListener::bind(options.listen).await
}
