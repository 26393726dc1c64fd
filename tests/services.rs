//! What a modality can rely on beside storage: procedure steps, availability notifications and storage commitment over a real socket,
//! with the real store behind them.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]
#![allow(unreachable_pub)] // a support module is private to this test

#[allow(dead_code)]
#[path = "receive_support/mod.rs"]
mod support;
#[path = "../src/receive/test_data.rs"]
mod test_data;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use scanside::deliver::{EventReportOptions, EventReporter};
use scanside::domain::{AeTitle, StepStatus, Uid, WallTime};
use scanside::journal::Journal;
use scanside::receive::{ReceiveNotice, ReceiveOptions, serve};
use scanside::spool::{InstanceSink, ServiceStore, Spool, SpoolOptions};
use support::{Peer, clock, p_data, read_pdu};
use test_data::{DataSet, EXPLICIT_LE, IMPLICIT_LE, MR_IMAGE};
use tokio::sync::{mpsc, watch};

const STEP: &str = "1.2.840.10008.3.1.2.3.3";
const AVAILABILITY: &str = "1.2.840.10008.5.1.4.33";
const COMMITMENT: &str = "1.2.840.10008.1.20.1";
const COMMITMENT_INSTANCE: &str = "1.2.840.10008.1.20.1.1";
const CONTEXTS: &[(u8, &str, &str)] =
    &[(1, MR_IMAGE, EXPLICIT_LE), (3, STEP, EXPLICIT_LE), (5, AVAILABILITY, IMPLICIT_LE), (7, COMMITMENT, EXPLICIT_LE)];

fn wall() -> WallTime {
    WallTime(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as i64)
}

/// A receiver on loopback with a real store in a folder.
struct Box {
    address: SocketAddr,
    spool: Spool,
    journal: Journal,
    notices: Arc<Mutex<Vec<ReceiveNotice>>>,
    runtime: Option<tokio::runtime::Runtime>,
    stop: watch::Sender<bool>,
}

impl Box {
    fn start(folder: &std::path::Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let journal = Journal::new(wall);
        let bounds = SpoolOptions { bytes_max: 1 << 30, free_bytes_min: 0, ..SpoolOptions::default() };
        let spool = Spool::open(folder, bounds, journal.clone(), wall).unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let (events, mut told) = mpsc::channel(4);
        let options = ReceiveOptions { storage_commitment: true, ..ReceiveOptions::default() };
        let sink: Arc<dyn InstanceSink> = Arc::new(spool.clone());
        runtime.spawn(serve(listener, Arc::new(options), sink, events, journal.clone(), clock, stopped));
        let notices = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&notices);
        runtime.spawn(async move {
            while let Some(notice) = told.recv().await {
                kept.lock().unwrap().push(notice);
            }
        });
        Self { address, spool, journal, notices, runtime: Some(runtime), stop }
    }

    fn associate(&self) -> Peer {
        let peer = Peer::associate(self.address, "SCANSIDE", CONTEXTS).expect("accepted");
        assert_eq!(peer.results, [(1, 0), (3, 0), (5, 0), (7, 0)]);
        peer
    }

    /// Tells commitments to TESTER at `address`.
    fn report_to(&self, address: SocketAddr) {
        let title = |text: &str| AeTitle::try_new(text).unwrap();
        let options = EventReportOptions {
            peers: BTreeMap::from([(title("TESTER"), address)]),
            response_timeout: Duration::from_secs(5),
            ..EventReportOptions::new(title("SCANSIDE"))
        };
        let reporter = EventReporter::new(Arc::new(self.spool.clone()), options, self.journal.clone(), wall);
        self.runtime.as_ref().unwrap().spawn(reporter.run(self.stop.subscribe()));
    }

    /// Waits until the journal has counted `n` events of this name.
    fn wait_for(&self, name: &str, n: u64) {
        let until = Instant::now() + Duration::from_secs(30);
        while Instant::now() < until {
            if self.journal.counts().iter().any(|(_, event, count)| *event == name && *count >= n) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{name} was not recorded {n} times: {:#?}", self.journal.recent());
    }
}

impl Drop for Box {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(2));
        }
    }
}

/// A command set of an N request. `requested`: names SOP class and instance as requested, not as affected.
fn n_command(field: u16, class: &str, instance: Option<&str>, requested: bool, action_type: Option<u16>) -> Vec<u8> {
    let mut set = Vec::new();
    let mut put = |element: u16, value: &[u8]| {
        set.extend_from_slice(&[0, 0]);
        set.extend_from_slice(&element.to_le_bytes());
        set.extend_from_slice(&((value.len() + value.len() % 2) as u32).to_le_bytes());
        set.extend_from_slice(value);
        set.resize(set.len() + value.len() % 2, 0);
    };
    put(if requested { 0x0003 } else { 0x0002 }, class.as_bytes());
    put(0x0100, &field.to_le_bytes());
    put(0x0110, &7_u16.to_le_bytes());
    put(0x0800, &1_u16.to_le_bytes());
    if let Some(instance) = instance {
        put(if requested { 0x1001 } else { 0x1000 }, instance.as_bytes());
    }
    if let Some(action_type) = action_type {
        put(0x1008, &action_type.to_le_bytes());
    }
    set
}

/// The value of an element of a command set.
fn value(set: &[u8], element: u16) -> Option<Vec<u8>> {
    let mut rest = set;
    while rest.len() >= 8 {
        let length = u32::from_le_bytes(rest[4..8].try_into().unwrap()) as usize;
        if u16::from_le_bytes([rest[2], rest[3]]) == element {
            return Some(rest[8..8 + length].to_vec());
        }
        rest = &rest[8 + length..];
    }
    None
}

fn number(set: &[u8], element: u16) -> Option<u16> {
    value(set, element).map(|v| u16::from_le_bytes([v[0], v[1]]))
}

/// The next whole command, or data set, that the box sends; `None` when it closes.
fn next_message(peer: &mut Peer, is_command: bool) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let (kind, body) = read_pdu(&mut peer.stream)?;
        assert_eq!(kind, 4, "P-DATA");
        assert_eq!(body[5] & 1 == 1, is_command, "command or data as expected");
        whole.extend_from_slice(&body[6..]);
        if body[5] & 2 != 0 {
            return Some(whole);
        }
    }
}

/// Sends an N request and gives the response's command set.
fn request(peer: &mut Peer, context_id: u8, command: &[u8], data: &[u8]) -> Vec<u8> {
    peer.send_command(context_id, command);
    peer.send_data(context_id, data, 10_000);
    next_message(peer, true).expect("a response")
}

fn step_set(empty: DataSet, status: &str, instances: &[&str]) -> Vec<u8> {
    let images: Vec<Vec<u8>> =
        instances.iter().map(|i| empty.item(|d| d.text(0x0008_1150, "UI", MR_IMAGE).text(0x0008_1155, "UI", i))).collect();
    let series = empty.item(|d| d.sequence(0x0008_1140, true, &images).text(0x0020_000E, "UI", "1.2.3.4"));
    let scheduled = empty.item(|d| d.text(0x0020_000D, "UI", "1.2.3"));
    let mut set = empty.text(0x0010_0010, "PN", "DOE^JANE").text(0x0040_0252, "CS", status);
    if status == "IN PROGRESS" {
        set = set.sequence(0x0040_0270, false, &[scheduled]);
    }
    set.sequence(0x0040_0340, true, &[series]).bytes
}

fn commitment_set(instances: &[&str]) -> Vec<u8> {
    let empty = DataSet::explicit();
    let items: Vec<Vec<u8>> =
        instances.iter().map(|i| empty.item(|d| d.text(0x0008_1150, "UI", MR_IMAGE).text(0x0008_1155, "UI", i))).collect();
    empty.text(0x0008_1195, "UI", "2.25.77").sequence(0x0008_1199, false, &items).bytes
}

fn commit(peer: &mut Peer, instances: &[&str]) -> u16 {
    let command = n_command(0x0130, COMMITMENT, Some(COMMITMENT_INSTANCE), true, Some(1));
    let response = request(peer, 7, &command, &commitment_set(instances));
    assert_eq!((number(&response, 0x0100), number(&response, 0x1008)), (Some(0x8130), Some(1)));
    number(&response, 0x0900).unwrap()
}

/// Answers the report that the box sends on the open association; gives its event type and data set.
fn answer_report(peer: &mut Peer, status: u16) -> (u16, Vec<u8>) {
    let command = next_message(peer, true).expect("a report");
    assert_eq!(number(&command, 0x0100), Some(0x0100), "N-EVENT-REPORT-RQ");
    let data = next_message(peer, false).expect("its data set");
    let mut response = Vec::new();
    for (element, word) in [(0x0100_u16, 0x8100), (0x0120, number(&command, 0x0110).unwrap()), (0x0800, 0x0101), (0x0900, status)]
    {
        response.extend_from_slice(&[0, 0]);
        response.extend_from_slice(&element.to_le_bytes());
        response.extend_from_slice(&2_u32.to_le_bytes());
        response.extend_from_slice(&u16::to_le_bytes(word));
    }
    peer.send_command(7, &response);
    (number(&command, 0x1002).unwrap(), data)
}

fn contains(data: &[u8], text: &str) -> bool {
    data.windows(text.len()).any(|w| w == text.as_bytes())
}

#[test]
fn step_is_created_changed_and_completed_and_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let create = |uid| n_command(0x0140, STEP, uid, false, None);
    let set = |uid| n_command(0x0120, STEP, Some(uid), true, None);
    {
        let it = Box::start(folder.path());
        let mut peer = it.associate();
        let response = request(&mut peer, 3, &create(Some("9.1")), &step_set(DataSet::explicit(), "IN PROGRESS", &["1.2.3.4.1"]));
        assert_eq!((number(&response, 0x0100), number(&response, 0x0900)), (Some(0x8140), Some(0)));
        let again = request(&mut peer, 3, &create(Some("9.1")), &step_set(DataSet::explicit(), "IN PROGRESS", &[]));
        assert_eq!(number(&again, 0x0900), Some(0x0111));
        let unknown = request(&mut peer, 3, &set("9.9"), &step_set(DataSet::explicit(), "COMPLETED", &[]));
        assert_eq!(number(&unknown, 0x0900), Some(0x0112));
        let early = request(&mut peer, 3, &create(Some("9.2")), &step_set(DataSet::explicit(), "COMPLETED", &[]));
        assert_eq!(number(&early, 0x0900), Some(0x0106));
        assert_eq!(
            peer.store(MR_IMAGE, "1.2.3.4.1", &DataSet::explicit().mr_image("1.2.3.4.1", 8).bytes),
            0,
            "images in between"
        );
        assert!(peer.release());
    }
    let it = Box::start(folder.path());
    assert_eq!(it.spool.pending_steps().unwrap().len(), 1);
    let mut peer = it.associate();
    let response = request(&mut peer, 3, &set("9.1"), &step_set(DataSet::explicit(), "COMPLETED", &["1.2.3.4.1", "1.2.3.4.2"]));
    assert_eq!((number(&response, 0x0100), number(&response, 0x0900)), (Some(0x8120), Some(0)));
    let late = request(&mut peer, 3, &set("9.1"), &step_set(DataSet::explicit(), "DISCONTINUED", &[]));
    assert_eq!((number(&late, 0x0900), number(&late, 0x0903)), (Some(0x0110), Some(0xA710)));
    assert!(peer.release());
    it.wait_for("AssociationReleased", 1);
    let notices = it.notices.lock().unwrap();
    let told: Vec<_> =
        notices.iter().filter_map(|n| if let ReceiveNotice::StepReported(s) = n { Some(s) } else { None }).collect();
    let [step] = told.as_slice() else { panic!("one change: {notices:#?}") };
    assert_eq!((step.status, step.series[&Uid::try_new("1.2.3.4").unwrap()].len()), (StepStatus::Completed, 2));
}

#[test]
fn a_step_without_a_name_gets_one() {
    let folder = tempfile::tempdir().unwrap();
    let it = Box::start(folder.path());
    let mut peer = it.associate();
    let set = step_set(DataSet::explicit(), "IN PROGRESS", &[]);
    let response = request(&mut peer, 3, &n_command(0x0140, STEP, None, false, None), &set);
    assert_eq!(number(&response, 0x0900), Some(0));
    let name = String::from_utf8(value(&response, 0x1000).expect("the name that was made")).unwrap();
    assert!(name.starts_with("2.25."), "{name}");
    let change = n_command(0x0120, STEP, Some(name.trim_end_matches('\0')), true, None);
    let response = request(&mut peer, 3, &change, &step_set(DataSet::explicit(), "DISCONTINUED", &[]));
    assert_eq!(number(&response, 0x0900), Some(0));
    let bad = request(&mut peer, 3, &n_command(0x0140, STEP, Some("1..2"), false, None), &set);
    assert_eq!(number(&bad, 0x0900), Some(0x0117));
    let get = request(&mut peer, 3, &n_command(0x0110, STEP, Some("9.1"), true, None), &set);
    assert_eq!(number(&get, 0x0900), Some(0x0211), "N-GET is not offered");
    let mixed = request(&mut peer, 3, &n_command(0x0140, AVAILABILITY, None, false, None), &set);
    assert_eq!(number(&mixed, 0x0900), Some(0x0118));
    let store = n_command(0x0001, STEP, Some("9.1"), false, None);
    assert_eq!(number(&request(&mut peer, 3, &store, &set), 0x0900), Some(0x0122), "no image is stored as a step");
}

#[test]
fn available_instances_are_told_to_the_service() {
    let folder = tempfile::tempdir().unwrap();
    let it = Box::start(folder.path());
    let mut peer = it.associate();
    let empty = DataSet::implicit();
    let sop =
        empty.item(|d| d.text(0x0008_0056, "CS", "ONLINE").text(0x0008_1150, "UI", MR_IMAGE).text(0x0008_1155, "UI", "1.9"));
    let series = empty.item(|d| d.sequence(0x0008_1199, false, &[sop]).text(0x0020_000E, "UI", "1.2.3.4"));
    let set = empty.sequence(0x0008_1115, false, &[series]).text(0x0020_000D, "UI", "1.2.3").bytes;
    for _ in 0..2 {
        let response = request(&mut peer, 5, &n_command(0x0140, AVAILABILITY, Some("9.5"), false, None), &set);
        assert_eq!(number(&response, 0x0900), Some(0), "and again");
    }
    assert!(peer.release());
    it.wait_for("AssociationReleased", 1);
    let notices = it.notices.lock().unwrap();
    assert_eq!(notices.iter().filter(|n| matches!(n, ReceiveNotice::InstancesAvailable(_))).count(), 2);
}

#[test]
fn commitment_is_told_on_its_own_association() {
    let folder = tempfile::tempdir().unwrap();
    let it = Box::start(folder.path());
    let mut peer = it.associate();
    for uid in ["1.2.3.4.1", "1.2.3.4.2"] {
        assert_eq!(peer.store(MR_IMAGE, uid, &DataSet::explicit().mr_image(uid, 8).bytes), 0);
    }
    assert_eq!(commit(&mut peer, &["1.2.3.4.1", "1.2.3.4.2"]), 0);
    let (event_type, data) = answer_report(&mut peer, 0);
    assert_eq!(event_type, 1);
    assert!(contains(&data, "2.25.77") && contains(&data, "1.2.3.4.1") && contains(&data, "1.2.3.4.2"));
    it.wait_for("CommitmentTold", 1);
    assert_eq!(commit(&mut peer, &["1.2.3.4.1", "1.2.3.4.9"]), 0);
    let (event_type, data) = answer_report(&mut peer, 0);
    assert_eq!(event_type, 2, "failures exist");
    assert!(data.windows(10).any(|w| w == [8, 0, 0x97, 0x11, b'U', b'S', 2, 0, 0x12, 0x01]), "no such object instance");
    it.wait_for("CommitmentTold", 2);
    assert!(peer.release());
    assert_eq!(it.spool.commitment_stats(wall()).unwrap().n_waiting, 0);
}

#[test]
fn a_file_that_is_gone_or_cut_is_not_committed() {
    let folder = tempfile::tempdir().unwrap();
    let it = Box::start(folder.path());
    let mut peer = it.associate();
    let uids = ["1.2.3.4.1", "1.2.3.4.2", "1.2.3.4.3"];
    for uid in uids {
        assert_eq!(peer.store(MR_IMAGE, uid, &DataSet::explicit().mr_image(uid, 8).bytes), 0);
    }
    let path = |uid: &str| it.spool.stored_instance(&Uid::try_new(uid).unwrap()).unwrap().unwrap().path;
    std::fs::remove_file(path(uids[0])).unwrap();
    std::fs::OpenOptions::new().write(true).open(path(uids[1])).unwrap().set_len(500).unwrap();
    assert_eq!(commit(&mut peer, &uids), 0);
    let (event_type, data) = answer_report(&mut peer, 0);
    assert_eq!(event_type, 2);
    let reasons: Vec<u16> =
        data.windows(10).filter(|w| w.starts_with(&[8, 0, 0x97, 0x11])).map(|w| u16::from_le_bytes([w[8], w[9]])).collect();
    assert_eq!(reasons, [0x0112, 0x0110]);
}

#[test]
fn requests_between_report_and_response_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let it = Box::start(folder.path());
    let mut peer = it.associate();
    assert_eq!(commit(&mut peer, &["1.2.3.4.1"]), 0);
    let command = next_message(&mut peer, true).unwrap();
    next_message(&mut peer, false).unwrap();
    // While the report is outstanding an image is stored, and a second commitment goes over a new association.
    assert_eq!(peer.store(MR_IMAGE, "1.2.3.4.1", &DataSet::explicit().mr_image("1.2.3.4.1", 8).bytes), 0);
    assert_eq!(commit(&mut peer, &["1.2.3.4.1"]), 0);
    it.wait_for("CommitmentPassedOn", 1);
    let mut response = Vec::new();
    for (element, word) in [(0x0100_u16, 0x8100_u16), (0x0120, number(&command, 0x0110).unwrap()), (0x0800, 0x0101), (0x0900, 0)]
    {
        response.extend_from_slice(&[0, 0]);
        response.extend_from_slice(&element.to_le_bytes());
        response.extend_from_slice(&2_u32.to_le_bytes());
        response.extend_from_slice(&word.to_le_bytes());
    }
    peer.send_command(7, &response);
    it.wait_for("CommitmentTold", 1);
    // Nothing is outstanding any more: a second response is against the protocol.
    peer.send_command(7, &response);
    assert_eq!(peer.try_status(), None, "aborted");
}

#[test]
fn peer_that_leaves_without_an_answer_gets_it_on_a_new_association() {
    let folder = tempfile::tempdir().unwrap();
    let it = Box::start(folder.path());
    let mut peer = it.associate();
    assert_eq!(peer.store(MR_IMAGE, "1.2.3.4.1", &DataSet::explicit().mr_image("1.2.3.4.1", 8).bytes), 0);
    assert_eq!(commit(&mut peer, &["1.2.3.4.1"]), 0);
    peer.stream.write_all(&[5, 0, 0, 0, 0, 4, 0, 0, 0, 0]).unwrap();
    while read_pdu(&mut peer.stream).is_some_and(|(kind, _)| kind == 4) {}
    it.wait_for("CommitmentPassedOn", 1);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    it.report_to(listener.local_addr().unwrap());
    let told = take_report(&listener);
    assert!(contains(&told, "1.2.3.4.1"));
    it.wait_for("CommitmentDelivered", 1);
    assert_eq!(it.spool.commitment_stats(wall()).unwrap().n_waiting, 0);
}

/// A requester's own listener: takes one association and the report on it; gives the report's data set.
fn take_report(listener: &std::net::TcpListener) -> Vec<u8> {
    use dicom_ul::association::server::ServerAssociationOptions;
    use dicom_ul::pdu::{PDataValue, PDataValueType, Pdu};
    let (stream, _) = listener.accept().unwrap();
    let mut association = ServerAssociationOptions::new()
        .accept_any()
        .ae_title("TESTER")
        .with_abstract_syntax(COMMITMENT)
        .establish(stream)
        .unwrap();
    let (mut command, mut data) = (Vec::new(), Vec::new());
    let context_id = loop {
        let Pdu::PData { data: values } = association.receive().unwrap() else { panic!("a report") };
        let mut last = None;
        for value in values {
            match value.value_type {
                PDataValueType::Command => command.extend_from_slice(&value.data),
                PDataValueType::Data => {
                    data.extend_from_slice(&value.data);
                    last = value.is_last.then_some(value.presentation_context_id);
                }
            }
        }
        if let Some(id) = last {
            break id;
        }
    };
    assert_eq!((number(&command, 0x0100), number(&command, 0x1002)), (Some(0x0100), Some(1)));
    let mut response = Vec::new();
    for (element, word) in [(0x0100_u16, 0x8100_u16), (0x0120, number(&command, 0x0110).unwrap()), (0x0800, 0x0101), (0x0900, 0)]
    {
        response.extend_from_slice(&[0, 0]);
        response.extend_from_slice(&element.to_le_bytes());
        response.extend_from_slice(&2_u32.to_le_bytes());
        response.extend_from_slice(&word.to_le_bytes());
    }
    let value =
        PDataValue { presentation_context_id: context_id, value_type: PDataValueType::Command, is_last: true, data: response };
    association.send(&Pdu::PData { data: vec![value] }).unwrap();
    assert!(matches!(association.receive(), Ok(Pdu::ReleaseRQ)));
    association.send(&Pdu::ReleaseRP).unwrap();
    data
}

#[test]
fn oversized_request_is_refused_and_the_association_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let it = Box::start(folder.path());
    let mut peer = it.associate();
    let command = n_command(0x0130, COMMITMENT, Some(COMMITMENT_INSTANCE), true, Some(1));
    peer.send_command(7, &command);
    let chunk = vec![0; 65_536];
    for _ in 0..70 {
        peer.stream.write_all(&p_data(7, 0, &chunk)).unwrap();
    }
    peer.stream.write_all(&p_data(7, 2, &[])).unwrap();
    let response = next_message(&mut peer, true).unwrap();
    assert_eq!(number(&response, 0x0900), Some(0x0213));
    assert_eq!(commit(&mut peer, &["1.2.3.4.1"]), 0);
}

#[test]
fn wrong_action_and_wrong_instance_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let it = Box::start(folder.path());
    let mut peer = it.associate();
    let set = commitment_set(&["1.2.3.4.1"]);
    let status = |peer: &mut Peer, instance, action| {
        let response = request(peer, 7, &n_command(0x0130, COMMITMENT, Some(instance), true, Some(action)), &set);
        number(&response, 0x0900)
    };
    assert_eq!(status(&mut peer, COMMITMENT_INSTANCE, 2), Some(0x0123));
    assert_eq!(status(&mut peer, "1.2.3", 1), Some(0x0112));
    let nothing = DataSet::explicit().text(0x0008_1195, "UI", "2.25.78").bytes;
    let command = n_command(0x0130, COMMITMENT, Some(COMMITMENT_INSTANCE), true, Some(1));
    assert_eq!(number(&request(&mut peer, 7, &command, &nothing), 0x0900), Some(0x0115));
}
