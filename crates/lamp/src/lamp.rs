//! The lamp: what the box says to the room, one word each, with its number and its name.

/// What the lamps show (after IEC 60601-1-8; the pattern of each stands in `pattern.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lamp {
    /// No light: not running.
    Dark,
    /// Green, steady.
    Ready,
    /// Green, slow pulse.
    Working,
    /// Green and yellow, steady.
    Degraded,
    /// Yellow, steady, with a short double dip each 4 s.
    Indeterminate,
    /// Yellow, 0.6 Hz.
    Suspicious,
    /// Red and yellow alternating, 1 Hz.
    Fault,
    /// Red, 2 Hz.
    Critical,
}

impl Lamp {
    /// Stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dark => "dark",
            Self::Ready => "ready",
            Self::Working => "working",
            Self::Degraded => "degraded",
            Self::Indeterminate => "indeterminate",
            Self::Suspicious => "suspicious",
            Self::Fault => "fault",
            Self::Critical => "critical",
        }
    }

    /// What it means to the room.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Dark => "No power or not running: same as fault.",
            Self::Ready => "All well.",
            Self::Working => "A study is being received or read.",
            Self::Degraded => "Works, but IT must look.",
            Self::Indeterminate => "A study could not be assessed: see why.",
            Self::Suspicious => "Tell the radiologist.",
            Self::Fault => "Not working: do not rely on it.",
            Self::Critical => "Call the radiologist now.",
        }
    }
}

/// Every lamp, in the order of [`Lamp`]: the position is [`lamp_number`].
pub const LAMPS: [Lamp; 8] =
    [Lamp::Dark, Lamp::Ready, Lamp::Working, Lamp::Degraded, Lamp::Indeterminate, Lamp::Suspicious, Lamp::Fault, Lamp::Critical];

/// A number for a lamp, 0 for dark: it is what goes between processes and what `/metrics` shows.
#[must_use]
pub const fn lamp_number(lamp: Lamp) -> u8 {
    match lamp {
        Lamp::Dark => 0,
        Lamp::Ready => 1,
        Lamp::Working => 2,
        Lamp::Degraded => 3,
        Lamp::Indeterminate => 4,
        Lamp::Suspicious => 5,
        Lamp::Fault => 6,
        Lamp::Critical => 7,
    }
}

/// The lamp with that number; a number that is none shows [`Lamp::Fault`], never a green lamp.
#[must_use]
pub const fn lamp_of_number(number: u8) -> Lamp {
    let mut idx = 0;
    while idx < LAMPS.len() {
        if lamp_number(LAMPS[idx]) == number {
            return LAMPS[idx];
        }
        idx += 1;
    }
    Lamp::Fault
}

/// The lamp with that stable name (`Lamp::as_str`).
#[must_use]
pub fn lamp_named(name: &str) -> Option<Lamp> {
    LAMPS.into_iter().find(|lamp| lamp.as_str() == name)
}
