//! DIMSE messages that we send on associations of our own: requests -> bytes, response bytes -> status and counts. Pure.
//!
//! Command sets are Implicit VR Little Endian whatever the transfer syntax (PS3.7 section 6.3.1); the elements are those of PS3.7
//! sections 9.3.1 (C-STORE), 9.3.2 (C-FIND), 9.3.4 (C-MOVE) and 9.3.5 (C-ECHO), annex E. C-FIND and C-MOVE are written in
//! `query_messages.rs`.

/// Verification SOP Class (PS3.4 annex A).
pub(super) const VERIFICATION: &str = "1.2.840.10008.1.1";
/// Implicit VR Little Endian: the default transfer syntax, which every peer takes (PS3.5 section 10.1).
pub(super) const IMPLICIT_LE: &str = "1.2.840.10008.1.2";
/// Explicit VR Little Endian.
pub(super) const EXPLICIT_LE: &str = "1.2.840.10008.1.2.1";
/// Longest response command set that is read; a real one has about 150 bytes.
pub(super) const COMMAND_BYTES_MAX: usize = 65_536;

/// Command Data Set Type: no data set follows (PS3.7 annex E.1).
pub(super) const NO_DATA_SET: u16 = 0x0101;
/// Command Data Set Type: a data set follows; any other value will do.
pub(super) const DATA_SET: u16 = 0x0001;

/// What was asked for: the Command Field (0000,0100) of its request (PS3.7 annex E.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// C-STORE.
    Store,
    /// C-FIND.
    Find,
    /// C-MOVE.
    Move,
    /// C-ECHO.
    Echo,
    /// N-EVENT-REPORT.
    EventReport,
}

impl Request {
    /// Command Field of the request.
    pub(super) const fn field(self) -> u16 {
        match self {
            Self::Store => 0x0001,
            Self::Find => 0x0020,
            Self::Move => 0x0021,
            Self::Echo => 0x0030,
            Self::EventReport => 0x0100,
        }
    }

    /// Command Field of its response.
    pub(super) const fn response_field(self) -> u16 {
        self.field() | 0x8000
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Store => "C-STORE",
            Self::Find => "C-FIND",
            Self::Move => "C-MOVE",
            Self::Echo => "C-ECHO",
            Self::EventReport => "N-EVENT-REPORT",
        }
    }
}

/// Sub-operations of a C-MOVE as its responses count them (0000,1020) to (0000,1023); a peer may leave any of them out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SubOperations {
    /// Still to be done.
    pub(super) n_remaining: Option<u16>,
    /// Done.
    pub(super) n_completed: Option<u16>,
    /// Failed.
    pub(super) n_failed: Option<u16>,
    /// Done with a warning.
    pub(super) n_warning: Option<u16>,
}

/// What a response says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Response {
    /// Status (0000,0900).
    pub(super) status: u16,
    /// Error Comment (0000,0902) without control characters, at most 64 characters.
    pub(super) comment: Option<String>,
    /// Whether a data set follows (0000,0800).
    pub(super) has_data_set: bool,
    /// Sub-operations of a C-MOVE.
    pub(super) sub_operations: SubOperations,
}

/// Appends an element of group 0000.
pub(super) fn element(out: &mut Vec<u8>, number: u16, value: &[u8]) {
    out.extend_from_slice(&0x0000_u16.to_le_bytes());
    out.extend_from_slice(&number.to_le_bytes());
    // Values here are two bytes, an AE title or a UID of at most 64 characters.
    out.extend_from_slice(&u32::try_from(value.len()).unwrap_or(0).to_le_bytes());
    out.extend_from_slice(value);
}

/// Appends a UID of group 0000.
pub(super) fn uid(out: &mut Vec<u8>, number: u16, text: &str) {
    let mut value = text.as_bytes().to_vec();
    if value.len() % 2 == 1 {
        value.push(0); // PS3.5 section 6.2: UI is padded with NUL
    }
    element(out, number, &value);
}

/// The command set with its group length (0000,0000) before it.
pub(super) fn with_group_length(elements: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(elements.len() + 12);
    element(&mut out, 0x0000, &u32::try_from(elements.len()).unwrap_or(0).to_le_bytes());
    out.extend_from_slice(elements);
    out
}

/// A C-ECHO request.
pub(super) fn echo_request(message_id: u16) -> Vec<u8> {
    let mut out = Vec::new();
    uid(&mut out, 0x0002, VERIFICATION);
    element(&mut out, 0x0100, &Request::Echo.field().to_le_bytes());
    element(&mut out, 0x0110, &message_id.to_le_bytes());
    element(&mut out, 0x0800, &NO_DATA_SET.to_le_bytes());
    with_group_length(&out)
}

/// A C-STORE request of medium priority.
pub(super) fn store_request(message_id: u16, sop_class_uid: &str, sop_instance_uid: &str) -> Vec<u8> {
    let mut out = Vec::new();
    uid(&mut out, 0x0002, sop_class_uid);
    element(&mut out, 0x0100, &Request::Store.field().to_le_bytes());
    element(&mut out, 0x0110, &message_id.to_le_bytes());
    element(&mut out, 0x0700, &0_u16.to_le_bytes());
    element(&mut out, 0x0800, &DATA_SET.to_le_bytes());
    uid(&mut out, 0x1000, sop_instance_uid);
    with_group_length(&out)
}

/// An N-EVENT-REPORT request with a data set (PS3.7 section 10.3.1).
pub(super) fn event_report_request(message_id: u16, sop_class_uid: &str, sop_instance_uid: &str, event_type: u16) -> Vec<u8> {
    let mut out = Vec::new();
    uid(&mut out, 0x0002, sop_class_uid);
    element(&mut out, 0x0100, &Request::EventReport.field().to_le_bytes());
    element(&mut out, 0x0110, &message_id.to_le_bytes());
    element(&mut out, 0x0800, &DATA_SET.to_le_bytes());
    uid(&mut out, 0x1000, sop_instance_uid);
    element(&mut out, 0x1002, &event_type.to_le_bytes());
    with_group_length(&out)
}

/// Reads the response to a `request` with that message id.
///
/// # Errors
/// A sentence about what is wrong with it.
pub(super) fn parse_response(bytes: &[u8], message_id: u16, request: Request) -> Result<Response, String> {
    let (mut field, mut answered, mut status, mut comment, mut data_set_type) = (None, None, None, None, None);
    let mut sub_operations = SubOperations::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (Some(header), Some(after)) = (rest.get(..8), rest.get(8..)) else {
            return Err("the response's command set is cut".to_owned());
        };
        let group = u16::from_le_bytes([header[0], header[1]]);
        let number = u16::from_le_bytes([header[2], header[3]]);
        let length = usize::try_from(u32::from_le_bytes([header[4], header[5], header[6], header[7]])).unwrap_or(usize::MAX);
        let (Some(value), Some(next)) = (after.get(..length), after.get(length..)) else {
            return Err(format!("element ({group:04X},{number:04X}) of the response is longer than the response"));
        };
        if group != 0 {
            return Err(format!("element ({group:04X},{number:04X}) has no place in a command set"));
        }
        let number16 = <[u8; 2]>::try_from(value).map(u16::from_le_bytes).ok();
        match number {
            0x0100 => field = number16,
            0x0120 => answered = number16,
            0x0800 => data_set_type = number16,
            0x0900 => status = number16,
            0x0902 => comment = Some(printable(value)),
            0x1020 => sub_operations.n_remaining = number16,
            0x1021 => sub_operations.n_completed = number16,
            0x1022 => sub_operations.n_failed = number16,
            0x1023 => sub_operations.n_warning = number16,
            _ => {}
        }
        rest = next;
    }
    if field != Some(request.response_field()) {
        return Err(format!("the answer is no {} response", request.name()));
    }
    if answered != Some(message_id) {
        return Err(format!("the response answers message {answered:?}, not {message_id}"));
    }
    let status = status.ok_or_else(|| "the response has no status".to_owned())?;
    let has_data_set = data_set_type.is_some_and(|kind| kind != NO_DATA_SET);
    Ok(Response { status, comment: comment.filter(|text| !text.is_empty()), has_data_set, sub_operations })
}

fn printable(value: &[u8]) -> String {
    String::from_utf8_lossy(value).chars().filter(|c| !c.is_control()).take(64).collect::<String>().trim().to_owned()
}

/// The meaning of a C-STORE status (PS3.4 table B.2-1, PS3.7 annex C).
pub(super) fn status_meaning(status: u16) -> &'static str {
    match status {
        0x0000 => "stored",
        0xB000 => "stored, some elements coerced",
        0xB006 => "stored, some elements discarded",
        0xB007 => "stored, data set does not match the SOP class",
        0xA700..=0xA7FF => "refused: out of resources",
        0xA900..=0xA9FF => "refused: data set does not match the SOP class",
        0xC000..=0xCFFF => "refused: cannot understand",
        0x0117 => "refused: invalid SOP instance",
        0x0122 => "refused: SOP class not supported",
        0x0124 => "refused: not authorised",
        _ => "refused",
    }
}

/// Whether the peer holds the instance now: success or a warning (PS3.7 annex C.1.3: Bxxx and 0001, 0107, 0116).
pub(super) fn is_stored(status: u16) -> bool {
    matches!(status, 0x0000 | 0x0001 | 0x0107 | 0x0116 | 0xB000..=0xBFFF)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn response(request: Request, message_id: u16, status: u16, comment: &str) -> Vec<u8> {
        let mut out = Vec::new();
        uid(&mut out, 0x0002, VERIFICATION);
        element(&mut out, 0x0100, &request.response_field().to_le_bytes());
        element(&mut out, 0x0120, &message_id.to_le_bytes());
        element(&mut out, 0x0800, &NO_DATA_SET.to_le_bytes());
        element(&mut out, 0x0900, &status.to_le_bytes());
        element(&mut out, 0x0902, comment.as_bytes());
        with_group_length(&out)
    }

    #[test]
    fn group_length_counts_what_follows_and_uids_are_even() {
        let bytes = store_request(7, "1.2.3", "1.2.3.4");
        let declared = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
        assert_eq!(usize::try_from(declared).expect("small"), bytes.len() - 12);
        assert_eq!(bytes.len() % 2, 0);
    }

    #[test]
    fn a_response_to_another_message_is_no_answer() {
        let bytes = response(Request::Store, 7, 0xA700, "disk\u{7} full ");
        let parsed = parse_response(&bytes, 7, Request::Store).expect("well formed");
        assert_eq!((parsed.status, parsed.comment.as_deref(), parsed.has_data_set), (0xA700, Some("disk full"), false));
        assert!(parse_response(&bytes, 8, Request::Store).is_err());
        assert!(parse_response(&bytes, 7, Request::Echo).is_err());
        assert!(parse_response(&bytes[..bytes.len() - 1], 7, Request::Store).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_response_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_response(&bytes, 1, Request::Store);
        }

        #[test]
        fn a_response_with_one_bad_byte_is_read_or_refused(at in 0usize..90, value: u8) {
            let mut bytes = response(Request::Store, 1, 0, "fine");
            if let Some(byte) = bytes.get_mut(at) { *byte = value; }
            let _ = parse_response(&bytes, 1, Request::Store);
        }
    }
}
