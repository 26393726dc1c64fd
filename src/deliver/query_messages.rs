//! Query/Retrieve messages of a service class user: what is asked for -> command sets and identifiers; identifiers of responses -> series
//! and instances; statuses -> words with a remedy. Pure.
//!
//! Study Root Query/Retrieve Information Model (PS3.4 annex C.6.2). Asked for are UIDs, modality, description, counts and availability,
//! never a patient's name, ID or birth date. Identifiers travel in Implicit VR Little Endian, the one transfer syntax that every peer takes
//! (PS3.5 section 10.1), so one encoding is all that is read here. They are read element by element: a sequence in one is stepped over
//! without recursion, and nothing is allocated by a length that the peer declared.

use super::dimse_scu::{DATA_SET, NO_DATA_SET, Request, element, uid, with_group_length};
use crate::domain::{AeTitle, Uid};

/// Study Root Query/Retrieve Information Model - FIND.
pub const STUDY_ROOT_FIND: &str = "1.2.840.10008.5.1.4.1.2.2.1";
/// Study Root Query/Retrieve Information Model - MOVE.
pub const STUDY_ROOT_MOVE: &str = "1.2.840.10008.5.1.4.1.2.2.2";
/// Longest identifier of a C-FIND response; ours has about 300 bytes.
pub(super) const IDENTIFIER_BYTES_MAX: usize = 65_536;
/// Longest description that is kept, bytes (LO, PS3.5 table 6.2-1: 64 characters of at most 4 bytes).
const DESCRIPTION_BYTES_MAX: usize = 256;
/// Nested sequences and items of undefined length that are stepped over.
const DEPTH_MAX: usize = 16;
/// C-CANCEL-RQ (PS3.7 section 9.3.2.3).
const C_CANCEL_RQ: u16 = 0x0FFF;
/// Medium priority (0000,0700).
const MEDIUM: u16 = 0;

const QUERY_RETRIEVE_LEVEL: u32 = 0x0008_0052;
const INSTANCE_AVAILABILITY: u32 = 0x0008_0056;
const MODALITY: u32 = 0x0008_0060;
const SERIES_DESCRIPTION: u32 = 0x0008_103E;
const SOP_INSTANCE_UID: u32 = 0x0008_0018;
const STUDY_INSTANCE_UID: u32 = 0x0020_000D;
const SERIES_INSTANCE_UID: u32 = 0x0020_000E;
const N_SERIES_INSTANCES: u32 = 0x0020_1209;

const ITEM: u32 = 0xFFFE_E000;
const ITEM_END: u32 = 0xFFFE_E00D;
const SEQUENCE_END: u32 = 0xFFFE_E0DD;
const UNDEFINED: u32 = 0xFFFF_FFFF;

/// Whether a retrieve can be answered without a person (Instance Availability (0008,0056), PS3.3 C.4.23).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// At once, or not said.
    Online,
    /// Soon: a robot fetches the medium.
    Nearline,
    /// Somebody must fetch it, or nobody can.
    Away,
}

/// A series as the PACS describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacsSeries {
    /// Series Instance UID.
    pub series_instance_uid: Uid,
    /// Modality in capitals; `None` when the PACS did not say.
    pub modality: Option<String>,
    /// Series Description, at most 256 bytes: a hint for what to fetch first, never shown or kept.
    pub description: Option<String>,
    /// Number of Series Related Instances (0020,1209); `None` when the PACS did not say.
    pub n_instances: Option<u32>,
    /// Whether it can be had.
    pub availability: Availability,
}

/// A C-FIND request.
pub(super) fn find_request(message_id: u16) -> Vec<u8> {
    let mut out = Vec::new();
    uid(&mut out, 0x0002, STUDY_ROOT_FIND);
    element(&mut out, 0x0100, &Request::Find.field().to_le_bytes());
    element(&mut out, 0x0110, &message_id.to_le_bytes());
    element(&mut out, 0x0700, &MEDIUM.to_le_bytes());
    element(&mut out, 0x0800, &DATA_SET.to_le_bytes());
    with_group_length(&out)
}

/// A C-MOVE request to send to `destination`.
pub(super) fn move_request(message_id: u16, destination: &AeTitle) -> Vec<u8> {
    let mut title = destination.as_str().as_bytes().to_vec();
    if title.len() % 2 == 1 {
        title.push(b' ');
    }
    let mut out = Vec::new();
    uid(&mut out, 0x0002, STUDY_ROOT_MOVE);
    element(&mut out, 0x0100, &Request::Move.field().to_le_bytes());
    element(&mut out, 0x0110, &message_id.to_le_bytes());
    element(&mut out, 0x0600, &title);
    element(&mut out, 0x0700, &MEDIUM.to_le_bytes());
    element(&mut out, 0x0800, &DATA_SET.to_le_bytes());
    with_group_length(&out)
}

/// A C-CANCEL request for the request of that message id.
pub(super) fn cancel_request(message_id: u16) -> Vec<u8> {
    let mut out = Vec::new();
    element(&mut out, 0x0100, &C_CANCEL_RQ.to_le_bytes());
    element(&mut out, 0x0120, &message_id.to_le_bytes());
    element(&mut out, 0x0800, &NO_DATA_SET.to_le_bytes());
    with_group_length(&out)
}

/// Identifier that asks for the MR series of a study.
pub(super) fn series_query(study: &Uid) -> Vec<u8> {
    let mut out = Vec::new();
    text(&mut out, QUERY_RETRIEVE_LEVEL, "SERIES");
    text(&mut out, INSTANCE_AVAILABILITY, "");
    text(&mut out, MODALITY, "MR");
    text(&mut out, SERIES_DESCRIPTION, "");
    data_uid(&mut out, STUDY_INSTANCE_UID, study.as_str());
    data_uid(&mut out, SERIES_INSTANCE_UID, "");
    text(&mut out, N_SERIES_INSTANCES, "");
    out
}

/// Identifier that asks for the instances of a series.
pub(super) fn image_query(study: &Uid, series: &Uid) -> Vec<u8> {
    let mut out = Vec::new();
    data_uid(&mut out, SOP_INSTANCE_UID, "");
    text(&mut out, QUERY_RETRIEVE_LEVEL, "IMAGE");
    data_uid(&mut out, STUDY_INSTANCE_UID, study.as_str());
    data_uid(&mut out, SERIES_INSTANCE_UID, series.as_str());
    out
}

/// Identifier that retrieves a series.
pub(super) fn series_retrieval(study: &Uid, series: &Uid) -> Vec<u8> {
    let mut out = Vec::new();
    text(&mut out, QUERY_RETRIEVE_LEVEL, "SERIES");
    data_uid(&mut out, STUDY_INSTANCE_UID, study.as_str());
    data_uid(&mut out, SERIES_INSTANCE_UID, series.as_str());
    out
}

fn data_element(out: &mut Vec<u8>, tag: u32, value: &[u8], padding: u8) {
    let (group, number) = ((tag >> 16) as u16, (tag & 0xFFFF) as u16);
    let padded = value.len() % 2;
    out.extend_from_slice(&group.to_le_bytes());
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&u32::try_from(value.len() + padded).unwrap_or(0).to_le_bytes());
    out.extend_from_slice(value);
    out.extend(std::iter::repeat_n(padding, padded));
}

fn text(out: &mut Vec<u8>, tag: u32, value: &str) {
    data_element(out, tag, value.as_bytes(), b' ');
}

fn data_uid(out: &mut Vec<u8>, tag: u32, value: &str) {
    data_element(out, tag, value.as_bytes(), 0);
}

/// Reads a series from the identifier of a C-FIND response.
///
/// # Errors
/// A sentence about what is wrong with it.
pub(super) fn read_series(identifier: &[u8]) -> Result<PacsSeries, String> {
    let mut series = None;
    let (mut modality, mut description, mut n_instances, mut availability) = (None, None, None, Availability::Online);
    for_each_value(identifier, |tag, value| {
        match tag {
            SERIES_INSTANCE_UID => series = Some(uid_of(value)?),
            MODALITY => modality = short_text(value, 16).map(|text| text.to_uppercase()),
            SERIES_DESCRIPTION => description = short_text(value, DESCRIPTION_BYTES_MAX),
            N_SERIES_INSTANCES => n_instances = short_text(value, 12).and_then(|text| text.parse().ok()),
            INSTANCE_AVAILABILITY => availability = availability_of(short_text(value, 16).as_deref()),
            _ => {}
        }
        Ok(())
    })?;
    let series_instance_uid = series.ok_or("a series without a Series Instance UID")?;
    Ok(PacsSeries { series_instance_uid, modality, description, n_instances, availability })
}

/// Reads a SOP Instance UID from the identifier of a C-FIND response.
///
/// # Errors
/// A sentence about what is wrong with it.
pub(super) fn read_instance(identifier: &[u8]) -> Result<Uid, String> {
    let mut instance = None;
    for_each_value(identifier, |tag, value| {
        if tag == SOP_INSTANCE_UID {
            instance = Some(uid_of(value)?);
        }
        Ok(())
    })?;
    instance.ok_or_else(|| "an instance without a SOP Instance UID".to_owned())
}

fn uid_of(value: &[u8]) -> Result<Uid, String> {
    let text = value.get(..value.len().min(80)).unwrap_or_default();
    Uid::try_new(&String::from_utf8_lossy(text)).map_err(|error| format!("a bad UID: {error}"))
}

/// A text without padding and control characters; `None` when empty.
fn short_text(value: &[u8], bytes_max: usize) -> Option<String> {
    let cut = value.get(..value.len().min(bytes_max)).unwrap_or_default();
    let text: String = String::from_utf8_lossy(cut).chars().filter(|c| !c.is_control()).collect();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// A multi-valued or unknown answer counts as the best of its values: whoever asks will see.
fn availability_of(text: Option<&str>) -> Availability {
    let values = || text.unwrap_or("ONLINE").split('\\').map(str::trim);
    if values().all(|value| matches!(value, "OFFLINE" | "UNAVAILABLE")) {
        Availability::Away
    } else if values().all(|value| matches!(value, "OFFLINE" | "UNAVAILABLE" | "NEARLINE")) {
        Availability::Nearline
    } else {
        Availability::Online
    }
}

/// Calls `found` with each top-level element that has a value of known length. Sequences of undefined length are stepped over.
fn for_each_value<'b>(bytes: &'b [u8], mut found: impl FnMut(u32, &'b [u8]) -> Result<(), String>) -> Result<(), String> {
    let mut rest = bytes;
    let mut depth = 0_usize;
    while !rest.is_empty() {
        let (Some(head), Some(after)) = (rest.first_chunk::<8>(), rest.get(8..)) else {
            return Err("the identifier is cut".to_owned());
        };
        let [a, b, c, d, e, f, g, h] = *head;
        let tag = u32::from(u16::from_le_bytes([a, b])) << 16 | u32::from(u16::from_le_bytes([c, d]));
        let length = u32::from_le_bytes([e, f, g, h]);
        rest = after;
        match tag {
            ITEM_END | SEQUENCE_END => {
                depth = depth.checked_sub(1).ok_or("the identifier ends a sequence that it did not begin")?;
            }
            // Of a sequence (or an item of one) only its end is of interest.
            _ if length == UNDEFINED => {
                if tag == ITEM && depth == 0 {
                    return Err("the identifier has an item outside a sequence".to_owned());
                }
                depth += 1;
                if depth > DEPTH_MAX {
                    return Err("the identifier is nested too deeply".to_owned());
                }
            }
            _ => {
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                let (Some(value), Some(next)) = (rest.get(..length), rest.get(length..)) else {
                    return Err(format!("element ({:04X},{:04X}) is longer than the identifier", tag >> 16, tag & 0xFFFF));
                };
                if depth == 0 {
                    found(tag, value)?;
                }
                rest = next;
            }
        }
    }
    if depth == 0 { Ok(()) } else { Err("the identifier ends within a sequence".to_owned()) }
}

/// Whether more responses follow (PS3.4 tables C.4-1 and C.4-2).
pub(super) const fn is_pending(status: u16) -> bool {
    matches!(status, 0xFF00 | 0xFF01)
}

/// The meaning of a C-FIND or C-MOVE status with the remedy (PS3.4 tables C.4-1 and C.4-2, PS3.7 annex C).
pub(super) const fn status_meaning(status: u16) -> &'static str {
    match status {
        0x0000 => "done",
        0xFE00 => "cancelled",
        0xFF00 | 0xFF01 => "pending",
        0xB000 => "done, but one or more images failed: see the PACS's log and this box's events",
        0xA700 => "the PACS is out of resources",
        0xA701 => "the PACS is out of resources and cannot count what matches",
        0xA702 => {
            "the PACS could not send the images: check its log, that it has this box's address and port, and that dicom.peers and \
             dicom.calling_ae_titles let it in"
        }
        0xA801 => {
            "the PACS does not know our AE title as a move destination: enter it with this box's address and port in the PACS"
        }
        0xA900 => "the PACS does not take the question: identifier does not match the SOP class",
        0xC000..=0xCFFF => "the PACS cannot process the question",
        0x0122 => "the PACS does not offer this query/retrieve SOP class",
        0x0124 => "the PACS does not allow this box to ask: enter its AE title and address in the PACS",
        0x0211 => "the PACS does not know this operation",
        0x0105 | 0x0106 | 0x0110 | 0x0115 | 0x0212 => "the PACS failed on the request",
        _ => "the PACS refused",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn uid_named(text: &str) -> Uid {
        Uid::try_new(text).expect("a UID")
    }

    fn answer(series: &str, n_instances: &str, availability: &str) -> Vec<u8> {
        let mut out = Vec::new();
        text(&mut out, QUERY_RETRIEVE_LEVEL, "SERIES");
        text(&mut out, INSTANCE_AVAILABILITY, availability);
        text(&mut out, MODALITY, "MR");
        text(&mut out, SERIES_DESCRIPTION, "t1 mprage +C");
        data_uid(&mut out, STUDY_INSTANCE_UID, "1.2.3");
        data_uid(&mut out, SERIES_INSTANCE_UID, series);
        text(&mut out, N_SERIES_INSTANCES, n_instances);
        out
    }

    #[test]
    fn a_question_asks_for_no_patient_data_and_its_elements_ascend() {
        let (study, series) = (uid_named("1.2.3"), uid_named("1.2.3.4"));
        for identifier in [series_query(&study), image_query(&study, &series), series_retrieval(&study, &series)] {
            let mut tags = Vec::new();
            for_each_value(&identifier, |tag, _| {
                tags.push(tag);
                Ok(())
            })
            .expect("well formed");
            assert!(tags.is_sorted(), "{tags:08X?}");
            assert!(tags.iter().all(|tag| tag >> 16 != 0x0010), "group 0010 is the patient's");
            assert_eq!(identifier.len() % 2, 0);
        }
    }

    #[test]
    fn requests_name_their_destination_and_cancel_names_the_request() {
        let bytes = move_request(3, &AeTitle::try_new("BOX").expect("a title"));
        assert!(bytes.windows(12).any(|w| w == [0, 0, 0, 6, 4, 0, 0, 0, b'B', b'O', b'X', b' ']));
        let declared = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
        assert_eq!(usize::try_from(declared).expect("small"), bytes.len() - 12);
        let cancel = cancel_request(0x0203);
        assert!(cancel.windows(10).any(|w| w == [0, 0, 0x20, 1, 2, 0, 0, 0, 3, 2]));
        assert!(cancel.windows(10).any(|w| w == [0, 0, 0, 1, 2, 0, 0, 0, 0xFF, 0x0F]));
    }

    #[test]
    fn series_are_read_with_what_the_peer_leaves_out_left_open() {
        let series = read_series(&answer("1.2.3.4", "176 ", "ONLINE")).expect("a series");
        assert_eq!((series.n_instances, series.availability), (Some(176), Availability::Online));
        assert_eq!((series.modality.as_deref(), series.description.as_deref()), (Some("MR"), Some("t1 mprage +C")));
        let bare = read_series(&answer("1.2.3.4", "", "")).expect("a series");
        assert_eq!((bare.n_instances, bare.availability), (None, Availability::Online));
        assert_eq!(read_series(&answer("1.2.3.4", "-5", "OFFLINE")).expect("a series").availability, Availability::Away);
        assert_eq!(read_series(&answer("1.2.3.4", "many", "NEARLINE")).expect("a series").n_instances, None);
        assert!(read_series(&answer("", "5", "")).is_err(), "an empty UID");
        assert!(read_series(&answer("1.2/../3", "5", "")).is_err(), "no UID");
        assert_eq!(read_instance(&image_query(&uid_named("1.2"), &uid_named("1.3"))).ok(), None);
    }

    #[test]
    fn sequences_are_stepped_over_and_depth_is_bounded() {
        let head = |tag: u32, length: u32| {
            let mut out = Vec::new();
            data_element(&mut out, tag, b"", 0);
            out[4..8].copy_from_slice(&length.to_le_bytes());
            out
        };
        let nested = |depth: usize| {
            let mut bytes: Vec<u8> = Vec::new();
            for _ in 0..depth {
                bytes.extend(head(0x0008_1111, UNDEFINED));
                bytes.extend(head(ITEM, UNDEFINED));
                data_uid(&mut bytes, SERIES_INSTANCE_UID, "9.9.9.9");
            }
            for _ in 0..depth {
                bytes.extend(head(ITEM_END, 0));
                bytes.extend(head(SEQUENCE_END, 0));
            }
            bytes.extend(answer("1.2.3.4", "7", ""));
            bytes
        };
        let series = read_series(&nested(3)).expect("the sequence is stepped over");
        assert_eq!(series.series_instance_uid, uid_named("1.2.3.4"), "not the UID inside the sequence");
        assert!(read_series(&nested(2000)).expect_err("too deep").contains("deep"));
        assert!(read_series(&[head(0x0008_1111, UNDEFINED), answer("1.2", "1", "")].concat()).is_err(), "never ended");
        assert!(read_series(&head(SEQUENCE_END, 0)).is_err());
        assert!(read_series(&head(SERIES_INSTANCE_UID, 0xFFFF_FFF0)).is_err());
    }

    #[test]
    fn an_unknown_destination_comes_with_its_remedy() {
        assert!(status_meaning(0xA801).contains("enter it with this box's address and port in the PACS"));
        assert!(is_pending(0xFF01) && !is_pending(0xB000) && !is_pending(0));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_identifier_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read_series(&bytes);
            let _ = read_instance(&bytes);
        }

        #[test]
        fn one_bad_byte_is_read_or_refused(at in 0usize..120, value: u8) {
            let mut bytes = answer("1.2.3.4", "176", "ONLINE");
            if let Some(byte) = bytes.get_mut(at) { *byte = value; }
            let _ = read_series(&bytes);
        }

        #[test]
        fn what_is_asked_can_be_read_back(study in "[1-9](\\.[1-9][0-9]{0,8}){1,6}", series in "[1-9](\\.[1-9][0-9]{0,8}){1,6}") {
            let bytes = series_retrieval(&uid_named(&study), &uid_named(&series));
            prop_assert_eq!(read_series(&bytes).expect("well formed").series_instance_uid, uid_named(&series));
        }
    }
}
