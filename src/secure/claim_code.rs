//! The claim code of a box: random bytes in -> sixteen characters in four groups, out; what a person typed -> the same form. Pure.
//!
//! Whoever stands at the box's console, or holds its delivery note, has the code, and by it may log in to the page of a box that has no
//! users yet. 16 characters of an alphabet of 32 are 80 bits: at the ten attempts a second that the page takes at most, half of all codes
//! would take 1.9e15 years. The alphabet has no I, O, 0 and 1, which look alike on a console.

use std::fmt;

/// The characters; 32, so that five bits make one.
const ALPHABET: &[u8; 32] = b"23456789ABCDEFGHJKLMNPQRSTUVWXYZ";
/// Characters of a code.
const LENGTH: usize = 16;
/// Characters of a group.
const GROUP: usize = 4;

/// A claim code. Its `Debug` form does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct ClaimCode([u8; LENGTH]);

impl ClaimCode {
    /// The code that random bytes make; five bits of each count.
    #[must_use]
    pub fn of(random: [u8; LENGTH]) -> Self {
        Self(random.map(|byte| ALPHABET[usize::from(byte % 32)]))
    }

    /// Reads what a person typed, or the text of the file: in any case, with or without dashes and spaces. `None` when it is no code.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > 256 {
            return None;
        }
        let mut characters = text.bytes().filter(|b| !b.is_ascii_whitespace() && *b != b'-').map(|b| b.to_ascii_uppercase());
        let mut code = [0; LENGTH];
        for place in &mut code {
            *place = characters.next().filter(|b| ALPHABET.contains(b))?;
        }
        characters.next().is_none().then_some(Self(code))
    }

    /// The characters, without dashes: what is compared.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for ClaimCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, group) in self.0.chunks(GROUP).enumerate() {
            let dash = if number == 0 { "" } else { "-" };
            write!(f, "{dash}{}", String::from_utf8_lossy(group))?;
        }
        Ok(())
    }
}

impl fmt::Debug for ClaimCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClaimCode(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_code_reads_as_four_groups_and_no_log_shows_it() {
        let code = ClaimCode::of(*b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\xff");
        assert_eq!(code.to_string(), "2345-6789-ABCD-EFGZ");
        assert_eq!(format!("{code:?}"), "ClaimCode(hidden)");
        assert_eq!(ClaimCode::parse(" 2345 6789 abcd efgz\n"), Some(code.clone()));
        assert_eq!(ClaimCode::parse("23456789ABCDEFGZ"), Some(code));
    }

    #[test]
    fn what_is_no_code_is_refused() {
        for text in [
            "",
            "2345-6789-ABCD-EFG",
            "2345-6789-ABCD-EFGZ2",
            "0345-6789-ABCD-EFGZ",
            "2345-6789-ABCD-EFGÄ",
            "I345-6789-ABCD-EFGZ",
        ] {
            assert_eq!(ClaimCode::parse(text), None, "{text:?}");
        }
        assert_eq!(ClaimCode::parse(&" ".repeat(1000)), None);
    }

    proptest! {
        #[test]
        fn every_code_is_read_back_as_it_was_written(random: [u8; LENGTH]) {
            let code = ClaimCode::of(random);
            prop_assert_eq!(ClaimCode::parse(&code.to_string()), Some(code.clone()));
            prop_assert_eq!(ClaimCode::parse(&code.to_string().to_lowercase().replace('-', " ")), Some(code));
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in ".{0,80}") {
            let _ = ClaimCode::parse(&text);
        }
    }
}
