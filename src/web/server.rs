//! Routes and bounds of the server: a bound listener and a [`WebState`] in -> served until shutdown.
//!
//! Bounds: 64 connections (the next wait in the kernel's queue), 32 of one address (the next is closed), a TLS handshake takes 10 s at
//! most, a connection to which nothing was written for 30 s is closed (so a peer that drips its request, or does not read its answer,
//! goes; the event stream writes each 10 s), a query takes 10 s at most, bodies 4 KiB; hyper bounds the header at 100 fields and 400 KiB.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::{IncomingStream, Listener};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use super::events::WebEvent;
use super::stream::{BoundedStream, Holders};
use super::{WebState, api, guard, live, login_page, metrics, page, study_page};
use crate::journal::Journal;
use crate::secure::TlsKeeper;

/// Connections at once.
const CONNECTIONS_MAX: usize = 64;
/// Connections of one address at once; a browser opens six. This box itself is exempt.
const CONNECTIONS_PER_PEER_MAX: usize = 32;
/// Longest answer of anything but the event stream.
const REQUEST_MAX: Duration = Duration::from_secs(10);
/// Largest body of a request, bytes.
pub(super) const BODY_BYTES_MAX: usize = 4096;
/// At shutdown open requests get this long.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(3);

/// Why the page is not served.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// the listener failed
    #[error("the page cannot be served: {0}")]
    Listener(#[from] io::Error),
}

/// Address of whoever asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

/// Where the page is served.
pub struct PageListener {
    /// The bound listener.
    pub listener: TcpListener,
    /// Its certificates; `None`: plain text.
    pub tls: Option<Arc<TlsKeeper>>,
}

impl From<TcpListener> for PageListener {
    fn from(listener: TcpListener) -> Self {
        Self { listener, tls: None }
    }
}

/// Serves the page on `listener` until `shutdown` becomes true or its sender is gone.
///
/// # Errors
/// [`WebError::Listener`] when the listener's address cannot be read or serving fails.
pub async fn serve(listener: impl Into<PageListener>, state: WebState, shutdown: watch::Receiver<bool>) -> Result<(), WebError> {
    let PageListener { listener, tls } = listener.into();
    let address = listener.local_addr()?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    state.journal.record(&WebEvent::PageServed { at: format!("{scheme}://{address}/") });
    let journal = state.journal.clone();
    let live = live::Live::start(state.clone(), shutdown.clone());
    let app = router(state, live);
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let bounded = BoundedListener { listener, address, tls, journal, permits, holders: Holders::default() };
    let stopping = |mut shutdown: watch::Receiver<bool>| async move {
        // An error means that the sender is gone, and with it whoever could ask.
        let _ = shutdown.wait_for(|stop| *stop).await;
    };
    let serving = axum::serve(bounded, app.into_make_service_with_connect_info::<Peer>())
        .with_graceful_shutdown(stopping(shutdown.clone()));
    tokio::select! {
        outcome = async { serving.await } => Ok(outcome?),
        () = async { stopping(shutdown).await; tokio::time::sleep(SHUTDOWN_GRACE).await } => Ok(()),
    }
}

fn router(state: WebState, live: live::Live) -> Router {
    let timed = Router::new()
        .route("/", get(page::overview))
        .route("/studies/{uid}", get(study_page::study))
        .route("/static/app.js", get(page::script))
        .route("/static/style.css", get(page::style))
        .route("/static/icon.svg", get(page::icon))
        .route("/favicon.ico", get(page::icon))
        .route("/login", get(login_page::to_the_page).post(login_page::log_in))
        .route("/logout", post(login_page::log_out))
        .route("/healthz", get(api::healthz))
        .route("/metrics", get(metrics::metrics))
        .route("/api/v1/status", get(api::status))
        .route("/api/v1/studies", get(api::studies))
        .route("/api/v1/studies/{uid}", get(api::study))
        .route("/api/v1/studies/{uid}/acknowledge", post(api::acknowledge))
        .fallback(|| async { (StatusCode::NOT_FOUND, "There is no such page here.\n") })
        .layer(middleware::from_fn(in_time));
    let streams = Router::new().route("/events", get(live::events)).with_state(live);
    timed
        .with_state(state.clone())
        .merge(streams)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(state, guard::guard))
}

async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_MAX, next.run(request)).await {
        Ok(response) => response,
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "The box is too busy to answer: try again.\n").into_response(),
    }
}

/// A listener that holds at most [`CONNECTIONS_MAX`] connections open.
struct BoundedListener {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Arc<TlsKeeper>>,
    journal: Journal,
    permits: Arc<Semaphore>,
    holders: Holders,
}

impl Listener for BoundedListener {
    type Io = BoundedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            // The semaphore is never closed, so waiting for it cannot fail.
            let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else { continue };
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    // Events are small and must not wait for each other; without the option they are only slower.
                    let _ = stream.set_nodelay(true);
                    let from = peer.ip().to_canonical();
                    let n_max = if from.is_loopback() { CONNECTIONS_MAX } else { CONNECTIONS_PER_PEER_MAX };
                    let Some(held) = self.holders.take(from, n_max) else { continue };
                    let bounded = BoundedStream::new(stream, self.tls.as_deref(), self.journal.clone(), held, permit);
                    if let Some(stream) = bounded {
                        return (stream, SocketAddr::new(from, peer.port()));
                    }
                }
                Err(error) => {
                    let of_that_connection = matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
                    );
                    if !of_that_connection {
                        // Out of file descriptors, most likely: others must close first.
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.address)
    }
}

impl Connected<IncomingStream<'_, BoundedListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, BoundedListener>) -> Self {
        Self(*stream.remote_addr())
    }
}
