//! The listeners, plain and TLS: connections in -> one task each, bounded in number, and the end of each reported whatever happened in it.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::domain::Monotonic;
use crate::journal::Journal;
use crate::secure::TlsKeeper;
use crate::spool::InstanceSink;

use super::association::{Tally, run};
use super::connection::Arrived;
use super::ending::Ending;
use super::events::{ReceiveEvent, ReceiveNotice};
use super::options::ReceiveOptions;
use super::shared::Shared;

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

/// What is listened on; both share the bounds.
pub struct Listeners {
    /// Plain DICOM.
    pub plain: Option<TcpListener>,
    /// DICOM over TLS, and its certificates.
    pub tls: Option<(TcpListener, Arc<TlsKeeper>)>,
}

impl From<TcpListener> for Listeners {
    fn from(plain: TcpListener) -> Self {
        Self { plain: Some(plain), tls: None }
    }
}

impl Listeners {
    fn addresses(&self) -> std::io::Result<Vec<(SocketAddr, bool)>> {
        let plain = self.plain.iter().map(|listener| Ok((listener.local_addr()?, false)));
        plain.chain(self.tls.iter().map(|(listener, _)| Ok((listener.local_addr()?, true)))).collect()
    }

    /// The next connection, with the certificates if it came to the TLS listener. Safe to drop while it waits.
    async fn accept(&self) -> std::io::Result<(TcpStream, IpAddr, Option<Arc<TlsKeeper>>)> {
        let (accepted, keeper) = tokio::select! {
            accepted = accept_on(self.plain.as_ref()) => (accepted, None),
            accepted = accept_on(self.tls.as_ref().map(|(listener, _)| listener)) => {
                (accepted, self.tls.as_ref().map(|(_, keeper)| Arc::clone(keeper)))
            }
        };
        let (stream, peer) = accepted?;
        Ok((stream, peer.ip().to_canonical(), keeper))
    }
}

async fn accept_on(listener: Option<&TcpListener>) -> std::io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

/// Serves associations until `shutdown` turns true (or its sender is gone); then messages under way have a few seconds to end.
///
/// `events` is told of every instance and association; while it is full the associations wait, and with them their peers.
///
/// # Errors
/// [`ReceiveError::Listener`] when no connection can be taken any more.
pub async fn serve(
    listeners: impl Into<Listeners>,
    options: Arc<ReceiveOptions>,
    sink: Arc<dyn InstanceSink>,
    events: mpsc::Sender<ReceiveNotice>,
    journal: Journal,
    clock: fn() -> Monotonic,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), ReceiveError> {
    let listeners = listeners.into();
    for (address, tls) in listeners.addresses().map_err(ReceiveError::Listener)? {
        journal.record(&ReceiveEvent::ListenerStarted { address, tls });
    }
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
            accepted = listeners.accept() => match accepted {
                Ok((stream, peer, keeper)) => {
                    n_failures = 0;
                    if shared.takes(peer) {
                        let arrived = Arrived::new(Arc::clone(&shared), next_id, peer, stream, shutdown.clone());
                        tasks.spawn(attend(Arc::clone(&shared), next_id, peer, arrived, keeper));
                        next_id += 1;
                    }
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
    drop(listeners);
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
async fn attend(shared: Arc<Shared>, id: u64, peer: IpAddr, arrived: Arrived, keeper: Option<Arc<TlsKeeper>>) {
    let tally = Arc::new(Tally::default());
    let ending = tokio::spawn(speak(arrived, keeper, Arc::clone(&tally))).await.unwrap_or(Ending::StoreFault);
    shared.leave(id);
    if !tally.opened.load(Ordering::Relaxed) {
        return;
    }
    let n_instances = tally.n_instances.load(Ordering::Relaxed);
    let released = matches!(ending, Ending::Released);
    let event = if released {
        ReceiveEvent::AssociationReleased { id, n_instances }
    } else {
        ReceiveEvent::AssociationBroken { id, n_instances, because: ending.to_string() }
    };
    shared.note(peer, &event);
    shared.tell(ReceiveNotice::AssociationClosed { id, released, n_instances }).await;
}

async fn speak(arrived: Arrived, keeper: Option<Arc<TlsKeeper>>, tally: Arc<Tally>) -> Ending {
    let Some(keeper) = keeper else { return run(arrived.plain(), tally).await };
    let (shared, peer) = arrived.of();
    match arrived.secure(&keeper).await {
        Ok(connection) => run(connection, tally).await,
        Err(ending) => {
            if !matches!(ending, Ending::Stopping) {
                shared.note_failure(peer, &ReceiveEvent::HandshakeFailed { peer, because: ending.to_string() });
            }
            ending
        }
    }
}

/// Binds the listener of the options.
///
/// # Errors
/// What the operating system says: address in use, or not ours.
pub async fn bind(options: &ReceiveOptions) -> std::io::Result<TcpListener> {
    TcpListener::bind(options.listen).await
}
