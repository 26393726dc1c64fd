//! Samples of one frame: data set in -> values in their own width, native or decompressed.
//!
//! Decoders see one frame at a time through [`OneFrame`], after the size that the compressed stream itself declares was found to be the
//! one of the data set: a stream that claims 60,000 x 60,000 pixels never reaches a decoder.

use std::borrow::Cow;

use dicom_core::value::{C, PrimitiveValue, Value};
use dicom_dictionary_std::tags;
use dicom_encoding::adapters::{PixelDataObject, RawPixelData};
use dicom_encoding::transfer_syntax::{Codec, TransferSyntaxIndex};
use dicom_transfer_syntax_registry::TransferSyntaxRegistry;

use super::codestream::{self, StreamSize};
use super::dataset::{Opened, SampleFormat};
use crate::domain::{Reason, ReasonCode};

/// What transfer syntaxes can be read (PS3.5 section 10, PS3.6 table A-1), and how their pixels lie.
const SYNTAXES: [(&str, Layout); 15] = [
    ("1.2.840.10008.1.2", Layout::Native),                            // Implicit VR Little Endian
    ("1.2.840.10008.1.2.1", Layout::Native),                          // Explicit VR Little Endian
    ("1.2.840.10008.1.2.1.99", Layout::Native),                       // Deflated Explicit VR Little Endian
    ("1.2.840.10008.1.2.2", Layout::NativeBigEndian),                 // Explicit VR Big Endian
    ("1.2.840.10008.1.2.5", Layout::Rle),                             // RLE Lossless
    ("1.2.840.10008.1.2.4.50", Layout::Jpeg { is_lossy: true }),      // JPEG Baseline
    ("1.2.840.10008.1.2.4.51", Layout::Jpeg { is_lossy: true }),      // JPEG Extended
    ("1.2.840.10008.1.2.4.57", Layout::Jpeg { is_lossy: false }),     // JPEG Lossless, process 14
    ("1.2.840.10008.1.2.4.70", Layout::Jpeg { is_lossy: false }),     // JPEG Lossless, first-order prediction
    ("1.2.840.10008.1.2.4.90", Layout::Jpeg2000 { is_lossy: false }), // JPEG 2000, lossless only
    ("1.2.840.10008.1.2.4.91", Layout::Jpeg2000 { is_lossy: true }),  // JPEG 2000
    ("1.2.840.10008.1.2.4.201", Layout::Jpeg2000 { is_lossy: false }), // High-throughput JPEG 2000, lossless only
    ("1.2.840.10008.1.2.4.202", Layout::Jpeg2000 { is_lossy: false }), // High-throughput JPEG 2000 with RPCL, lossless only
    ("1.2.840.10008.1.2.4.203", Layout::Jpeg2000 { is_lossy: true }), // High-throughput JPEG 2000
    ("1.2.840.10008.1.2.1.98", Layout::Encapsulated),                 // Encapsulated Uncompressed Explicit VR Little Endian
];

/// How the pixels of a transfer syntax lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Native,
    NativeBigEndian,
    Encapsulated,
    Rle,
    Jpeg { is_lossy: bool },
    Jpeg2000 { is_lossy: bool },
}

/// Samples of one slice, rows then columns, as stored: masked to the bits stored, sign extended, turned round if MONOCHROME1.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Samples {
    /// Unsigned, up to 16 bits.
    U16(Vec<u16>),
    /// Signed, up to 16 bits.
    I16(Vec<i16>),
    /// More than 16 bits; single precision is enough to look at an image.
    F32(Vec<f32>),
}

impl Samples {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::U16(v) => v.len(),
            Self::I16(v) => v.len(),
            Self::F32(v) => v.len(),
        }
    }
}

/// The name of a transfer syntax for people.
pub(super) fn syntax_name(uid: &str) -> String {
    TransferSyntaxRegistry.get(uid).map_or_else(|| uid.to_owned(), |syntax| format!("{} ({uid})", syntax.name()))
}

fn undecodable(syntax_uid: &str, why: &str) -> Reason {
    let text = format!(
        "The pixels of an image stored as {} cannot be decoded: {why}. Remedy: have the sender send uncompressed, JPEG lossless or JPEG 2000.",
        syntax_name(syntax_uid)
    );
    Reason::new(ReasonCode::UndecodablePixels, text)
}

/// Whether images of this transfer syntax can be read; the error names it.
pub(super) fn check_syntax(syntax_uid: &str) -> Result<(), Reason> {
    layout_of(syntax_uid).map(|_| ())
}

fn layout_of(syntax_uid: &str) -> Result<Layout, Reason> {
    let found = SYNTAXES.iter().find(|(uid, _)| *uid == syntax_uid).map(|(_, layout)| *layout);
    found.ok_or_else(|| undecodable(syntax_uid, "this transfer syntax is not supported"))
}

/// Whether the pixels lost information on their way: by the transfer syntax, or as the data set says.
pub(super) fn is_lossy(syntax_uid: &str, format: &SampleFormat) -> bool {
    let by_syntax = matches!(
        layout_of(syntax_uid),
        // JPEG 2000 without "lossless only" may be either; the data set then says which.
        Ok(Layout::Jpeg { is_lossy: true })
    );
    by_syntax || format.is_lossy
}

/// The samples of frame `frame_idx`.
pub(super) fn samples(opened: &Opened, format: &SampleFormat, frame_idx: usize) -> Result<Samples, Reason> {
    let data_set = &opened.data_set;
    let syntax_uid = data_set.meta().transfer_syntax();
    let layout = layout_of(syntax_uid)?;
    let missing = || Reason::new(ReasonCode::UnreadableDataSet, "An image holds no pixels, or fewer than its size says.");
    if let Some(pixels) = opened.plain_pixels() {
        let start = format.frame_bytes().checked_mul(frame_idx).ok_or_else(missing)?;
        let frame = start.checked_add(format.frame_bytes()).and_then(|end| pixels.get(start..end));
        return Ok(from_little_endian(frame.ok_or_else(missing)?, format));
    }
    let element = data_set.get(tags::PIXEL_DATA).ok_or_else(missing)?;
    let bytes: Cow<'_, [u8]> = match (layout, element.value()) {
        (Layout::Native | Layout::NativeBigEndian, Value::Primitive(value)) => {
            let start = format.frame_bytes().checked_mul(frame_idx).ok_or_else(missing)?;
            let big_endian_words = layout == Layout::NativeBigEndian && format.bits_allocated == 32;
            if big_endian_words {
                return Err(undecodable(syntax_uid, "32-bit pixels are read in little endian only"));
            }
            native_bytes(value, start, format.frame_bytes()).ok_or_else(missing)?
        }
        (Layout::Encapsulated | Layout::Rle | Layout::Jpeg { .. } | Layout::Jpeg2000 { .. }, Value::PixelSequence(sequence)) => {
            let data = frame_fragments(sequence.fragments(), sequence.offset_table(), format.n_frames, frame_idx);
            let data = data.ok_or_else(|| undecodable(syntax_uid, "its fragments cannot be told apart"))?;
            Cow::Owned(decompress(&data, format, layout, syntax_uid)?)
        }
        _ => return Err(missing()),
    };
    if bytes.len() != format.frame_bytes() {
        return Err(missing());
    }
    Ok(from_little_endian(&bytes, format))
}

/// `n` bytes from `start` of native pixel data, little endian; parsed 16-bit words are in the machine's order already.
fn native_bytes(value: &PrimitiveValue, start: usize, n: usize) -> Option<Cow<'_, [u8]>> {
    let end = start.checked_add(n)?;
    match value {
        PrimitiveValue::U8(bytes) => bytes.get(start..end).map(Cow::Borrowed),
        PrimitiveValue::U16(words) => {
            let covering: Vec<u8> = words.get(start / 2..end.div_ceil(2))?.iter().flat_map(|word| word.to_le_bytes()).collect();
            let skipped = start - start / 2 * 2;
            covering.get(skipped..skipped + n).map(|bytes| Cow::Owned(bytes.to_vec()))
        }
        _ => None,
    }
}

/// The compressed bytes of one frame (PS3.5 section A.4): one fragment per frame, all fragments of a single frame, or as the
/// Basic Offset Table says.
fn frame_fragments<'a>(fragments: &'a [Vec<u8>], offsets: &[u32], n_frames: usize, frame_idx: usize) -> Option<Cow<'a, [u8]>> {
    if fragments.len() == n_frames {
        return fragments.get(frame_idx).map(|f| Cow::Borrowed(f.as_slice()));
    }
    if n_frames == 1 {
        return (!fragments.is_empty()).then(|| Cow::Owned(fragments.concat()));
    }
    let begin = u64::from(*offsets.get(frame_idx)?);
    let end = offsets.get(frame_idx + 1).map_or(u64::MAX, |&offset| u64::from(offset));
    let (mut at, mut data) = (0_u64, Vec::new());
    for fragment in fragments {
        if at >= begin && at < end {
            data.extend_from_slice(fragment);
        }
        at = at.saturating_add(8).saturating_add(u64::try_from(fragment.len()).ok()?); // item tag and length take 8 bytes
    }
    (!data.is_empty()).then_some(Cow::Owned(data))
}

fn decompress(data: &[u8], format: &SampleFormat, layout: Layout, syntax_uid: &str) -> Result<Vec<u8>, Reason> {
    let refuse = |why: &str| undecodable(syntax_uid, why);
    if layout == Layout::Encapsulated {
        return data.get(..format.frame_bytes()).map(<[u8]>::to_vec).ok_or_else(|| refuse("it is too short"));
    }
    if format.bits_allocated > 16 {
        return Err(refuse("more than 16 bits per pixel"));
    }
    let declared = match layout {
        Layout::Jpeg { .. } => Some(codestream::jpeg_size(data).ok_or_else(|| refuse("it is no JPEG stream"))?),
        Layout::Jpeg2000 { .. } => Some(codestream::jpeg2000_size(data).ok_or_else(|| refuse("it is no JPEG 2000 stream"))?),
        Layout::Rle | Layout::Native | Layout::NativeBigEndian | Layout::Encapsulated => None,
    };
    if let Some(StreamSize { n_rows, n_columns, n_components, bits }) = declared {
        let fits = (n_rows, n_columns, n_components) == (u32::from(format.n_rows), u32::from(format.n_columns), 1);
        // The JPEG decoder writes as many bytes per sample as the precision needs, which must be those allocated.
        let is_width_right =
            bits <= format.bits_allocated && (bits > 8 || format.bits_allocated == 8 || !matches!(layout, Layout::Jpeg { .. }));
        if !fits || !is_width_right {
            return Err(refuse("the compressed stream has another size than the image"));
        }
    }
    let n_pixels = usize::from(format.n_rows) * usize::from(format.n_columns);
    if layout == Layout::Rle && !codestream::rle_fits(data, usize::from(format.bits_allocated / 8), n_pixels) {
        return Err(refuse("its segments do not hold the image"));
    }
    let syntax = TransferSyntaxRegistry.get(syntax_uid).ok_or_else(|| refuse("it is not known"))?;
    let Codec::EncapsulatedPixelData(Some(decoder), _) = syntax.codec() else {
        return Err(refuse("no decoder is built in"));
    };
    let frame = OneFrame { data, format, syntax_uid };
    let mut decoded = Vec::new();
    decoder.decode_frame(&frame, 0, &mut decoded).map_err(|_| refuse("the stream is broken"))?;
    Ok(decoded)
}

fn from_little_endian(bytes: &[u8], format: &SampleFormat) -> Samples {
    let shift = u32::from(format.high_bit + 1 - format.bits_stored);
    let stored = u32::from(format.bits_stored);
    let mask = if stored >= 32 { u32::MAX } else { (1 << stored) - 1 };
    let sign = if format.is_signed { 1_u32 << (stored - 1) } else { 0 };
    // MONOCHROME1 is turned round inside its own range, so that the values stay in it.
    let flip = if !format.is_inverted { 0 } else { mask };
    let value = |raw: u32| {
        let bits = ((raw >> shift) & mask) ^ flip;
        i64::from(bits ^ sign) - i64::from(sign) // sign extension
    };
    if format.bits_allocated == 16 {
        return from_words(bytes, format, flip);
    }
    let raw8 = bytes.iter().map(|&b| u32::from(b));
    // The masks above keep every value inside its type.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    match (format.bits_allocated, format.is_signed) {
        (8, true) => Samples::I16(raw8.map(|raw| value(raw) as i16).collect()),
        (8, false) => Samples::U16(raw8.map(|raw| value(raw) as u16).collect()),
        _ => {
            let raw32 = bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            Samples::F32(raw32.map(|raw| value(raw) as f32).collect())
        }
    }
}

/// Words in sixteen-bit arithmetic: moved up to the highest bit stored, and down again with the sign or without.
#[allow(clippy::cast_possible_truncation)] // the flip of 16 bits allocated has no more
fn from_words(bytes: &[u8], format: &SampleFormat, flip: u32) -> Samples {
    let (up, down) = (u32::from(15 - format.high_bit), u32::from(16 - format.bits_stored));
    let flip = (flip << down) as u16;
    let words = bytes.chunks_exact(2).map(|b| (u16::from_le_bytes([b[0], b[1]]) << up) ^ flip);
    if format.is_signed {
        Samples::I16(words.map(|word| word.cast_signed() >> down).collect())
    } else {
        Samples::U16(words.map(|word| word >> down).collect())
    }
}

/// One compressed frame as the decoders want to see it.
struct OneFrame<'a> {
    data: &'a [u8],
    format: &'a SampleFormat,
    syntax_uid: &'a str,
}

impl PixelDataObject for OneFrame<'_> {
    fn transfer_syntax_uid(&self) -> &str {
        self.syntax_uid
    }

    fn rows(&self) -> Option<u16> {
        Some(self.format.n_rows)
    }

    fn cols(&self) -> Option<u16> {
        Some(self.format.n_columns)
    }

    fn samples_per_pixel(&self) -> Option<u16> {
        Some(1)
    }

    fn bits_allocated(&self) -> Option<u16> {
        Some(self.format.bits_allocated)
    }

    fn bits_stored(&self) -> Option<u16> {
        Some(self.format.bits_stored)
    }

    fn photometric_interpretation(&self) -> Option<&str> {
        Some("MONOCHROME2")
    }

    fn number_of_frames(&self) -> Option<u32> {
        Some(1)
    }

    fn number_of_fragments(&self) -> Option<u32> {
        Some(1)
    }

    fn fragment(&self, fragment: usize) -> Option<Cow<'_, [u8]>> {
        (fragment == 0).then_some(Cow::Borrowed(self.data))
    }

    fn offset_table(&self) -> Option<Cow<'_, [u32]>> {
        Some(Cow::Borrowed(&[]))
    }

    fn raw_pixel_data(&self) -> Option<RawPixelData> {
        let mut fragments = C::new();
        fragments.push(self.data.to_vec());
        Some(RawPixelData { fragments, offset_table: C::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(bits_allocated: u16, bits_stored: u16, is_signed: bool) -> SampleFormat {
        let high_bit = bits_stored - 1;
        let (n_rows, n_columns, n_frames, is_inverted, is_lossy) = (1, 2, 1, false, false);
        SampleFormat { n_rows, n_columns, n_frames, bits_allocated, bits_stored, high_bit, is_signed, is_inverted, is_lossy }
    }

    #[test]
    fn bits_above_the_stored_ones_are_dropped_and_the_sign_is_extended() {
        let bytes = [0xff, 0xff, 0x01, 0xf0];
        assert_eq!(from_little_endian(&bytes, &format(16, 12, false)), Samples::U16(vec![0x0fff, 0x001]));
        assert_eq!(from_little_endian(&bytes, &format(16, 12, true)), Samples::I16(vec![-1, 1]));
        let shifted = SampleFormat { high_bit: 15, ..format(16, 12, false) };
        assert_eq!(from_little_endian(&bytes, &shifted), Samples::U16(vec![0x0fff, 0x0f00]));
        assert_eq!(from_little_endian(&[0x80, 0x7f], &format(8, 8, true)), Samples::I16(vec![-128, 127]));
    }

    #[test]
    fn monochrome1_is_turned_round_inside_its_range() {
        let unsigned = SampleFormat { is_inverted: true, ..format(16, 12, false) };
        assert_eq!(from_little_endian(&[0, 0, 0xff, 0x0f], &unsigned), Samples::U16(vec![4095, 0]));
        let signed = SampleFormat { is_inverted: true, ..format(16, 12, true) };
        assert_eq!(from_little_endian(&[0xff, 0x07, 0, 0], &signed), Samples::I16(vec![-2048, -1]));
    }

    #[test]
    fn odd_frames_of_bytes_packed_in_words_are_cut_at_the_right_byte() {
        let value = PrimitiveValue::U16(C::from_vec(vec![0x0201, 0x0403, 0x0605]));
        assert_eq!(native_bytes(&value, 3, 3).as_deref(), Some([4, 5, 6].as_slice()));
        assert_eq!(native_bytes(&value, 4, 3), None);
    }

    #[test]
    fn every_transfer_syntax_that_is_accepted_as_decodable_can_be_read() {
        for uid in crate::receive::sop_classes::TRANSFER_SYNTAXES {
            assert!(check_syntax(uid).is_ok(), "{uid}");
        }
        for uid in crate::receive::sop_classes::KEPT_UNREAD_SYNTAXES {
            let reason = check_syntax(uid).unwrap_err();
            assert!(reason.text.contains("uncompressed, JPEG lossless or JPEG 2000"), "{uid}: {}", reason.text);
        }
    }

    /// 8 x 8 pixels, `61 k mod 4096` in row order, written by OpenJPH 0.26.3 (reversible, five levels).
    const HIGH_THROUGHPUT: &str = concat!(
        "ff4fff5100294000000000080000000800000000000000000000000800000008000000000000000000010f0101ff50000800020000000aff",
        "52000c00020001000504044001ff5c00132088909090909090909090909090888888ff64001700014f70656e4a50482056657220302e3236",
        "2e332eff90000a00000000005a0001ff93c0002635f6050774000000c00013400013002afe0207740064f103877400c00013400013801010",
        "0182740092288900c35400c0002a20001560388ee3aa70827500ce3b77eefcc04201ecb600ffd9",
    );

    #[test]
    fn high_throughput_jpeg_2000_is_decoded_bit_for_bit() {
        let stream: Vec<u8> = (0..HIGH_THROUGHPUT.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&HIGH_THROUGHPUT[at..at + 2], 16).unwrap())
            .collect();
        let format = SampleFormat { n_rows: 8, n_columns: 8, ..format(16, 16, false) };
        let layout = Layout::Jpeg2000 { is_lossy: false };
        let bytes = decompress(&stream, &format, layout, "1.2.840.10008.1.2.4.201").unwrap();
        let expected: Vec<u16> = (0..64_u16).map(|k| k * 61 % 4096).collect();
        assert_eq!(from_little_endian(&bytes, &format), Samples::U16(expected));
    }

    #[test]
    fn fragments_are_gathered_by_the_offset_table() {
        let fragments = vec![vec![1, 1], vec![2, 2], vec![3, 3]];
        let of = |idx| frame_fragments(&fragments, &[0, 20], 2, idx).map(Cow::into_owned);
        assert_eq!(of(0), Some(vec![1, 1, 2, 2]));
        assert_eq!(of(1), Some(vec![3, 3]));
        assert_eq!(of(2), None);
        assert_eq!(frame_fragments(&fragments, &[], 1, 0).map(Cow::into_owned), Some(vec![1, 1, 2, 2, 3, 3]));
        assert_eq!(frame_fragments(&fragments, &[], 2, 0), None);
    }

    #[test]
    fn a_stream_that_claims_another_size_never_reaches_the_decoder() {
        let claims_60000 = [0xff, 0xd8, 0xff, 0xc3, 0, 11, 16, 0xea, 0x60, 0xea, 0x60, 1, 1, 0x11, 0];
        let error = decompress(&claims_60000, &format(16, 12, false), Layout::Jpeg { is_lossy: false }, "1.2.840.10008.1.2.4.70");
        assert!(error.is_err_and(|r| r.text.contains("another size")));
    }
}
