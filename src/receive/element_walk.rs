//! The pass over a data set: elements in -> what a collector wants of them out, or the first thing that is wrong.
//!
//! One iterative pass over the element heads with an explicit stack. Every length is checked against the bytes that are there and against the
//! enclosing item; depth, elements and kept values are bounded.
//!
//! Source: PS3.5 sections 7 (the data set) and A.4 (encapsulated pixels).

use dicom_core::VR;
use dicom_core::dictionary::{DataDictionary, DataDictionaryEntry};
use dicom_dictionary_std::StandardDataDictionary;

use super::element_reader::{
    ElementHead, Encoding, FileSource, ITEM, ITEM_END, SEQUENCE_END, Source, Tag, UNDEFINED, Vr, read_head, read_length, read_tag,
};
use super::header_scan::{ScanError, ScanLimits};

const PIXEL_DATA: Tag = 0x7FE0_0010;
const FLOAT_PIXEL_DATA: Tag = 0x7FE0_0008;
const DOUBLE_FLOAT_PIXEL_DATA: Tag = 0x7FE0_0009;

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
pub(super) struct Walk<'l, S: Source, C: Collect> {
    source: S,
    encoding: Encoding,
    limits: &'l ScanLimits,
    levels: Vec<Level<C::Place>>,
    n_elements: u64,
    collector: C,
    value: Vec<u8>,
}

impl<'l, S: Source, C: Collect> Walk<'l, S, C> {
    pub(super) fn new(source: S, encoding: Encoding, limits: &'l ScanLimits, collector: C) -> Self {
        Self { source, encoding, limits, levels: Vec::new(), n_elements: 0, collector, value: Vec::new() }
    }

    fn malformed(&self, why: &'static str) -> ScanError {
        ScanError::Malformed { at: self.source.position(), why }
    }

    /// To the last byte; what was collected.
    pub(super) fn run(mut self) -> Result<C, ScanError> {
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
