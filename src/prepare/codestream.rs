//! The size that a compressed stream declares: first bytes of JPEG (ITU-T T.81) or JPEG 2000 (ITU-T T.800) in -> rows, columns, bits; and
//! whether an RLE stream (PS3.5 annex G) holds the pixels that it should.
//!
//! Read before any decoder is called, so that a decoder never allocates for a size that the data set does not have.

/// What a stream says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StreamSize {
    pub(super) n_rows: u32,
    pub(super) n_columns: u32,
    pub(super) n_components: u32,
    /// Bits per sample of the first component.
    pub(super) bits: u16,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at.checked_add(1)?)?]))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from(u16_at(bytes, at)?) << 16 | u32::from(u16_at(bytes, at.checked_add(2)?)?))
}

/// Size in the first frame header (SOF0 to SOF15) of a JPEG stream; T.81 section B.2.2.
pub(super) fn jpeg_size(bytes: &[u8]) -> Option<StreamSize> {
    if u16_at(bytes, 0)? != 0xffd8 {
        return None;
    }
    let mut at = 2_usize;
    loop {
        let marker = u16_at(bytes, at)?;
        if marker == 0xffff {
            at += 1; // fill byte (T.81 section B.1.1.2)
            continue;
        }
        at += 2;
        match marker {
            0xff01 | 0xffd0..=0xffd7 => {} // no segment follows
            0xffc4 | 0xffc8 | 0xffcc => at += usize::from(u16_at(bytes, at)?).max(2),
            0xffc0..=0xffcf => {
                return Some(StreamSize {
                    bits: u16::from(*bytes.get(at + 2)?),
                    n_rows: u32::from(u16_at(bytes, at + 3)?),
                    n_columns: u32::from(u16_at(bytes, at + 5)?),
                    n_components: u32::from(*bytes.get(at + 7)?),
                });
            }
            0xffd9 | 0xffda => return None, // end, or scan without a frame header
            0xffdb..=0xfffe => at += usize::from(u16_at(bytes, at)?).max(2),
            _ => return None,
        }
    }
}

/// Size in the SIZ segment of a bare JPEG 2000 codestream (T.800 section A.5.1); PS3.5 section A.4.4 forbids the JP2 wrapping, in which
/// a decoy could hide.
pub(super) fn jpeg2000_size(bytes: &[u8]) -> Option<StreamSize> {
    const SOC_SIZ: [u8; 4] = [0xff, 0x4f, 0xff, 0x51];
    if !bytes.starts_with(&SOC_SIZ) {
        return None;
    }
    let siz = SOC_SIZ.len(); // Lsiz 2, Rsiz 2, Xsiz 4, Ysiz 4, XOsiz 4, YOsiz 4, four tile fields of 4, Csiz 2, Ssiz 1
    let (x, y) = (u32_at(bytes, siz + 4)?, u32_at(bytes, siz + 8)?);
    let (x_offset, y_offset) = (u32_at(bytes, siz + 12)?, u32_at(bytes, siz + 16)?);
    Some(StreamSize {
        n_rows: y.checked_sub(y_offset)?,
        n_columns: x.checked_sub(x_offset)?,
        n_components: u32::from(u16_at(bytes, siz + 36)?),
        bits: u16::from(bytes.get(siz + 38)? & 0x7f) + 1,
    })
}

/// Whether an RLE stream has `n_segments` segments that give at least `n_pixels` bytes each (PS3.5 sections G.3 to G.5). dicom-rs 0.10.1 takes any
/// number of segments on trust, and allocates for it.
pub(super) fn rle_fits(bytes: &[u8], n_segments: usize, n_pixels: usize) -> bool {
    const HEADER: usize = 64;
    let number = |idx: usize| -> Option<usize> {
        let at = bytes.get(4 * idx..4 * idx + 4)?;
        usize::try_from(u32::from_le_bytes(at.try_into().ok()?)).ok()
    };
    if bytes.len() < HEADER || n_segments > 15 || number(0) != Some(n_segments) {
        return false;
    }
    (1..=n_segments).all(|idx| {
        let begin = number(idx).unwrap_or(usize::MAX);
        let end = if idx == n_segments { Some(bytes.len()) } else { number(idx + 1) };
        let segment = end.and_then(|end| bytes.get(begin..end));
        begin >= HEADER && segment.is_some_and(|segment| gives(segment, n_pixels))
    })
}

/// Whether a PackBits segment decodes to at least `n_pixels` bytes.
fn gives(segment: &[u8], n_pixels: usize) -> bool {
    let (mut at, mut n) = (0_usize, 0_usize);
    while n < n_pixels {
        let Some(&head) = segment.get(at) else { return false };
        let (n_taken, n_given) = match head {
            0..=127 => (usize::from(head) + 1, usize::from(head) + 1),
            128 => (0, 0),
            129..=255 => (1, 257 - usize::from(head)),
        };
        at += 1 + n_taken;
        n += n_given;
        if at > segment.len() {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read_behind_other_segments() {
        let jpeg = [0xff, 0xd8, 0xff, 0xe0, 0, 4, 0, 0, 0xff, 0xff, 0xc3, 0, 11, 12, 1, 0, 2, 0, 1, 1, 0x11, 0];
        assert_eq!(jpeg_size(&jpeg), Some(StreamSize { n_rows: 256, n_columns: 512, n_components: 1, bits: 12 }));
        let mut stream = vec![0xff, 0x4f, 0xff, 0x51, 0, 41, 0, 0];
        for field in [512_u32, 256, 0, 0, 512, 256, 0, 0] {
            stream.extend(field.to_be_bytes());
        }
        stream.extend([0, 1, 15, 1, 1]);
        assert_eq!(jpeg2000_size(&stream), Some(StreamSize { n_rows: 256, n_columns: 512, n_components: 1, bits: 16 }));
    }

    /// Two segments: four bytes as they are, and one byte four times.
    fn rle() -> Vec<u8> {
        let mut stream: Vec<u8> = [2_u32, 64, 69].iter().flat_map(|n| n.to_le_bytes()).collect();
        stream.resize(64, 0);
        stream.extend([3, 1, 2, 3, 4, 0xfd, 9]);
        stream
    }

    #[test]
    fn rle_streams_that_lie_never_reach_the_decoder() {
        assert!(rle_fits(&rle(), 2, 4));
        assert!(!rle_fits(&rle(), 2, 5), "too few pixels");
        assert!(!rle_fits(&rle(), 1, 4), "another number of segments");
        assert!(!rle_fits(&rle()[..70], 2, 4), "cut");
        let many = [&u32::MAX.to_le_bytes()[..], &rle()[4..]].concat();
        assert!(!rle_fits(&many, 2, 4), "found by fuzzing: four thousand million segments");
        let mut back = rle();
        back[8] = 63;
        assert!(!rle_fits(&back, 2, 4), "a segment inside the header");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (jpeg_size(&bytes), jpeg2000_size(&bytes), rle_fits(&bytes, 2, 4));
            let _ = rle_fits(&[&rle()[..64], &bytes].concat(), 2, 40);
            if bytes.len() > 4 {
                bytes[..4].copy_from_slice(&[0xff, 0xd8, 0xff, 0xc3]);
                let _ = jpeg_size(&bytes);
                bytes[..4].copy_from_slice(&[0xff, 0x4f, 0xff, 0x51]);
                let _ = jpeg2000_size(&bytes);
            }
        }
    }
}
