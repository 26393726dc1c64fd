//! Value representations: two bytes of an Explicit VR data set in -> how its length is written.

/// Whether an element of this VR has its length in four bytes, after two that are reserved (PS3.5 section 7.1.2, table 7.1-1).
#[must_use]
pub fn has_long_length(vr: [u8; 2]) -> bool {
    matches!(&vr, b"OB" | b"OD" | b"OF" | b"OL" | b"OV" | b"OW" | b"SQ" | b"SV" | b"UC" | b"UN" | b"UR" | b"UT" | b"UV")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thirteen_long_ones_are_known_and_no_other() {
        let letters = || b'A'..=b'Z';
        let n = letters().flat_map(|a| letters().map(move |b| [a, b])).filter(|vr| has_long_length(*vr)).count();
        assert_eq!(n, 13);
        assert!(has_long_length(*b"SV") && !has_long_length(*b"US"));
    }
}
