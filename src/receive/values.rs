//! Values of data elements: bytes and value representation in -> numbers and text out. Lossy on purpose and never failing:
//! a value that cannot be read is a value that is not there.

use super::element_reader::{Encoding, Vr};

/// Values kept of one element; no wanted element has more.
const N_VALUES_MAX: usize = 64;
/// Characters kept of one text value; LO and SH end at 64 (PS3.5 table 6.2-1).
const N_CHARACTERS_MAX: usize = 256;

/// The numbers of a value: decimal and integer strings, or binary.
pub(super) fn numbers(value: &[u8], vr: Vr, encoding: Encoding) -> Vec<f64> {
    let big = encoding.big_endian;
    let take = |width: usize, to_f64: &dyn Fn(&[u8]) -> f64| {
        value.chunks_exact(width).take(N_VALUES_MAX).map(to_f64).collect::<Vec<f64>>()
    };
    let finite = match &vr {
        b"FD" => take(8, &|bytes| {
            bytes.try_into().map_or(f64::NAN, |b| if big { f64::from_be_bytes(b) } else { f64::from_le_bytes(b) })
        }),
        b"FL" => take(4, &|bytes| {
            bytes.try_into().map_or(f64::NAN, |b| f64::from(if big { f32::from_be_bytes(b) } else { f32::from_le_bytes(b) }))
        }),
        b"US" => take(2, &|bytes| {
            bytes.try_into().map_or(f64::NAN, |b| f64::from(if big { u16::from_be_bytes(b) } else { u16::from_le_bytes(b) }))
        }),
        b"SS" => take(2, &|bytes| {
            bytes.try_into().map_or(f64::NAN, |b| f64::from(if big { i16::from_be_bytes(b) } else { i16::from_le_bytes(b) }))
        }),
        b"UL" => take(4, &|bytes| {
            bytes.try_into().map_or(f64::NAN, |b| f64::from(if big { u32::from_be_bytes(b) } else { u32::from_le_bytes(b) }))
        }),
        b"SL" => take(4, &|bytes| {
            bytes.try_into().map_or(f64::NAN, |b| f64::from(if big { i32::from_be_bytes(b) } else { i32::from_le_bytes(b) }))
        }),
        _ => texts(value, false).iter().map(|text| text.parse().unwrap_or(f64::NAN)).collect(),
    };
    if finite.iter().all(|x: &f64| x.is_finite()) { finite } else { Vec::new() }
}

/// The first number.
pub(super) fn first_number(value: &[u8], vr: Vr, encoding: Encoding) -> Option<f64> {
    // Only the first is read, so that an unreadable later one does not hide it.
    let first = if is_text(vr) { value.split(|&b| b == b'\\').next().unwrap_or_default() } else { value };
    numbers(first, vr, encoding).first().copied()
}

/// The first number as a whole number, when it is one.
pub(super) fn first_integer(value: &[u8], vr: Vr, encoding: Encoding) -> Option<i64> {
    let number = first_number(value, vr, encoding)?;
    #[allow(clippy::cast_possible_truncation)] // checked: whole and far inside i64
    (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64)
}

/// The first number as an unsigned 32-bit number, when it is one.
pub(super) fn first_u32(value: &[u8], vr: Vr, encoding: Encoding) -> Option<u32> {
    u32::try_from(first_integer(value, vr, encoding)?).ok()
}

/// Exactly three numbers.
pub(super) fn triple(numbers: &[f64]) -> Option<[f64; 3]> {
    numbers.try_into().ok()
}

fn is_text(vr: Vr) -> bool {
    !matches!(&vr, b"FD" | b"FL" | b"US" | b"SS" | b"UL" | b"SL")
}

/// One text value, backslashes and all; `None` when nothing but padding is there.
pub(super) fn text(value: &[u8], utf8: bool) -> Option<String> {
    let bytes = &value[..value.len().min(4 * N_CHARACTERS_MAX)];
    let keep = |c: &char| !c.is_control();
    let decoded: String = if utf8 {
        String::from_utf8_lossy(bytes).chars().filter(keep).take(N_CHARACTERS_MAX).collect()
    } else {
        bytes.iter().map(|&b| char::from(b)).filter(keep).take(N_CHARACTERS_MAX).collect()
    };
    let trimmed = decoded.trim();
    (!trimmed.is_empty()).then(|| trimmed.to_owned())
}

/// The values of a multi-valued text, empty ones included so that the order keeps its meaning; empty when there is nothing at all.
pub(super) fn texts(value: &[u8], utf8: bool) -> Vec<String> {
    if text(value, utf8).is_none() {
        return Vec::new();
    }
    value.split(|&b| b == b'\\').take(N_VALUES_MAX).map(|part| text(part, utf8).unwrap_or_default()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreadable_decimal_string_is_absent() {
        assert_eq!(numbers(b"1.5\\ 2 \\-3e0 ", *b"DS", Encoding::EXPLICIT), vec![1.5, 2.0, -3.0]);
        assert!(numbers(b"1.5\\abc", *b"DS", Encoding::EXPLICIT).is_empty());
        assert!(numbers(b"nan", *b"DS", Encoding::EXPLICIT).is_empty());
        assert_eq!(first_number(b"1000000800\\8\\0\\x", *b"IS", Encoding::EXPLICIT), Some(1_000_000_800.0));
    }

    #[test]
    fn text_of_any_character_set_is_kept_without_control_characters() {
        assert_eq!(text("T1 caf\u{e9}".as_bytes(), true).as_deref(), Some("T1 caf\u{e9}"));
        assert_eq!(text(b"T1\x1b$B caf\xe9 \0", false).as_deref(), Some("T1$B caf\u{e9}"));
        assert_eq!(text(b" \0", false), None);
        assert_eq!(texts(b"ORIGINAL\\\\M ", false), vec!["ORIGINAL", "", "M"]);
    }
}
