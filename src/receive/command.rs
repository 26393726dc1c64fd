//! DIMSE command sets: bytes of at most 64 KiB in -> `Command` out, and responses and our own requests built for the way back.
//! Source: PS3.7 chapters 9 and 10, section 6.3 (encoding: implicit VR little endian, group 0000 alone) and annex E (dictionary).

use crate::domain::Uid;

/// C-STORE-RQ.
pub const C_STORE_RQ: u16 = 0x0001;
/// C-ECHO-RQ.
pub const C_ECHO_RQ: u16 = 0x0030;
/// N-EVENT-REPORT-RQ: the one request that we send on an association which a peer has opened.
pub const N_EVENT_REPORT_RQ: u16 = 0x0100;
/// N-SET-RQ.
pub const N_SET_RQ: u16 = 0x0120;
/// N-ACTION-RQ.
pub const N_ACTION_RQ: u16 = 0x0130;
/// N-CREATE-RQ.
pub const N_CREATE_RQ: u16 = 0x0140;
/// Requests that name their SOP class and instance as requested, not as affected: N-GET, N-SET, N-ACTION, N-DELETE.
const REQUESTED: [u16; 4] = [0x0110, N_SET_RQ, N_ACTION_RQ, 0x0150];
/// C-CANCEL-RQ: has no answer of its own.
pub const C_CANCEL_RQ: u16 = 0x0FFF;
/// Set in the command field of every response.
pub const RESPONSE: u16 = 0x8000;
/// Command Data Set Type of a message without a data set.
const NO_DATA_SET: u16 = 0x0101;
/// Command Data Set Type of a message with one; any other value than 0101H will do.
const DATA_SET: u16 = 0x0001;

/// Status of a response (PS3.4 section B.2.3, PS3.7 annex C).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DimseStatus {
    /// Stored durably, or echo.
    Success,
    /// Invalid attribute value (N services).
    InvalidAttributeValue,
    /// Processing failure (N services).
    ProcessingFailure,
    /// Duplicate SOP instance (N-CREATE).
    DuplicateInstance,
    /// No such SOP instance (N-SET, N-ACTION).
    NoSuchInstance,
    /// Invalid argument value (N-ACTION).
    InvalidArgumentValue,
    /// Invalid SOP instance: its UID breaks the rules (N services).
    InvalidInstance,
    /// No such SOP class: not that of the presentation context (N services).
    NoSuchClass,
    /// The SOP instance is not of that SOP class (N services).
    ClassInstanceConflict,
    /// Missing attribute (N-CREATE).
    MissingAttribute,
    /// Missing attribute value (N-CREATE, N-SET).
    MissingAttributeValue,
    /// No such action (N-ACTION).
    NoSuchAction,
    /// Refused: SOP class not supported.
    SopClassNotSupported,
    /// Refused: not authorised.
    NotAuthorised,
    /// Unrecognised operation.
    UnrecognisedOperation,
    /// Resource limitation (N services).
    ResourceLimitation,
    /// Refused: out of resources.
    OutOfResources,
    /// Error: data set does not match SOP class.
    DataSetMismatch,
    /// Error: cannot understand.
    CannotUnderstand,
}

impl DimseStatus {
    /// Every status that is ever sent.
    pub const ALL: [Self; 19] = [
        Self::Success,
        Self::InvalidAttributeValue,
        Self::ProcessingFailure,
        Self::DuplicateInstance,
        Self::NoSuchInstance,
        Self::InvalidArgumentValue,
        Self::InvalidInstance,
        Self::NoSuchClass,
        Self::ClassInstanceConflict,
        Self::MissingAttribute,
        Self::MissingAttributeValue,
        Self::NoSuchAction,
        Self::SopClassNotSupported,
        Self::NotAuthorised,
        Self::UnrecognisedOperation,
        Self::ResourceLimitation,
        Self::OutOfResources,
        Self::DataSetMismatch,
        Self::CannotUnderstand,
    ];

    /// The code on the wire.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::Success => 0x0000,
            Self::InvalidAttributeValue => 0x0106,
            Self::ProcessingFailure => 0x0110,
            Self::DuplicateInstance => 0x0111,
            Self::NoSuchInstance => 0x0112,
            Self::InvalidArgumentValue => 0x0115,
            Self::InvalidInstance => 0x0117,
            Self::NoSuchClass => 0x0118,
            Self::ClassInstanceConflict => 0x0119,
            Self::MissingAttribute => 0x0120,
            Self::MissingAttributeValue => 0x0121,
            Self::NoSuchAction => 0x0123,
            Self::SopClassNotSupported => 0x0122,
            Self::NotAuthorised => 0x0124,
            Self::UnrecognisedOperation => 0x0211,
            Self::ResourceLimitation => 0x0213,
            Self::OutOfResources => 0xA700,
            Self::DataSetMismatch => 0xA900,
            Self::CannotUnderstand => 0xC000,
        }
    }
}

/// What is needed of a command set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// Command Field (0000,0100).
    pub field: u16,
    /// Message ID (0000,0110).
    pub message_id: u16,
    /// Whether a data set follows: Command Data Set Type (0000,0800) is not 0101H.
    pub has_data_set: bool,
    /// Affected SOP Class UID (0000,0002), or the requested one (0000,0003) of an N-SET or N-ACTION, when it is there and valid.
    pub sop_class_uid: Option<Uid>,
    /// Affected SOP Instance UID (0000,1000), or the requested one (0000,1001), when it is there and valid.
    pub sop_instance_uid: Option<Uid>,
    /// Whether that element is there, not empty, and no UID.
    pub sop_instance_is_bad: bool,
    /// Message ID Being Responded To (0000,0120), of responses.
    pub answers: u16,
    /// Status (0000,0900), of responses.
    pub status: Option<u16>,
    /// Action Type ID (0000,1008), of N-ACTION.
    pub action_type: Option<u16>,
}

/// Why bytes are no command set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// the command set ends inside an element
    #[error("the command set ends inside an element")]
    Truncated,
    /// the command set holds an element that is not of group 0000
    #[error("the command set holds an element that is not of group 0000")]
    ForeignElement,
    /// the command set lacks its command field, message identifier or data set type
    #[error("the command set lacks its command field, message identifier or data set type")]
    Incomplete,
}

/// Reads a command set. Elements that nobody needs are passed over; invalid UIDs are `None`.
///
/// # Errors
/// [`CommandError`] says what is wrong.
pub fn parse_command(bytes: &[u8]) -> Result<Command, CommandError> {
    let mut rest = bytes;
    let (mut field, mut message_id, mut data_set_type) = (None, None, None);
    let mut command = Command::default();
    let (mut classes, mut instances) = ([None, None], [None, None]);
    while !rest.is_empty() {
        let (head, after) = rest.split_first_chunk::<8>().ok_or(CommandError::Truncated)?;
        let [g0, g1, e0, e1, l0, l1, l2, l3] = *head;
        let length = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).map_err(|_| CommandError::Truncated)?;
        let (value, after) = after.split_at_checked(length).ok_or(CommandError::Truncated)?;
        rest = after;
        if u16::from_le_bytes([g0, g1]) != 0 {
            return Err(CommandError::ForeignElement);
        }
        let number = || value.first_chunk::<2>().map(|bytes| u16::from_le_bytes(*bytes));
        let uid = || Uid::try_new(&String::from_utf8_lossy(value)).ok();
        match u16::from_le_bytes([e0, e1]) {
            number @ (0x0002 | 0x0003) => classes[usize::from(number & 1)] = uid(),
            0x0100 => field = number(),
            0x0110 => message_id = number(),
            0x0120 => command.answers = number().unwrap_or(0),
            0x0800 => data_set_type = number(),
            0x0900 => command.status = number(),
            number @ (0x1000 | 0x1001) => {
                let is_empty = value.iter().all(|byte| matches!(byte, 0 | b' '));
                instances[usize::from(number & 1)] = (!is_empty).then(uid);
            }
            0x1008 => command.action_type = number(),
            _ => {}
        }
    }
    command.field = field.ok_or(CommandError::Incomplete)?;
    let which = usize::from(REQUESTED.contains(&command.field));
    command.sop_class_uid = std::mem::take(&mut classes[which]);
    let instance = std::mem::take(&mut instances[which]);
    command.sop_instance_is_bad = matches!(instance, Some(None));
    command.sop_instance_uid = instance.flatten();
    // Responses and C-CANCEL carry (0000,0120) instead of a message identifier of their own.
    let has_id = command.field & RESPONSE == 0 && command.field != C_CANCEL_RQ;
    command.message_id = if has_id { message_id.ok_or(CommandError::Incomplete)? } else { 0 };
    command.has_data_set = data_set_type.ok_or(CommandError::Incomplete)? != NO_DATA_SET;
    Ok(command)
}

/// What a response says beside its status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Particulars<'a> {
    /// Error Comment (0000,0902), at most 64 characters are sent; empty for none.
    pub comment: &'a str,
    /// Error ID (0000,0903).
    pub error_id: Option<u16>,
    /// Attribute Identifier List (0000,1005): the one attribute that it is about.
    pub attribute: Option<u32>,
}

/// The response to `request`, with an Error Comment (at most 64 characters are sent) unless it is empty.
#[must_use]
pub fn response_to(request: &Command, status: DimseStatus, comment: &str) -> Vec<u8> {
    response_with(request, status, &Particulars { comment, ..Particulars::default() })
}

/// As [`response_to`], with all that the N services may say (PS3.7 section 10.3).
#[must_use]
pub fn response_with(request: &Command, status: DimseStatus, particulars: &Particulars<'_>) -> Vec<u8> {
    let mut body = Vec::with_capacity(256);
    if let Some(uid) = &request.sop_class_uid {
        put(&mut body, 0x0002, uid.as_str().as_bytes(), 0);
    }
    put(&mut body, 0x0100, &(request.field | RESPONSE).to_le_bytes(), 0);
    put(&mut body, 0x0120, &request.message_id.to_le_bytes(), 0);
    put(&mut body, 0x0800, &NO_DATA_SET.to_le_bytes(), 0);
    put(&mut body, 0x0900, &status.code().to_le_bytes(), 0);
    let Particulars { comment, error_id, attribute } = *particulars;
    if !comment.is_empty() && status != DimseStatus::Success {
        let ascii: Vec<u8> = comment.bytes().filter(|b| (0x20..0x7f).contains(b) && *b != b'\\').take(64).collect();
        put(&mut body, 0x0902, &ascii, b' ');
    }
    if let Some(id) = error_id {
        put(&mut body, 0x0903, &id.to_le_bytes(), 0);
    }
    if let Some(uid) = &request.sop_instance_uid {
        put(&mut body, 0x1000, uid.as_str().as_bytes(), 0);
    }
    if let Some(tag) = attribute {
        let [g1, g0, e1, e0] = tag.to_be_bytes();
        put(&mut body, 0x1005, &[g0, g1, e0, e1], 0);
    }
    if let Some(action_type) = request.action_type.filter(|_| request.field == N_ACTION_RQ) {
        put(&mut body, 0x1008, &action_type.to_le_bytes(), 0);
    }
    with_group_length(&body)
}

/// N-EVENT-REPORT-RQ with a data set (PS3.7 section 10.3.1).
#[must_use]
pub fn event_report_request(message_id: u16, sop_class_uid: &str, sop_instance_uid: &str, event_type: u16) -> Vec<u8> {
    let mut body = Vec::with_capacity(128);
    put(&mut body, 0x0002, sop_class_uid.as_bytes(), 0);
    put(&mut body, 0x0100, &N_EVENT_REPORT_RQ.to_le_bytes(), 0);
    put(&mut body, 0x0110, &message_id.to_le_bytes(), 0);
    put(&mut body, 0x0800, &DATA_SET.to_le_bytes(), 0);
    put(&mut body, 0x1000, sop_instance_uid.as_bytes(), 0);
    put(&mut body, 0x1002, &event_type.to_le_bytes(), 0);
    with_group_length(&body)
}

fn with_group_length(body: &[u8]) -> Vec<u8> {
    let mut set = Vec::with_capacity(body.len() + 12);
    put(&mut set, 0x0000, &u32::try_from(body.len()).unwrap_or(0).to_le_bytes(), 0);
    set.extend_from_slice(body);
    set
}

/// Appends one element of group 0000, padded to an even length.
fn put(set: &mut Vec<u8>, element: u16, value: &[u8], padding: u8) {
    let length = value.len() + value.len() % 2;
    set.extend_from_slice(&[0, 0]);
    set.extend_from_slice(&element.to_le_bytes());
    set.extend_from_slice(&u32::try_from(length).unwrap_or(0).to_le_bytes());
    set.extend_from_slice(value);
    set.resize(set.len() + value.len() % 2, padding);
}

/// P-DATA-TF PDUs that carry a command set, each no longer than the peer takes (0: no limit). PS3.8 section 9.3.5 and annex E.
#[must_use]
pub fn command_pdus(context_id: u8, set: &[u8], peer_pdu_length_max: u32) -> Vec<u8> {
    message_pdus(context_id, set, peer_pdu_length_max, true)
}

/// The same for a data set.
#[must_use]
pub fn data_pdus(context_id: u8, set: &[u8], peer_pdu_length_max: u32) -> Vec<u8> {
    message_pdus(context_id, set, peer_pdu_length_max, false)
}

fn message_pdus(context_id: u8, set: &[u8], peer_pdu_length_max: u32, is_command: bool) -> Vec<u8> {
    // A peer that takes less than one small fragment is mistaken; it gets fragments of 64 bytes.
    let limit = if peer_pdu_length_max == 0 { 16_384 } else { peer_pdu_length_max.clamp(70, 16_384) };
    let chunk = usize::try_from(limit).unwrap_or(70) - 6;
    let n_chunks = set.len().div_ceil(chunk);
    let mut pdus = Vec::with_capacity(set.len() + 12 * n_chunks);
    for (idx, fragment) in set.chunks(chunk).enumerate() {
        let length = u32::try_from(fragment.len()).unwrap_or(0);
        pdus.extend_from_slice(&[0x04, 0]);
        pdus.extend_from_slice(&(length + 6).to_be_bytes());
        pdus.extend_from_slice(&(length + 2).to_be_bytes());
        pdus.extend_from_slice(&[context_id, (if idx + 1 == n_chunks { 0b10 } else { 0b00 }) | u8::from(is_command)]);
        pdus.extend_from_slice(fragment);
    }
    pdus
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request() -> Vec<u8> {
        let mut set = Vec::new();
        put(&mut set, 0x0002, b"1.2.840.10008.5.1.4.1.1.4", 0);
        put(&mut set, 0x0100, &C_STORE_RQ.to_le_bytes(), 0);
        put(&mut set, 0x0110, &7_u16.to_le_bytes(), 0);
        put(&mut set, 0x0700, &0_u16.to_le_bytes(), 0);
        put(&mut set, 0x0800, &1_u16.to_le_bytes(), 0);
        put(&mut set, 0x1000, b"1.2.3", 0);
        set
    }

    #[test]
    fn request_is_read_and_answered_under_its_message_id() {
        let command = parse_command(&request()).unwrap();
        assert_eq!((command.field, command.message_id, command.has_data_set), (C_STORE_RQ, 7, true));
        let response = response_to(&command, DimseStatus::OutOfResources, "store full");
        let [.., a, b, c, d] = response[..12] else { panic!("group length expected") };
        assert_eq!(u32::from_le_bytes([a, b, c, d]) as usize, response.len() - 12);
        let read = parse_command(&response).unwrap();
        assert_eq!((read.field, read.has_data_set), (0x8001, false));
        assert_eq!((read.sop_class_uid, read.sop_instance_uid), (command.sop_class_uid, command.sop_instance_uid));
        assert!(response.windows(10).any(|w| w == b"store full"));
    }

    #[test]
    fn requested_names_are_read_and_answered_as_affected() {
        let mut set = Vec::new();
        put(&mut set, 0x0003, b"1.2.840.10008.3.1.2.3.3", 0);
        put(&mut set, 0x0100, &N_SET_RQ.to_le_bytes(), 0);
        put(&mut set, 0x0110, &3_u16.to_le_bytes(), 0);
        put(&mut set, 0x0800, &0_u16.to_le_bytes(), 0);
        put(&mut set, 0x1001, b"1.2.3.4", 0);
        let command = parse_command(&set).unwrap();
        assert_eq!(command.sop_instance_uid.as_ref().map(Uid::as_str), Some("1.2.3.4"));
        let particulars = Particulars { comment: "no", error_id: Some(0xA710), attribute: Some(0x0040_0252) };
        let response = response_with(&command, DimseStatus::ProcessingFailure, &particulars);
        let read = parse_command(&response).unwrap();
        assert_eq!((read.field, read.answers, read.status), (0x8120, 3, Some(0x0110)));
        assert_eq!((read.sop_class_uid, read.sop_instance_uid), (command.sop_class_uid, command.sop_instance_uid));
        assert!(response.windows(10).any(|w| w == [0, 0, 0x03, 0x09, 2, 0, 0, 0, 0x10, 0xA7]), "error id");
        assert!(response.windows(12).any(|w| w == [0, 0, 0x05, 0x10, 4, 0, 0, 0, 0x40, 0, 0x52, 0x02]), "attribute");
    }

    #[test]
    fn absent_empty_and_bad_instance_names_differ() {
        let with = |value: Option<&[u8]>| {
            let mut set = Vec::new();
            put(&mut set, 0x0100, &N_CREATE_RQ.to_le_bytes(), 0);
            put(&mut set, 0x0110, &3_u16.to_le_bytes(), 0);
            put(&mut set, 0x0800, &0_u16.to_le_bytes(), 0);
            value.into_iter().for_each(|value| put(&mut set, 0x1000, value, 0));
            let command = parse_command(&set).unwrap();
            (command.sop_instance_uid.is_some(), command.sop_instance_is_bad)
        };
        assert_eq!(with(None), (false, false));
        assert_eq!(with(Some(b"")), (false, false));
        assert_eq!(with(Some(b"1..2")), (false, true));
        assert_eq!(with(Some(b"1.2")), (true, false));
    }

    #[test]
    fn invalid_uid_is_no_uid_and_is_not_echoed() {
        let mut set = request();
        let at = set.windows(5).position(|w| w == b"1.2.3").unwrap();
        set[at..at + 5].copy_from_slice(b"../.."); // as long as before
        let command = parse_command(&set).unwrap();
        assert_eq!(command.sop_instance_uid, None);
        assert!(!response_to(&command, DimseStatus::CannotUnderstand, "").windows(5).any(|w| w == b"../.."));
    }

    #[test]
    fn command_cut_at_any_byte_is_an_error() {
        let set = request();
        for cut in 0..set.len() {
            assert!(parse_command(&set[..cut]).is_err() || cut == set.len() - 14, "cut at {cut}");
        }
        assert_eq!(parse_command(&[0x08, 0, 0x18, 0, 0, 0, 0, 0]), Err(CommandError::ForeignElement));
    }

    proptest! {
        #[test]
        fn arbitrary_commands_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            let _ = parse_command(&bytes);
        }

        #[test]
        fn response_is_whole_after_fragmentation(limit in 0..400_u32) {
            let set = response_to(&parse_command(&request()).unwrap(), DimseStatus::DataSetMismatch, "other SOP instance");
            let pdus = command_pdus(3, &set, limit);
            let (mut rest, mut joined, mut last) = (pdus.as_slice(), Vec::new(), false);
            while !rest.is_empty() {
                prop_assert!(!last);
                let length = u32::from_be_bytes(rest[2..6].try_into().unwrap());
                prop_assert!(limit == 0 || length <= limit.max(70));
                prop_assert_eq!(u32::from_be_bytes(rest[6..10].try_into().unwrap()) + 4, length);
                prop_assert_eq!(rest[10], 3);
                last = rest[11] == 0b11;
                let end = 6 + length as usize;
                joined.extend_from_slice(&rest[12..end]);
                rest = &rest[end..];
            }
            prop_assert!(last);
            prop_assert_eq!(joined, set);
        }
    }
}
