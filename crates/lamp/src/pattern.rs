//! What each lamp looks like at a moment: `Lamp` + milliseconds since it was switched on -> which lights burn.
//!
//! Pure and without allocation; uses `core` alone. Colours and rates after IEC 60601-1-8 (alarm indicator lights: high priority
//! red, 1.4-2.8 Hz; medium priority yellow, 0.4-0.8 Hz; both with a duty cycle of 20-60 %), the table is section 4 of the design.
//!
//! Every pattern starts lit, so that a change of state shows in the next frame. Periods are kept in whole numbers
//! (0.6 Hz is six periods in 10,000 ms), so no rate drifts however long a lamp burns.

use crate::Lamp;

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

    /// All three lamps and no buzzer: no state of the service looks like this. It belongs to a person's hand on the button.
    pub const ALL: Self = Self { red: true, yellow: true, green: true, buzzer: false };

    /// Whether the room would take these lights for a box that works: green and no red.
    #[must_use]
    pub const fn looks_well(self) -> bool {
        self.green && !self.red
    }

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

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::{LAMPS, lamp_named, lamp_number, lamp_of_number};
    use proptest::prelude::*;
    use std::vec::Vec;

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

    /// What somebody who sees no colours sees in ten seconds: each light by its position, with no colour; how often it goes on, and for
    /// how long it burns in all.
    fn grey(lamp: Lamp) -> [(usize, usize); 3] {
        let frames: Vec<Lights> = (0..60_000).step_by(20).map(|t_ms| lights_at(lamp, t_ms)).collect();
        [|l: &Lights| l.red, |l: &Lights| l.yellow, |l: &Lights| l.green].map(|light| {
            let seen: Vec<bool> = frames.iter().map(light).collect();
            (seen.windows(2).filter(|pair| matches!(pair, [false, true])).count(), seen.iter().filter(|lit| **lit).count())
        })
    }

    #[test]
    fn any_two_lamps_differ_for_the_colour_blind_by_rate_rhythm_or_position() {
        for (n, a) in LAMPS.into_iter().enumerate() {
            for b in LAMPS.into_iter().skip(n + 1) {
                let (x, y) = (grey(a), grey(b));
                let position = (0..3).any(|at| (x[at].1 == 0) != (y[at].1 == 0));
                // Rates must be at least a third apart, burning times a tenth of a minute: what an eye tells from a glance.
                let rate = (0..3).any(|at| x[at].0.abs_diff(y[at].0) * 3 >= x[at].0.max(y[at].0).max(1));
                let rhythm = (0..3).any(|at| x[at].1.abs_diff(y[at].1) >= 300);
                assert!(position || rate || rhythm, "{a:?} {x:?} looks like {b:?} {y:?}");
            }
        }
    }

    #[test]
    fn the_lamps_that_call_somebody_differ_even_where_positions_cannot_be_told() {
        // One grey light seen across the room: how many flashes a minute, all lights together.
        let flashes = |lamp| {
            let lit: Vec<bool> =
                (0..60_000).step_by(20).map(|t| lights_at(lamp, t)).map(|l| l.red || l.yellow || l.green).collect();
            lit.windows(2).filter(|pair| matches!(pair, [false, true])).count()
        };
        let rates = [Lamp::Ready, Lamp::Indeterminate, Lamp::Suspicious, Lamp::Critical].map(flashes);
        assert_eq!(rates, [0, 30, 35, 119]);
        // Indeterminate and suspicious are near in number and far apart in rhythm: nearly always lit, and lit half of the time.
        let lit = |lamp: Lamp| (0..60_000).filter(|&t| lights_at(lamp, t).yellow).count();
        assert!(lit(Lamp::Indeterminate) > 54_000 && (29_000..31_000).contains(&lit(Lamp::Suspicious)));
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
