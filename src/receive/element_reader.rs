//! The bytes below the header scan: a bounded source and the heads of data elements. File or inflated stream in -> element heads,
//! value bytes, positions out. Nothing here allocates by a length that a peer declared, and nothing recurses.
//!
//! Source: PS3.5 section 7.1 (data element structure), 7.5 (sequences), A.4 (encapsulated pixel data).

use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};

use super::header_scan::ScanError;
use crate::domain::vr::has_long_length;

/// A tag as one number: group in the upper 16 bits.
pub(super) type Tag = u32;
/// Value representation, two capital letters.
pub(super) type Vr = [u8; 2];

/// Item (FFFE,E000).
pub(super) const ITEM: Tag = 0xFFFE_E000;
/// Item Delimitation Item (FFFE,E00D).
pub(super) const ITEM_END: Tag = 0xFFFE_E00D;
/// Sequence Delimitation Item (FFFE,E0DD).
pub(super) const SEQUENCE_END: Tag = 0xFFFE_E0DD;
/// Undefined length.
pub(super) const UNDEFINED: u32 = 0xFFFF_FFFF;

const BUFFER: usize = 16 * 1024;

/// How elements are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Encoding {
    pub(super) explicit: bool,
    pub(super) big_endian: bool,
}

impl Encoding {
    pub(super) const IMPLICIT: Self = Self { explicit: false, big_endian: false };
    pub(super) const EXPLICIT: Self = Self { explicit: true, big_endian: false };
    pub(super) const EXPLICIT_BIG: Self = Self { explicit: true, big_endian: true };

    pub(super) fn u16(self, bytes: [u8; 2]) -> u16 {
        if self.big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }
    }

    pub(super) fn u32(self, bytes: [u8; 4]) -> u32 {
        if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    }
}

/// The head of one data element. `vr` is `None` where the encoding does not tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ElementHead {
    pub(super) tag: Tag,
    pub(super) vr: Option<Vr>,
    pub(super) length: u32,
}

/// Bytes that can be read and skipped, never past their end.
pub(super) trait Source {
    /// Fills `bytes` whole.
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), ScanError>;
    /// Moves on by `n` bytes, all of which must be there.
    fn skip(&mut self, n: u64) -> Result<(), ScanError>;
    /// Bytes consumed so far.
    fn position(&self) -> u64;
    /// Whether no byte is left.
    fn at_end(&mut self) -> Result<bool, ScanError>;
}

/// A file of known length.
pub(super) struct FileSource<'f, F: Read + Seek> {
    reader: BufReader<&'f mut F>,
    position: u64,
    length: u64,
}

impl<'f, F: Read + Seek> FileSource<'f, F> {
    /// Takes the whole file, from its first byte.
    pub(super) fn new(file: &'f mut F) -> Result<Self, ScanError> {
        let length = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(0))?;
        Ok(Self { reader: BufReader::with_capacity(BUFFER, file), position: 0, length })
    }

    /// Goes to `position` bytes from the start.
    pub(super) fn seek_to(&mut self, position: u64) -> Result<(), ScanError> {
        self.reader.seek(SeekFrom::Start(position))?;
        self.position = position;
        Ok(())
    }

    /// Up to `bytes.len()` bytes from here without moving; says how many there were.
    pub(super) fn peek(&mut self, bytes: &mut [u8]) -> Result<usize, ScanError> {
        let n = usize::try_from(self.length - self.position).unwrap_or(usize::MAX).min(bytes.len());
        self.reader.read_exact(&mut bytes[..n])?;
        // Within the buffer this moves a cursor; an absolute seek would throw the buffer away for each element of the File Meta group.
        self.reader.seek_relative(-i64::try_from(n).map_err(|_| ScanError::Truncated { at: self.position })?)?;
        Ok(n)
    }

    /// The rest of the file as a stream, for inflating.
    pub(super) fn into_reader(self) -> impl Read + 'f {
        self.reader
    }

    fn check(&self, n: u64) -> Result<(), ScanError> {
        if n > self.length - self.position { Err(ScanError::Truncated { at: self.position }) } else { Ok(()) }
    }
}

impl<F: Read + Seek> Source for FileSource<'_, F> {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), ScanError> {
        let n = bytes.len() as u64;
        self.check(n)?;
        self.reader.read_exact(bytes).map_err(|error| at_end_of(error, self.position))?;
        self.position += n;
        Ok(())
    }

    fn skip(&mut self, n: u64) -> Result<(), ScanError> {
        self.check(n)?;
        self.reader.seek_relative(i64::try_from(n).map_err(|_| ScanError::Truncated { at: self.position })?)?;
        self.position += n;
        Ok(())
    }

    fn position(&self) -> u64 {
        self.position
    }

    fn at_end(&mut self) -> Result<bool, ScanError> {
        Ok(self.position == self.length)
    }
}

/// A stream of unknown length that may be a bomb: no more than `bytes_max` bytes are taken from it.
pub(super) struct StreamSource<R: Read> {
    reader: BufReader<R>,
    position: u64,
    bytes_max: u64,
}

impl<R: Read> StreamSource<R> {
    pub(super) fn new(reader: R, bytes_max: u64) -> Self {
        Self { reader: BufReader::with_capacity(BUFFER, reader), position: 0, bytes_max }
    }

    fn advance(&mut self, n: u64) -> Result<(), ScanError> {
        self.position = self.position.saturating_add(n);
        if self.position > self.bytes_max { Err(ScanError::InflatesTooFar { bytes_max: self.bytes_max }) } else { Ok(()) }
    }
}

impl<R: Read> Source for StreamSource<R> {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), ScanError> {
        self.reader.read_exact(bytes).map_err(|error| at_end_of(error, self.position))?;
        self.advance(bytes.len() as u64)
    }

    fn skip(&mut self, n: u64) -> Result<(), ScanError> {
        let mut left = n;
        while left > 0 {
            let there = self.reader.fill_buf().map_err(|error| at_end_of(error, self.position))?.len();
            if there == 0 {
                return Err(ScanError::Truncated { at: self.position });
            }
            let step = usize::try_from(left).unwrap_or(usize::MAX).min(there);
            self.reader.consume(step);
            left -= step as u64;
            self.advance(step as u64)?;
        }
        Ok(())
    }

    fn position(&self) -> u64 {
        self.position
    }

    fn at_end(&mut self) -> Result<bool, ScanError> {
        Ok(self.reader.fill_buf().map_err(|error| at_end_of(error, self.position))?.is_empty())
    }
}

/// An end of file or a broken deflate stream means that the data set is not whole; anything else is the disk's fault.
fn at_end_of(error: std::io::Error, at: u64) -> ScanError {
    match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::InvalidData | ErrorKind::InvalidInput => ScanError::Truncated { at },
        _ => ScanError::Io(error),
    }
}

/// Reads a tag: group, then element.
pub(super) fn read_tag(source: &mut impl Source, encoding: Encoding) -> Result<Tag, ScanError> {
    let mut bytes = [0; 4];
    source.fill(&mut bytes)?;
    let [a, b, c, d] = bytes;
    Ok(u32::from(encoding.u16([a, b])) << 16 | u32::from(encoding.u16([c, d])))
}

/// Reads a 32-bit length.
pub(super) fn read_length(source: &mut impl Source, encoding: Encoding) -> Result<u32, ScanError> {
    let mut bytes = [0; 4];
    source.fill(&mut bytes)?;
    Ok(encoding.u32(bytes))
}

/// Reads what follows `tag`: the value representation, where there is one, and the length.
pub(super) fn read_head(source: &mut impl Source, encoding: Encoding, tag: Tag) -> Result<ElementHead, ScanError> {
    if !encoding.explicit || tag >> 16 == 0xFFFE {
        return Ok(ElementHead { tag, vr: None, length: read_length(source, encoding)? });
    }
    let mut bytes = [0; 4];
    source.fill(&mut bytes)?;
    let [v, r, c, d] = bytes;
    if !v.is_ascii_uppercase() || !r.is_ascii_uppercase() {
        return Err(ScanError::Malformed { at: source.position(), why: "an element without a value representation" });
    }
    let vr = [v, r];
    let length = if has_short_length(vr) { u32::from(encoding.u16([c, d])) } else { read_length(source, encoding)? };
    Ok(ElementHead { tag, vr: Some(vr), length })
}

/// Value representations whose explicit length has 16 bits (PS3.5 table 7.1-2); unknown ones have 32 (section 7.1.2).
fn has_short_length(vr: Vr) -> bool {
    matches!(
        &vr,
        b"AE"
            | b"AS"
            | b"AT"
            | b"CS"
            | b"DA"
            | b"DS"
            | b"DT"
            | b"FL"
            | b"FD"
            | b"IS"
            | b"LO"
            | b"LT"
            | b"PN"
            | b"SH"
            | b"SL"
            | b"SS"
            | b"ST"
            | b"TM"
            | b"UI"
            | b"UL"
            | b"US"
    )
}

/// Whether these two bytes are a value representation of the standard.
pub(super) fn is_known_vr(vr: Vr) -> bool {
    has_short_length(vr) || has_long_length(vr)
}
