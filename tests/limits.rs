//! What one address cannot do to another, nor to the journal: rates, put-offs, places kept free.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]
#![allow(unreachable_pub, dead_code)] // support modules are private to this test, which needs a part of them

#[path = "receive_support/mod.rs"]
mod support;
#[path = "../src/receive/test_data.rs"]
mod test_data;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use scanside::domain::Monotonic;
use scanside::receive::ReceiveOptions;
use support::{AT_ONCE, Server, VERIFICATION, association_request, clock, command, p_data, read_pdu};
use test_data::{DataSet, EXPLICIT_LE, IMPLICIT_LE, MR_IMAGE};

const ECHO: &[(u8, &str, &str)] = &[(1, VERIFICATION, IMPLICIT_LE)];
const MR: &[(u8, &str, &str)] = &[(1, MR_IMAGE, EXPLICIT_LE)];

/// A connection that comes from another address of the loopback network.
fn connect_from(source: &str, to: SocketAddr) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
        socket.connect(to).await.unwrap().into_std().unwrap()
    });
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Asks for an association from an address; the answer's kind, or nothing when the connection was closed.
fn associate_from(source: &str, to: SocketAddr, contexts: &[(u8, &str, &str)]) -> (TcpStream, Option<u8>) {
    let mut stream = connect_from(source, to);
    let asked = stream.write_all(&association_request("TESTER", "SCANSIDE", contexts));
    let kind = asked.ok().and_then(|()| read_pdu(&mut stream)).map(|(kind, _)| kind);
    (stream, kind)
}

fn count(server: &Server, name: &str) -> u64 {
    server.journal.counts().iter().find(|(_, event, _)| *event == name).map_or(0, |(_, _, n)| *n)
}

#[test]
fn busy_drippers_of_one_address_leave_room_for_another() {
    let options = ReceiveOptions { associations_max: 8, associations_per_peer_max: 4, ..ReceiveOptions::default() };
    let server = Server::start(options);
    let stop = AtomicBool::new(false);
    let n_dripped = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let mut held = Vec::new();
        for _ in 0..8 {
            let (mut stream, kind) = associate_from("127.0.0.9", server.address, MR);
            if kind == Some(2) {
                stream.write_all(&p_data(1, 3, &command(0x0001, 7, MR_IMAGE, Some("1.2.3.4"), true))).unwrap();
                held.push(stream);
            }
        }
        assert_eq!(held.len(), 4, "the rest is rejected");
        for mut stream in held {
            let (stop, n_dripped) = (&stop, &n_dripped);
            // 2 KiB a second: as slow as a message may be without being late.
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) && stream.write_all(&p_data(1, 0, &[0; 205])).is_ok() {
                    n_dripped.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(100));
                }
            });
        }
        std::thread::sleep(Duration::from_secs(7)); // beyond the grace after which idle ones would give way
        for n in 0..3 {
            let began = Instant::now();
            let (mut stream, kind) = associate_from("127.0.0.1", server.address, MR);
            assert_eq!(kind, Some(2), "scanner {n}");
            let uid = format!("1.2.3.{n}");
            stream.write_all(&p_data(1, 3, &command(0x0001, 7, MR_IMAGE, Some(&uid), true))).unwrap();
            stream.write_all(&p_data(1, 2, &DataSet::explicit().mr_image(&uid, 64).bytes)).unwrap();
            let (_, body) = read_pdu(&mut stream).expect("a response");
            assert!(body.windows(10).any(|w| w == [0, 0, 0, 9, 2, 0, 0, 0, 0, 0]), "stored");
            assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
        }
        assert!(n_dripped.load(Ordering::Relaxed) > 100, "and they were dripping all the time");
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(count(&server, "AssociationAccepted"), 7);
}

/// The clock of `failing_address_is_put_off...`, which moves when the test says so.
static MINUTES: AtomicU64 = AtomicU64::new(0);

fn hand_clock() -> Monotonic {
    Monotonic(clock().0 + MINUTES.load(Ordering::SeqCst) * 60_000)
}

#[test]
fn failing_address_is_put_off_with_one_line_and_others_are_served() {
    let options = ReceiveOptions { loopback_rated: true, failures_per_minute_max: 60, ..ReceiveOptions::default() };
    let server = Server::start_with(options, hand_clock);
    let mut n_closed_at_once = 0;
    for _ in 0..500 {
        let mut stream = connect_from("127.0.0.9", server.address);
        // The answer to junk is an A-ABORT; who is put off is closed without one.
        let sent = stream.write_all(b"GET / HTTP/1.1\r\n\r\n");
        let answered = matches!(stream.read(&mut [0; 10]), Ok(1..));
        n_closed_at_once += u32::from(sent.is_err() || !answered);
    }
    assert!((150..=200).contains(&n_closed_at_once), "{n_closed_at_once}: three hundred may fail, five minutes' worth");
    server.wait_for("PeerPutOff", 1);
    assert_eq!(count(&server, "PeerPutOff"), 1, "one line for the episode");
    assert!(count(&server, "ConnectionPutOff") >= 150, "the others are counted");
    let lines = server.journal.recent();
    let about: Vec<_> = lines.iter().filter(|line| line.text.contains("127.0.0.9")).collect();
    assert!(about.len() < 130, "{} lines about 500 connections", about.len());
    assert!(about.iter().any(|line| line.name == "PeerHushed"), "and it says that it is silent from now on");
    assert!(server.answers_echo(), "127.0.0.1 is not touched");
    MINUTES.fetch_add(1, Ordering::SeqCst);
    assert_eq!(associate_from("127.0.0.9", server.address, ECHO).1, Some(2), "and it may come back");
}

#[test]
fn flood_of_good_associations_does_not_flood_the_journal() {
    let server = Server::start(ReceiveOptions::default());
    let began = Instant::now();
    for _ in 0..300 {
        let (mut stream, kind) = associate_from("127.0.0.1", server.address, ECHO);
        assert_eq!(kind, Some(2), "a scanner may open an association for each image");
        stream.write_all(&[5, 0, 0, 0, 0, 4, 0, 0, 0, 0]).unwrap();
        assert_eq!(read_pdu(&mut stream).map(|(kind, _)| kind), Some(6));
    }
    server.wait_for("AssociationReleased", 300);
    let n_lines = server.journal.recent().len() as u64;
    let bound = 105 + began.elapsed().as_secs();
    assert!(n_lines <= bound, "{n_lines} lines, {bound} expected");
    assert_eq!(count(&server, "AssociationAccepted"), 300, "each is counted");
}

#[test]
fn connections_beyond_the_rate_are_closed_at_accept() {
    let options = ReceiveOptions { loopback_rated: true, connections_per_minute_max: 60, ..ReceiveOptions::default() };
    let server = Server::start(options);
    let mut kinds = Vec::new();
    for _ in 0..60 {
        kinds.push(associate_from("127.0.0.9", server.address, ECHO).1);
    }
    let n_taken = kinds.iter().filter(|kind| **kind == Some(2)).count();
    assert!((32..=40).contains(&n_taken), "{n_taken}");
    assert_eq!(kinds.last(), Some(&None));
    assert_eq!(count(&server, "PeerPutOff"), 1);
    assert_eq!(associate_from("127.0.0.8", server.address, ECHO).1, Some(2), "another address");
}
