//! Where one packet of a broker ends and the next begins: bytes in any split in -> whole packets out, or why the broker is dropped.
//!
//! A packet announces its length in its first bytes (MQTT 5.0 section 2.1.4), up to 256 MB. Here nothing is taken on trust: the length is
//! judged before a byte of the rest is kept, and the kind of packet before its length is. The buffer never holds more than one packet.

/// Longest packet that we take, bytes; CONNECT says so to the broker. What a broker has to tell us (CONNACK, PUBACK, PINGRESP, DISCONNECT) has
/// a few dozen bytes, plus texts.
pub(super) const PACKET_BYTES_MAX: u32 = 16 * 1024;
/// The length has at most four bytes of seven bits each (section 1.5.5).
const LENGTH_BYTES_MAX: usize = 4;

/// The kinds of packet that a broker sends to a client that subscribes to nothing, by their number (section 2.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The answer to our greeting.
    Connack,
    /// The answer to a message.
    Puback,
    /// The answer to a ping.
    Pingresp,
    /// The broker ends the connection.
    Disconnect,
    /// Any other, by its number.
    Other(u8),
}

impl Kind {
    fn of(first_byte: u8) -> Self {
        match first_byte >> 4 {
            2 => Self::Connack,
            4 => Self::Puback,
            13 => Self::Pingresp,
            14 => Self::Disconnect,
            number => Self::Other(number),
        }
    }
}

/// Why the bytes cannot be the beginning of a packet that we take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadFrame {
    /// The kind is not one that may come now.
    Unexpected(Kind),
    /// It announces so many bytes.
    TooLong(u32),
    /// Its length has no end.
    NoLength,
}

/// Splits the broker's bytes into packets.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// The beginning of a packet.
    partial: Vec<u8>,
}

impl Frames {
    /// Takes the next bytes of `input`, up to the end of a packet. `may` says which kinds may come now. The packet, once it is whole.
    pub(super) fn next(&mut self, input: &mut &[u8], may: impl Fn(Kind) -> bool) -> Result<Option<(Kind, Vec<u8>)>, BadFrame> {
        loop {
            let missing = match *self.partial.as_slice() {
                [] => 1,
                [first, ..] if !may(Kind::of(first)) => return Err(BadFrame::Unexpected(Kind::of(first))),
                [_, ref rest @ ..] => match announced(rest)? {
                    None => 1,
                    Some((length, n_length_bytes)) => {
                        let whole = 1 + n_length_bytes + length as usize;
                        let total = u32::try_from(whole).unwrap_or(u32::MAX);
                        if total > PACKET_BYTES_MAX {
                            return Err(BadFrame::TooLong(total));
                        }
                        whole - self.partial.len()
                    }
                },
            };
            if missing == 0 {
                let packet = std::mem::take(&mut self.partial);
                let kind = packet.first().map_or(Kind::Other(0), |first| Kind::of(*first));
                return Ok(Some((kind, packet)));
            }
            if input.is_empty() {
                return Ok(None);
            }
            let (taken, rest) = input.split_at(missing.min(input.len()));
            self.partial.extend_from_slice(taken);
            *input = rest;
        }
    }

    /// Whether a packet has begun and not ended.
    pub(super) fn is_partial(&self) -> bool {
        !self.partial.is_empty()
    }

    /// Bytes that are kept.
    #[cfg(test)]
    pub(super) fn n_kept(&self) -> usize {
        self.partial.len()
    }
}

/// The length that stands in `bytes`, and how many bytes it takes; `None` while its end is missing.
fn announced(bytes: &[u8]) -> Result<Option<(u32, usize)>, BadFrame> {
    let mut length = 0_u32;
    for (idx, byte) in bytes.iter().take(LENGTH_BYTES_MAX).enumerate() {
        length |= u32::from(byte & 0x7F) << (7 * idx);
        if byte & 0x80 == 0 {
            return Ok(Some((length, idx + 1)));
        }
    }
    if bytes.len() >= LENGTH_BYTES_MAX { Err(BadFrame::NoLength) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(bytes: &[u8], cuts: &[usize]) -> Result<Vec<Vec<u8>>, BadFrame> {
        let (mut frames, mut out, mut at) = (Frames::default(), Vec::new(), 0);
        for end in cuts.iter().copied().chain([bytes.len()]) {
            let end = end.clamp(at, bytes.len());
            let mut piece = &bytes[at..end];
            at = end;
            while let Some((_, packet)) = frames.next(&mut piece, |_| true)? {
                out.push(packet);
            }
            assert!(frames.n_kept() <= PACKET_BYTES_MAX as usize);
        }
        Ok(out)
    }

    #[test]
    fn packets_come_whole_whatever_the_split() {
        let bytes = [0x20, 3, 0, 0, 0, 0x40, 2, 0, 1, 0xD0, 0];
        for cut in 0..bytes.len() {
            let packets = all(&bytes, &[cut]).expect("sound");
            assert_eq!(packets, [&bytes[..5], &bytes[5..9], &bytes[9..]], "cut at {cut}");
        }
    }

    #[test]
    fn a_packet_of_256_mb_is_refused_before_it_is_kept() {
        let mut frames = Frames::default();
        let told = frames.next(&mut &[0x20, 0xFF, 0xFF, 0xFF, 0x7F, 1, 2, 3][..], |_| true);
        assert_eq!(told, Err(BadFrame::TooLong(268_435_460)));
        assert!(frames.partial.capacity() < 64);
        assert_eq!(all(&[0x20, 0xFF, 0xFF, 0xFF, 0xFF], &[]), Err(BadFrame::NoLength));
        let unexpected = frames_of(&[0x30]).next(&mut &[][..], |kind| kind != Kind::Other(3));
        assert_eq!(unexpected, Err(BadFrame::Unexpected(Kind::Other(3))), "judged by its first byte");
    }

    fn frames_of(bytes: &[u8]) -> Frames {
        Frames { partial: bytes.to_vec() }
    }

    proptest! {
        #[test]
        fn the_split_changes_nothing(
            bytes in proptest::collection::vec(prop_oneof![Just(0_u8), Just(2_u8), Just(0x40_u8), any::<u8>()], 0..400),
            mut cuts in proptest::collection::vec(0_usize..400, 0..20)
        ) {
            cuts.sort_unstable();
            prop_assert_eq!(all(&bytes, &cuts), all(&bytes, &[]));
        }
    }
}
