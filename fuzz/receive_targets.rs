//! The fuzz targets of `receive`: bytes of a hostile peer in -> nothing out, or a panic where a promise is broken.
//!
//! libFuzzer calls them (`fuzz_targets/`), and so does `cargo test` over the committed corpus (below): they are a child
//! module of `receive` in both, and call its private functions.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used, unreachable_pub)] // a panic is what a target is for; the fuzz crate calls them

use std::io::Cursor;

use dicom_ul::pdu::{Pdu, PresentationContextResultReason, read_pdu, write_pdu};

use super::command::{C_CANCEL_RQ, Command, DimseStatus, RESPONSE, command_pdus, parse_command, response_to};
use super::dimse::{Dimse, DimseEvent};
use super::header_scan::{ScanError, ScanLimits, scan_with_pixel_facts};
use super::negotiate::{RejectedBecause, decide};
use super::options::ReceiveOptions;
use super::pdu_buffer::{HEADER, PduBuffer};
use super::sop_classes::{KEPT_UNREAD_SYNTAXES, TRANSFER_SYNTAXES, choose_transfer_syntax};

/// Longest PDU that the target's buffer takes: small, so that the fuzzer reaches its bound.
const PDU_LENGTH_MAX: u32 = 2048;
const P_DATA_TF: u8 = 4;

/// What came of a stream: events in order, bytes of data sets, and how it ended.
#[derive(Debug, PartialEq, Eq)]
struct Heard {
    events: Vec<String>,
    n_data_bytes: usize,
    ended: Option<String>,
}

/// The association's loop (`association.rs`, `serve` and `on_data`) without its socket and its store.
fn hear(stream: &[u8], mut chunk: impl FnMut() -> usize) -> Heard {
    let mut buffer = PduBuffer::new(PDU_LENGTH_MAX, 0);
    let mut dimse = Dimse::new([1, 3, 255]);
    let mut heard = Heard { events: Vec::new(), n_data_bytes: 0, ended: None };
    let mut fed = 0;
    loop {
        if let Err(ended) = take_pdus(&mut buffer, &mut dimse, &mut heard) {
            heard.ended = Some(ended);
            return heard;
        }
        if fed == stream.len() {
            return heard;
        }
        // The store has taken what waited: the buffer may move.
        buffer.compact();
        assert!(buffer.has_room(), "a buffer that is compact has room for its next PDU");
        let free = buffer.free();
        assert!(free.len() <= PDU_LENGTH_MAX as usize + HEADER + 1024, "the buffer never grows");
        let n = chunk().clamp(1, free.len()).min(stream.len() - fed);
        free[..n].copy_from_slice(&stream[fed..fed + n]);
        buffer.filled(n);
        fed += n;
    }
}

fn take_pdus(buffer: &mut PduBuffer, dimse: &mut Dimse, heard: &mut Heard) -> Result<(), String> {
    while let Some(pdu) = buffer.next_pdu().map_err(|error| error.to_string())? {
        assert!(pdu.all.len() <= PDU_LENGTH_MAX as usize + HEADER);
        if pdu.kind != P_DATA_TF {
            return Err(format!("PDU type {}", pdu.kind));
        }
        let (mut at, end) = (pdu.all.start + HEADER, pdu.all.end);
        while at < end {
            let (fragment, range) = buffer.fragment_at(at, end).map_err(|error| error.to_string())?;
            assert!(range.start == at + 6 && range.end <= end, "a fragment lies inside its PDU");
            at = range.end;
            let event = dimse.on_fragment(fragment, buffer.bytes(range.clone())).map_err(|error| error.to_string())?;
            match &event {
                DimseEvent::StoreData { .. } | DimseEvent::RequestData { .. } => heard.n_data_bytes += range.len(),
                DimseEvent::Echo(command) => check_answer(fragment.context_id, command, DimseStatus::Success),
                DimseEvent::StoreWithoutData(command) => {
                    check_answer(fragment.context_id, command, DimseStatus::CannotUnderstand);
                }
                DimseEvent::Unrecognised(command) => {
                    check_answer(fragment.context_id, command, DimseStatus::UnrecognisedOperation);
                }
                DimseEvent::Request(command) => check_answer(fragment.context_id, command, DimseStatus::MissingAttribute),
                DimseEvent::Answered(_) => panic!("nothing was asked of the peer"),
                DimseEvent::StoreBegins(_) | DimseEvent::RequestBegins(_) | DimseEvent::Incomplete | DimseEvent::Cancel => {}
            }
            heard.events.push(format!("{event:?}"));
        }
    }
    Ok(())
}

/// A stream of PDUs after negotiation. The first byte seeds how it is cut; in whatever pieces it comes, the same must be heard.
pub fn pdu(data: &[u8]) {
    let Some((&seed, stream)) = data.split_first() else { return };
    let whole = hear(stream, || usize::MAX);
    let mut state = u32::from(seed) | 1;
    let pieces = hear(stream, || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223); // Numerical Recipes' generator
        (state >> 24) as usize % (usize::from(seed) + 2) + 1
    });
    assert_eq!(whole, pieces, "what is heard depends on how the stream was cut");
}

/// An answer is a command set that reads back under the same message, and comes whole out of its fragments.
fn check_answer(context_id: u8, request: &Command, status: DimseStatus) {
    let set = response_to(request, status, "a comment, longer than the sixty-four characters that DICOM allows there \\ \u{e9}");
    assert!(set.len().is_multiple_of(2) && set.len() < 512);
    let read = parse_command(&set).expect("our own command set is readable");
    assert_eq!(read.field, request.field | RESPONSE);
    assert!(!read.has_data_set);
    assert_eq!((&read.sop_class_uid, &read.sop_instance_uid), (&request.sop_class_uid, &request.sop_instance_uid));
    for limit in [0, 1, 70, 128, u32::MAX] {
        let pdus = command_pdus(context_id, &set, limit);
        assert_eq!(joined(context_id, &pdus), set, "fragments for a limit of {limit}");
    }
}

/// The command set in these P-DATA-TF PDUs, read with our own buffer.
fn joined(context_id: u8, pdus: &[u8]) -> Vec<u8> {
    let mut buffer = PduBuffer::new(16_384, 0);
    let (mut fed, mut set) = (0, Vec::new());
    while fed < pdus.len() {
        buffer.compact();
        let free = buffer.free();
        let n = free.len().min(pdus.len() - fed);
        free[..n].copy_from_slice(&pdus[fed..fed + n]);
        buffer.filled(n);
        fed += n;
        while let Some(pdu) = buffer.next_pdu().expect("our own PDU") {
            let (fragment, range) = buffer.fragment_at(pdu.all.start + HEADER, pdu.all.end).expect("our own fragment");
            assert!(fragment.context_id == context_id && fragment.is_command && range.end == pdu.all.end);
            set.extend_from_slice(buffer.bytes(range));
        }
    }
    assert!(!buffer.has_partial());
    set
}

/// A command set.
pub fn command(data: &[u8]) {
    let Ok(request) = parse_command(data) else { return };
    assert!(request.field != C_CANCEL_RQ || request.message_id == 0);
    for status in DimseStatus::ALL {
        check_answer(1, &request, status);
    }
}

/// The first PDU of a connection: an A-ASSOCIATE-RQ, or whatever a peer sends in its place.
pub fn negotiate(data: &[u8]) {
    let mut buffer = PduBuffer::new(PDU_LENGTH_MAX * 4, 0);
    let n = data.len().min(buffer.free().len());
    buffer.free()[..n].copy_from_slice(&data[..n]);
    buffer.filled(n);
    let Ok(Some(pdu)) = buffer.next_pdu() else { return };
    let bytes = buffer.bytes(pdu.all);
    let Ok(Some(Pdu::AssociationRQ(request))) = read_pdu(bytes, u32::try_from(bytes.len()).unwrap_or(0).max(2048), true) else {
        return;
    };
    let strict = ReceiveOptions::default();
    let open = ReceiveOptions {
        called_ae_title_checked: false,
        sop_classes_extra: vec!["1.2.3.4".to_owned()],
        ..ReceiveOptions::default()
    };
    for options in [strict, open] {
        let proposed = request.presentation_contexts.clone();
        match decide(request.clone(), std::net::IpAddr::from([127, 0, 0, 1]), &options) {
            Ok(accepted) => {
                let results = &accepted.reply.presentation_contexts;
                assert_eq!(results.len(), proposed.len(), "every proposed context is answered");
                for (result, context) in results.iter().zip(&proposed) {
                    assert_eq!(result.id, context.id);
                    let accepts = result.reason == PresentationContextResultReason::Acceptance;
                    let ours = accepted.contexts.iter().find(|ours| ours.id == result.id);
                    assert_eq!(accepts, ours.is_some());
                    let was_proposed =
                        || context.transfer_syntaxes.iter().any(|uid| uid.trim_end_matches('\0') == result.transfer_syntax);
                    assert!(!accepts || was_proposed(), "a transfer syntax that nobody proposed");
                }
                for ours in accepted.contexts.iter().filter(|ours| !TRANSFER_SYNTAXES.contains(&ours.transfer_syntax)) {
                    assert!(KEPT_UNREAD_SYNTAXES.contains(&ours.transfer_syntax));
                    let of_class =
                        proposed.iter().filter(|c| c.abstract_syntax.trim_end_matches(['\0', ' ']) == ours.abstract_syntax);
                    let mut choices = of_class.map(|context| choose_transfer_syntax(&context.transfer_syntaxes));
                    assert!(choices.all(|choice| choice.is_none()), "something readable was offered and not taken");
                }
                check_reply(&Pdu::AssociationAC(accepted.reply));
            }
            Err(because) => {
                assert!(because != RejectedBecause::LocalLimit && !because.sentence(&options).is_empty());
                check_reply(&Pdu::AssociationRJ(because.pdu()));
            }
        }
    }
}

/// What we answer is a PDU whose length is right and which reads back, whatever titles and UIDs the peer made us repeat.
fn check_reply(reply: &Pdu) {
    let mut bytes = Vec::new();
    write_pdu(&mut bytes, reply).expect("a reply can be written");
    let [_, _, a, b, c, d] = bytes[..6] else { unreachable!("six bytes") };
    assert_eq!(u32::from_be_bytes([a, b, c, d]) as usize, bytes.len() - 6, "the length that the reply declares");
    let read = read_pdu(Cursor::new(&bytes), 1 << 20, true).expect("a reply can be read").expect("whole");
    let kind = |pdu: &Pdu| (matches!(pdu, Pdu::AssociationAC(_)), matches!(pdu, Pdu::AssociationRJ(_)));
    assert_eq!(kind(&read), kind(reply));
}

/// A file, or a data set without its file meta group.
pub fn part10(data: &[u8]) {
    // Tight bounds, so that the fuzzer meets each of them; an allocation above libFuzzer's own bound (-malloc_limit_mb) is a crash as well.
    let limits =
        ScanLimits { depth_max: 8, elements_max: 4000, frames_max: 64, value_bytes_max: 1024, inflated_bytes_max: 1 << 20 };
    let (tight, wide) = (scan(data, &limits), scan(data, &ScanLimits { inflated_bytes_max: 4 << 20, ..ScanLimits::default() }));
    match (tight, wide) {
        (Ok((header, pixels)), wide) => {
            assert!(header.frames.len() <= limits.frames_max);
            assert!(header.image_type.len() <= 64);
            let n_texts = [&header.series_description, &header.protocol_name, &header.manufacturer, &header.body_part];
            assert!(n_texts.into_iter().flatten().all(|text| text.chars().count() <= 256));
            assert!(pixels.encapsulated || !header.has_pixel_data || pixels.n_bytes > 0);
            let (again, _) = wide.expect("what passes tight bounds passes wide ones");
            assert_eq!(again.sop_instance_uid, header.sop_instance_uid);
        }
        (Err(ScanError::Io(error)), _) | (_, Err(ScanError::Io(error))) => {
            panic!("bytes in memory cannot fail to be read: {error}")
        }
        (Err(error), _) => assert!(!error.to_string().is_empty()),
    }
}

fn scan(data: &[u8], limits: &ScanLimits) -> Result<(crate::domain::InstanceHeader, super::header_scan::PixelFacts), ScanError> {
    scan_with_pixel_facts(&mut Cursor::new(data), limits)
}

#[cfg(test)]
#[allow(clippy::duplicate_mod)] // a helper of three rooms, none of which may import another
#[path = "corpus.rs"]
mod corpus;

#[cfg(test)]
mod tests {
    #[test]
    fn corpus_of_pdu_keeps_its_promises() {
        super::corpus::run("pdu", super::pdu);
    }

    #[test]
    fn corpus_of_negotiate_keeps_its_promises() {
        super::corpus::run("negotiate", super::negotiate);
    }

    #[test]
    fn corpus_of_command_keeps_its_promises() {
        super::corpus::run("command", super::command);
    }

    #[test]
    fn corpus_of_part10_keeps_its_promises() {
        super::corpus::run("part10", super::part10);
    }
}
