//! What the tests of receiving stand on: a server on loopback with a store that can be made full, and a peer that can say anything.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use dicom_ul::pdu::{AssociationRQ, Pdu, PresentationContextProposed, UserVariableItem, write_pdu};
use scanside::domain::{InstanceHeader, Monotonic, StoredInstance, WallTime};
use scanside::journal::Journal;
use scanside::receive::{Listeners, ReceiveNotice, ReceiveOptions, serve};
use scanside::spool::{Committed, FullBecause, IncomingInstance, InstanceSink, SpoolError};
use tokio::sync::{mpsc, watch};

pub const VERIFICATION: &str = "1.2.840.10008.1.1";

/// A store in a temporary folder: keeps what is committed in memory, too, and can be full, broken or panicking.
pub struct FakeStore {
    folder: tempfile::TempDir,
    n: AtomicU64,
    pub full: AtomicBool,
    pub panics: AtomicBool,
    pub committed: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl FakeStore {
    /// Files in its folder.
    pub fn n_files(&self) -> usize {
        std::fs::read_dir(self.folder.path()).expect("the folder is there").count()
    }
}

struct FakeIncoming {
    store: Arc<FakeStore>,
    path: PathBuf,
    file: File,
    data_set_at: Option<u64>,
    n_bytes: u64,
}

struct FakeSink(Arc<FakeStore>);

impl InstanceSink for FakeSink {
    fn begin(&self) -> Result<Box<dyn IncomingInstance>, SpoolError> {
        let path = self.0.folder.path().join(self.0.n.fetch_add(1, Ordering::SeqCst).to_string());
        let file = File::create(&path).expect("the folder takes files");
        Ok(Box::new(FakeIncoming { store: Arc::clone(&self.0), path, file, data_set_at: None, n_bytes: 0 }))
    }
}

impl IncomingInstance for FakeIncoming {
    fn write(&mut self, bytes: &[u8]) -> Result<(), SpoolError> {
        assert!(!self.store.panics.load(Ordering::SeqCst), "a fault in the store");
        if self.store.full.load(Ordering::SeqCst) {
            return Err(SpoolError::Full { because: FullBecause::Budget });
        }
        self.n_bytes += bytes.len() as u64;
        self.file.write_all(bytes).map_err(|error| SpoolError::Failing { doing: "writing", reason: error.to_string() })
    }

    fn data_set_begins(&mut self) {
        assert_eq!(self.data_set_at.replace(self.n_bytes), None, "a data set begins once");
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn commit(self: Box<Self>, header: InstanceHeader, association_id: u64, now: Monotonic) -> Result<Committed, SpoolError> {
        let whole = std::fs::read(&self.path).expect("what was written can be read");
        let data_set = whole[self.data_set_at.expect("a data set began") as usize..].to_vec();
        let stored = StoredInstance {
            path: self.path.clone(),
            n_bytes: whole.len() as u64,
            sha256: [0; 32],
            association_id,
            stored_at: now,
            received_at: WallTime(0),
            header,
        };
        let uid = stored.header.sop_instance_uid.to_string();
        let before = self.store.committed.lock().unwrap().insert(uid, data_set.clone());
        Ok(match before {
            None => Committed::New(stored),
            Some(before) if before == data_set => Committed::Duplicate(stored),
            Some(_) => Committed::ConflictKept(stored),
        })
    }
}

impl Drop for FakeIncoming {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).expect("the file was there");
    }
}

/// Half of the shortest deadline of the default options (30 s for the request): what ends or is answered sooner did not wait for one to pass,
/// however busy the machine is.
pub const AT_ONCE: Duration = Duration::from_secs(15);

/// Milliseconds since the first call.
pub fn clock() -> Monotonic {
    static START: OnceLock<Instant> = OnceLock::new();
    Monotonic(START.get_or_init(Instant::now).elapsed().as_millis() as u64)
}

/// A running server; dropped, it stops.
pub struct Server {
    pub address: SocketAddr,
    pub store: Arc<FakeStore>,
    pub journal: Journal,
    pub notices: Arc<Mutex<Vec<ReceiveNotice>>>,
    stop: watch::Sender<bool>,
    runtime: Option<tokio::runtime::Runtime>,
    serving: Option<tokio::task::JoinHandle<Result<(), scanside::receive::ReceiveError>>>,
}

impl Server {
    pub fn start(options: ReceiveOptions) -> Self {
        Self::start_with(options, clock)
    }

    pub fn start_with(options: ReceiveOptions, clock: fn() -> Monotonic) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        Self::start_listening(options, clock, address, |_| Listeners::from(tokio::net::TcpListener::from_std(listener).unwrap()))
    }

    /// Serves on the listeners that `listen` makes inside the runtime; `address` is the one that the helpers talk to.
    pub fn start_listening(
        options: ReceiveOptions,
        clock: fn() -> Monotonic,
        address: SocketAddr,
        listen: impl FnOnce(&Journal) -> Listeners,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let store = Arc::new(FakeStore {
            folder: tempfile::tempdir().unwrap(),
            n: AtomicU64::new(0),
            full: AtomicBool::new(false),
            panics: AtomicBool::new(false),
            committed: Mutex::default(),
        });
        let (stop, stopped) = watch::channel(false);
        let (events, mut told) = mpsc::channel(4);
        let journal = Journal::new(|| WallTime(0));
        let listeners = {
            let _inside = runtime.enter();
            listen(&journal)
        };
        let sink: Arc<dyn InstanceSink> = Arc::new(FakeSink(Arc::clone(&store)));
        let serving = runtime.spawn(serve(listeners, Arc::new(options), sink, events, journal.clone(), clock, stopped));
        let notices = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&notices);
        runtime.spawn(async move {
            while let Some(notice) = told.recv().await {
                kept.lock().unwrap().push(notice);
            }
        });
        Self { address, store, journal, notices, stop, runtime: Some(runtime), serving: Some(serving) }
    }

    /// Tells the server to stop and waits until it has; gives how long that took.
    pub fn stop(&mut self) -> Duration {
        let began = Instant::now();
        self.stop.send(true).unwrap();
        let (runtime, serving) = (self.runtime.as_ref().unwrap(), self.serving.take().unwrap());
        runtime.block_on(serving).unwrap().unwrap();
        began.elapsed()
    }

    /// Waits until the journal has counted `n` events of this name.
    pub fn wait_for(&self, name: &str, n: u64) {
        let until = Instant::now() + Duration::from_secs(20);
        while Instant::now() < until {
            if self.journal.counts().iter().any(|(_, event, count)| *event == name && *count >= n) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{name} was not recorded {n} times: {:#?}", self.journal.recent());
    }

    /// Whether a C-ECHO is answered with success, [`AT_ONCE`].
    pub fn answers_echo(&self) -> bool {
        let began = Instant::now();
        let mut peer = Peer::associate(self.address, "SCANSIDE", &[(1, VERIFICATION, "1.2.840.10008.1.2")]).expect("accepted");
        peer.send_command(1, &command(0x0030, 1, VERIFICATION, None, false));
        let status = peer.status();
        peer.release();
        status == 0 && began.elapsed() < AT_ONCE
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(2));
        }
    }
}

/// A command set.
pub fn command(field: u16, message_id: u16, sop_class: &str, sop_instance: Option<&str>, has_data: bool) -> Vec<u8> {
    let mut body = Vec::new();
    let mut put = |element: u16, value: &[u8]| {
        let padded = value.len() + value.len() % 2;
        body.extend_from_slice(&[0, 0]);
        body.extend_from_slice(&element.to_le_bytes());
        body.extend_from_slice(&(padded as u32).to_le_bytes());
        body.extend_from_slice(value);
        body.resize(body.len() + value.len() % 2, 0);
    };
    put(0x0002, sop_class.as_bytes());
    put(0x0100, &field.to_le_bytes());
    put(0x0110, &message_id.to_le_bytes());
    put(0x0700, &[0, 0]);
    put(0x0800, &u16::to_le_bytes(if has_data { 0 } else { 0x0101 }));
    if let Some(uid) = sop_instance {
        put(0x1000, uid.as_bytes());
    }
    body
}

/// One P-DATA-TF with one fragment.
pub fn p_data(context_id: u8, control: u8, bytes: &[u8]) -> Vec<u8> {
    let length = bytes.len() as u32;
    let mut pdu = vec![4, 0];
    pdu.extend_from_slice(&(length + 6).to_be_bytes());
    pdu.extend_from_slice(&(length + 2).to_be_bytes());
    pdu.extend_from_slice(&[context_id, control]);
    pdu.extend_from_slice(bytes);
    pdu
}

/// An A-ASSOCIATE-RQ.
pub fn association_request(calling: &str, called: &str, contexts: &[(u8, &str, &str)]) -> Vec<u8> {
    let request = AssociationRQ {
        protocol_version: 1,
        calling_ae_title: calling.to_owned(),
        called_ae_title: called.to_owned(),
        application_context_name: "1.2.840.10008.3.1.1.1".to_owned(),
        presentation_contexts: contexts
            .iter()
            .map(|(id, class, syntax)| PresentationContextProposed {
                id: *id,
                abstract_syntax: (*class).to_owned(),
                transfer_syntaxes: vec![(*syntax).to_owned()],
            })
            .collect(),
        user_variables: vec![UserVariableItem::MaxLength(16_384)],
    };
    let mut bytes = Vec::new();
    write_pdu(&mut bytes, &Pdu::AssociationRQ(request)).unwrap();
    bytes
}

/// A peer that writes its PDUs by hand.
pub struct Peer {
    pub stream: TcpStream,
    /// Context results: (number, result).
    pub results: Vec<(u8, u8)>,
}

impl Peer {
    pub fn connect(address: SocketAddr) -> TcpStream {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// Asks for an association; `Err` holds result, source and reason of the rejection.
    pub fn associate(address: SocketAddr, called: &str, contexts: &[(u8, &str, &str)]) -> Result<Self, [u8; 3]> {
        let mut stream = Self::connect(address);
        stream.write_all(&association_request("TESTER", called, contexts)).unwrap();
        let (kind, body) = read_pdu(&mut stream).expect("an answer");
        match kind {
            2 => {
                let whole = [&[2, 0], &(body.len() as u32).to_be_bytes()[..], &body].concat();
                let Ok(Some(Pdu::AssociationAC(accepted))) = dicom_ul::pdu::read_pdu(&whole[..], 1 << 20, true) else {
                    panic!("an A-ASSOCIATE-AC")
                };
                let results = accepted.presentation_contexts.iter().map(|c| (c.id, c.reason.clone() as u8)).collect();
                Ok(Self { stream, results })
            }
            3 => Err([body[1], body[2], body[3]]),
            other => panic!("PDU type {other} in answer to a request"),
        }
    }

    pub fn send_command(&mut self, context_id: u8, set: &[u8]) {
        self.stream.write_all(&p_data(context_id, 3, set)).unwrap();
    }

    /// Sends a data set in fragments of `n` bytes.
    pub fn send_data(&mut self, context_id: u8, data_set: &[u8], n: usize) {
        let n_fragments = data_set.len().div_ceil(n);
        for (idx, fragment) in data_set.chunks(n).enumerate() {
            self.stream.write_all(&p_data(context_id, if idx + 1 == n_fragments { 2 } else { 0 }, fragment)).unwrap();
        }
    }

    /// The status of the next response.
    pub fn status(&mut self) -> u16 {
        self.try_status().expect("a response")
    }

    /// The status of the next response; `None` when the server aborts or closes instead.
    pub fn try_status(&mut self) -> Option<u16> {
        let (kind, body) = read_pdu(&mut self.stream)?;
        if kind != 4 {
            assert_eq!(kind, 7, "a response or an abort");
            return None;
        }
        let at = body.windows(8).position(|w| w == [0, 0, 0, 9, 2, 0, 0, 0]).expect("a status in the response");
        Some(u16::from_le_bytes([body[at + 8], body[at + 9]]))
    }

    /// C-STORE of an MR image's data set on context 1.
    pub fn store(&mut self, sop_class: &str, sop_instance: &str, data_set: &[u8]) -> u16 {
        self.send_command(1, &command(0x0001, 7, sop_class, Some(sop_instance), true));
        self.send_data(1, data_set, 16_000);
        self.status()
    }

    /// Releases; true when the server agrees.
    pub fn release(mut self) -> bool {
        self.stream.write_all(&[5, 0, 0, 0, 0, 4, 0, 0, 0, 0]).unwrap();
        matches!(read_pdu(&mut self.stream), Some((6, _)))
    }
}

/// The next PDU; `None` when the connection ends.
pub fn read_pdu(stream: &mut impl Read) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 6];
    stream.read_exact(&mut head).ok()?;
    let mut body = vec![0; u32::from_be_bytes([head[2], head[3], head[4], head[5]]) as usize];
    stream.read_exact(&mut body).ok()?;
    Some((head[0], body))
}
