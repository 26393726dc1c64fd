//! A promise to whoever owns the scanner: what vendors send arrives byte for byte and its header is read, in every encoding and character set,
//! however the peer negotiates. Real files are read from the shared data folder and skipped with a line where it is missing.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]
#![allow(unreachable_pub, dead_code)] // support modules are private to this test, which uses a part of them

#[path = "receive_support/mod.rs"]
mod support;
#[path = "../src/receive/test_data.rs"]
mod test_data;

use std::collections::BTreeMap;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use dicom_dictionary_std::tags;
use dicom_encoding::transfer_syntax::{Codec, TransferSyntaxIndex};
use dicom_transfer_syntax_registry::TransferSyntaxRegistry;
use dicom_ul::pdu::{AssociationRQ, Pdu, PresentationContextProposed, UserVariableItem, write_pdu};
use scanside::domain::InstanceHeader;
use scanside::receive::sop_classes::{KEPT_UNREAD_SYNTAXES, TRANSFER_SYNTAXES, is_storage_class};
use scanside::receive::{ReceiveOptions, ScanLimits, scan_part10};
use support::{Peer, Server, command, read_pdu};
use test_data::{DataSet, ENHANCED_MR_IMAGE, EXPLICIT_LE, IMPLICIT_LE, MR_IMAGE, part10};

const BIG_ENDIAN: &str = "1.2.840.10008.1.2.2";
const DEFLATED: &str = "1.2.840.10008.1.2.1.99";
const JPEG_LS: &str = "1.2.840.10008.1.2.4.80";

fn header(file: &[u8]) -> InstanceHeader {
    scan_part10(&mut Cursor::new(file), &ScanLimits::default()).unwrap()
}

/// Sends one data set on an association of its own; its status, and whether the store holds exactly these bytes.
fn round_trip(server: &Server, sop_class: &str, sop_instance: &str, syntax: &str, data_set: &[u8]) -> (u16, bool) {
    let mut peer = Peer::associate(server.address, "SCANSIDE", &[(1, sop_class, syntax)]).expect("accepted");
    assert_eq!(peer.results, [(1, 0)], "{sop_class} in {syntax} is negotiated");
    let status = peer.store(sop_class, sop_instance, data_set);
    assert!(peer.release());
    let same = server.store.committed.lock().unwrap().get(sop_instance).is_some_and(|kept| kept == data_set);
    (status, same)
}

fn assert_kept(server: &Server, name: &str, syntax: &str, data_set: &[u8]) {
    assert_eq!(round_trip(server, MR_IMAGE, "1.2.3.4.5", syntax, data_set), (0, true), "{name}");
}

fn deflated(data_set: &[u8]) -> Vec<u8> {
    let Some(Codec::Dataset(Some(adapter))) = TransferSyntaxRegistry.get(DEFLATED).map(|syntax| syntax.codec()) else {
        panic!("deflate is in the registry")
    };
    let mut out = Vec::new();
    adapter.adapt_writer(Box::new(&mut out)).write_all(data_set).unwrap();
    out
}

/// An MR image with further elements of group 0009 (before all others that matter) and 0029.
fn image_with(low: impl FnOnce(DataSet) -> DataSet, high: impl FnOnce(DataSet) -> DataSet) -> DataSet {
    let head = DataSet::explicit().mr_image_head("1.2.3.4.5", 4);
    let low = low(DataSet::explicit());
    let joined = DataSet { bytes: [low.bytes, head.bytes].concat(), ..DataSet::explicit() };
    high(joined).raw(0x7FE0_0010, "OW", &[7; 32])
}

#[test]
fn every_encoding_arrives_byte_for_byte() {
    let server = Server::start(ReceiveOptions::default());
    let plain = DataSet::explicit().mr_image("1.2.3.4.5", 4).bytes;
    assert_kept(&server, "explicit", EXPLICIT_LE, &plain);
    assert_kept(&server, "implicit", IMPLICIT_LE, &DataSet::implicit().mr_image("1.2.3.4.5", 4).bytes);
    assert_kept(&server, "big endian", BIG_ENDIAN, &DataSet::big_endian().mr_image("1.2.3.4.5", 4).bytes);
    let packed = deflated(&plain);
    assert_kept(&server, "deflated", DEFLATED, &packed);
    assert_eq!(header(&part10(DEFLATED, &packed)).n_rows, 4);
}

#[test]
fn files_without_preamble_or_meta_group_are_read() {
    let data_set = DataSet::implicit().mr_image("1.2.3.4.5", 4);
    let whole = header(&data_set.part10(IMPLICIT_LE));
    assert_eq!(header(&data_set.part10(IMPLICIT_LE)[132..]), whole, "no preamble");
    assert_eq!(header(&data_set.bytes), whole, "no meta group");
}

#[test]
fn odd_lengths_wrong_representations_and_private_elements_are_kept_and_read_past() {
    let server = Server::start(ReceiveOptions::default());
    let undefined_un = [
        &[0xFE, 0xFF, 0x00, 0xE0, 0xFF, 0xFF, 0xFF, 0xFF][..],
        &[0x29, 0x00, 0x01, 0x00, 2, 0, 0, 0, 1, 1],
        &[0xFE, 0xFF, 0x0D, 0xE0, 0, 0, 0, 0, 0xFE, 0xFF, 0xDD, 0xE0, 0, 0, 0, 0],
    ]
    .concat();
    let unknown = |d: DataSet| {
        let mut d = d.head(0x0029_1020, "UN", u32::MAX);
        d.bytes.extend_from_slice(&undefined_un);
        d
    };
    let cases = [
        ("odd length", image_with(|d| d.raw(0x0008_0005, "CS", b"ISO_IR 100 "), |d| d)),
        ("private text", image_with(|d| d, |d| d.text(0x0029_0010, "LO", "ACME 1.1").raw(0x0029_1001, "UN", b"secret"))),
        ("private sequence of unknown representation", image_with(|d| d, unknown)),
        ("private element without its creator", image_with(|d| d, |d| d.raw(0x0029_1001, "OB", &[1, 2, 3]))),
        ("slope as a double", image_with(|d| d, |d| d.f64(0x0028_1053, 1.5))),
        ("bits stored as text", image_with(|d| d, |d| d.text(0x0028_0101, "IS", "12"))),
        (
            "a representation that is not in the standard",
            image_with(
                |d| d,
                |mut d| {
                    d.bytes.extend_from_slice(&[0x29, 0, 0x01, 0x10, b'Z', b'Z', 0, 0, 4, 0, 0, 0, 1, 2, 3, 4]);
                    d
                },
            ),
        ),
    ];
    for (name, data_set) in cases {
        assert_kept(&server, name, EXPLICIT_LE, &data_set.bytes);
        let header = header(&part10(EXPLICIT_LE, &data_set.bytes));
        assert_eq!((header.n_rows, header.n_columns, header.frames.len()), (4, 4, 1), "{name}");
    }
    // Rows as a long: another representation than the dictionary's, the same number.
    let long = DataSet::explicit().mr_image("1.2.3.4.5", 4).bytes;
    let at = long.windows(6).position(|w| w == [0x28, 0, 0x10, 0, b'U', b'S']).unwrap();
    let wide = [&long[..at], &[0x28, 0, 0x10, 0, b'U', b'L', 4, 0, 4, 0, 0, 0], &long[at + 10..]].concat();
    assert_kept(&server, "rows as a long", EXPLICIT_LE, &wide);
    assert_eq!(header(&part10(EXPLICIT_LE, &wide)).n_rows, 4);
}

#[test]
fn texts_of_any_character_set_are_kept_and_harmless() {
    let server = Server::start(ReceiveOptions::default());
    let cases: [(&str, &[u8], Option<&str>); 6] = [
        ("ISO_IR 192", "T1 \u{65e5}\u{672c} caf\u{e9}".as_bytes(), Some("T1 \u{65e5}\u{672c} caf\u{e9}")),
        ("ISO_IR 100", b"T1 caf\xe9", Some("T1 caf\u{e9}")),
        ("\\ISO 2022 IR 87", b"T1 \x1b$B;3ED\x1b(B", None), // Japanese, PS3.5 annex H
        ("\\ISO 2022 IR 149", b"T1 \x1b$)C\xb1\xe8", None), // Korean, PS3.5 annex I
        ("GB18030", b"T1 \xd6\xd0\xce\xc4", None),          // Chinese, PS3.5 annex J
        ("GBK", b"T1 \xd6\x5c\xce\xc4", None),              // its second bytes include the backslash
    ];
    for (set, text, expected) in cases {
        let mut value = text.to_vec();
        value.resize(text.len() + text.len() % 2, b' ');
        let head = DataSet::explicit().text(0x0008_0005, "CS", set);
        let body = DataSet::explicit().mr_image("1.2.3.4.5", 4).bytes;
        let old = [&[0x08, 0, 0x3E, 0x10, b'L', b'O', 12, 0][..], b"t1 mprage +C"].concat();
        let at = body.windows(old.len()).position(|w| w == old).expect("the series description");
        let new = DataSet::explicit().raw(0x0008_103E, "LO", &value).bytes;
        let data_set = [&head.bytes[..], &body[..at], &new, &body[at + old.len()..]].concat();
        assert_kept(&server, set, EXPLICIT_LE, &data_set);
        let description = header(&part10(EXPLICIT_LE, &data_set)).series_description.expect("a description");
        assert!(description.starts_with("T1"), "{set}: {description:?}");
        assert!(!description.chars().any(char::is_control), "{set}: {description:?}");
        if let Some(expected) = expected {
            assert_eq!(description, expected, "{set}");
        }
    }
}

#[test]
fn parts_of_a_concatenation_are_instances_of_their_own() {
    let server = Server::start(ReceiveOptions::default());
    for part in 1..=2_u16 {
        let uid = format!("1.2.3.5.{part}");
        let data_set = DataSet::explicit().enhanced_mr(&uid, part == 2, 3 + part);
        let tail = DataSet::explicit().text(0x0020_9161, "UI", "1.2.3.9").u16(0x0020_9162, part).bytes;
        let at = data_set.bytes.windows(6).position(|w| w == [0x28, 0, 0x02, 0, b'U', b'S']).unwrap();
        let bytes = [&data_set.bytes[..at], &tail, &data_set.bytes[at..]].concat();
        assert_eq!(round_trip(&server, ENHANCED_MR_IMAGE, &uid, EXPLICIT_LE, &bytes), (0, true));
        let header = header(&part10(EXPLICIT_LE, &bytes));
        assert_eq!((header.n_frames, header.frames.len()), (u32::from(3 + part), usize::from(3 + part)));
    }
}

/// Negotiates with these user items; the reply's items.
fn negotiate_with(server: &Server, user_variables: Vec<UserVariableItem>) -> (std::net::TcpStream, Vec<UserVariableItem>) {
    let mut stream = Peer::connect(server.address);
    let request = AssociationRQ {
        protocol_version: 1,
        calling_ae_title: "TESTER".to_owned(),
        called_ae_title: "SCANSIDE".to_owned(),
        application_context_name: "1.2.840.10008.3.1.1.1".to_owned(),
        presentation_contexts: vec![PresentationContextProposed {
            id: 1,
            abstract_syntax: MR_IMAGE.to_owned(),
            transfer_syntaxes: vec![EXPLICIT_LE.to_owned()],
        }],
        user_variables,
    };
    let mut bytes = Vec::new();
    write_pdu(&mut bytes, &Pdu::AssociationRQ(request)).unwrap();
    stream.write_all(&bytes).unwrap();
    let (kind, body) = read_pdu(&mut stream).expect("an answer");
    assert_eq!(kind, 2, "accepted");
    let whole = [&[2, 0], &(body.len() as u32).to_be_bytes()[..], &body].concat();
    let Ok(Some(Pdu::AssociationAC(accepted))) = dicom_ul::pdu::read_pdu(&whole[..], 1 << 20, true) else { panic!("a reply") };
    (stream, accepted.user_variables)
}

#[test]
fn answers_keep_to_any_maximum_length_of_the_peer() {
    let server = Server::start(ReceiveOptions::default());
    for limit in [0, 71, 127, 1023, 16_384, u32::MAX] {
        let (mut stream, _) = negotiate_with(&server, vec![UserVariableItem::MaxLength(limit)]);
        let data_set = DataSet::explicit().mr_image("1.2.3.4.5", 4).bytes;
        stream.write_all(&support::p_data(1, 3, &command(1, 7, MR_IMAGE, Some("1.2.3.4.5"), true))).unwrap();
        for (idx, byte) in data_set.iter().enumerate() {
            // One byte in each fragment, and an empty fragment now and then: odd, and allowed by PS3.8 annex E.
            if idx % 50 == 0 {
                stream.write_all(&support::p_data(1, 0, &[])).unwrap();
            }
            stream.write_all(&support::p_data(1, if idx + 1 == data_set.len() { 2 } else { 0 }, &[*byte])).unwrap();
        }
        let mut set = Vec::new();
        loop {
            let (kind, body) = read_pdu(&mut stream).expect("an answer");
            assert_eq!(kind, 4);
            assert!(limit == 0 || body.len() as u64 <= u64::from(limit), "{} bytes for a limit of {limit}", body.len());
            set.extend_from_slice(&body[6..]);
            if body[5] & 2 != 0 {
                break;
            }
        }
        assert!(set.windows(10).any(|w| w == [0, 0, 0, 9, 2, 0, 0, 0, 0, 0]), "status 0x0000 for a limit of {limit}");
    }
    assert_eq!(server.store.committed.lock().unwrap().len(), 1);
}

#[test]
fn asynchronous_operations_are_not_taken_up() {
    // PS3.7 section D.3.3.3: an acceptor that does not answer the item leaves one operation at a time.
    let server = Server::start(ReceiveOptions::default());
    let window = UserVariableItem::Unknown(0x53, vec![0, 8, 0, 8]);
    let (_, items) = negotiate_with(&server, vec![UserVariableItem::MaxLength(16_384), window]);
    assert!(!items.iter().any(|item| matches!(item, UserVariableItem::Unknown(0x53, _))), "{items:?}");
    assert!(items.iter().any(|item| matches!(item, UserVariableItem::MaxLength(length) if *length > 0)));
}

#[test]
fn pixels_that_cannot_be_decoded_are_kept_only_where_nothing_else_is_offered() {
    let server = Server::start(ReceiveOptions::default());
    let mut data_set = DataSet::explicit().mr_image_head("1.2.3.4.5", 4).head(0x7FE0_0010, "OB", u32::MAX);
    data_set = data_set.head(0xFFFE_E000, "", 0).raw(0xFFFE_E000, "", b"\xff\xd8\xff\xf7\xff\xd9").head(0xFFFE_E0DD, "", 0);
    assert_kept(&server, "JPEG-LS alone", JPEG_LS, &data_set.bytes);
    let both = [(1, MR_IMAGE, JPEG_LS), (3, MR_IMAGE, EXPLICIT_LE), (5, ENHANCED_MR_IMAGE, JPEG_LS)];
    let peer = Peer::associate(server.address, "SCANSIDE", &both).expect("accepted");
    assert_eq!(
        peer.results,
        [(1, 4), (3, 0), (5, 0)],
        "refused beside what can be read, kept for the class that has nothing else"
    );
}

fn shared_dicom() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let data = std::env::var_os("SCANSIDE_SHARED_DATA").map_or_else(|| root.join("../shared/data"), PathBuf::from).join("dicom");
    data.is_dir().then_some(data)
}

fn files_below(folder: &Path, found: &mut BTreeMap<PathBuf, Vec<PathBuf>>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files_below(&path, found);
        } else if path.metadata().is_ok_and(|meta| meta.len() < 24 << 20) {
            found.entry(folder.to_owned()).or_default().push(path);
        }
    }
}

#[test]
fn real_files_of_every_vendor_arrive_byte_for_byte_and_are_read_as_the_full_parser_reads_them() {
    let Some(data) = shared_dicom() else {
        println!("skipped: the shared data folder is missing");
        return;
    };
    let mut folders = BTreeMap::new();
    files_below(&data, &mut folders);
    let server = Server::start(ReceiveOptions::default());
    let (mut n_kept, mut n_refused, mut syntaxes) = (0, Vec::new(), BTreeMap::<String, usize>::new());
    for files in folders.values_mut() {
        files.sort();
        for path in files.iter().step_by((files.len() / 3).max(1)) {
            let bytes = std::fs::read(path).unwrap();
            let name = path.strip_prefix(&data).unwrap().display().to_string();
            let Ok(object) = dicom_object::from_reader(Cursor::new(&bytes)) else { continue };
            let meta = object.meta();
            let syntax = meta.transfer_syntax().to_owned();
            // As the data set says: some of these files contradict themselves in their meta group.
            let own = |tag| object.get(tag).and_then(|e| e.to_str().ok()).map(|s| s.trim_matches(['\0', ' ']).to_owned());
            let (Some(class), Some(uid)) = (own(tags::SOP_CLASS_UID), own(tags::SOP_INSTANCE_UID)) else { continue };
            if !is_storage_class(&class) || ![&TRANSFER_SYNTAXES[..], &KEPT_UNREAD_SYNTAXES].concat().contains(&syntax.as_str()) {
                n_refused.push(name);
                continue;
            }
            // The data set begins behind the meta group, whose length its first element tells.
            let length = u32::from_le_bytes(bytes[140..144].try_into().unwrap());
            let data_set = &bytes[144 + length as usize..];
            let (status, same) = round_trip(&server, &class, &uid, &syntax, data_set);
            assert!(status == 0 && same, "{name}: {status:#06X}");
            let read = header(&bytes);
            let number = |tag| object.get(tag).and_then(|element| element.to_int::<u32>().ok());
            assert_eq!(read.n_rows, number(tags::ROWS).unwrap_or(0), "{name}");
            assert_eq!(read.n_columns, number(tags::COLUMNS).unwrap_or(0), "{name}");
            assert_eq!(read.n_frames, number(tags::NUMBER_OF_FRAMES).unwrap_or(1), "{name}");
            assert_eq!(Some(read.study_instance_uid.to_string()), own(tags::STUDY_INSTANCE_UID), "{name}");
            assert_eq!(Some(read.series_instance_uid.to_string()), own(tags::SERIES_INSTANCE_UID), "{name}");
            assert_eq!(Some(read.modality), own(tags::MODALITY), "{name}");
            let is_enhanced = object.get(tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE).is_some() && class.contains(".1.1.4.");
            assert!(!is_enhanced || read.frames.len() == read.n_frames as usize, "{name}: {} frames", read.frames.len());
            *syntaxes.entry(syntax).or_default() += 1;
            n_kept += 1;
            server.store.committed.lock().unwrap().clear();
        }
    }
    println!("{n_kept} files kept, {syntaxes:?}; not negotiated: {n_refused:?}");
    assert!(n_kept > 30 && syntaxes.len() > 5, "{n_kept} files of {} transfer syntaxes", syntaxes.len());
}
