//! Header scan: a Part-10 file (or a bare data set) in -> `InstanceHeader` out, or the reason why it cannot be.
//!
//! Finds the data set and its transfer syntax; the pass over the elements is `element_walk.rs`. Frames, kept values and inflated bytes are bounded.
//! A file that stops in the middle of a value, a sequence or the pixel data is [`ScanError::Truncated`], so that half a transfer is never
//! taken for a whole one. The full parse of `prepare` may only see files that passed here: its reader recurses without a limit (facts: 2,000 levels kill it).
//!
//! Source: PS3.10 section 7 (file format), PS3.5 sections 7 and A (encodings).

use std::io::{Read, Seek};

use dicom_encoding::transfer_syntax::{Codec, TransferSyntaxIndex};
use dicom_transfer_syntax_registry::TransferSyntaxRegistry;

use crate::domain::{IdentityError, InstanceHeader, Uid};

use super::element_reader::{Encoding, FileSource, Source, StreamSource, Tag, is_known_vr, read_head, read_tag};
use super::element_walk::Walk;
use super::header_fields::Collector;

const TRANSFER_SYNTAX_UID: Tag = 0x0002_0010;
const IMPLICIT_LE: &str = "1.2.840.10008.1.2";
const EXPLICIT_LE: &str = "1.2.840.10008.1.2.1";
const DEFLATED_LE: &str = "1.2.840.10008.1.2.1.99";
const EXPLICIT_BE: &str = "1.2.840.10008.1.2.2";
/// GE's private syntax: implicit VR little endian, only its pixels are big endian.
const GE_PRIVATE_DLX: &str = "1.2.840.113619.5.2";

/// Bounds of one scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanLimits {
    /// Nested sequences.
    pub depth_max: usize,
    /// Data elements and items together.
    pub elements_max: u64,
    /// Frames whose geometry is kept.
    pub frames_max: usize,
    /// Longest value that is kept, bytes; longer ones are treated as absent.
    pub value_bytes_max: u32,
    /// Bytes that a deflated data set may inflate to.
    pub inflated_bytes_max: u64,
}

impl Default for ScanLimits {
    fn default() -> Self {
        Self {
            depth_max: 64,
            elements_max: 8_000_000, // an enhanced object of 16,384 frames with 400 elements each is 6.5 million
            frames_max: 16_384,
            value_bytes_max: 64 * 1024,
            inflated_bytes_max: 2 * 1024 * 1024 * 1024,
        }
    }
}

/// Why a file gives no header.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// not a DICOM file
    #[error("not a DICOM file")]
    NotDicom,
    /// the data set ends before it is complete
    #[error("the data set ends before it is complete (stopped at byte {at})")]
    Truncated {
        /// Byte of the data set where something was missing.
        at: u64,
    },
    /// sequences are nested too deeply
    #[error("sequences are nested more than {depth_max} deep")]
    TooDeep {
        /// The bound.
        depth_max: usize,
    },
    /// too many data elements
    #[error("more than {elements_max} data elements")]
    TooManyElements {
        /// The bound.
        elements_max: u64,
    },
    /// too many frames
    #[error("more than {frames_max} frames")]
    TooManyFrames {
        /// The bound.
        frames_max: usize,
    },
    /// a deflated data set inflates too far
    #[error("the deflated data set inflates to more than {bytes_max} bytes")]
    InflatesTooFar {
        /// The bound.
        bytes_max: u64,
    },
    /// the data set breaks the encoding rules
    #[error("the data set is malformed near byte {at}: {why}")]
    Malformed {
        /// Byte of the data set.
        at: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// an identifier is missing
    #[error("{name} is missing")]
    MissingIdentifier {
        /// Name of the attribute.
        name: &'static str,
    },
    /// an identifier is not a valid UID
    #[error("{name} is not a valid UID: {source}")]
    BadIdentifier {
        /// Name of the attribute.
        name: &'static str,
        /// What is wrong with it.
        source: IdentityError,
    },
    /// an identifier is given twice
    #[error("{name} is given twice")]
    RepeatedIdentifier {
        /// Name of the attribute.
        name: &'static str,
    },
    /// the file could not be read
    #[error("the file could not be read: {0}")]
    Io(#[from] std::io::Error),
}

/// What the scan saw of the pixels, for the receiver's check that the data set is whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PixelFacts {
    /// Bytes of the top-level pixel data value; for encapsulated pixels the sum of the fragments after the offset table.
    pub n_bytes: u64,
    /// Whether they came as fragments.
    pub encapsulated: bool,
    /// Bytes that rows, columns, samples, bits and frames ask for when native; `None` when the photometric interpretation is subsampled.
    pub n_bytes_expected: Option<u64>,
}

/// Reads the header of the file, from its first byte to its last.
///
/// # Errors
/// [`ScanError`] names what is wrong with it.
pub fn scan_part10(file: &mut (impl Read + Seek), limits: &ScanLimits) -> Result<InstanceHeader, ScanError> {
    scan_with_pixel_facts(file, limits).map(|(header, _)| header)
}

/// As [`scan_part10`], with what was seen of the pixels.
///
/// # Errors
/// [`ScanError`] names what is wrong with the file.
pub fn scan_with_pixel_facts(
    file: &mut (impl Read + Seek),
    limits: &ScanLimits,
) -> Result<(InstanceHeader, PixelFacts), ScanError> {
    let mut source = FileSource::new(file)?;
    let transfer_syntax_uid = find_data_set(&mut source)?;
    let fresh = Collector::new(limits.frames_max);
    let collector = match transfer_syntax_uid.as_str() {
        DEFLATED_LE => {
            let Some(Codec::Dataset(Some(adapter))) = TransferSyntaxRegistry.get(DEFLATED_LE).map(|syntax| syntax.codec()) else {
                return Err(ScanError::Malformed { at: 0, why: "deflated data sets cannot be read by this build" });
            };
            let inflated = adapter.adapt_reader(Box::new(source.into_reader()));
            Walk::new(StreamSource::new(inflated, limits.inflated_bytes_max), Encoding::EXPLICIT, limits, fresh).run()?
        }
        IMPLICIT_LE | GE_PRIVATE_DLX => Walk::new(source, Encoding::IMPLICIT, limits, fresh).run()?,
        EXPLICIT_BE => Walk::new(source, Encoding::EXPLICIT_BIG, limits, fresh).run()?,
        // All other syntaxes, known or not, are explicit little endian (PS3.5 section A.4).
        _ => Walk::new(source, Encoding::EXPLICIT, limits, fresh).run()?,
    };
    collector.finish(transfer_syntax_uid)
}

/// Leaves `source` at the first element of the data set and says its transfer syntax; guessed only where there is no file meta.
fn find_data_set<F: Read + Seek>(source: &mut FileSource<'_, F>) -> Result<Uid, ScanError> {
    let mut start = [0_u8; 132];
    let n = source.peek(&mut start)?;
    if n == start.len() && &start[128..] == b"DICM" {
        source.seek_to(132)?;
    }
    let mut head = [0_u8; 8];
    let n = source.peek(&mut head)?;
    if n < head.len() {
        return Err(if source.position() > 0 { ScanError::Truncated { at: source.position() } } else { ScanError::NotDicom });
    }
    if head[..2] == [0x02, 0x00] && is_known_vr([head[4], head[5]]) {
        return read_file_meta(source);
    }
    let guessed = guess_transfer_syntax(head).ok_or(ScanError::NotDicom)?;
    Uid::try_new(guessed).map_err(|source| ScanError::BadIdentifier { name: "Transfer Syntax UID", source })
}

/// Files without meta information: data sets of images and reports begin in group 0008 (PS3.5 section 7.1 orders them by tag).
fn guess_transfer_syntax(head: [u8; 8]) -> Option<&'static str> {
    let [g0, g1, _, e1, v, r, l2, l3] = head;
    match (g0, g1) {
        (0x08, 0x00) if is_known_vr([v, r]) => Some(EXPLICIT_LE),
        (0x00, 0x08) if is_known_vr([v, r]) => Some(EXPLICIT_BE),
        // The first value of an implicit data set is a group length, a character set or an image type: short.
        (0x08, 0x00) if e1 == 0 && l2 == 0 && l3 == 0 => Some(IMPLICIT_LE),
        _ => None,
    }
}

/// Reads group 0002, always explicit little endian (PS3.10 section 7.1), and stops before the first other group.
fn read_file_meta<F: Read + Seek>(source: &mut FileSource<'_, F>) -> Result<Uid, ScanError> {
    const META_ELEMENTS_MAX: usize = 64;
    let mut transfer_syntax = None;
    for _ in 0..META_ELEMENTS_MAX {
        let mut group = [0; 2];
        if source.peek(&mut group)? < 2 || group != [0x02, 0x00] {
            let text: String = transfer_syntax.ok_or(ScanError::MissingIdentifier { name: "Transfer Syntax UID" })?;
            return Uid::try_new(&text).map_err(|source| ScanError::BadIdentifier { name: "Transfer Syntax UID", source });
        }
        let tag = read_tag(source, Encoding::EXPLICIT)?;
        let head = read_head(source, Encoding::EXPLICIT, tag)?;
        if tag == TRANSFER_SYNTAX_UID && head.length <= 128 {
            let mut value = vec![0; head.length as usize];
            source.fill(&mut value)?;
            transfer_syntax = Some(String::from_utf8_lossy(&value).into_owned());
        } else {
            source.skip(u64::from(head.length))?;
        }
    }
    Err(ScanError::Malformed { at: source.position(), why: "too many file meta elements" })
}

#[cfg(test)]
#[path = "header_scan_tests.rs"]
mod tests;
