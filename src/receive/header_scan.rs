//! Header scan: a Part-10 file (or a bare data set) in -> `InstanceHeader` out, or the reason why it cannot be.
//!
//! One iterative pass over the element heads with an explicit stack. Every length is checked against the bytes that are there and
//! against the enclosing item; depth, elements, frames, kept values and inflated bytes are bounded. A file that stops in the middle of
//! a value, a sequence or the pixel data is [`ScanError::Truncated`], so that half a transfer is never taken for a whole one.
//! The full parse of `prepare` may only see files that passed here: its reader recurses without a limit (facts: 2,000 levels kill it).
//!
//! Source: PS3.10 section 7 (file format), PS3.5 sections 7 and A (encodings).

use std::io::{Read, Seek};

use dicom_core::VR;
use dicom_core::dictionary::{DataDictionary, DataDictionaryEntry};
use dicom_dictionary_std::StandardDataDictionary;
use dicom_encoding::transfer_syntax::{Codec, TransferSyntaxIndex};
use dicom_transfer_syntax_registry::TransferSyntaxRegistry;

use crate::domain::{IdentityError, InstanceHeader, Uid};

use super::element_reader::{
    ElementHead, Encoding, FileSource, ITEM, ITEM_END, SEQUENCE_END, Source, StreamSource, Tag, UNDEFINED, Vr, is_known_vr,
    read_head, read_length, read_tag,
};
use super::header_fields::Collector;

const TRANSFER_SYNTAX_UID: Tag = 0x0002_0010;
const PIXEL_DATA: Tag = 0x7FE0_0010;
const FLOAT_PIXEL_DATA: Tag = 0x7FE0_0008;
const DOUBLE_FLOAT_PIXEL_DATA: Tag = 0x7FE0_0009;
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

/// One open sequence, and the item of it that is open.
struct Level<P> {
    tag: Tag,
    encoding: Encoding,
    /// First byte after the sequence, or after the nearest enclosing thing with a defined length.
    bound: Option<u64>,
    undefined: bool,
    item: Option<Item<P>>,
    n_items: usize,
}

struct Item<P> {
    bound: Option<u64>,
    undefined: bool,
    place: P,
}

/// What a walk keeps of the elements that it passes.
pub(super) trait Collect {
    /// Where an element stands, as far as the collector cares.
    type Place: Copy;
    /// The data set itself.
    const TOP: Self::Place;

    /// The place inside item `idx` of sequence `tag` that stands at `parent`.
    fn place_of_item(parent: Self::Place, tag: Tag, idx: usize) -> Self::Place;
    /// An item opens at `place`.
    fn on_item(&mut self, place: Self::Place) -> Result<(), ScanError>;
    /// The standard's value representation of an element that is wanted at `place`; `None` where it is not.
    fn wanted_vr(&self, place: Self::Place, tag: Tag) -> Option<Vr>;
    /// A wanted value.
    fn on_value(&mut self, place: Self::Place, tag: Tag, vr: Vr, encoding: Encoding, value: &[u8]) -> Result<(), ScanError>;
    /// Pixel data at the top was passed over.
    fn on_pixels(&mut self, n_bytes: u64, encapsulated: bool);
    /// Whether it was.
    fn has_seen_pixels(&self) -> bool;
}

/// Walks over a data set that lies in memory (of a message other than C-STORE), from its first byte to its last.
pub(super) fn walk<C: Collect>(bytes: &[u8], encoding: Encoding, limits: &ScanLimits, collector: C) -> Result<C, ScanError> {
    let mut cursor = std::io::Cursor::new(bytes);
    Walk::new(FileSource::new(&mut cursor)?, encoding, limits, collector).run()
}

/// The pass over all elements.
struct Walk<'l, S: Source, C: Collect> {
    source: S,
    encoding: Encoding,
    limits: &'l ScanLimits,
    levels: Vec<Level<C::Place>>,
    n_elements: u64,
    collector: C,
    value: Vec<u8>,
}

impl<'l, S: Source, C: Collect> Walk<'l, S, C> {
    fn new(source: S, encoding: Encoding, limits: &'l ScanLimits, collector: C) -> Self {
        Self { source, encoding, limits, levels: Vec::new(), n_elements: 0, collector, value: Vec::new() }
    }

    fn malformed(&self, why: &'static str) -> ScanError {
        ScanError::Malformed { at: self.source.position(), why }
    }

    fn run(mut self) -> Result<C, ScanError> {
        loop {
            self.close_what_ends_here()?;
            if self.levels.is_empty() && self.source.at_end()? {
                return Ok(self.collector);
            }
            self.n_elements += 1;
            if self.n_elements > self.limits.elements_max {
                return Err(ScanError::TooManyElements { elements_max: self.limits.elements_max });
            }
            if self.levels.last().is_some_and(|level| level.item.is_none()) {
                self.item_or_sequence_end()?;
            } else if !self.element()? {
                return Ok(self.collector);
            }
        }
    }

    /// Leaves items and sequences of defined length whose last byte has been read.
    fn close_what_ends_here(&mut self) -> Result<(), ScanError> {
        let position = self.source.position();
        while let Some(level) = self.levels.last_mut() {
            let (bound, undefined) =
                level.item.as_ref().map_or((level.bound, level.undefined), |item| (item.bound, item.undefined));
            if bound != Some(position) {
                return Ok(());
            }
            if undefined {
                return Err(self.malformed("a sequence without its end inside an item that ends"));
            }
            if level.item.take().is_none() {
                self.levels.pop();
            }
        }
        Ok(())
    }

    /// The nearest enclosing end and the encoding here.
    fn surroundings(&self) -> (Option<u64>, Encoding) {
        self.levels
            .last()
            .map_or((None, self.encoding), |level| (level.item.as_ref().map_or(level.bound, |item| item.bound), level.encoding))
    }

    /// Checks that `length` bytes fit into what encloses them; gives the byte after them.
    fn bound_after(&self, length: u32) -> Result<u64, ScanError> {
        let end = self.source.position().saturating_add(u64::from(length));
        match self.surroundings().0 {
            Some(bound) if end > bound => Err(self.malformed("a length that passes the end of its item or sequence")),
            _ => Ok(end),
        }
    }

    fn item_or_sequence_end(&mut self) -> Result<(), ScanError> {
        let (_, encoding) = self.surroundings();
        let tag = read_tag(&mut self.source, encoding)?;
        let length = read_length(&mut self.source, encoding)?;
        self.bound_after(0)?;
        let defined = if length == UNDEFINED { None } else { Some(self.bound_after(length)?) };
        let bound = defined.or(self.surroundings().0);
        let place = self.place_of_item();
        let Some(level) = self.levels.last_mut() else { return Ok(()) };
        match tag {
            ITEM => {
                self.collector.on_item(place)?;
                level.n_items += 1;
                level.item = Some(Item { bound, undefined: defined.is_none(), place });
                Ok(())
            }
            SEQUENCE_END if level.undefined => {
                self.levels.pop();
                Ok(())
            }
            _ => Err(self.malformed("something that is no item inside a sequence")),
        }
    }

    /// Where an item that opens now stands, in words of the collector.
    fn place_of_item(&self) -> C::Place {
        let Some((level, above)) = self.levels.split_last() else { return C::TOP };
        let parent = above.last().and_then(|level| level.item.as_ref()).map_or(C::TOP, |item| item.place);
        C::place_of_item(parent, level.tag, level.n_items)
    }

    /// One element of the data set or of an item. `false` when only padding is left.
    fn element(&mut self) -> Result<bool, ScanError> {
        let (bound, encoding) = self.surroundings();
        let tag = read_tag(&mut self.source, encoding)?;
        if self.levels.is_empty() && tag == 0 && self.collector.has_seen_pixels() {
            return self.padding().map(|()| false);
        }
        let head = read_head(&mut self.source, encoding, tag)?;
        if bound.is_some_and(|bound| self.source.position() > bound) {
            return Err(self.malformed("an element that passes the end of its item"));
        }
        if tag == ITEM_END {
            return self.end_item().map(|()| true);
        }
        if tag >> 16 == 0xFFFE || tag >> 16 == 0 || (tag >> 16 == 2 && self.levels.is_empty()) {
            return Err(self.malformed("a tag that cannot stand in a data set"));
        }
        let is_pixels = matches!(tag, PIXEL_DATA | FLOAT_PIXEL_DATA | DOUBLE_FLOAT_PIXEL_DATA);
        if head.length == UNDEFINED {
            if is_pixels || head.vr.is_some_and(|vr| !matches!(&vr, b"SQ" | b"UN")) {
                self.fragments(is_pixels, bound, encoding)?;
            } else {
                // PS3.5 section 6.2.2 note 4: UN of undefined length holds an implicit little endian sequence.
                let inner = if head.vr == Some(*b"UN") { Encoding::IMPLICIT } else { encoding };
                self.open(tag, inner, bound, true)?;
            }
            return Ok(true);
        }
        let end = self.bound_after(head.length)?;
        if is_sequence(&head) {
            self.open(tag, encoding, Some(end), false)?;
        } else if is_pixels {
            self.source.skip(u64::from(head.length))?;
            if self.levels.is_empty() {
                self.collector.on_pixels(u64::from(head.length), false);
            }
        } else {
            self.value(&head, encoding)?;
        }
        Ok(true)
    }

    /// Some writers pad the file with zeros after the pixel data. Anything else there would reach the parsers that come later unseen.
    fn padding(&mut self) -> Result<(), ScanError> {
        let mut byte = [0];
        while !self.source.at_end()? {
            self.source.fill(&mut byte)?;
            self.n_elements += 1;
            if byte != [0] || self.n_elements > self.limits.elements_max {
                return Err(self.malformed("something other than zeros behind the padding of the pixel data"));
            }
        }
        Ok(())
    }

    fn end_item(&mut self) -> Result<(), ScanError> {
        match self.levels.last_mut() {
            Some(level) if level.item.as_ref().is_some_and(|item| item.undefined) => {
                level.item = None;
                Ok(())
            }
            _ => Err(self.malformed("an item end without its item")),
        }
    }

    fn open(&mut self, tag: Tag, encoding: Encoding, bound: Option<u64>, undefined: bool) -> Result<(), ScanError> {
        if self.levels.len() >= self.limits.depth_max {
            return Err(ScanError::TooDeep { depth_max: self.limits.depth_max });
        }
        self.levels.push(Level { tag, encoding, bound, undefined, item: None, n_items: 0 });
        Ok(())
    }

    fn value(&mut self, head: &ElementHead, encoding: Encoding) -> Result<(), ScanError> {
        let place = self.levels.last().and_then(|level| level.item.as_ref()).map_or(C::TOP, |item| item.place);
        let wanted = self.collector.wanted_vr(place, head.tag);
        match wanted {
            Some(vr) if head.length <= self.limits.value_bytes_max => {
                self.value.resize(head.length as usize, 0);
                self.source.fill(&mut self.value)?;
                let vr: Vr = head.vr.filter(|vr| vr != b"UN").unwrap_or(vr);
                self.collector.on_value(place, head.tag, vr, encoding, &self.value)
            }
            _ => self.source.skip(u64::from(head.length)),
        }
    }

    /// Encapsulated pixel data: items of defined length up to the sequence end; the first is the offset table (PS3.5 section A.4).
    fn fragments(&mut self, is_pixels: bool, bound: Option<u64>, encoding: Encoding) -> Result<(), ScanError> {
        let (mut n_items, mut n_bytes) = (0_u64, 0_u64);
        loop {
            let tag = read_tag(&mut self.source, encoding)?;
            let length = read_length(&mut self.source, encoding)?;
            match tag {
                ITEM if length != UNDEFINED => {
                    let end = self.source.position().saturating_add(u64::from(length));
                    if bound.is_some_and(|bound| end > bound) {
                        return Err(self.malformed("a fragment that passes the end of its item"));
                    }
                    self.source.skip(u64::from(length))?;
                    n_bytes += if n_items > 0 { u64::from(length) } else { 0 };
                    n_items += 1;
                    self.n_elements += 1;
                    if self.n_elements > self.limits.elements_max {
                        return Err(ScanError::TooManyElements { elements_max: self.limits.elements_max });
                    }
                }
                SEQUENCE_END => break,
                _ => return Err(self.malformed("something that is no fragment inside encapsulated pixel data")),
            }
        }
        if is_pixels && self.levels.is_empty() {
            self.collector.on_pixels(n_bytes, true);
        }
        Ok(())
    }
}

/// Sequences are entered even when nothing in them is wanted, so that their depth is checked for the parsers that come later.
fn is_sequence(head: &ElementHead) -> bool {
    match head.vr {
        Some(vr) => vr == *b"SQ",
        None => {
            let [g1, g0, e1, e0] = head.tag.to_be_bytes();
            let tag = dicom_core::Tag(u16::from_be_bytes([g1, g0]), u16::from_be_bytes([e1, e0]));
            StandardDataDictionary.by_tag(tag).is_some_and(|entry| entry.vr().exact() == Some(VR::SQ))
        }
    }
}

#[cfg(test)]
#[path = "header_scan_tests.rs"]
mod tests;
