//! Where the pixels of an uncompressed instance begin: the bytes of a data set in -> the range of Pixel Data (7FE0,0010) at its end.
//!
//! Pixels are nearly all of an instance. Found beforehand they are read where they lie, and only what stands before them is parsed. Iterative and
//! bounded by the bytes; whatever is not plain (another VR, anything but zeros behind the pixels) gives `None`, and the whole is parsed.

use std::ops::Range;

use crate::domain::vr::has_long_length;

const UNDEFINED: u32 = u32::MAX;
const PIXEL_DATA: (u16, u16) = (0x7fe0, 0x0010);
/// Item, Item Delimitation Item, Sequence Delimitation Item (PS3.5 section 7.5).
const ITEMS: u16 = 0xfffe;
const ITEM_END: u16 = 0xe00d;
const SEQUENCE_END: u16 = 0xe0dd;

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes([*bytes.get(at)?, *bytes.get(at.checked_add(1)?)?]))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from(u16_at(bytes, at)?) | u32::from(u16_at(bytes, at.checked_add(2)?)?) << 16)
}

/// Pixel Data in a little-endian data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tail {
    /// Bytes of all other elements.
    pub(super) n_other: usize,
    /// Its value where it is plain and ends the data set; `None` for compressed pixels in fragments.
    pub(super) native: Option<Range<usize>>,
}

/// Finds the pixels.
pub(super) fn find_pixels(data_set: &[u8], is_explicit: bool) -> Option<Tail> {
    let (mut at, mut depth) = (0_usize, 0_usize);
    while at < data_set.len() {
        let begin = at;
        let tag = (u16_at(data_set, at)?, u16_at(data_set, at + 2)?);
        at += 4;
        let (length, is_nested) = if tag.0 == ITEMS || !is_explicit {
            let length = u32_at(data_set, at)?;
            at += 4;
            (length, length == UNDEFINED)
        } else {
            let vr: &[u8; 2] = data_set.get(at..at + 2)?.try_into().ok()?;
            let is_long = has_long_length(*vr);
            let length = if is_long { u32_at(data_set, at + 4)? } else { u32::from(u16_at(data_set, at + 2)?) };
            at += if is_long { 8 } else { 4 };
            if tag == PIXEL_DATA && depth == 0 && length == UNDEFINED {
                return Some(Tail { n_other: begin, native: None });
            }
            if length == UNDEFINED && vr != b"SQ" || tag == PIXEL_DATA && depth == 0 && vr != b"OB" && vr != b"OW" {
                return None; // UN of undefined length holds implicit VRs; pixels of an odd kind
            }
            (length, length == UNDEFINED)
        };
        match tag {
            (ITEMS, ITEM_END | SEQUENCE_END) => depth = depth.checked_sub(1)?,
            _ if is_nested => depth += 1,
            _ => {
                let end = at.checked_add(usize::try_from(length).ok()?)?;
                if tag == PIXEL_DATA && depth == 0 {
                    let behind = data_set.get(end..)?;
                    // Some writers pad the file with zeros.
                    let is_plain = length % 2 == 0 && behind.iter().all(|&byte| byte == 0);
                    let n_other = begin + if is_plain { 0 } else { behind.len() };
                    return Some(Tail { n_other, native: is_plain.then_some(at..end) });
                }
                at = end;
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Explicit VR: a number, a sequence of undefined length with an item that holds pixels of its own (an icon), and the pixels.
    fn explicit() -> Vec<u8> {
        let mut bytes = b"\x28\x00\x10\x00US\x02\x00\x04\x00".to_vec();
        bytes.extend(b"\x88\x00\x00\x02SQ\x00\x00\xff\xff\xff\xff");
        bytes.extend(b"\xfe\xff\x00\xe0\xff\xff\xff\xff");
        bytes.extend(b"\xe0\x7f\x10\x00OW\x00\x00\x02\x00\x00\x00\x01\x02");
        bytes.extend(b"\xfe\xff\x0d\xe0\x00\x00\x00\x00\xfe\xff\xdd\xe0\x00\x00\x00\x00");
        bytes.extend(b"\xe0\x7f\x10\x00OW\x00\x00\x04\x00\x00\x00\x05\x06\x07\x08");
        bytes
    }

    #[test]
    fn the_pixels_of_the_image_are_found_and_not_those_of_its_icon() {
        let bytes = explicit();
        let Tail { n_other: begin, native } = find_pixels(&bytes, true).expect("found");
        assert_eq!(bytes[native.expect("native")], [5, 6, 7, 8]);
        assert_eq!(bytes[begin..begin + 4], [0xe0, 0x7f, 0x10, 0x00]);
        let implicit = b"\x28\x00\x10\x00\x02\x00\x00\x00\x04\x00\xe0\x7f\x10\x00\x02\x00\x00\x00\x09\x0a";
        assert_eq!(find_pixels(implicit, false), Some(Tail { n_other: 10, native: Some(18..20) }));
    }

    #[test]
    fn what_is_not_plain_is_left_to_the_parser() {
        let mut cut = explicit();
        cut.pop();
        assert_eq!(find_pixels(&cut, true), None, "fewer bytes than declared");
        let mut more = explicit();
        more.extend(b"\xfc\xff\xfc\xffOB\x00\x00\x00\x00\x00\x00");
        let tail = find_pixels(&more, true).expect("found");
        assert_eq!(tail, Tail { n_other: explicit().len() - 16 + 12, native: None }, "something behind the pixels");
        let padded = [explicit(), vec![0; 12]].concat();
        assert_eq!(find_pixels(&padded, true), find_pixels(&explicit(), true), "zeros behind the pixels are padding");
        let fragments = find_pixels(b"\xe0\x7f\x10\x00OB\x00\x00\xff\xff\xff\xff", true);
        assert_eq!(fragments, Some(Tail { n_other: 0, native: None }), "compressed");
    }

    proptest! {
        #[test]
        fn any_bytes_are_walked_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), flip in 0_usize..75, is_explicit in any::<bool>()) {
            let _ = find_pixels(&bytes, is_explicit);
            let mut known = explicit();
            if let (Some(place), Some(&byte)) = (known.get_mut(flip), bytes.first()) {
                *place = byte;
            }
            if let Some(Tail { native: Some(pixels), .. }) = find_pixels(&known, is_explicit) {
                prop_assert!(known[pixels.end..].iter().all(|&byte| byte == 0));
            }
        }
    }
}
