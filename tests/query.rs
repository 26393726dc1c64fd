//! What a PACS can do to us while we ask it: C-FIND and C-MOVE over loopback against a peer that says anything. Scripts in -> answers or reasons.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dicom_ul::association::server::{ServerAssociation, ServerAssociationOptions};
use dicom_ul::pdu::{PDataValue, PDataValueType, Pdu};
use scanside::deliver::query_scu::{MoveReport, Pacs, PacsLink, QueryError, RESPONSES_MAX};
use scanside::domain::{AeTitle, Uid};

const FIND: &str = "1.2.840.10008.5.1.4.1.2.2.1";
const MOVE: &str = "1.2.840.10008.5.1.4.1.2.2.2";
const VERIFICATION: &str = "1.2.840.10008.1.1";
const C_FIND_RSP: u16 = 0x8020;
const C_MOVE_RSP: u16 = 0x8021;
const PENDING: u16 = 0xFF00;

fn uid(text: &str) -> Uid {
    Uid::try_new(text).unwrap()
}

/// The peer's side of one association.
struct Scp(ServerAssociation<TcpStream>);

impl Scp {
    /// The next command field and its message id, its data set read past; `None` when the other side ends the association.
    fn request(&mut self) -> Option<(u16, u16)> {
        let (mut command, mut wants_data) = (Vec::new(), false);
        loop {
            let Ok(Pdu::PData { data }) = self.0.receive() else { return None };
            for value in data {
                if value.value_type == PDataValueType::Command {
                    command.extend_from_slice(&value.data);
                    wants_data = number(&command, 0x0800) != 0x0101;
                }
                if value.is_last && (value.value_type == PDataValueType::Data || !wants_data) {
                    let message_id = if has(&command, 0x0110) { 0x0110 } else { 0x0120 };
                    return Some((number(&command, 0x0100), number(&command, message_id)));
                }
            }
        }
    }

    fn value(&self, sop_class: &str, value_type: PDataValueType, is_last: bool, data: Vec<u8>) -> PDataValue {
        let context = self.0.presentation_contexts().iter().find(|c| c.abstract_syntax.trim_end_matches('\0') == sop_class);
        PDataValue { presentation_context_id: context.unwrap().id, value_type, is_last, data }
    }

    fn send(&mut self, values: Vec<PDataValue>) -> bool {
        self.0.send(&Pdu::PData { data: values }).is_ok()
    }

    fn answer(&mut self, field: u16, message_id: u16, status: u16, extra: &[(u16, u16)], data_set: Option<Vec<u8>>) -> bool {
        let sop_class = if field == C_FIND_RSP { FIND } else { MOVE };
        let set = response(field, message_id, status, extra, data_set.is_some());
        let mut values = vec![self.value(sop_class, PDataValueType::Command, true, set)];
        values.extend(data_set.map(|data| self.value(sop_class, PDataValueType::Data, true, data)));
        // One PDU each: a long data set may not fit beside the command.
        values.into_iter().all(|value| self.send(vec![value]))
    }

    fn series(&mut self, message_id: u16, n: usize) -> bool {
        self.answer(C_FIND_RSP, message_id, PENDING, &[], Some(series(&format!("1.2.{n}"))))
    }

    fn say_goodbye(mut self) {
        while let Ok(pdu) = self.0.receive() {
            if matches!(pdu, Pdu::ReleaseRQ) {
                let _ = self.0.send(&Pdu::ReleaseRP);
                return;
            }
        }
    }
}

fn has(command: &[u8], wanted: u16) -> bool {
    find(command, wanted).is_some()
}

fn number(command: &[u8], wanted: u16) -> u16 {
    find(command, wanted).map_or(0, |value| u16::from_le_bytes([value[0], value[1]]))
}

fn find(mut rest: &[u8], wanted: u16) -> Option<&[u8]> {
    while rest.len() >= 8 {
        let length = u32::from_le_bytes([rest[4], rest[5], rest[6], rest[7]]) as usize;
        if u16::from_le_bytes([rest[2], rest[3]]) == wanted {
            return rest.get(8..8 + length);
        }
        rest = &rest[8 + length..];
    }
    None
}

fn element(group: u16, number: u16, value: &[u8]) -> Vec<u8> {
    let mut out = [group.to_le_bytes(), number.to_le_bytes()].concat();
    out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    out.extend_from_slice(value);
    out
}

fn response(field: u16, message_id: u16, status: u16, extra: &[(u16, u16)], with_data: bool) -> Vec<u8> {
    let kind: u16 = if with_data { 1 } else { 0x0101 };
    let mut set = element(0, 0x0100, &field.to_le_bytes());
    set.extend(element(0, 0x0120, &message_id.to_le_bytes()));
    set.extend(element(0, 0x0800, &kind.to_le_bytes()));
    set.extend(element(0, 0x0900, &status.to_le_bytes()));
    for (number, value) in extra {
        set.extend(element(0, *number, &value.to_le_bytes()));
    }
    set
}

fn series(name: &str) -> Vec<u8> {
    let mut padded = name.as_bytes().to_vec();
    padded.extend(std::iter::repeat_n(0, padded.len() % 2));
    [element(8, 0x0060, b"MR"), element(0x20, 0x000E, &padded), element(0x20, 0x1209, b"12")].concat()
}

/// A peer that plays `script` once, and how to reach it.
fn pacs(script: impl FnOnce(Scp) + Send + 'static) -> (Pacs, JoinHandle<()>) {
    pacs_with(&[FIND, MOVE, VERIFICATION], script)
}

fn pacs_with(sop_classes: &'static [&'static str], script: impl FnOnce(Scp) + Send + 'static) -> (Pacs, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap().to_string();
    let thread = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut options = ServerAssociationOptions::new().accept_any().ae_title("PACS").read_timeout(Duration::from_secs(20));
        for sop_class in sop_classes {
            options = options.with_abstract_syntax(*sop_class);
        }
        if let Ok(association) = options.establish(stream) {
            script(Scp(association));
        }
    });
    let title = |text| AeTitle::try_new(text).unwrap();
    let timeout = Duration::from_secs(2);
    let (called, calling, destination) = (title("PACS"), title("SCANSIDE"), title("SCANSIDE"));
    (Pacs { to, called, calling, destination, connect_timeout: timeout, response_timeout: timeout }, thread)
}

/// Runs what we do on a runtime, and then waits for the peer's script.
fn run<F: Future<Output = T>, T>(peer: (Pacs, JoinHandle<()>), client: impl FnOnce(Pacs) -> F) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let outcome = runtime.block_on(client(peer.0));
    drop(runtime);
    peer.1.join().unwrap();
    outcome
}

async fn find_series(pacs: Pacs) -> Result<(usize, usize, bool), QueryError> {
    let mut link = pacs.open().await?;
    let found = link.find_series(&uid("1.2.3")).await;
    close(link, found.is_ok()).await;
    found.map(|answer| (answer.series.len(), answer.n_unreadable, answer.is_cut))
}

async fn retrieve(pacs: Pacs) -> Result<MoveReport, QueryError> {
    let mut link = pacs.open().await?;
    let report = link.retrieve_series(&uid("1.2.3"), &uid("1.2.3.4"), 100).await;
    close(link, report.is_ok()).await;
    report
}

async fn close(link: PacsLink, in_order: bool) {
    if in_order { link.close().await } else { link.abort().await }
}

#[test]
fn series_are_found_and_the_association_is_released() {
    let script = |mut scp: Scp| {
        let (field, id) = scp.request().unwrap();
        assert_eq!(field, 0x0020);
        assert!(scp.series(id, 1) && scp.series(id, 2) && scp.series(id, 2));
        assert!(scp.answer(C_FIND_RSP, id, 0, &[], None));
        scp.say_goodbye();
    };
    assert_eq!(run(pacs(script), find_series), Ok((2, 0, false)), "a series that is named twice counts once");
}

#[test]
fn an_endless_list_is_cut_at_its_bound_by_a_cancel() {
    let script = |mut scp: Scp| {
        let (_, id) = scp.request().unwrap();
        for n in 0..RESPONSES_MAX {
            assert!(scp.series(id, n));
        }
        let (field, cancelled) = scp.request().unwrap();
        assert_eq!((field, cancelled), (0x0FFF, id), "C-CANCEL names the request");
        scp.series(id, 1_000_000);
        assert!(scp.answer(C_FIND_RSP, id, 0xFE00, &[], None));
        scp.say_goodbye();
    };
    assert_eq!(run(pacs(script), find_series), Ok((RESPONSES_MAX, 0, true)));
}

#[test]
fn a_list_that_goes_on_after_the_cancel_ends_the_association() {
    let script = |mut scp: Scp| {
        let (_, id) = scp.request().unwrap();
        let mut n = 0;
        while scp.series(id, n) {
            n += 1;
            assert!(n < 100_000, "nobody stopped it");
        }
    };
    let error = run(pacs(script), find_series).expect_err("it has to end");
    assert!(error.to_string().contains("told to stop"), "{error}");
}

#[test]
fn responses_are_read_however_they_are_cut() {
    let script = |mut scp: Scp| {
        let (_, id) = scp.request().unwrap();
        let mut values = Vec::new();
        for n in 0..3 {
            let set = response(C_FIND_RSP, id, PENDING, &[], true);
            let data = series(&format!("1.2.{n}"));
            let (head, tail) = set.split_at(5 + n);
            values.push(scp.value(FIND, PDataValueType::Command, false, head.to_vec()));
            values.push(scp.value(FIND, PDataValueType::Command, true, tail.to_vec()));
            let (head, tail) = data.split_at(3);
            values.push(scp.value(FIND, PDataValueType::Data, false, head.to_vec()));
            values.push(scp.value(FIND, PDataValueType::Data, false, Vec::new()));
            values.push(scp.value(FIND, PDataValueType::Data, true, tail.to_vec()));
        }
        values.push(scp.value(FIND, PDataValueType::Command, true, response(C_FIND_RSP, id, 0, &[], false)));
        assert!(scp.send(values), "three responses and the end in one PDU");
        scp.say_goodbye();
    };
    assert_eq!(run(pacs(script), find_series), Ok((3, 0, false)));
}

#[test]
fn an_unreadable_series_costs_itself_and_not_the_list() {
    let script = |mut scp: Scp| {
        let (_, id) = scp.request().unwrap();
        for bad in [vec![1, 2, 3], element(0x20, 0x000E, b"../../x "), element(8, 0x0060, b"MR"), element(8, 0x1111, &[0xFF; 4])]
        {
            assert!(scp.answer(C_FIND_RSP, id, PENDING, &[], Some(bad)));
        }
        assert!(scp.series(id, 1));
        assert!(scp.answer(C_FIND_RSP, id, 0, &[], None));
        scp.say_goodbye();
    };
    assert_eq!(run(pacs(script), find_series), Ok((1, 4, false)));
}

/// Whatever the peer's script does, asking ends with a reason within the time-outs.
#[track_caller]
fn fails_with(words: &str, script: impl FnOnce(Scp) + Send + 'static) {
    let began = Instant::now();
    let error = run(pacs(script), find_series).expect_err("no answer can come of it");
    assert!(matches!(error, QueryError::Unreachable { .. }) && error.to_string().contains(words), "{error}");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

#[test]
fn an_answer_that_is_too_long_too_slow_or_none_ends_with_its_reason() {
    fails_with("longer than 64 KiB", |mut scp| {
        let (_, id) = scp.request().unwrap();
        let set = response(C_FIND_RSP, id, PENDING, &[], true);
        let set = scp.value(FIND, PDataValueType::Command, true, set);
        scp.send(vec![set]);
        while {
            let part = scp.value(FIND, PDataValueType::Data, false, vec![0; 8000]);
            scp.send(vec![part])
        } {}
    });
    fails_with("longer than 64 KiB", |mut scp| {
        scp.request().unwrap();
        while {
            let part = scp.value(FIND, PDataValueType::Command, false, vec![0; 8000]);
            scp.send(vec![part])
        } {}
    });
    fails_with("no answer in time", |mut scp| {
        scp.request().unwrap();
        // A byte now and then: each PDU is in time, the answer never is.
        while {
            std::thread::sleep(Duration::from_millis(100));
            let part = scp.value(FIND, PDataValueType::Command, false, vec![0]);
            scp.send(vec![part])
        } {}
    });
    fails_with("no answer in time", |mut scp| {
        scp.request().unwrap();
        std::thread::sleep(Duration::from_secs(4));
    });
}

#[test]
fn an_answer_against_the_protocol_ends_with_its_reason() {
    fails_with("answers message", |mut scp| {
        let (_, id) = scp.request().unwrap();
        scp.series(id + 1, 1);
        scp.say_goodbye();
    });
    fails_with("no C-FIND response", |mut scp| {
        let (_, id) = scp.request().unwrap();
        scp.answer(C_MOVE_RSP, id, 0, &[], None);
        scp.say_goodbye();
    });
    fails_with("aborted", |mut scp| {
        scp.request().unwrap();
        let _ = scp.0.abort();
    });
    fails_with("asked for release", |mut scp| {
        scp.request().unwrap();
        scp.0.send(&Pdu::ReleaseRQ).unwrap();
        std::thread::sleep(Duration::from_millis(200));
    });
    fails_with("data set came", |mut scp| {
        scp.request().unwrap();
        let part = scp.value(FIND, PDataValueType::Data, true, vec![0; 8]);
        scp.send(vec![part]);
        scp.say_goodbye();
    });
}

#[test]
fn a_refused_question_names_the_remedy_and_not_the_peers_comment() {
    let script = |mut scp: Scp| {
        let (_, id) = scp.request().unwrap();
        let mut set = response(C_FIND_RSP, id, 0x0124, &[], false);
        set.extend(element(0, 0x0902, b"no access to DOE^JANE "));
        let value = scp.value(FIND, PDataValueType::Command, true, set);
        assert!(scp.send(vec![value]));
        scp.say_goodbye();
    };
    let error = run(pacs(script), find_series).expect_err("refused");
    assert!(matches!(&error, QueryError::Refused { status: 0x0124, .. }), "{error}");
    assert!(error.to_string().contains("enter its AE title") && !error.to_string().contains("DOE"), "{error}");
}

#[test]
fn a_pacs_without_retrieval_says_so_before_anything_is_asked() {
    let error = run(pacs_with(&[FIND], |scp| scp.say_goodbye()), find_series).expect_err("no C-MOVE");
    assert!(error.to_string().contains("does not take C-MOVE"), "{error}");
    let error = run(pacs_with(&[VERIFICATION], |scp| scp.say_goodbye()), find_series).expect_err("neither");
    assert!(error.to_string().contains("does not take C-FIND"), "{error}");
}

#[test]
fn sub_operations_are_counted_and_a_list_of_failures_is_read_past() {
    let script = |mut scp: Scp| {
        let (field, id) = scp.request().unwrap();
        assert_eq!(field, 0x0021);
        assert!(scp.answer(C_MOVE_RSP, id, PENDING, &[(0x1020, 2), (0x1021, 1), (0x1022, 0), (0x1023, 0)], None));
        let failed = element(8, 0x0058, &b"1.2.3.4.5.6\\".repeat(10_000));
        // The list is longer than a PDU.
        let set = response(C_MOVE_RSP, id, 0xB000, &[(0x1021, 1), (0x1022, 1), (0x1023, 1)], true);
        let set = scp.value(MOVE, PDataValueType::Command, true, set);
        assert!(scp.send(vec![set]));
        let n_parts = failed.chunks(8000).count();
        for (idx, part) in failed.chunks(8000).enumerate() {
            let value = scp.value(MOVE, PDataValueType::Data, idx + 1 == n_parts, part.to_vec());
            assert!(scp.send(vec![value]));
        }
        scp.say_goodbye();
    };
    let report = run(pacs(script), retrieve).expect("a report");
    assert_eq!((report.n_sent, report.n_failed, report.is_cut), (2, 1, false));
    assert!(matches!(report.trouble, Some(QueryError::Refused { status: 0xB000, .. })));
}

#[test]
fn an_unknown_destination_is_told_with_its_remedy() {
    let script = |mut scp: Scp| {
        let (_, id) = scp.request().unwrap();
        assert!(scp.answer(C_MOVE_RSP, id, 0xA801, &[], None));
        scp.say_goodbye();
    };
    let trouble = run(pacs(script), retrieve).expect("a report").trouble.expect("refused").to_string();
    assert!(trouble.contains("does not know our AE title") && trouble.contains("0xA801"), "{trouble}");
}

#[test]
fn a_series_with_more_images_than_are_wanted_is_cancelled() {
    let script = |mut scp: Scp| {
        let (_, id) = scp.request().unwrap();
        assert!(scp.answer(C_MOVE_RSP, id, PENDING, &[(0x1020, 5000), (0x1021, 1)], None));
        assert_eq!(scp.request(), Some((0x0FFF, id)));
        assert!(scp.answer(C_MOVE_RSP, id, PENDING, &[(0x1020, 4999), (0x1021, 2)], None));
        assert!(scp.answer(C_MOVE_RSP, id, 0xFE00, &[(0x1020, 4998), (0x1021, 2)], None));
        scp.say_goodbye();
    };
    let report = run(pacs(script), retrieve).expect("a report");
    assert_eq!((report.n_sent, report.is_cut), (2, true));
}

#[test]
fn a_port_where_nobody_listens_is_told_at_once() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (mut nobody, thread) = pacs(|_| {});
    let _ = TcpStream::connect(&nobody.to); // ends that peer's thread
    thread.join().unwrap();
    nobody.to = free.to_string();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = runtime.block_on(nobody.check()).expect_err("nobody");
    assert!(matches!(&error, QueryError::Unreachable { .. }) && error.to_string().contains("no connection"), "{error}");
}
