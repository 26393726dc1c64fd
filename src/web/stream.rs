//! One connection of the page, plain or under TLS: a socket with its place among the allowed ones in -> bytes, within deadlines, out.
//!
//! The TLS handshake is part of the connection's first read, in the connection's own task: a peer that is slow with it holds up nobody,
//! and is let go after [`HANDSHAKE_MAX`].

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};

use super::events::WebEvent;
use crate::journal::Journal;
use crate::secure::TlsKeeper;

/// A connection to which nothing was written for this long is closed.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// A TLS handshake takes at most this long.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// Who holds how many connections.
#[derive(Clone, Default)]
pub(super) struct Holders(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One of them; given back when dropped. The table has one entry per open connection at most.
pub(super) struct Held {
    holders: Holders,
    peer: IpAddr,
}

impl Holders {
    /// A further connection for `peer`, unless it has `n_max`.
    pub(super) fn take(&self, peer: IpAddr, n_max: usize) -> Option<Held> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let n = table.entry(peer).or_default();
        if *n >= n_max {
            return None;
        }
        *n += 1;
        Some(Held { holders: self.clone(), peer })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut table = self.holders.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(n) = table.get_mut(&self.peer) {
            *n = n.saturating_sub(1);
            if *n == 0 {
                table.remove(&self.peer);
            }
        }
    }
}

enum Wire {
    Plain(TcpStream),
    Shaking(Box<Accept<TcpStream>>),
    Tls(Box<TlsStream<TcpStream>>),
    Over,
}

/// A connection with its place among the allowed ones and its deadline, which each write puts off.
pub(super) struct BoundedStream {
    wire: Wire,
    silence: Pin<Box<Sleep>>,
    journal: Journal,
    held: Held,
    _permit: OwnedSemaphorePermit,
}

impl BoundedStream {
    /// `tls` holds the certificates of a listener for TLS. `None` when there is no certificate to serve with: the connection is closed.
    pub(super) fn new(
        stream: TcpStream,
        tls: Option<&TlsKeeper>,
        journal: Journal,
        held: Held,
        permit: OwnedSemaphorePermit,
    ) -> Option<Self> {
        let (wire, patience) = match tls {
            None => (Wire::Plain(stream), SILENCE_MAX),
            Some(keeper) => (Wire::Shaking(Box::new(TlsAcceptor::from(keeper.current()?).accept(stream))), HANDSHAKE_MAX),
        };
        Some(Self { wire, silence: Box::pin(tokio::time::sleep(patience)), journal, held, _permit: permit })
    }

    fn check_silence(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.silence.as_mut().poll(context) {
            Poll::Ready(()) => {
                let error = io::Error::new(io::ErrorKind::TimedOut, "nothing was written for too long");
                if matches!(self.wire, Wire::Shaking(_)) {
                    self.shaking_failed(&error);
                }
                Err(error)
            }
            Poll::Pending => Ok(()),
        }
    }

    fn shaking_failed(&mut self, error: &io::Error) {
        self.wire = Wire::Over;
        self.journal.record(&WebEvent::HandshakeFailed { peer: self.held.peer.to_string(), error: error.to_string() });
    }

    /// Ready when bytes may pass.
    fn poll_shaken(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_silence(context)?;
        if let Wire::Shaking(accept) = &mut self.wire {
            match ready!(Pin::new(accept.as_mut()).poll(context)) {
                Ok(stream) => {
                    self.wire = Wire::Tls(Box::new(stream));
                    self.put_off();
                    // The new deadline wakes this task by itself only once it is asked.
                    self.check_silence(context)?;
                }
                Err(error) => {
                    self.shaking_failed(&error);
                    return Poll::Ready(Err(error));
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn put_off(&mut self) {
        let deadline = tokio::time::Instant::now() + SILENCE_MAX; // a timeout, not a decision
        self.silence.as_mut().reset(deadline);
    }

    fn written(&mut self, outcome: &Poll<io::Result<usize>>) {
        if matches!(outcome, Poll::Ready(Ok(n)) if *n > 0) {
            self.put_off();
        }
    }
}

fn over() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the TLS handshake failed")
}

impl AsyncRead for BoundedStream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_shaken(context))?;
        match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Wire::Tls(stream) => Pin::new(stream.as_mut()).poll_read(context, buffer),
            Wire::Shaking(_) | Wire::Over => Poll::Ready(Err(over())),
        }
    }
}

impl AsyncWrite for BoundedStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_shaken(context))?;
        let outcome = match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Wire::Tls(stream) => Pin::new(stream.as_mut()).poll_write(context, bytes),
            Wire::Shaking(_) | Wire::Over => Poll::Ready(Err(over())),
        };
        self.written(&outcome);
        outcome
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_flush(context),
            Wire::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(context),
            Wire::Shaking(_) | Wire::Over => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A peer that takes nothing must not hold its place for the sake of a farewell.
        self.check_silence(context)?;
        match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Wire::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(context),
            Wire::Shaking(_) | Wire::Over => Poll::Ready(Ok(())),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_shaken(context))?;
        let outcome = match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_write_vectored(context, buffers),
            Wire::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(context, buffers),
            Wire::Shaking(_) | Wire::Over => Poll::Ready(Err(over())),
        };
        self.written(&outcome);
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        match &self.wire {
            Wire::Plain(stream) => stream.is_write_vectored(),
            Wire::Tls(_) | Wire::Shaking(_) => true,
            Wire::Over => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_holds_so_many_connections_and_gives_them_back() {
        let (holders, peer) = (Holders::default(), IpAddr::from([10, 0, 0, 7]));
        let mut held: Vec<_> = (0..3).map(|_| holders.take(peer, 3).expect("room")).collect();
        assert!(holders.take(peer, 3).is_none());
        assert!(holders.take(IpAddr::from([10, 0, 0, 8]), 3).is_some(), "another address has its own");
        held.pop();
        assert!(holders.take(peer, 3).is_some());
        drop(held);
        assert!(holders.0.lock().expect("whole").is_empty(), "no entry is left behind");
    }
}
