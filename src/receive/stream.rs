//! The bytes of one connection, plain or under TLS: one kind of stream to the rest of the room, with the socket within reach.

use std::io::{ErrorKind, Result};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// A connected peer.
pub(super) enum PeerStream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl PeerStream {
    /// The socket below, for its options.
    pub(super) fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    /// Reads what is there, or waits for it; 0 at the end. Safe to drop while it waits.
    pub(super) async fn read(&mut self, into: &mut [u8]) -> Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(into).await,
            // Many peers close without the alert that TLS asks for. Nothing can be cut off by that unseen: PDUs and data sets say how
            // long they are, and an association ends by a release.
            Self::Tls(stream) => match stream.read(into).await {
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(0),
                read => read,
            },
        }
    }

    /// Sends it all.
    pub(super) async fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(bytes).await,
            Self::Tls(stream) => {
                stream.write_all(bytes).await?;
                // What the socket did not take at once waits in the TLS layer.
                stream.flush().await
            }
        }
    }

    /// Says that nothing more will come, where the layer has a way to.
    pub(super) async fn close(&mut self) {
        if let Self::Tls(stream) = self {
            // The connection is over whether or not the peer reads this.
            let _ = stream.shutdown().await;
        }
    }
}
