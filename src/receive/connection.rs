//! One connection: its stream, its buffer and its deadlines. Bytes in -> whole PDUs out; PDUs to send in -> bytes out.
//!
//! dicom-ul gives the PDU codec; its association API is not used, since its reads have a time-out each but no deadline in all, it copies
//! every fragment twice, and its access hook can only reject as permanent (facts: peers.md). The length of each PDU is checked from its
//! header before anything is buffered, which is what its `strict(true)` does.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dicom_ul::pdu::{Pdu, write_pdu};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::domain::{CertificateSha256, Monotonic};

use crate::secure::TlsKeeper;

use super::ending::Ending;
use super::handshake::shake;
use super::negotiate::Caller;
use super::pdu_buffer::{PduBuffer, WholePdu};
use super::progress::{Late, Progress};
use super::shared::Shared;
use super::stream::PeerStream;

/// Longest association request, bytes: 128 contexts with a dozen transfer syntaxes each are 60 KiB.
const REQUEST_LENGTH_MAX: u32 = 128 * 1024;
/// How long a peer may take to read our answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// A message under way when we are told to stop may go on for so long, ms.
const STOP_GRACE_MS: u64 = 5_000;
/// After our last PDU the peer may take so long to close.
const LINGER: Duration = Duration::from_secs(1);
/// Bytes that we still read while we wait for it to close.
const LINGER_BYTES_MAX: usize = 64 * 1024;

/// A connection that has a place in the table, before anything was read from it.
pub(super) struct Arrived {
    place: Place,
    stream: TcpStream,
}

/// A place in the table of connections.
struct Place {
    shared: Arc<Shared>,
    id: u64,
    peer: IpAddr,
    since: Monotonic,
    told_to_go: Arc<Notify>,
    shutdown: watch::Receiver<bool>,
}

impl Arrived {
    pub(super) fn new(shared: Arc<Shared>, id: u64, peer: IpAddr, stream: TcpStream, shutdown: watch::Receiver<bool>) -> Self {
        let told_to_go = shared.enter(id, peer);
        let since = (shared.clock)();
        // A small answer must not wait for the acknowledgement of the one before it (Nagle's algorithm).
        let _ = stream.set_nodelay(true);
        Self { place: Place { shared, id, peer, since, told_to_go, shutdown }, stream }
    }

    /// What it shares with the others, and from where it comes.
    pub(super) fn of(&self) -> (Arc<Shared>, IpAddr) {
        (Arc::clone(&self.place.shared), self.place.peer)
    }

    /// Speaks plain DICOM.
    pub(super) fn plain(self) -> Connection {
        Connection::new(self.place, PeerStream::Plain(self.stream), None)
    }

    /// Speaks DICOM under TLS. The handshake is part of the time that the association request has.
    pub(super) async fn secure(self, keeper: &TlsKeeper) -> Result<Connection, Ending> {
        let Self { mut place, stream } = self;
        let Some(config) = keeper.current() else {
            return Err(Ending::Handshake("this box has no usable certificate: see its state on the page".to_owned()));
        };
        let wait = Duration::from_secs(u64::from(place.shared.options.association_request_timeout_s));
        let shaken = tokio::select! {
            biased;
            () = place.told_to_go.notified() => return Err(Ending::Evicted),
            _ = place.shutdown.changed() => return Err(Ending::Stopping),
            shaken = timeout(wait, shake(config, stream)) => shaken,
        };
        let (stream, certificate) = shaken.map_err(|_| Late::Handshake)?.map_err(Ending::Handshake)?;
        Ok(Connection::new(place, PeerStream::Tls(stream), certificate))
    }
}

/// One connection that speaks DICOM.
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    pub(super) id: u64,
    pub(super) peer: IpAddr,
    pub(super) buffer: PduBuffer,
    pub(super) progress: Progress,
    certificate: Option<CertificateSha256>,
    stream: PeerStream,
    told_to_go: Arc<Notify>,
    shutdown: watch::Receiver<bool>,
    stop_at: Option<Monotonic>,
}

impl Connection {
    fn new(place: Place, stream: PeerStream, certificate: Option<CertificateSha256>) -> Self {
        Self {
            shared: place.shared,
            id: place.id,
            peer: place.peer,
            buffer: PduBuffer::for_request(REQUEST_LENGTH_MAX),
            progress: Progress::new(place.since),
            certificate,
            stream,
            told_to_go: place.told_to_go,
            shutdown: place.shutdown,
            stop_at: None,
        }
    }

    /// Who is at the other end.
    pub(super) fn caller(&self) -> Caller {
        Caller { address: self.peer, certificate_sha256: self.certificate }
    }

    pub(super) fn now(&self) -> Monotonic {
        (self.shared.clock)()
    }

    /// The next whole PDU. Earlier ranges are void afterwards: only for use while no fragments wait.
    pub(super) async fn next_pdu(&mut self) -> Result<WholePdu, Ending> {
        loop {
            if let Some(pdu) = self.buffer.next_pdu()? {
                return Ok(pdu);
            }
            self.buffer.compact();
            self.read_some().await?;
        }
    }

    /// Reads what is there, or waits for it until the deadline.
    pub(super) async fn read_some(&mut self) -> Result<(), Ending> {
        let n = loop {
            let now = self.now();
            let mut wait_ms = self.progress.wait_ms(now, &self.shared.options)?;
            if *self.shutdown.borrow() {
                self.stop_at = self.stop_at.or(Some(now.plus_ms(STOP_GRACE_MS)));
            }
            if let Some(stop_at) = self.stop_at {
                if self.progress.is_idle() || stop_at <= now {
                    return Err(Ending::Stopping);
                }
                wait_ms = wait_ms.min(stop_at.since_ms(now));
            }
            // Without this a sender with Nagle's algorithm waits 40 ms for our delayed acknowledgement in each instance; the kernel
            // forgets it, so it is armed before each receive (facts: 63 -> 158 instances/s).
            let _ = self.stream.socket().set_quickack(true);
            tokio::select! {
                biased;
                () = self.told_to_go.notified() => return Err(Ending::Evicted),
                // A dropped sender means that the service is gone: stop as well.
                changed = self.shutdown.changed(), if self.stop_at.is_none() => {
                    if changed.is_err() {
                        self.stop_at = Some(now.plus_ms(STOP_GRACE_MS));
                    }
                }
                read = timeout(Duration::from_millis(wait_ms), self.stream.read(self.buffer.free())) => if let Ok(read) = read {
                    break read?; // past the time nothing happens here: the deadline itself is judged at the top
                },
            }
        };
        if n == 0 {
            return Err(Ending::ClosedByPeer);
        }
        self.buffer.filled(n);
        let now = self.now();
        if self.progress.on_bytes(n, now) {
            self.shared.slots().busy(self.id);
        }
        Ok(())
    }

    /// Sends bytes.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), Ending> {
        match timeout(WRITE_TIMEOUT, self.stream.write_all(bytes)).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(Late::Message.into()),
        }
    }

    /// Sends a PDU.
    pub(super) async fn send_pdu(&mut self, pdu: &Pdu) -> Result<(), Ending> {
        let mut bytes = Vec::with_capacity(256);
        // The codec refuses titles that do not fit; what we echo came through its reader.
        write_pdu(&mut bytes, pdu).map_err(|error| Ending::BadRequest(error.to_string()))?;
        self.send(&bytes).await
    }

    /// Sends the last PDU and lets the peer close first (PS3.8 section 9.2, ARTIM): some peers take our closing for the answer.
    pub(super) async fn end(mut self, ending: &Ending) {
        let Some(pdu) = ending.last_pdu() else { return };
        let goodbye = async {
            self.send_pdu(&pdu).await?;
            let (mut scratch, mut n_read) = ([0; 4096], 0);
            while n_read < LINGER_BYTES_MAX {
                match self.stream.read(&mut scratch).await? {
                    0 => break,
                    n => n_read += n,
                }
            }
            Ok::<(), Ending>(())
        };
        // Whatever goes wrong here, the connection is over anyway.
        let _ = timeout(LINGER, goodbye).await;
        let _ = timeout(LINGER, self.stream.close()).await;
    }
}
