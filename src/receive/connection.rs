//! One connection: the socket, its buffer and its deadlines. Bytes in -> whole PDUs out; PDUs to send in -> bytes out.
//!
//! dicom-ul gives the PDU codec; its association API is not used, since its reads have a time-out each but no deadline in all, it copies
//! every fragment twice, and its access hook can only reject as permanent (facts: peers.md). The length of each PDU is checked from its
//! header before anything is buffered, which is what its `strict(true)` does.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dicom_ul::pdu::{Pdu, write_pdu};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::timeout;

use crate::domain::Monotonic;
use crate::journal::Journal;
use crate::spool::InstanceSink;

use super::ending::Ending;
use super::events::{ReceiveEvent, ReceiveNotice};
use super::options::ReceiveOptions;
use super::pdu_buffer::{PduBuffer, WholePdu};
use super::progress::Progress;
use super::slots::Slots;

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

/// What all connections share.
pub(super) struct Shared {
    pub(super) options: Arc<ReceiveOptions>,
    pub(super) sink: Arc<dyn InstanceSink>,
    pub(super) events: mpsc::Sender<ReceiveNotice>,
    pub(super) journal: Journal,
    pub(super) clock: fn() -> Monotonic,
    /// Bytes of N data sets in memory, of all associations (`n_services.rs`).
    pub(super) data_set_bytes: Arc<std::sync::atomic::AtomicUsize>,
    slots: Mutex<Slots>,
    evictions: Mutex<std::collections::BTreeMap<u64, Arc<Notify>>>,
}

impl Shared {
    pub(super) fn new(
        options: Arc<ReceiveOptions>,
        sink: Arc<dyn InstanceSink>,
        events: mpsc::Sender<ReceiveNotice>,
        journal: Journal,
        clock: fn() -> Monotonic,
    ) -> Self {
        let slots = Mutex::new(Slots::new(options.associations_max, options.associations_per_peer_max));
        Self { options, sink, events, journal, clock, data_set_bytes: Arc::default(), slots, evictions: Mutex::default() }
    }

    /// The table of connections. A panic while it was locked left it whole: each change is one assignment.
    pub(super) fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a new connection into the table; gives what tells it to go.
    pub(super) fn enter(&self, id: u64, peer: IpAddr) -> Arc<Notify> {
        let told = Arc::new(Notify::new());
        self.evictions.lock().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::clone(&told));
        let victim = self.slots().connect(id, peer, (self.clock)());
        victim.into_iter().for_each(|victim| self.evict(victim));
        told
    }

    /// Tells a connection to go.
    pub(super) fn evict(&self, id: u64) {
        self.journal.record(&ReceiveEvent::ConnectionEvicted { id });
        if let Some(told) = self.evictions.lock().unwrap_or_else(PoisonError::into_inner).get(&id) {
            told.notify_one();
        }
    }

    /// Forgets a connection.
    pub(super) fn leave(&self, id: u64) {
        self.slots().close(id);
        self.evictions.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// Tells the service; waits while its channel is full. When the service is gone nobody needs to be told: what is durable is found
    /// again at the next start.
    pub(super) async fn tell(&self, notice: ReceiveNotice) {
        let _ = self.events.send(notice).await;
    }
}

/// The socket side of one connection.
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    pub(super) id: u64,
    pub(super) peer: IpAddr,
    pub(super) buffer: PduBuffer,
    pub(super) progress: Progress,
    stream: TcpStream,
    told_to_go: Arc<Notify>,
    shutdown: watch::Receiver<bool>,
    stop_at: Option<Monotonic>,
}

impl Connection {
    pub(super) fn new(shared: Arc<Shared>, id: u64, peer: IpAddr, stream: TcpStream, shutdown: watch::Receiver<bool>) -> Self {
        let told_to_go = shared.enter(id, peer);
        let now = (shared.clock)();
        // A small answer must not wait for the acknowledgement of the one before it (Nagle's algorithm).
        let _ = stream.set_nodelay(true);
        Self {
            shared,
            id,
            peer,
            buffer: PduBuffer::new(REQUEST_LENGTH_MAX),
            progress: Progress::new(now),
            stream,
            told_to_go,
            shutdown,
            stop_at: None,
        }
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
            let _ = self.stream.set_quickack(true);
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
            Err(_) => Err(Ending::Late(super::progress::Late::Message)),
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
    }
}
