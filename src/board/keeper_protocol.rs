//! What the lamp keeper and its peers say to each other: words in -> frames of 128 bytes, and back. Pure; both ends.
//!
//! | Bytes | Hold |
//! | --- | --- |
//! | 0, 1 | `S`, `L` |
//! | 2 | version, 1 |
//! | 3 | which word |
//! | 4 to 127 | its values (little-endian), zeros behind them |
//!
//! Everything is fixed in size and read strictly: what is not exactly a frame that this file would write is refused, and the connection with
//! it. A keeper that refuses its service shows a fault; nothing here can make a light green but a well-formed word.

use heapless::String;
use scanside_lamp::TestEnd;

use super::Lights;
use super::jitter::JitterStats;
use crate::domain::Lamp;

/// Length of every frame.
pub const FRAME_BYTES: usize = 128;
/// Longest text inside a frame, bytes.
pub const TEXT_BYTES_MAX: usize = 96;
const HEAD: [u8; 3] = [b'S', b'L', 1];
const HEAD_BYTES: usize = 4;

/// A frame as it travels.
pub type FrameBytes = [u8; FRAME_BYTES];
/// A short text for people, without control characters.
pub type Text = String<TEXT_BYTES_MAX>;

/// As much of `text` as a frame holds, cut at a character.
#[must_use]
pub fn short(text: &str) -> Text {
    let mut short = Text::new();
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if short.push(c).is_err() {
            break;
        }
    }
    short
}

/// Who connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The service; the newest one wins.
    Service,
    /// A person's board test; one at a time.
    Test,
}

/// What a peer says to the keeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToKeeper {
    /// The first word.
    Hello(Role),
    /// The service wants this lamp, and says whether its work moves.
    Said {
        /// Lamp.
        lamp: Lamp,
        /// Whether the service's work moves.
        sound: bool,
    },
    /// The service or the test ends in order.
    Goodbye,
    /// Every press up to this number has been taken.
    PressTaken(u64),
    /// The test shows a lamp.
    TestLamp(Lamp),
    /// The test shows single lights.
    TestLights(Lights),
}

/// What the board shows, and how well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeeperState {
    /// Number of the lamp ([`scanside_lamp::lamp_number`]).
    pub lamp: u8,
    /// Bits of the lights that the board took last.
    pub lights: u8,
    /// Lamps or button cannot be used.
    pub failing: bool,
    /// A person tests the board.
    pub testing: bool,
    /// Frames drawn.
    pub frames: u64,
    /// Frames missed.
    pub frames_missed: u64,
    /// How late they came.
    pub jitter: JitterStats,
}

/// What the keeper says to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromKeeper {
    /// The answer to a Hello.
    Welcome {
        /// Another number for each start of the keeper: presses are numbered from 1 in each.
        boot: u64,
        /// Whether the board has a button.
        has_button: bool,
        /// Name of the board's profile.
        profile: Text,
    },
    /// A press of the button. It is said again on a new connection until it is taken.
    Press(u64),
    /// What is shown; four times a second and at each change.
    State(KeeperState),
    /// Lamps or button cannot be used: why.
    Trouble(Text),
    /// The lamp is needed, or another test runs: there is no test now.
    TestRefused,
    /// The test is over.
    TestOver(TestEnd),
}

/// The bytes are no frame of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what came is no frame of the lamp keeper's protocol, version 1")]
pub struct Malformed;

/// Writes values one behind the other; there is room for every word by construction, and a value that finds none is left out.
#[derive(Clone, Copy)]
struct Writer {
    bytes: FrameBytes,
    at: usize,
}

impl Writer {
    fn new(kind: u8) -> Self {
        let mut writer = Self { bytes: [0; FRAME_BYTES], at: 0 };
        writer.put(&HEAD).put(&[kind]);
        writer
    }

    fn put(&mut self, bytes: &[u8]) -> &mut Self {
        if let Some(place) = self.bytes.get_mut(self.at..self.at + bytes.len()) {
            place.copy_from_slice(bytes);
            self.at += bytes.len();
        }
        self
    }

    fn flag(&mut self, flag: bool) -> &mut Self {
        self.put(&[u8::from(flag)])
    }

    fn number(&mut self, number: u64) -> &mut Self {
        self.put(&number.to_le_bytes())
    }

    fn text(&mut self, text: &Text) -> &mut Self {
        self.put(&[u8::try_from(text.len()).unwrap_or(0)]).put(text.as_bytes())
    }
}

/// Reads what [`Writer`] wrote; each reader fails at the end of the frame.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn flag(&mut self) -> Result<bool, Malformed> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }

    fn number(&mut self) -> Result<u64, Malformed> {
        self.take().map(u64::from_le_bytes)
    }

    fn lamp(&mut self) -> Result<Lamp, Malformed> {
        super::LAMPS.get(usize::from(self.byte()?)).copied().ok_or(Malformed)
    }

    fn lights(&mut self) -> Result<Lights, Malformed> {
        let bits = self.byte()?;
        let lights = Lights::from_bits(bits);
        if lights.bits() == bits { Ok(lights) } else { Err(Malformed) }
    }

    fn text(&mut self) -> Result<Text, Malformed> {
        let len = usize::from(self.byte()?);
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(Malformed)?;
        self.0 = rest;
        let text = std::str::from_utf8(bytes).map_err(|_| Malformed)?;
        if text.chars().any(char::is_control) {
            return Err(Malformed);
        }
        Text::try_from(text).map_err(|_| Malformed)
    }

    /// Nothing but zeros is left.
    fn end<T>(self, word: T) -> Result<T, Malformed> {
        if self.0.iter().all(|&byte| byte == 0) { Ok(word) } else { Err(Malformed) }
    }
}

/// The word's kind and its values.
fn open(bytes: &FrameBytes) -> Result<(u8, Reader<'_>), Malformed> {
    let (head, values) = bytes.split_first_chunk::<HEAD_BYTES>().ok_or(Malformed)?;
    let [a, b, c, kind] = *head;
    if [a, b, c] != HEAD {
        return Err(Malformed);
    }
    Ok((kind, Reader(values)))
}

impl ToKeeper {
    /// The frame.
    #[must_use]
    pub fn encode(self) -> FrameBytes {
        match self {
            Self::Hello(role) => *Writer::new(1).flag(role == Role::Test),
            Self::Said { lamp, sound } => *Writer::new(2).put(&[scanside_lamp::lamp_number(lamp)]).flag(sound),
            Self::Goodbye => Writer::new(3),
            Self::PressTaken(number) => *Writer::new(4).number(number),
            Self::TestLamp(lamp) => *Writer::new(5).put(&[scanside_lamp::lamp_number(lamp)]),
            Self::TestLights(lights) => *Writer::new(6).put(&[lights.bits()]),
        }
        .bytes
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(bytes: &FrameBytes) -> Result<Self, Malformed> {
        let (kind, mut values) = open(bytes)?;
        let word = match kind {
            1 => Self::Hello(if values.flag()? { Role::Test } else { Role::Service }),
            2 => Self::Said { lamp: values.lamp()?, sound: values.flag()? },
            3 => Self::Goodbye,
            4 => Self::PressTaken(values.number()?),
            5 => Self::TestLamp(values.lamp()?),
            6 => Self::TestLights(values.lights()?),
            _ => return Err(Malformed),
        };
        values.end(word)
    }
}

const fn end_number(end: TestEnd) -> u8 {
    match end {
        TestEnd::Done => 0,
        TestEnd::TimeOver => 1,
        TestEnd::Needed => 2,
    }
}

impl FromKeeper {
    /// The frame.
    #[must_use]
    pub fn encode(&self) -> FrameBytes {
        match self {
            Self::Welcome { boot, has_button, profile } => *Writer::new(65).number(*boot).flag(*has_button).text(profile),
            Self::Press(number) => *Writer::new(66).number(*number),
            Self::State(state) => *Writer::new(67)
                .put(&[state.lamp, state.lights])
                .flag(state.failing)
                .flag(state.testing)
                .number(state.frames)
                .number(state.frames_missed)
                .number(state.jitter.n)
                .number(state.jitter.median_us)
                .number(state.jitter.p99_us)
                .number(state.jitter.max_us),
            Self::Trouble(text) => *Writer::new(68).text(text),
            Self::TestRefused => Writer::new(69),
            Self::TestOver(end) => *Writer::new(70).put(&[end_number(*end)]),
        }
        .bytes
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(bytes: &FrameBytes) -> Result<Self, Malformed> {
        let (kind, mut values) = open(bytes)?;
        let word = match kind {
            65 => Self::Welcome { boot: values.number()?, has_button: values.flag()?, profile: values.text()? },
            66 => Self::Press(values.number()?),
            67 => Self::State(KeeperState {
                lamp: scanside_lamp::lamp_number(values.lamp()?),
                lights: values.lights()?.bits(),
                failing: values.flag()?,
                testing: values.flag()?,
                frames: values.number()?,
                frames_missed: values.number()?,
                jitter: JitterStats {
                    n: values.number()?,
                    median_us: values.number()?,
                    p99_us: values.number()?,
                    max_us: values.number()?,
                },
            }),
            68 => Self::Trouble(values.text()?),
            69 => Self::TestRefused,
            70 => Self::TestOver(match values.byte()? {
                0 => TestEnd::Done,
                1 => TestEnd::TimeOver,
                2 => TestEnd::Needed,
                _ => return Err(Malformed),
            }),
            _ => return Err(Malformed),
        };
        values.end(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::LAMPS;
    use proptest::prelude::*;

    fn any_to() -> impl Strategy<Value = ToKeeper> {
        let lamp = || prop::sample::select(&LAMPS[..]);
        prop_oneof![
            Just(ToKeeper::Hello(Role::Service)),
            Just(ToKeeper::Hello(Role::Test)),
            (lamp(), any::<bool>()).prop_map(|(lamp, sound)| ToKeeper::Said { lamp, sound }),
            Just(ToKeeper::Goodbye),
            any::<u64>().prop_map(ToKeeper::PressTaken),
            lamp().prop_map(ToKeeper::TestLamp),
            (0_u8..16).prop_map(|bits| ToKeeper::TestLights(Lights::from_bits(bits))),
        ]
    }

    fn any_from() -> impl Strategy<Value = FromKeeper> {
        let text = || "\\PC{0,60}".prop_map(|text| short(&text));
        let numbers = prop::array::uniform6(any::<u64>());
        prop_oneof![
            (any::<u64>(), any::<bool>(), text()).prop_map(|(boot, has_button, profile)| FromKeeper::Welcome {
                boot,
                has_button,
                profile
            }),
            any::<u64>().prop_map(FromKeeper::Press),
            (0_u8..8, 0_u8..16, any::<[bool; 2]>(), numbers).prop_map(|(lamp, lights, [failing, testing], n)| {
                let [frames, frames_missed, n, median_us, p99_us, max_us] = n;
                let jitter = JitterStats { n, median_us, p99_us, max_us };
                FromKeeper::State(KeeperState { lamp, lights, failing, testing, frames, frames_missed, jitter })
            }),
            text().prop_map(FromKeeper::Trouble),
            Just(FromKeeper::TestRefused),
            prop::sample::select(&[TestEnd::Done, TestEnd::TimeOver, TestEnd::Needed][..]).prop_map(FromKeeper::TestOver),
        ]
    }

    #[test]
    fn a_text_is_cut_at_a_character_and_loses_its_control_characters() {
        assert_eq!(short("a\nb").as_str(), "a b");
        let long = "µ".repeat(100);
        assert_eq!(short(&long).as_str(), "µ".repeat(48));
    }

    proptest! {
        #[test]
        fn every_word_comes_back_as_it_was(to in any_to(), from in any_from()) {
            prop_assert_eq!(ToKeeper::decode(&to.encode()), Ok(to));
            prop_assert_eq!(FromKeeper::decode(&from.encode()), Ok(from));
        }

        #[test]
        fn what_is_read_is_exactly_what_would_be_written(
            to in any_to(), from in any_from(), at in 0..FRAME_BYTES, xor in 1_u8.., both: bool,
        ) {
            // One byte of a good frame changed: it is refused, or it is another word with just these bytes.
            let mut bytes = if both { to.encode() } else { from.encode() };
            bytes[at] ^= xor;
            if let Ok(word) = ToKeeper::decode(&bytes) {
                prop_assert_eq!(word.encode(), bytes);
            }
            if let Ok(word) = FromKeeper::decode(&bytes) {
                prop_assert_eq!(word.encode(), bytes);
            }
        }

        #[test]
        fn random_bytes_are_refused_and_hurt_nobody(bytes in prop::collection::vec(any::<u8>(), FRAME_BYTES), headed: bool, kind: u8) {
            let mut bytes: FrameBytes = bytes.try_into().expect("the length");
            if headed {
                bytes[..HEAD_BYTES].copy_from_slice(&[b'S', b'L', 1, kind]);
            }
            // 120 random bytes are never all zero, and no text fills a frame: whatever the kind, the rest gives it away.
            prop_assert_eq!(ToKeeper::decode(&bytes), Err(Malformed));
            prop_assert_eq!(FromKeeper::decode(&bytes), Err(Malformed));
        }
    }
}
