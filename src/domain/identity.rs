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

/// SHA-256 of a certificate's DER form: how a site names one certificate ("pin"). `openssl x509 -noout -fingerprint -sha256` prints it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CertificateSha256([u8; 32]);

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
    /// the value is no SHA-256 fingerprint
    #[error("a SHA-256 fingerprint has 64 hexadecimal digits, with or without colons between the pairs")]
    NoFingerprint,
}

impl CertificateSha256 {
    /// The digest itself.
    #[must_use]
    pub const fn new(digest: [u8; 32]) -> Self {
        Self(digest)
    }

    /// Reads 64 hexadecimal digits; colons between the pairs, as openssl prints them, are fine.
    ///
    /// # Errors
    /// [`IdentityError::NoFingerprint`].
    pub fn try_new(text: &str) -> Result<Self, IdentityError> {
        let plain = text.len() == 64;
        let with_colons = text.len() == 95 && text.bytes().skip(2).step_by(3).all(|b| b == b':');
        if !plain && !with_colons {
            return Err(IdentityError::NoFingerprint);
        }
        let mut digits = text.chars().filter(|c| *c != ':').map(|c| c.to_digit(16));
        let mut digest = [0; 32];
        for byte in &mut digest {
            let (Some(Some(high)), Some(Some(low))) = (digits.next(), digits.next()) else {
                return Err(IdentityError::NoFingerprint);
            };
            *byte = u8::try_from(high * 16 + low).map_err(|_| IdentityError::NoFingerprint)?;
        }
        if digits.next().is_some() { Err(IdentityError::NoFingerprint) } else { Ok(Self(digest)) }
    }
}

impl fmt::Display for CertificateSha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for CertificateSha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
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

    #[test]
    fn fingerprint_is_read_as_openssl_prints_it() {
        let plain = "00ff".repeat(16);
        let pin = CertificateSha256::try_new(&plain).expect("plain");
        let colons: Vec<String> =
            plain.to_uppercase().as_bytes().chunks(2).map(|p| String::from_utf8_lossy(p).into_owned()).collect();
        assert_eq!(CertificateSha256::try_new(&colons.join(":")), Ok(pin));
        assert_eq!(pin.to_string(), plain);
        for wrong in ["", "00", &"0g".repeat(32), &"00:".repeat(32), &":".repeat(64), &"\u{e9}".repeat(32)] {
            assert_eq!(CertificateSha256::try_new(wrong), Err(IdentityError::NoFingerprint), "{wrong}");
        }
    }
}
