//! Bytes that begin at a cache line: a vector load of packed weights then never straddles two lines.

/// One cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// A run of bytes, the first at a multiple of 64.
#[derive(Clone, Debug, Default)]
pub(crate) struct AlignedBytes {
    lines: Vec<Line>,
    len: usize,
}

impl AlignedBytes {
    /// A copy of `bytes`.
    pub(crate) fn copy_of(bytes: &[u8]) -> Self {
        let mut aligned = Self { lines: vec![Line([0; 64]); bytes.len().div_ceil(64)], len: bytes.len() };
        for (line, part) in aligned.lines.iter_mut().zip(bytes.chunks(64)) {
            line.0[..part.len()].copy_from_slice(part);
        }
        aligned
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        // SAFETY: `lines` is one allocation of at least `len` initialised bytes (`copy_of` rounds up), `Line` is `repr(C)` around bytes and
        // 64 long without padding, and the slice borrows `self`.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts(self.lines.as_ptr().cast::<u8>(), self.len)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_and_begin_at_a_line() {
        for n in [0, 1, 63, 64, 65, 200] {
            let bytes: Vec<u8> = (0..n).collect();
            let aligned = AlignedBytes::copy_of(&bytes);
            assert_eq!(aligned.as_bytes(), bytes);
            assert!(n == 0 || aligned.as_bytes().as_ptr().addr().is_multiple_of(64));
        }
    }
}
