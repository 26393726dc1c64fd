//! The receive buffer of one connection: bytes as they come in -> whole PDUs and their fragments out, as ranges, without copying.
//!
//! It is as long as the longest PDU that we take, or a whole image where that is longer; before the request it grows with what has come. A PDU
//! that declares more is refused from its six header bytes alone, so that a declared 4 GB never costs memory. Source: PS3.8 section 9.3 (PDU structure), 9.3.5.1 (presentation data values), annex E.2 (control header).

use std::ops::Range;

use super::dimse::Fragment;

/// What an open association can hold before it must be written, at the least: a whole CT image of 512 x 512 x 16 bit with its header. Each
/// batch costs several switches between threads. Only what was ever filled takes memory.
const ASSOCIATION_BYTES_MIN: usize = 576 * 1024;

/// What a connection has before its request: most fit, the others grow.
const REQUEST_BYTES_FIRST: usize = 4096;

/// PDU header: type, reserved, length (PS3.8 section 9.3.1).
pub(super) const HEADER: usize = 6;

/// The slack lets two PDUs of half that length lie side by side with their headers (dcmtk sends 128 KiB at most).
fn capacity_for(length_max: u32) -> usize {
    HEADER + usize::try_from(length_max).unwrap_or(0) + 1024
}

/// A whole PDU in the buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WholePdu {
    pub(super) kind: u8,
    /// Header and body.
    pub(super) all: Range<usize>,
}

/// Why the next PDU cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PduError {
    /// not a PDU of DICOM's upper layer
    #[error("{0:#04x} is no PDU type of DICOM's upper layer{hint}", hint = hint_of(.0))]
    UnknownType(u8),
    /// the PDU is longer than agreed
    #[error("a PDU declares {length} bytes where {length_max} are allowed")]
    TooLong { length: u32, length_max: u32 },
    /// a presentation data value passes the end of its PDU
    #[error("a presentation data value passes the end of its PDU")]
    BadFragment,
}

/// What speaks so, where that is likely: a TLS handshake record begins with 22 (RFC 8446 section 5.1).
fn hint_of(kind: &u8) -> &'static str {
    if *kind == 22 { ": it speaks TLS, whose port is that of dicom.tls.listen" } else { "" }
}

/// The buffer. `start..end` holds bytes that have not been taken.
pub(super) struct PduBuffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    length_max: u32,
}

impl PduBuffer {
    /// A buffer for PDUs of up to `length_max` bytes after their header, of `n_bytes_min` bytes at the least.
    pub(super) fn new(length_max: u32, n_bytes_min: usize) -> Self {
        Self { bytes: vec![0; capacity_for(length_max).max(n_bytes_min)], start: 0, end: 0, length_max }
    }

    /// A buffer for the first PDU of a connection, which grows with what has come: hundreds of silent peers cost next to nothing.
    pub(super) fn for_request(length_max: u32) -> Self {
        Self { bytes: vec![0; REQUEST_BYTES_FIRST], start: 0, end: 0, length_max }
    }

    /// A buffer for nothing: stands in while the real one is at work elsewhere.
    pub(super) fn none() -> Self {
        Self { bytes: Vec::new(), start: 0, end: 0, length_max: 0 }
    }

    /// The same bytes in the buffer of an open association, for another length.
    pub(super) fn resized(self, length_max: u32) -> Self {
        let mut other = Self::new(length_max, ASSOCIATION_BYTES_MIN);
        let waiting = &self.bytes[self.start..self.end];
        if waiting.len() > other.bytes.len() {
            other.bytes.resize(waiting.len(), 0);
        }
        other.bytes[..waiting.len()].copy_from_slice(waiting);
        other.end = waiting.len();
        other
    }

    /// Whether bytes of a PDU wait for the rest of it.
    pub(super) fn has_partial(&self) -> bool {
        self.start < self.end
    }

    /// The next whole PDU, taken out; `None` when more must be read.
    pub(super) fn next_pdu(&mut self) -> Result<Option<WholePdu>, PduError> {
        let waiting = &self.bytes[self.start..self.end];
        if let Some(&kind) = waiting.first()
            && !(1..=7).contains(&kind)
        {
            return Err(PduError::UnknownType(kind));
        }
        let Some(&[kind, _, a, b, c, d]) = waiting.first_chunk::<HEADER>() else { return Ok(None) };
        let length = u32::from_be_bytes([a, b, c, d]);
        if length > self.length_max {
            return Err(PduError::TooLong { length, length_max: self.length_max });
        }
        let n = HEADER + usize::try_from(length).unwrap_or(usize::MAX - HEADER);
        if waiting.len() < n {
            return Ok(None);
        }
        let all = self.start..self.start + n;
        self.start = all.end;
        Ok(Some(WholePdu { kind, all }))
    }

    /// Whether the next PDU fits behind what is there. If not, [`Self::compact`] makes room, once no earlier range is needed any more.
    pub(super) fn has_room(&self) -> bool {
        let waiting = &self.bytes[self.start..self.end];
        let needed = match waiting.first_chunk::<HEADER>() {
            Some(&[_, _, a, b, c, d]) => {
                HEADER + usize::try_from(u32::from_be_bytes([a, b, c, d]).min(self.length_max)).unwrap_or(0)
            }
            None => HEADER,
        };
        self.start + needed <= self.bytes.len() && self.end < self.bytes.len()
    }

    /// Moves what waits to the front; a request's buffer that is full doubles, up to the longest PDU. Ranges given out before are void.
    pub(super) fn compact(&mut self) {
        self.bytes.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.end == self.bytes.len() {
            let longest = capacity_for(self.length_max).max(self.bytes.len());
            self.bytes.resize((self.bytes.len() * 2).min(longest), 0);
        }
    }

    /// Where to read into.
    pub(super) fn free(&mut self) -> &mut [u8] {
        &mut self.bytes[self.end..]
    }

    /// `n` bytes were read into [`Self::free`].
    pub(super) fn filled(&mut self, n: usize) {
        self.end = (self.end + n).min(self.bytes.len());
    }

    /// Bytes of a range that this buffer gave out.
    pub(super) fn bytes(&self, range: Range<usize>) -> &[u8] {
        self.bytes.get(range).unwrap_or_default()
    }

    /// The fragment that begins at `at` in a P-DATA-TF whose last byte lies before `end`: its head, and where its bytes lie.
    pub(super) fn fragment_at(&self, at: usize, end: usize) -> Result<(Fragment, Range<usize>), PduError> {
        let head = self.bytes(at..end).first_chunk::<6>().ok_or(PduError::BadFragment)?;
        let [a, b, c, d, context_id, control] = *head;
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).map_err(|_| PduError::BadFragment)?;
        if length < 2 || length > end - at - 4 {
            return Err(PduError::BadFragment);
        }
        let fragment = Fragment { context_id, is_command: control & 1 != 0, is_last: control & 2 != 0 };
        Ok((fragment, at + 6..at + 4 + length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn feed(buffer: &mut PduBuffer, bytes: &[u8]) {
        buffer.free()[..bytes.len()].copy_from_slice(bytes);
        buffer.filled(bytes.len());
    }

    #[test]
    fn four_gigabytes_are_refused_from_the_header_alone() {
        let mut buffer = PduBuffer::new(1024, 0);
        feed(&mut buffer, &[4, 0, 0xFF, 0xFF, 0xFF, 0xFF]);
        assert_eq!(buffer.next_pdu(), Err(PduError::TooLong { length: u32::MAX, length_max: 1024 }));
    }

    #[test]
    fn junk_is_refused_from_its_first_byte() {
        let mut buffer = PduBuffer::new(1024, 0);
        feed(&mut buffer, b"G");
        assert_eq!(buffer.next_pdu(), Err(PduError::UnknownType(b'G')));
    }

    #[test]
    fn fragment_that_passes_its_pdu_is_refused() {
        let mut buffer = PduBuffer::new(1024, 0);
        feed(&mut buffer, &[4, 0, 0, 0, 0, 8, 0, 0, 0, 4, 1, 3, 9, 9]);
        let pdu = buffer.next_pdu().unwrap().unwrap();
        let (fragment, range) = buffer.fragment_at(6, pdu.all.end).unwrap();
        assert_eq!(fragment, Fragment { context_id: 1, is_command: true, is_last: true });
        assert_eq!(buffer.bytes(range), [9, 9]);
        assert_eq!(buffer.fragment_at(6, 13), Err(PduError::BadFragment));
        assert_eq!(buffer.fragment_at(10, 14), Err(PduError::BadFragment));
    }

    #[test]
    fn request_buffer_grows_with_its_bytes_and_never_beyond_the_longest_pdu() {
        let mut buffer = PduBuffer::for_request(20_000);
        let mut pdu = vec![0x01, 0];
        pdu.extend_from_slice(&20_000_u32.to_be_bytes());
        pdu.resize(HEADER + 20_000, 7);
        let mut fed = 0;
        while fed < pdu.len() {
            assert_eq!(buffer.next_pdu(), Ok(None));
            buffer.compact();
            assert!(buffer.bytes.len() <= (2 * fed).max(REQUEST_BYTES_FIRST), "{} bytes for {fed}", buffer.bytes.len());
            let n = buffer.free().len().min(pdu.len() - fed);
            assert!(n > 0);
            buffer.free()[..n].copy_from_slice(&pdu[fed..fed + n]);
            buffer.filled(n);
            fed += n;
        }
        assert!(matches!(buffer.next_pdu(), Ok(Some(WholePdu { kind: 1, .. }))));
        assert!(buffer.bytes.len() <= capacity_for(20_000));
    }

    proptest! {
        #[test]
        fn pdus_come_out_as_they_went_in_however_they_are_cut(
            lengths in prop::collection::vec(0..100_usize, 1..20),
            cuts in prop::collection::vec(1..40_usize, 1..20),
        ) {
            let stream: Vec<u8> = lengths
                .iter()
                .flat_map(|&n| [&[4, 0, 0, 0, 0, u8::try_from(n).unwrap()][..], &vec![7; n]].concat())
                .collect();
            let mut buffer = PduBuffer::new(100, 0);
            let (mut fed, mut found, mut cut) = (0, Vec::new(), cuts.iter().cycle());
            while fed < stream.len() {
                if !buffer.has_room() {
                    buffer.compact();
                    prop_assert!(buffer.has_room());
                }
                let n = (*cut.next().unwrap()).min(stream.len() - fed).min(buffer.free().len());
                feed(&mut buffer, &stream[fed..fed + n]);
                fed += n;
                while let Some(pdu) = buffer.next_pdu().unwrap() {
                    found.push(pdu.all.len() - HEADER);
                }
            }
            prop_assert_eq!(found, lengths);
            prop_assert!(!buffer.has_partial());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0..220_usize, end in 0..220_usize) {
            let mut buffer = PduBuffer::new(1024, 0);
            feed(&mut buffer, &bytes);
            while let Ok(Some(_)) = buffer.next_pdu() {}
            let _ = buffer.has_room();
            if at <= end {
                let _ = buffer.fragment_at(at, end);
            }
        }
    }
}
