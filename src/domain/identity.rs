//! DICOM identifiers, checked once at the door: text in -> `Uid`, `AeTitle`.
//!
//! Names from peers are data (DESIGN.md rule 7): holding one of these types proves that its characters are harmless, yet no path
//! or query is ever built from it. Source: PS3.5 section 9 and table 6.2-1 (UI, AE).

use core::fmt;

/// A DICOM unique identifier: 1 to 64 characters, digits and dots, no empty component.
///
/// Components with a leading zero are forbidden by PS3.5 section 9.1 but are sent by real devices; they are accepted.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(heapless::String<64>);

/// An application entity title: 1 to 16 characters of the default repertoire, no backslash, no control characters;
/// leading and trailing spaces are not significant and are removed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AeTitle(heapless::String<16>);

/// Why a text is not an identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// the value is empty
    #[error("the value is empty")]
    Empty,
    /// the value is longer than the standard allows
    #[error("the value is longer than the {0} characters that DICOM allows")]
    TooLong(usize),
    /// the value holds a character that the standard forbids there
    #[error("the value holds a character that DICOM forbids there")]
    BadCharacter,
}

impl Uid {
    /// Checks `text`; trailing NUL and space padding is removed first (PS3.5 section 9.4 pads with NUL, some peers with space).
    ///
    /// # Errors
    /// [`IdentityError`] says what is wrong.
    pub fn try_new(text: &str) -> Result<Self, IdentityError> {
        let text = text.trim_end_matches(['\0', ' ']).trim_start_matches(' ');
        if text.is_empty() {
            return Err(IdentityError::Empty);
        }
        if text.len() > 64 {
            return Err(IdentityError::TooLong(64));
        }
        let fine = text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
            && !text.starts_with('.')
            && !text.ends_with('.')
            && !text.contains("..");
        if !fine {
            return Err(IdentityError::BadCharacter);
        }
        heapless::String::try_from(text).map(Self).map_err(|_| IdentityError::TooLong(64))
    }

    /// The characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AeTitle {
    /// Checks `text`.
    ///
    /// # Errors
    /// [`IdentityError`] says what is wrong.
    pub fn try_new(text: &str) -> Result<Self, IdentityError> {
        let text = text.trim_matches([' ', '\0']);
        if text.is_empty() {
            return Err(IdentityError::Empty);
        }
        if text.len() > 16 {
            return Err(IdentityError::TooLong(16));
        }
        if !text.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'\\') {
            return Err(IdentityError::BadCharacter);
        }
        heapless::String::try_from(text).map(Self).map_err(|_| IdentityError::TooLong(16))
    }

    /// The characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for AeTitle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AeTitle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_traversal_is_no_uid() {
        assert_eq!(Uid::try_new("1.2.../../etc/passwd"), Err(IdentityError::BadCharacter));
        assert_eq!(Uid::try_new("1..2"), Err(IdentityError::BadCharacter));
        assert_eq!(Uid::try_new(&"1".repeat(65)), Err(IdentityError::TooLong(64)));
        assert_eq!(Uid::try_new("\0"), Err(IdentityError::Empty));
        assert_eq!(Uid::try_new("1.2.840\0").expect("padded").as_str(), "1.2.840");
    }

    #[test]
    fn ae_title_loses_its_padding_and_refuses_control_characters() {
        assert_eq!(AeTitle::try_new(" MR1     ").expect("padded").as_str(), "MR1");
        assert_eq!(AeTitle::try_new("A\nB"), Err(IdentityError::BadCharacter));
        assert_eq!(AeTitle::try_new("SEVENTEEN_LETTERS"), Err(IdentityError::TooLong(16)));
    }
}
