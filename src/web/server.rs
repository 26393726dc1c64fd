//! Routes and bounds of the server: a bound listener and a [`WebState`] in -> served until shutdown.
//!
//! Bounds: 64 connections (the next wait in the kernel's queue), a connection to which nothing was written for 30 s is closed (so a
//! peer that drips its request, or does not read its answer, goes; the event stream writes each 10 s), a query takes 10 s at most,
//! bodies 4 KiB; hyper bounds the header at 100 fields and 400 KiB.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Sleep;

use super::events::WebEvent;
use super::{WebState, api, guard, live, metrics, page, study_page};

/// Connections at once.
const CONNECTIONS_MAX: usize = 64;
/// A connection to which nothing was written for this long is closed.
const SILENCE_MAX: Duration = Duration::from_secs(30);
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

/// Serves the page on `listener` until `shutdown` becomes true or its sender is gone.
///
/// # Errors
/// [`WebError::Listener`] when the listener's address cannot be read or serving fails.
pub async fn serve(listener: TcpListener, state: WebState, shutdown: watch::Receiver<bool>) -> Result<(), WebError> {
    let address = listener.local_addr()?;
    state.journal.record(&WebEvent::PageServed { at: address.to_string() });
    let live = live::Live::start(state.clone(), shutdown.clone());
    let app = router(state, live);
    let bounded = BoundedListener { listener, address, permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)) };
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
    permits: Arc<Semaphore>,
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
                    let silence = Box::pin(tokio::time::sleep(SILENCE_MAX));
                    return (BoundedStream { stream, silence, _permit: permit }, peer);
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

/// A connection with its place among the allowed ones and its deadline, which each write puts off.
struct BoundedStream {
    stream: TcpStream,
    silence: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl BoundedStream {
    fn check_silence(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.silence.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::Error::new(io::ErrorKind::TimedOut, "nothing was written for too long")),
            Poll::Pending => Ok(()),
        }
    }

    fn put_off(&mut self) {
        let deadline = tokio::time::Instant::now() + SILENCE_MAX; // a timeout, not a decision
        self.silence.as_mut().reset(deadline);
    }
}

impl AsyncRead for BoundedStream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check_silence(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for BoundedStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check_silence(context)?;
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        if matches!(outcome, Poll::Ready(Ok(n)) if n > 0) {
            self.put_off();
        }
        outcome
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check_silence(context)?;
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        if matches!(outcome, Poll::Ready(Ok(n)) if n > 0) {
            self.put_off();
        }
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
