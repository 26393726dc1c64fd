//! Opening one stored instance: Part-10 file in -> data set in memory, with what is needed to read its pixels.
//!
//! The file is read once; plain pixels stay where they lie in it (`tail.rs`), everything before them is parsed. The parser of dicom-object recurses once per nested sequence and trusts declared lengths. The header scan of `receive` has bounded both for
//! everything that reaches the spool, but in its own reading of the bytes: where the two differ (values of VR UN and undefined length, elements
//! behind the pixels) a file could show the scan a long value and the parser 100,000 sequences. So the parser's own tokens are counted first, without
//! recursion. Here the bytes read are bounded as well, also those that come out of a deflated data set (PS3.5 section A.5).

use std::fs::File;
use std::io::Read;
use std::ops::Range;

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dicom_encoding::TransferSyntax;
use dicom_encoding::transfer_syntax::{Codec, TransferSyntaxIndex};
use dicom_object::{FileDicomObject, FileMetaTable, FileMetaTableBuilder, InMemDicomObject};
use dicom_parser::dataset::{DataSetReader, DataToken};
use dicom_transfer_syntax_registry::TransferSyntaxRegistry;

use super::tail::find_pixels;
use super::{PrepareLimits, budget};
use crate::domain::{Reason, ReasonCode, StoredInstance};

/// A data set with its file meta group.
pub(super) type DataSet = FileDicomObject<InMemDicomObject>;

pub(super) const IMPLICIT_VR_LITTLE_ENDIAN: &str = "1.2.840.10008.1.2";
pub(super) const DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN: &str = "1.2.840.10008.1.2.1.99";
const EXPLICIT_VR_BIG_ENDIAN: &str = "1.2.840.10008.1.2.2";
pub(super) const EXPLICIT_VR_LITTLE_ENDIAN: &str = "1.2.840.10008.1.2.1";

/// How the samples of an instance are stored (PS3.3 C.7.6.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SampleFormat {
    pub(super) n_rows: u16,
    pub(super) n_columns: u16,
    pub(super) n_frames: usize,
    /// 8, 16 or 32.
    pub(super) bits_allocated: u16,
    /// 1 to `bits_allocated`.
    pub(super) bits_stored: u16,
    /// `bits_stored - 1` to `bits_allocated - 1`.
    pub(super) high_bit: u16,
    pub(super) is_signed: bool,
    /// MONOCHROME1: the lowest value is white, so values are turned round.
    pub(super) is_inverted: bool,
    /// The pixels went through a lossy compression at some time.
    pub(super) is_lossy: bool,
}

/// From stored value to the value of the image: `stored * slope + intercept`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rescale {
    pub(super) slope: f64,
    pub(super) intercept: f64,
}

impl SampleFormat {
    /// Bytes of one decoded frame.
    pub(super) fn frame_bytes(&self) -> usize {
        usize::from(self.n_rows) * usize::from(self.n_columns) * usize::from(self.bits_allocated / 8)
    }
}

fn unreadable(text: impl Into<String>) -> Reason {
    Reason::new(ReasonCode::UnreadableDataSet, text)
}

/// An instance in memory.
pub(super) struct Opened {
    /// All of it; without the pixels where those are plain.
    pub(super) data_set: DataSet,
    /// The file, and where its pixels lie in it: those of an uncompressed, little-endian instance.
    plain: Option<(Vec<u8>, Range<usize>)>,
}

impl Opened {
    /// Plain pixels, little endian, all frames.
    pub(super) fn plain_pixels(&self) -> Option<&[u8]> {
        self.plain.as_ref().and_then(|(bytes, pixels)| bytes.get(pixels.clone()))
    }
}

/// Reads the whole data set of `instance`; at most as many bytes as the limits allow, before and after inflation.
pub(super) fn open(instance: &StoredInstance, limits: &PrepareLimits) -> Result<Opened, Reason> {
    let n_bytes_max = limits.instance_bytes_max;
    let bytes = read_file(instance, n_bytes_max)?;
    let is_magic = |at: usize| bytes.get(at..at + 4) == Some(b"DICM".as_slice());
    // PS3.10 section 7.1: preamble and prefix; some senders leave out the preamble, some both and the meta group too.
    let mut rest = bytes.get(if is_magic(128) { 128 } else { 0 }..).unwrap_or_default();
    let scanned = instance.header.transfer_syntax_uid.as_str();
    let meta = if is_magic(128) || is_magic(0) {
        FileMetaTable::from_reader(&mut rest).map_err(|_| unreadable("The file meta group of an image cannot be read."))?
    } else {
        FileMetaTableBuilder::new()
            .transfer_syntax(scanned)
            .media_storage_sop_class_uid(instance.header.sop_class_uid.as_str())
            .media_storage_sop_instance_uid(instance.header.sop_instance_uid.as_str())
            .build()
            .map_err(|_| unreadable("An image without a file meta group cannot be read."))?
    };
    if meta.transfer_syntax() != scanned {
        return Err(unreadable("The file meta group of an image names another transfer syntax than was received."));
    }
    let tail = match scanned {
        DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN | EXPLICIT_VR_BIG_ENDIAN => None,
        scanned => find_pixels(rest, scanned != IMPLICIT_VR_LITTLE_ENDIAN),
    };
    let n_parsed = tail.as_ref().map_or(rest.len(), |tail| tail.n_other);
    // What a deflated data set or one in big endian holds before its pixels is not told: there the bytes of the instance are the bound.
    if !matches!(scanned, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN | EXPLICIT_VR_BIG_ENDIAN) {
        budget::check_parse(n_parsed, limits)?;
    }
    let native = tail.and_then(|tail| Some((tail.n_other, tail.native?)));
    let Some((element, pixels)) = native else {
        let data_set = read_data_set(rest, scanned, n_bytes_max)?.with_exact_meta(meta);
        return Ok(Opened { data_set, plain: None });
    };
    let skipped = bytes.len() - rest.len();
    let data_set = read_data_set(rest.get(..element).unwrap_or_default(), scanned, n_bytes_max)?.with_exact_meta(meta);
    Ok(Opened { data_set, plain: Some((bytes, pixels.start + skipped..pixels.end + skipped)) })
}

fn read_file(instance: &StoredInstance, n_bytes_max: u64) -> Result<Vec<u8>, Reason> {
    if instance.n_bytes > n_bytes_max {
        let text =
            format!("An image of {} bytes is larger than the {n_bytes_max} bytes that one image may have.", instance.n_bytes);
        return Err(Reason::new(ReasonCode::BudgetExceeded, text));
    }
    let file = File::open(&instance.path).map_err(|error| {
        // Only the kind: the path is of no use to a radiologist.
        Reason::new(ReasonCode::InternalFault, format!("A stored image could not be opened ({}).", error.kind()))
    })?;
    // One byte more, so that the end is seen without the buffer growing.
    let mut bytes = Vec::with_capacity(usize::try_from(instance.n_bytes.saturating_add(1)).unwrap_or(0));
    file.take(n_bytes_max)
        .read_to_end(&mut bytes)
        .map_err(|e| unreadable(format!("An image could not be read ({}).", e.kind())))?;
    Ok(bytes)
}

/// Deepest nesting of sequences that is parsed; as in the header scan.
const DEPTH_MAX: usize = 64;

/// Refuses a data set whose tree would be too deep for the parser's recursion, or in which an element declares more bytes than there are at all.
fn check_tokens(reader: impl Read, syntax: &TransferSyntax, n_bytes_max: u64) -> Result<(), Reason> {
    let broken = || unreadable("The data set of an image is broken: send it again.");
    let mut depth = 0_usize;
    for token in DataSetReader::new_with_ts(reader, syntax).map_err(|_| broken())? {
        let length = match token.map_err(|_| broken())? {
            DataToken::SequenceStart { len, .. } => {
                depth += 1;
                if depth > DEPTH_MAX {
                    let text = format!(
                        "Sequences of an image are nested more than {DEPTH_MAX} deep, or its private elements are broken."
                    );
                    return Err(unreadable(text));
                }
                len
            }
            DataToken::SequenceEnd => {
                depth = depth.saturating_sub(1);
                continue;
            }
            // Its end is a sequence's end as well.
            DataToken::PixelSequenceStart => {
                depth += 1;
                continue;
            }
            DataToken::ItemStart { len } => len,
            DataToken::ElementHeader(header) => header.len,
            _ => continue,
        };
        if length.get().is_some_and(|n| u64::from(n) > n_bytes_max) {
            return Err(broken());
        }
    }
    Ok(())
}

fn read_data_set(reader: &[u8], transfer_syntax: &str, n_bytes_max: u64) -> Result<InMemDicomObject, Reason> {
    let unknown = || Reason::new(ReasonCode::UndecodablePixels, format!("Transfer syntax {transfer_syntax} is not known here."));
    let syntax = TransferSyntaxRegistry.get(transfer_syntax).ok_or_else(unknown)?;
    let broken = |_| unreadable("The data set of an image is broken: send it again.");
    match syntax.codec() {
        Codec::Dataset(Some(adapter)) => {
            let plain = TransferSyntaxRegistry.get(EXPLICIT_VR_LITTLE_ENDIAN).ok_or_else(unknown)?;
            check_tokens(adapter.adapt_reader(Box::new(reader)).take(n_bytes_max), plain, n_bytes_max)?;
            let inflated = adapter.adapt_reader(Box::new(reader)).take(n_bytes_max);
            InMemDicomObject::read_dataset_with_ts(inflated, plain).map_err(broken)
        }
        Codec::Dataset(None) => Err(unknown()),
        Codec::None | Codec::EncapsulatedPixelData(..) => {
            check_tokens(reader, syntax, reader.len() as u64)?;
            InMemDicomObject::read_dataset_with_ts(reader, syntax).map_err(broken)
        }
    }
}

/// The sample format of a data set that agrees with what the header scan saw of `instance`.
pub(super) fn sample_format(data_set: &DataSet, instance: &StoredInstance) -> Result<SampleFormat, Reason> {
    let header = &instance.header;
    let number = |tag: Tag| data_set.get(tag).and_then(|e| e.to_int::<u16>().ok());
    let text = |tag: Tag| data_set.get(tag).and_then(|e| e.to_str().ok()).map(|s| s.trim().to_ascii_uppercase());
    let need = |tag: Tag, name: &str| number(tag).ok_or_else(|| unreadable(format!("An image has no valid {name}.")));
    let (n_rows, n_columns) = (need(tags::ROWS, "Rows (0028,0010)")?, need(tags::COLUMNS, "Columns (0028,0011)")?);
    let bits_allocated = need(tags::BITS_ALLOCATED, "Bits Allocated (0028,0100)")?;
    let bits_stored = number(tags::BITS_STORED).unwrap_or(bits_allocated);
    let high_bit = number(tags::HIGH_BIT).unwrap_or(bits_stored.saturating_sub(1));
    let n_frames = data_set.get(tags::NUMBER_OF_FRAMES).and_then(|e| e.to_int::<u32>().ok()).unwrap_or(1).max(1);
    if (u32::from(n_rows), u32::from(n_columns), n_frames) != (header.n_rows, header.n_columns, header.n_frames.max(1)) {
        return Err(unreadable("The matrix size or the number of frames of an image changed since it was received."));
    }
    let samples = number(tags::SAMPLES_PER_PIXEL).unwrap_or(1);
    let photometric = text(tags::PHOTOMETRIC_INTERPRETATION).unwrap_or_else(|| "MONOCHROME2".into());
    if samples != 1 || !(photometric == "MONOCHROME1" || photometric == "MONOCHROME2") {
        return Err(Reason::new(ReasonCode::UndecodablePixels, "An image is not monochrome: colour images are not assessed."));
    }
    if !matches!(bits_allocated, 8 | 16 | 32) {
        let text = format!("An image has {bits_allocated} bits allocated per pixel: 8, 16 and 32 can be read.");
        return Err(Reason::new(ReasonCode::UndecodablePixels, text));
    }
    if bits_stored == 0 || bits_stored > bits_allocated || high_bit >= bits_allocated || high_bit + 1 < bits_stored {
        return Err(unreadable(format!(
            "An image contradicts itself: {bits_stored} bits stored, high bit {high_bit}, {bits_allocated} bits allocated."
        )));
    }
    Ok(SampleFormat {
        n_rows,
        n_columns,
        n_frames: usize::try_from(n_frames).unwrap_or(usize::MAX),
        bits_allocated,
        bits_stored,
        high_bit,
        is_signed: number(tags::PIXEL_REPRESENTATION) == Some(1),
        is_inverted: photometric == "MONOCHROME1",
        is_lossy: text(tags::LOSSY_IMAGE_COMPRESSION).is_some_and(|s| s == "01"),
    })
}

/// The rescale of frame `frame_idx`: Pixel Value Transformation (0028,9145) of the frame, of the shared groups, or of the data set itself
/// (PS3.3 C.7.6.16.2.9 and C.11.1); 1 and 0 where there is none.
pub(super) fn rescale(data_set: &DataSet, frame_idx: usize) -> Result<Rescale, Reason> {
    let group = |sequence: Tag, item: usize| -> Option<&InMemDicomObject> {
        let groups = data_set.get(sequence)?.items()?.get(item)?;
        groups.get(tags::PIXEL_VALUE_TRANSFORMATION_SEQUENCE)?.items()?.first()
    };
    let source: &InMemDicomObject = group(tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE, frame_idx)
        .or_else(|| group(tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE, 0))
        .unwrap_or(data_set);
    let number = |tag: Tag, otherwise: f64| match source.get(tag) {
        Some(element) if !element.value().to_str().is_ok_and(|s| s.trim().is_empty()) => element.to_float64().ok(),
        _ => Some(otherwise),
    };
    match (number(tags::RESCALE_SLOPE, 1.0), number(tags::RESCALE_INTERCEPT, 0.0)) {
        // 1e12 keeps every product of a 32-bit sample far inside single precision.
        (Some(slope), Some(intercept)) if slope != 0.0 && slope.abs() < 1e12 && intercept.abs() < 1e12 => {
            Ok(Rescale { slope, intercept })
        }
        _ => Err(unreadable("An image has no valid Rescale Slope (0028,1053) or Rescale Intercept (0028,1052).")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receive::{ScanLimits, scan_part10};

    fn head(tag: [u8; 4], vr: &[u8; 2], length: u32) -> Vec<u8> {
        [&tag[..], vr, &[0, 0], &length.to_le_bytes()].concat()
    }

    fn short(tag: [u8; 4], vr: &[u8; 2], value: &[u8]) -> Vec<u8> {
        [&tag[..], vr, &u16::try_from(value.len()).unwrap().to_le_bytes(), value].concat()
    }

    fn identifiers() -> Vec<u8> {
        [
            short([0x08, 0, 0x16, 0], b"UI", b"1.2.840.10008.5.1.4.1.1.88.11\0"),
            short([0x08, 0, 0x18, 0], b"UI", b"1.2.3\0"),
            short([0x20, 0, 0x0D, 0], b"UI", b"1.2.4\0"),
            short([0x20, 0, 0x0E, 0], b"UI", b"1.2.5\0"),
        ]
        .concat()
    }

    const ITEM: [u8; 8] = [0xFE, 0xFF, 0x00, 0xE0, 0xFF, 0xFF, 0xFF, 0xFF];
    const ITEM_END: [u8; 8] = [0xFE, 0xFF, 0x0D, 0xE0, 0, 0, 0, 0];
    const SEQUENCE_END: [u8; 8] = [0xFE, 0xFF, 0xDD, 0xE0, 0, 0, 0, 0];

    /// What lies in a value of UN and undefined length is implicit VR (PS3.5 section 6.2.2 note 2), as the scan reads it; dicom-parser 0.10.1 goes
    /// on in explicit VR. So a length whose first bytes are "SQ" is one long value to the one and 50,000 nested sequences to the other.
    #[test]
    fn depth_that_only_the_parser_sees_is_refused_before_it_recurses() {
        let level = [&ITEM[..], &head([0x40, 0, 0x30, 0xA7], b"SQ", u32::MAX)].concat();
        let value_length = 0x000F_5153_usize; // in bytes: S Q 0F 00
        let mut value = u32::MAX.to_le_bytes().to_vec();
        while value.len() + level.len() <= value_length {
            value.extend_from_slice(&level);
        }
        value.resize(value_length, 0);
        let mut bytes = identifiers();
        bytes.extend(head([0x29, 0, 0x20, 0x10], b"UN", u32::MAX));
        bytes.extend(ITEM);
        bytes.extend([0x29, 0, 0x30, 0x10, b'S', b'Q', 0x0F, 0x00]);
        bytes.extend(value);
        bytes.extend(ITEM_END);
        bytes.extend(SEQUENCE_END);
        scan_part10(&mut std::io::Cursor::new(&bytes), &ScanLimits::default()).expect("the scan sees a long value");
        let reason = read_data_set(&bytes, EXPLICIT_VR_LITTLE_ENDIAN, u64::MAX).unwrap_err();
        assert!(reason.text.contains("64 deep"), "{}", reason.text);
    }

    #[test]
    fn an_element_that_declares_more_than_there_is_takes_no_memory() {
        let bytes = [identifiers(), head([0x29, 0, 0x20, 0x10], b"OB", 0xFFFF_FF00), vec![0; 64]].concat();
        assert!(read_data_set(&bytes, EXPLICIT_VR_LITTLE_ENDIAN, u64::MAX).is_err());
    }

    #[test]
    fn sixty_four_levels_are_read() {
        let level = [&head([0x40, 0, 0x30, 0xA7], b"SQ", u32::MAX)[..], &ITEM].concat();
        let end = [ITEM_END, SEQUENCE_END].concat();
        let nested = |n: usize| [identifiers(), level.repeat(n), end.repeat(n)].concat();
        assert!(read_data_set(&nested(64), EXPLICIT_VR_LITTLE_ENDIAN, u64::MAX).is_ok());
        assert!(read_data_set(&nested(65), EXPLICIT_VR_LITTLE_ENDIAN, u64::MAX).is_err());
        // Compressed pixels inside an item close a sequence of their own and no other.
        let fragments = [&head([0xE0, 0x7F, 0x10, 0], b"OB", u32::MAX)[..], &SEQUENCE_END].concat();
        let iced = [identifiers(), [&level[..], &fragments].concat().repeat(200), end.repeat(200)].concat();
        assert!(read_data_set(&iced, EXPLICIT_VR_LITTLE_ENDIAN, u64::MAX).is_err());
    }
}
