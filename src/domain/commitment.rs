//! Storage commitment: which instances a peer asks to be kept, and the answer, one entry per instance. Types, and the answer's data set
//! as bytes, because `receive` (same association) and `deliver` (a new one) send the same. Source: PS3.4 annex J, tables J.3-1 and J.3-2.

use super::vr::has_long_length;
use super::{AeTitle, Uid};

/// Storage Commitment Push Model SOP Class (PS3.4 section J.3).
pub const STORAGE_COMMITMENT: &str = "1.2.840.10008.1.20.1";
/// Its well-known SOP instance.
pub const STORAGE_COMMITMENT_INSTANCE: &str = "1.2.840.10008.1.20.1.1";

/// An instance as a request names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SopReference {
    /// Referenced SOP Class UID (0008,1150).
    pub sop_class_uid: Uid,
    /// Referenced SOP Instance UID (0008,1155).
    pub sop_instance_uid: Uid,
}

/// Failure Reason (0008,1197), PS3.3 section C.14.1.1: the ones that this box has cause to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitmentFailure {
    /// The instance could not be looked at.
    Processing,
    /// It was never stored here, or it has been evicted since.
    NoSuchInstance,
    /// It is stored here as an object of another SOP class.
    ClassConflict,
}

impl CommitmentFailure {
    /// The code on the wire.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::Processing => 0x0110,
            Self::NoSuchInstance => 0x0112,
            Self::ClassConflict => 0x0119,
        }
    }

    /// The reason of that code.
    #[must_use]
    pub fn by_code(code: u16) -> Option<Self> {
        [Self::Processing, Self::NoSuchInstance, Self::ClassConflict].into_iter().find(|failure| failure.code() == code)
    }
}

/// One instance and whether it is committed: `None` for yes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitmentItem {
    /// Which.
    pub reference: SopReference,
    /// Why not.
    pub failure: Option<CommitmentFailure>,
}

/// A request with its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commitment {
    /// Transaction UID (0008,1195): the requester knows the answer by it.
    pub transaction_uid: Uid,
    /// Who asked, and gets the answer.
    pub requester: AeTitle,
    /// The instances in the order of the request.
    pub items: Vec<CommitmentItem>,
}

impl Commitment {
    /// How many instances are not committed.
    #[must_use]
    pub fn n_failed(&self) -> usize {
        self.items.iter().filter(|item| item.failure.is_some()).count()
    }

    /// Event Type ID: 1 when all are committed, 2 when failures exist (PS3.4 section J.3.3).
    #[must_use]
    pub fn event_type(&self) -> u16 {
        if self.n_failed() == 0 { 1 } else { 2 }
    }

    /// Event Information as a little endian data set (PS3.4 table J.3-2): `explicit` says which of the two.
    #[must_use]
    pub fn event_data_set(&self, explicit: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.items.len() * 160);
        element(&mut out, 0x1195, *b"UI", self.transaction_uid.as_str().as_bytes(), explicit);
        for (number, failed) in [(0x1198, true), (0x1199, false)] {
            let mut items = Vec::new();
            for item in self.items.iter().filter(|item| item.failure.is_some() == failed) {
                let mut body = Vec::with_capacity(160);
                element(&mut body, 0x1150, *b"UI", item.reference.sop_class_uid.as_str().as_bytes(), explicit);
                element(&mut body, 0x1155, *b"UI", item.reference.sop_instance_uid.as_str().as_bytes(), explicit);
                if let Some(failure) = item.failure {
                    element(&mut body, 0x1197, *b"US", &failure.code().to_le_bytes(), explicit);
                }
                items.extend_from_slice(&[0xFE, 0xFF, 0x00, 0xE0]);
                items.extend_from_slice(&length(body.len()).to_le_bytes());
                items.extend_from_slice(&body);
            }
            if !items.is_empty() {
                element(&mut out, number, *b"SQ", &items, explicit);
            }
        }
        out
    }
}

/// Data sets here are far below 4 GiB: a request has 4 MiB at most.
fn length(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(0)
}

/// Appends one element of group 0008, padded with NUL to an even length.
fn element(out: &mut Vec<u8>, number: u16, vr: [u8; 2], value: &[u8], explicit: bool) {
    let padded = value.len() + value.len() % 2;
    out.extend_from_slice(&[8, 0]);
    out.extend_from_slice(&number.to_le_bytes());
    match (explicit, has_long_length(vr)) {
        (false, _) => out.extend_from_slice(&length(padded).to_le_bytes()),
        (true, true) => {
            out.extend_from_slice(&[vr[0], vr[1], 0, 0]);
            out.extend_from_slice(&length(padded).to_le_bytes());
        }
        (true, false) => {
            out.extend_from_slice(&vr);
            out.extend_from_slice(&u16::try_from(padded).unwrap_or(0).to_le_bytes());
        }
    }
    out.extend_from_slice(value);
    out.resize(out.len() + value.len() % 2, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(instance: &str, failure: Option<CommitmentFailure>) -> CommitmentItem {
        let uid = |text: &str| Uid::try_new(text).expect("a UID");
        CommitmentItem { reference: SopReference { sop_class_uid: uid("1.2.3"), sop_instance_uid: uid(instance) }, failure }
    }

    fn commitment(items: Vec<CommitmentItem>) -> Commitment {
        let (transaction_uid, requester) = (Uid::try_new("2.25.1").expect("a UID"), AeTitle::try_new("MR1").expect("a title"));
        Commitment { transaction_uid, requester, items }
    }

    #[test]
    fn event_type_two_says_that_failures_exist() {
        assert_eq!(commitment(vec![item("1.1", None)]).event_type(), 1);
        let mixed = commitment(vec![item("1.1", None), item("1.2", Some(CommitmentFailure::NoSuchInstance))]);
        assert_eq!((mixed.event_type(), mixed.n_failed()), (2, 1));
        for code in [0x0110, 0x0112, 0x0119] {
            assert_eq!(CommitmentFailure::by_code(code).map(CommitmentFailure::code), Some(code));
        }
        assert_eq!(CommitmentFailure::by_code(0), None);
    }

    #[test]
    fn lists_are_written_in_order_of_tags_and_the_empty_one_is_left_out() {
        let failed = commitment(vec![item("1.1", Some(CommitmentFailure::ClassConflict))]).event_data_set(false);
        let text = |n: &[u8]| failed.windows(n.len()).position(|w| w == n);
        assert_eq!(text(&[8, 0, 0x95, 0x11]), Some(0));
        assert!(text(&[8, 0, 0x98, 0x11]).is_some() && text(&[8, 0, 0x99, 0x11]).is_none());
        assert!(text(&[8, 0, 0x97, 0x11, 2, 0, 0, 0, 0x19, 0x01]).is_some());
        let good = commitment(vec![item("1.1", None)]).event_data_set(true);
        assert!(good.windows(6).any(|w| w == [8, 0, 0x99, 0x11, b'S', b'Q']));
        assert_eq!(good.len() % 2, 0);
    }
}
