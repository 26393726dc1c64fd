//! What a peer on the network can rely on, and what it cannot do to us: C-ECHO and C-STORE over loopback, well-behaved and hostile.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]
#![allow(unreachable_pub)] // a support module is private to this test

#[path = "receive_support/mod.rs"]
mod support;
#[path = "../src/receive/test_data.rs"]
mod test_data;

use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use scanside::domain::Monotonic;
use scanside::receive::{ReceiveNotice, ReceiveOptions};
use support::{AT_ONCE, Peer, Server, VERIFICATION, clock, command, p_data, read_pdu};
use test_data::{DataSet, EXPLICIT_LE, IMPLICIT_LE, MR_IMAGE};

const MR: &[(u8, &str, &str)] = &[(1, MR_IMAGE, EXPLICIT_LE)];

fn start() -> Server {
    Server::start(ReceiveOptions::default())
}

fn image(sop_instance: &str, n: u16) -> Vec<u8> {
    DataSet::explicit().mr_image(sop_instance, n).bytes
}

fn associate(server: &Server) -> Peer {
    Peer::associate(server.address, "SCANSIDE", MR).expect("accepted")
}

/// How long until the server has closed the connection, reading whatever it still says.
fn closed_within(stream: &mut std::net::TcpStream) -> Duration {
    let began = Instant::now();
    let _ = stream.read_to_end(&mut Vec::new());
    began.elapsed()
}

#[test]
fn instance_is_stored_whole_answered_and_told() {
    let server = start();
    let mut peer = associate(&server);
    let data_set = image("1.2.3.9", 600); // 720 kB: several buffers
    assert_eq!(peer.store(MR_IMAGE, "1.2.3.9", &data_set), 0);
    assert_eq!(peer.store(MR_IMAGE, "1.2.3.9", &data_set), 0, "a repeated instance is a success");
    assert!(peer.release());
    assert_eq!(server.store.committed.lock().unwrap().get("1.2.3.9"), Some(&data_set));
    server.wait_for("AssociationReleased", 1);
    std::thread::sleep(Duration::from_millis(50));
    let notices = server.notices.lock().unwrap();
    let [
        ReceiveNotice::AssociationOpened { id: 1, .. },
        ReceiveNotice::InstanceStored(stored),
        ReceiveNotice::InstanceRepeated(_),
        ReceiveNotice::AssociationClosed { id: 1, released: true, n_instances: 2 },
    ] = notices.as_slice()
    else {
        panic!("unexpected notices: {notices:#?}")
    };
    assert_eq!((stored.association_id, stored.header.n_rows), (1, 600));
    assert_eq!(stored.header.transfer_syntax_uid.as_str(), EXPLICIT_LE);
}

#[test]
fn dicom_ul_client_is_served() {
    use dicom_ul::association::client::ClientAssociationOptions;
    use dicom_ul::pdu::{PDataValue, PDataValueType, Pdu};
    let server = start();
    let mut client = ClientAssociationOptions::new()
        .calling_ae_title("CLIENT")
        .called_ae_title("SCANSIDE")
        .with_presentation_context(MR_IMAGE, vec![IMPLICIT_LE])
        .establish(server.address)
        .unwrap();
    let id = client.presentation_contexts()[0].id;
    let value = |value_type, data| PDataValue { presentation_context_id: id, value_type, is_last: true, data };
    let set = command(0x0001, 3, MR_IMAGE, Some("1.2.3.4"), true);
    let data_set = DataSet::implicit().mr_image("1.2.3.4", 8).bytes;
    // Command and data set in one PDU, as PS3.8 allows.
    let both = vec![value(PDataValueType::Command, set), value(PDataValueType::Data, data_set)];
    client.send(&Pdu::PData { data: both }).unwrap();
    let Pdu::PData { data } = client.receive().unwrap() else { panic!("a response") };
    assert!(data[0].data.windows(10).any(|w| w == [0, 0, 0, 9, 2, 0, 0, 0, 0, 0]), "status 0x0000");
    client.release().unwrap();
    assert_eq!(server.store.committed.lock().unwrap().len(), 1);
}

#[test]
fn fragments_of_any_size_give_the_same_instance() {
    let server = start();
    let mut peer = associate(&server);
    let data_set = image("1.2.3.4", 40);
    for n in [1, 7, 1000, 100_000] {
        let uid = "1.2.3.4";
        peer.send_command(1, &command(0x0001, 7, MR_IMAGE, Some(uid), true));
        peer.send_data(1, &data_set, n);
        assert_eq!(peer.status(), 0, "fragments of {n}");
        assert_eq!(server.store.committed.lock().unwrap().get(uid), Some(&data_set), "fragments of {n}");
    }
}

#[test]
fn wrong_called_title_is_rejected_with_its_reason() {
    let server = start();
    assert_eq!(Peer::associate(server.address, "PACS", MR).err(), Some([1, 1, 7]));
    assert!(server.journal.recent().iter().any(|line| line.text.contains("\"PACS\"") && line.text.contains("\"SCANSIDE\"")));
}

#[test]
fn unknown_sop_class_is_refused_and_using_it_aborts() {
    let server = start();
    let contexts = [(1, "1.2.840.10008.5.1.4.1.1.20", EXPLICIT_LE), (3, MR_IMAGE, EXPLICIT_LE)];
    let mut peer = Peer::associate(server.address, "SCANSIDE", &contexts).expect("accepted");
    assert_eq!(peer.results, [(1, 3), (3, 0)]);
    peer.send_command(1, &command(0x0001, 7, "1.2.840.10008.5.1.4.1.1.20", Some("1.2.3"), true));
    assert_eq!(peer.try_status(), None, "aborted");
    assert!(server.answers_echo());
}

#[test]
fn sop_class_of_another_context_is_0x0122() {
    let server = start();
    let mut peer = associate(&server);
    assert_eq!(peer.store("1.2.840.10008.5.1.4.1.1.2", "1.2.3.4", &image("1.2.3.4", 4)), 0x0122);
    assert_eq!(peer.store(MR_IMAGE, "1.2.3.4", &image("1.2.3.4", 4)), 0, "the association goes on");
}

#[test]
fn junk_and_http_are_closed_at_once() {
    let server = start();
    for junk in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xFF; 100], &[0; 6], &[3, 0, 0, 0, 0, 4, 0, 1, 1, 1], &[1, 0, 0, 0, 0, 4, 9, 9, 9, 9]]
    {
        let mut stream = Peer::connect(server.address);
        stream.write_all(junk).unwrap();
        assert!(closed_within(&mut stream) < AT_ONCE, "{junk:?}");
    }
    assert!(server.answers_echo());
}

#[test]
fn declared_four_gigabytes_are_closed_from_the_header() {
    let server = start();
    let mut stream = Peer::connect(server.address);
    stream.write_all(&[1, 0, 0xFF, 0xFF, 0xFF, 0xFF]).unwrap();
    assert!(closed_within(&mut stream) < AT_ONCE, "request");
    let mut peer = associate(&server);
    peer.stream.write_all(&[4, 0, 0xFF, 0xFF, 0xFF, 0xF0]).unwrap();
    assert!(closed_within(&mut peer.stream) < AT_ONCE, "data");
    let mut peer = associate(&server);
    let over = ReceiveOptions::default().pdu_length_max + 1;
    peer.stream.write_all(&[&[4, 0], &over.to_be_bytes()[..]].concat()).unwrap();
    assert!(closed_within(&mut peer.stream) < AT_ONCE, "one byte more than agreed");
    assert!(server.answers_echo());
}

#[test]
fn endless_command_is_cut_at_its_bound() {
    let server = start();
    let mut peer = associate(&server);
    let fragment = p_data(1, 1, &[0; 10_000]);
    let mut n_sent = 0;
    while peer.stream.write_all(&fragment).is_ok() && n_sent < 100_000_000 {
        n_sent += fragment.len();
    }
    assert!(n_sent < 20_000_000, "cut, after what the socket buffers hold: {n_sent}");
    server.wait_for("AssociationBroken", 1);
    assert!(server.answers_echo());
}

/// What the clock of `dripper_cannot_hold_its_place` is ahead, seconds: one for each byte that the dripper sends.
static DRIPPED_S: AtomicU64 = AtomicU64::new(0);

fn dripping_clock() -> Monotonic {
    Monotonic(clock().0 + DRIPPED_S.load(Ordering::SeqCst) * 1_000)
}

/// Sends one message after the other, each a second of the server's clock after the one before, until the server has closed the connection.
fn drip<'a>(stream: &mut std::net::TcpStream, messages: impl Iterator<Item = &'a [u8]>) -> Duration {
    let began = Instant::now();
    for message in messages {
        if stream.write_all(message).is_err() || began.elapsed() > AT_ONCE {
            break;
        }
        DRIPPED_S.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(20));
    }
    began.elapsed()
}

#[test]
fn dripper_cannot_hold_its_place() {
    let server = Server::start_with(ReceiveOptions::default(), dripping_clock);
    let mut peer = associate(&server);
    peer.send_command(1, &command(0x0001, 7, MR_IMAGE, Some("1.2.3.4"), true));
    let fragment = p_data(1, 0, &[0]);
    assert!(drip(&mut peer.stream, std::iter::repeat(&fragment[..])) < AT_ONCE, "30 s of its clock are 0.6 s");
    let mut stream = Peer::connect(server.address);
    let request = [&[1][..], &[0], &[0], &[0], &[16]].into_iter().chain(std::iter::repeat(&[0][..]));
    assert!(drip(&mut stream, request) < AT_ONCE, "the request has its deadline, too");
}

#[test]
fn silent_connections_do_not_lock_a_real_client_out() {
    let server = start();
    let silent: Vec<_> = (0..300).map(|_| Peer::connect(server.address)).collect();
    assert!(server.answers_echo());
    let mut peer = associate(&server);
    assert_eq!(peer.store(MR_IMAGE, "1.2.3.4", &image("1.2.3.4", 64)), 0);
    drop(silent);
}

#[test]
fn silent_connection_and_idle_association_end_at_their_deadlines() {
    let options = ReceiveOptions { association_request_timeout_s: 1, idle_timeout_s: 1, ..ReceiveOptions::default() };
    let server = Server::start(options);
    let mut silent = Peer::connect(server.address);
    let mut idle = associate(&server);
    let waited = closed_within(&mut silent);
    assert!((Duration::from_millis(500)..AT_ONCE).contains(&waited), "{waited:?}");
    assert!(matches!(read_pdu(&mut idle.stream), Some((7, _))), "A-ABORT");
    server.wait_for("AssociationBroken", 1);
}

#[test]
fn full_house_rejects_as_transient_but_answers_echo() {
    let server = Server::start(ReceiveOptions { associations_max: 3, ..ReceiveOptions::default() });
    let mut held: Vec<_> = (0..3).map(|_| associate(&server)).collect();
    for peer in &mut held {
        peer.send_command(1, &command(0x0001, 7, MR_IMAGE, Some("1.2.3.4"), true));
    }
    assert_eq!(Peer::associate(server.address, "SCANSIDE", MR).err(), Some([2, 3, 2]));
    assert!(server.answers_echo());
    assert!(held[0].stream.write_all(&[7, 0, 0, 0, 0, 4, 0, 0, 0, 0]).is_ok());
    server.wait_for("AssociationBroken", 1);
    assert!(Peer::associate(server.address, "SCANSIDE", MR).is_ok(), "a place is free again");
}

#[test]
fn path_traversal_in_a_uid_is_0xc000_and_leaves_nothing() {
    let server = start();
    let mut peer = associate(&server);
    let hostile = DataSet::explicit().mr_image("../../etc/x", 4).bytes;
    assert_eq!(peer.store(MR_IMAGE, "../../etc/x", &hostile), 0xC000);
    assert_eq!(peer.store(MR_IMAGE, "1.2.3.4", &hostile), 0xC000, "nor in the data set");
    assert_eq!((server.store.committed.lock().unwrap().len(), server.store.n_files()), (0, 0));
    assert_eq!(peer.store(MR_IMAGE, "1.2.3.4", &image("1.2.3.4", 4)), 0);
}

#[test]
fn truncated_data_set_is_never_a_success() {
    let server = start();
    let mut peer = associate(&server);
    let whole = image("1.2.3.4", 8);
    for cut in (1..whole.len()).step_by(5).chain([whole.len() - 1, whole.len() - 2]) {
        let status = peer.store(MR_IMAGE, "1.2.3.4", &whole[..cut]);
        assert!(matches!(status, 0xC000 | 0xA900), "cut at {cut}: {status:#06X}");
    }
    let lying = DataSet::explicit().mr_image_head("1.2.3.4", 8).head(0x7FE0_0010, "OW", 0xFFFF_FFFE).bytes;
    assert_eq!(peer.store(MR_IMAGE, "1.2.3.4", &lying), 0xC000, "an element that says 4 GB");
    let half = DataSet::explicit().mr_image_head("1.2.3.4", 8).raw(0x7FE0_0010, "OW", &[0; 64]).bytes;
    assert_eq!(peer.store(MR_IMAGE, "1.2.3.4", &half), 0xC000, "half the pixels");
    assert_eq!((server.store.committed.lock().unwrap().len(), server.store.n_files()), (0, 0));
}

#[test]
fn hundred_thousand_nested_sequences_are_0xc000() {
    let server = start();
    let mut peer = associate(&server);
    let deep = DataSet::explicit().identified(MR_IMAGE, "1.2.3.4").nested(100_000).bytes;
    assert_eq!(peer.store(MR_IMAGE, "1.2.3.4", &deep), 0xC000);
    assert!(server.answers_echo());
}

#[test]
fn data_set_that_is_not_what_the_command_said_is_0xa900() {
    let server = start();
    let mut peer = associate(&server);
    assert_eq!(peer.store(MR_IMAGE, "1.2.3.4", &image("1.2.3.5", 4)), 0xA900, "other instance");
    let other_class = DataSet::explicit().enhanced_mr("1.2.3.4", true, 2).bytes;
    assert_eq!(peer.store(MR_IMAGE, "1.2.3.4", &other_class), 0xA900, "other class");
    assert_eq!(peer.store(MR_IMAGE, "1.2.3.4", &DataSet::explicit().mr_image_head("1.2.3.4", 4).bytes), 0xA900, "no pixels");
    assert_eq!((server.store.committed.lock().unwrap().len(), server.store.n_files()), (0, 0));
}

#[test]
fn full_store_is_0xa700_and_recovers_on_the_same_association() {
    let server = start();
    let mut peer = associate(&server);
    server.store.full.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        assert_eq!(peer.store(MR_IMAGE, "1.2.3.4", &image("1.2.3.4", 600)), 0xA700);
    }
    assert_eq!(server.store.n_files(), 0, "no partial file");
    server.store.full.store(false, Ordering::SeqCst);
    assert_eq!(peer.store(MR_IMAGE, "1.2.3.4", &image("1.2.3.4", 600)), 0);
    assert!(peer.release());
    server.wait_for("AssociationReleased", 1);
    assert!(server.notices.lock().unwrap().iter().any(|notice| matches!(notice, ReceiveNotice::StorageFailed { .. })));
}

#[test]
fn too_large_an_instance_is_0xa700() {
    let server = Server::start(ReceiveOptions { instance_bytes_max: 500_000, ..ReceiveOptions::default() });
    let mut peer = associate(&server);
    assert_eq!(peer.store(MR_IMAGE, "1.2.3.4", &image("1.2.3.4", 600)), 0xA700);
    assert_eq!(peer.store(MR_IMAGE, "1.2.3.5", &image("1.2.3.5", 60)), 0);
    assert_eq!(server.store.n_files(), 0);
}

#[test]
fn same_uid_with_other_pixels_is_told_as_a_conflict() {
    let server = start();
    let mut peer = associate(&server);
    assert_eq!(peer.store(MR_IMAGE, "1.2.3.4", &image("1.2.3.4", 4)), 0);
    assert_eq!(peer.store(MR_IMAGE, "1.2.3.4", &image("1.2.3.4", 5)), 0);
    assert!(peer.release());
    server.wait_for("InstanceConflicted", 1);
}

#[test]
fn unknown_operation_is_0x0211_and_the_association_goes_on() {
    let server = start();
    let mut peer = associate(&server);
    peer.send_command(1, &command(0x0020, 7, MR_IMAGE, None, true)); // C-FIND
    peer.send_data(1, &[0; 100], 30);
    assert_eq!(peer.status(), 0x0211);
    peer.send_command(1, &command(0x0001, 7, MR_IMAGE, Some("1.2.3.4"), false));
    assert_eq!(peer.status(), 0xC000, "C-STORE without a data set");
    assert_eq!(peer.store(MR_IMAGE, "1.2.3.4", &image("1.2.3.4", 4)), 0);
}

#[test]
fn peer_that_dies_in_the_middle_leaves_nothing() {
    let server = start();
    let data_set = image("1.2.3.4", 800);
    let mut peer = associate(&server);
    peer.send_command(1, &command(0x0001, 7, MR_IMAGE, Some("1.2.3.4"), true));
    peer.stream.write_all(&p_data(1, 0, &data_set[..200_000])).unwrap();
    peer.stream.write_all(&p_data(1, 0, &data_set[200_000..400_000])).unwrap();
    drop(peer);
    server.wait_for("AssociationBroken", 1);
    assert_eq!((server.store.committed.lock().unwrap().len(), server.store.n_files()), (0, 0));
}

#[test]
fn fault_in_the_store_costs_one_association_alone() {
    let server = start();
    let mut peer = associate(&server);
    let mut other = associate(&server);
    server.store.panics.store(true, Ordering::SeqCst);
    peer.send_command(1, &command(0x0001, 7, MR_IMAGE, Some("1.2.3.4"), true));
    peer.send_data(1, &image("1.2.3.4", 4), 16_000);
    assert_eq!(peer.try_status(), None, "aborted, not acknowledged");
    server.store.panics.store(false, Ordering::SeqCst);
    assert_eq!(other.store(MR_IMAGE, "1.2.3.4", &image("1.2.3.4", 4)), 0);
    server.wait_for("AssociationBroken", 1);
}

#[test]
fn sixty_four_associations_at_once_are_all_served() {
    let server = start();
    std::thread::scope(|scope| {
        for k in 0..64 {
            let server = &server;
            scope.spawn(move || {
                let mut peer = associate(server);
                for j in 0..3 {
                    let uid = format!("1.2.3.{k}.{j}");
                    assert_eq!(peer.store(MR_IMAGE, &uid, &image(&uid, 100)), 0);
                }
                assert!(peer.release());
            });
        }
    });
    assert_eq!(server.store.committed.lock().unwrap().len(), 192);
    server.wait_for("AssociationReleased", 64);
}

#[test]
fn stopping_ends_idle_associations_and_lets_a_message_end() {
    let mut server = start();
    let mut idle = associate(&server);
    let mut busy = associate(&server);
    let data_set = image("1.2.3.4", 4);
    busy.send_command(1, &command(0x0001, 7, MR_IMAGE, Some("1.2.3.4"), true));
    std::thread::sleep(Duration::from_millis(100));
    let waited = std::thread::scope(|scope| {
        let stopping = scope.spawn(|| server.stop());
        assert!(matches!(read_pdu(&mut idle.stream), Some((7, _))), "A-ABORT for the idle one");
        busy.send_data(1, &data_set, 1000);
        assert_eq!(busy.status(), 0, "the message under way is answered");
        stopping.join().unwrap()
    });
    assert!(waited < Duration::from_secs(10), "nobody had to be cut off: {waited:?}");
}

#[test]
fn echo_is_answered_on_an_association_that_stores() {
    let server = start();
    let contexts = [(1, MR_IMAGE, EXPLICIT_LE), (3, VERIFICATION, IMPLICIT_LE)];
    let mut peer = Peer::associate(server.address, "SCANSIDE", &contexts).expect("accepted");
    peer.send_command(3, &command(0x0030, 1, VERIFICATION, None, false));
    assert_eq!(peer.status(), 0);
    assert_eq!(peer.store(MR_IMAGE, "1.2.3.4", &image("1.2.3.4", 4)), 0);
    peer.send_command(3, &command(0x0030, 2, VERIFICATION, None, false));
    assert_eq!(peer.status(), 0);
    assert!(peer.release());
}
