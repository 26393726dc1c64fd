//! What each lamp looks like at a moment: `Lamp` + milliseconds since it was switched on -> which lights burn.
//!
//! Pure and without allocation; uses `core` alone. Colours and rates after IEC 60601-1-8 (alarm indicator lights: high priority
//! red, 1.4-2.8 Hz; medium priority yellow, 0.4-0.8 Hz; both with a duty cycle of 20-60 %), the table is DESIGN.md section 4.
//!
//! Every pattern starts lit, so that a change of state shows in the next frame. Periods are kept in whole numbers
//! (0.6 Hz is six periods in 10,000 ms), so no rate drifts however long a lamp burns.

use crate::domain::Lamp;

/// Which lights burn in one frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lights {
    /// Red.
    pub red: bool,
    /// Yellow.
    pub yellow: bool,
    /// Green.
    pub green: bool,
    /// Buzzer, where the board profile names one.
    pub buzzer: bool,
}

impl Lights {
    /// Nothing burns.
    pub const DARK: Self = Self { red: false, yellow: false, green: false, buzzer: false };

    /// One bit each: red 1, yellow 2, green 4, buzzer 8.
    #[must_use]
    pub const fn bits(self) -> u8 {
        (self.red as u8) | (self.yellow as u8) << 1 | (self.green as u8) << 2 | (self.buzzer as u8) << 3
    }

    /// The reverse of [`Lights::bits`]; higher bits are ignored.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self { red: bits & 1 != 0, yellow: bits & 2 != 0, green: bits & 4 != 0, buzzer: bits & 8 != 0 }
    }
}

/// Period of the critical lamp: 2 Hz.
const CRITICAL_PERIOD_MS: u64 = 500;
/// Period of the fault lamp: 1 Hz, red in the first half, yellow in the second.
const FAULT_PERIOD_MS: u64 = 1000;
/// The suspicious lamp runs six periods in this time: 0.6 Hz.
const SUSPICIOUS_SIX_PERIODS_MS: u64 = 10_000;
/// The indeterminate lamp repeats after this time (DESIGN.md: "each 4 s").
const INDETERMINATE_PERIOD_MS: u64 = 4000;
/// The two dips of the indeterminate lamp, from and to, ms. 160 ms is 8 frames: long enough to see, short enough to stay "steady".
const INDETERMINATE_DIPS_MS: [(u64, u64); 2] = [(3400, 3560), (3720, 3880)];
/// Period of the working lamp: a slow pulse, lit three quarters so that it is not taken for a dark box.
const WORKING_PERIOD_MS: u64 = 2000;
/// How long the working lamp is lit in each period.
const WORKING_LIT_MS: u64 = 1500;
/// The buzzer repeats after this time. GUESS: two short pulses each 5 s; to be set with the people in the scanner room.
const BUZZER_PERIOD_MS: u64 = 5000;
/// The two pulses of the buzzer, from and to, ms.
const BUZZER_PULSES_MS: [(u64, u64); 2] = [(0, 160), (320, 480)];

/// The lights of `lamp`, `t_ms` milliseconds after it was switched on.
#[must_use]
pub const fn lights_at(lamp: Lamp, t_ms: u64) -> Lights {
    let mut lights = Lights::DARK;
    match lamp {
        Lamp::Dark => {}
        Lamp::Ready => lights.green = true,
        Lamp::Working => lights.green = t_ms % WORKING_PERIOD_MS < WORKING_LIT_MS,
        Lamp::Degraded => {
            lights.green = true;
            lights.yellow = true;
        }
        Lamp::Indeterminate => lights.yellow = !in_any(INDETERMINATE_DIPS_MS, t_ms % INDETERMINATE_PERIOD_MS),
        Lamp::Suspicious => {
            // Phase in units of 1/10,000 of a period: six periods pass while t runs through 10,000 ms.
            let phase = (t_ms % SUSPICIOUS_SIX_PERIODS_MS) * 6 % SUSPICIOUS_SIX_PERIODS_MS;
            lights.yellow = phase < SUSPICIOUS_SIX_PERIODS_MS / 2;
        }
        Lamp::Fault => {
            lights.red = t_ms % FAULT_PERIOD_MS < FAULT_PERIOD_MS / 2;
            lights.yellow = !lights.red;
        }
        Lamp::Critical => {
            lights.red = t_ms % CRITICAL_PERIOD_MS < CRITICAL_PERIOD_MS / 2;
            lights.buzzer = in_any(BUZZER_PULSES_MS, t_ms % BUZZER_PERIOD_MS);
        }
    }
    lights
}

const fn in_any(spans: [(u64, u64); 2], t_ms: u64) -> bool {
    let [(a0, a1), (b0, b1)] = spans;
    (a0 <= t_ms && t_ms < a1) || (b0 <= t_ms && t_ms < b1)
}

/// Every lamp, in the order of [`Lamp`]: the position is [`lamp_number`].
pub const LAMPS: [Lamp; 8] =
    [Lamp::Dark, Lamp::Ready, Lamp::Working, Lamp::Degraded, Lamp::Indeterminate, Lamp::Suspicious, Lamp::Fault, Lamp::Critical];

/// A number for a lamp, 0 for dark: it is what the lamp thread publishes and what `/metrics` shows.
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR_MS: u64 = 3_600_000;

    /// Rising edges of one light in an hour that starts at `from_ms`, and for how many ms it burns.
    fn edges_and_lit(lamp: Lamp, from_ms: u64, light: fn(Lights) -> bool) -> (u64, u64) {
        let (mut edges, mut lit, mut before) = (0, 0, light(lights_at(lamp, from_ms + HOUR_MS - 1)));
        for t_ms in from_ms..from_ms + HOUR_MS {
            let now = light(lights_at(lamp, t_ms));
            edges += u64::from(now && !before);
            lit += u64::from(now);
            before = now;
        }
        (edges, lit)
    }

    #[test]
    fn rates_and_duty_cycles_are_exact_over_an_hour() {
        assert_eq!(edges_and_lit(Lamp::Critical, 0, |l| l.red), (7200, HOUR_MS / 2), "2 Hz, 50 %");
        assert_eq!(edges_and_lit(Lamp::Fault, 0, |l| l.red), (3600, HOUR_MS / 2), "1 Hz");
        assert_eq!(edges_and_lit(Lamp::Fault, 0, |l| l.yellow), (3600, HOUR_MS / 2), "1 Hz");
        assert_eq!(edges_and_lit(Lamp::Working, 0, |l| l.green), (1800, HOUR_MS / 4 * 3), "0.5 Hz, 75 %");
        assert_eq!(edges_and_lit(Lamp::Indeterminate, 0, |l| l.yellow), (1800, HOUR_MS - 900 * 320), "two dips each 4 s");
        let (edges, lit) = edges_and_lit(Lamp::Suspicious, 0, |l| l.yellow);
        assert_eq!(edges, 2160, "0.6 Hz");
        // A period of 1666.67 ms seen at whole ms: at most 1 ms per period off one half.
        assert!(lit.abs_diff(HOUR_MS / 2) <= 2160, "50 %, lit {lit} ms");
    }

    #[test]
    fn steady_lamps_do_not_flicker() {
        for t_ms in 0..20_000 {
            assert_eq!(lights_at(Lamp::Ready, t_ms), Lights { green: true, ..Lights::DARK });
            assert_eq!(lights_at(Lamp::Degraded, t_ms), Lights { green: true, yellow: true, ..Lights::DARK });
            assert_eq!(lights_at(Lamp::Dark, t_ms), Lights::DARK);
        }
    }

    #[test]
    fn indeterminate_dips_twice_briefly_in_each_four_seconds() {
        let dark: Vec<u64> = (0..4000).filter(|&t| !lights_at(Lamp::Indeterminate, t).yellow).collect();
        assert_eq!(dark.len(), 320);
        let gaps = dark.windows(2).filter(|pair| matches!(pair, [a, b] if b - a > 1)).count();
        assert_eq!(gaps, 1, "two dips, each without a break");
    }

    #[test]
    fn names_and_numbers_name_each_lamp_once() {
        for lamp in LAMPS {
            assert_eq!(lamp_of_number(lamp_number(lamp)), lamp);
            assert_eq!(lamp_named(lamp.as_str()), Some(lamp));
        }
        assert_eq!(lamp_of_number(200), Lamp::Fault, "a number that is none must not look well");
        assert_eq!(lamp_named("purple"), None);
    }

    proptest! {
        #[test]
        fn patterns_repeat_exactly_after_an_hour_at_any_time(lamp in prop::sample::select(&LAMPS[..]), t_ms in 0..u64::MAX - HOUR_MS) {
            // An hour holds a whole number of every period, so a lamp that has burnt for years looks as it did at first.
            prop_assert_eq!(lights_at(lamp, t_ms), lights_at(lamp, t_ms + HOUR_MS));
        }

        #[test]
        fn only_green_states_ever_show_green_and_only_red_states_red(lamp in prop::sample::select(&LAMPS[..]), t_ms: u64) {
            let lights = lights_at(lamp, t_ms);
            prop_assert!(!lights.green || matches!(lamp, Lamp::Ready | Lamp::Working | Lamp::Degraded));
            prop_assert!(!lights.red || matches!(lamp, Lamp::Critical | Lamp::Fault));
            prop_assert!(!lights.buzzer || lamp == Lamp::Critical);
            prop_assert_eq!(Lights::from_bits(lights.bits()), lights);
        }

        #[test]
        fn every_lamp_but_dark_starts_lit(lamp in prop::sample::select(&LAMPS[1..])) {
            prop_assert_ne!(lights_at(lamp, 0), Lights::DARK);
        }

        #[test]
        fn fault_shows_exactly_one_of_red_and_yellow(t_ms: u64) {
            let lights = lights_at(Lamp::Fault, t_ms);
            prop_assert!(lights.red != lights.yellow && !lights.green);
        }
    }
}
