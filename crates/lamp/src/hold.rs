//! The one button of the box: contact samples in -> a press, a warning while it is held, and one request for a factory reset.
//!
//! ```text
//!          down (debounced)            3 s                 10 s
//!   Up ----------------------> Down ---------> Warning ----------> Asked
//!    ^        = Pressed          |                |     = ResetAsked  |
//!    +--------- let go ----------+----------------+-------------------+
//! ```
//!
//! The press counts at once (it acknowledges what the room sees); a person who holds on has acknowledged as well, which harms nobody.
//! Letting go before 10 s does nothing more. A button that is down when the box starts is stuck or leaned on: it is neither a press nor held.

use crate::debounce::Debounce;
use crate::pattern::Lights;

/// From here on all lights flash: whoever holds the button sees that something is about to happen.
pub const WARN_AFTER_MS: u64 = 3_000;
/// Held this long, the button asks for a factory reset.
pub const RESET_AFTER_MS: u64 = 10_000;
/// The warning flashes at 5 Hz: faster than any lamp, so that it is taken for none.
const FLASH_PERIOD_MS: u64 = 200;

/// What the button says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldEvent {
    /// It was pressed.
    Pressed,
    /// It has been held for [`RESET_AFTER_MS`]; once for each hold.
    ResetAsked,
}

/// A button and since when it is held.
#[derive(Clone, Copy, Debug)]
pub struct Hold {
    debounce: Debounce,
    /// Since when it is held; `None` while it is up, or down since the start.
    since_ms: Option<u64>,
    asked: bool,
}

impl Hold {
    /// A button that counts as changed once it has read the same for `debounce_ms`.
    #[must_use]
    pub const fn new(debounce_ms: u64) -> Self {
        Self { debounce: Debounce::new(debounce_ms), since_ms: None, asked: false }
    }

    /// Takes one sample at `now_ms`.
    pub fn on(&mut self, sample_down: bool, now_ms: u64) -> Option<HoldEvent> {
        if self.debounce.on(sample_down, now_ms) {
            (self.since_ms, self.asked) = (Some(now_ms), false);
            return Some(HoldEvent::Pressed);
        }
        if !self.debounce.is_down() {
            self.since_ms = None;
        }
        let held = self.held_ms(now_ms)? >= RESET_AFTER_MS;
        if !held || self.asked {
            return None;
        }
        self.asked = true;
        Some(HoldEvent::ResetAsked)
    }

    /// The contact cannot be read: whatever was held is let go, so that a broken wire never asks for a reset.
    pub const fn unreadable(&mut self) {
        (self.since_ms, self.debounce) = (None, self.debounce.again());
    }

    fn held_ms(&self, now_ms: u64) -> Option<u64> {
        self.since_ms.map(|since_ms| now_ms.saturating_sub(since_ms))
    }

    /// The lights while the button is held long enough to warn: all three flash, and burn steadily once the reset has been asked for.
    /// They stand above whatever lamp is shown. `None` before that.
    #[must_use]
    pub fn warning(&self, now_ms: u64) -> Option<Lights> {
        let held_ms = self.held_ms(now_ms).filter(|&held_ms| held_ms >= WARN_AFTER_MS)?;
        let lit = self.asked || (held_ms - WARN_AFTER_MS) % FLASH_PERIOD_MS < FLASH_PERIOD_MS / 2;
        Some(if lit { Lights::ALL } else { Lights::DARK })
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// Samples at 50 Hz: up for 200 ms, then each stretch; what came, with its time.
    fn run(stretches: &[(bool, u64)]) -> (Hold, u64, Vec<(HoldEvent, u64)>) {
        let (mut hold, mut now_ms, mut events) = (Hold::new(50), 0, Vec::new());
        for &(down, ms) in [(false, 200)].iter().chain(stretches) {
            let end = now_ms + ms;
            while now_ms < end {
                events.extend(hold.on(down, now_ms).map(|event| (event, now_ms)));
                now_ms += 20;
            }
        }
        (hold, now_ms, events)
    }

    #[test]
    fn a_short_press_acknowledges_and_warns_of_nothing() {
        let (hold, now_ms, events) = run(&[(true, 400), (false, 400)]);
        assert_eq!(events, [(HoldEvent::Pressed, 260)]);
        assert_eq!(hold.warning(now_ms), None);
    }

    #[test]
    fn all_lights_flash_from_three_seconds_on() {
        assert_eq!(run(&[(true, 3000)]).0.warning(3200), None);
        let (hold, now_ms, _) = run(&[(true, 3100)]);
        let mut edges = 0;
        for t in 1..1000 {
            let (before, now) = (hold.warning(now_ms + t - 1), hold.warning(now_ms + t));
            assert!([Some(Lights::ALL), Some(Lights::DARK)].contains(&now), "{now:?}");
            edges += usize::from(before != now);
        }
        assert_eq!(edges, 10, "5 Hz");
    }

    #[test]
    fn holding_for_ten_seconds_asks_once_and_says_so_with_steady_lights() {
        let (hold, now_ms, events) = run(&[(true, 30_000)]);
        assert_eq!(events, [(HoldEvent::Pressed, 260), (HoldEvent::ResetAsked, 10_260)]);
        assert!((0..500).all(|t| hold.warning(now_ms + t) == Some(Lights::ALL)));
        let (hold, now_ms, events) = run(&[(true, 12_000), (false, 200), (true, 11_000), (false, 200)]);
        assert_eq!(events.iter().filter(|(event, _)| *event == HoldEvent::ResetAsked).count(), 2, "another hold asks again");
        assert_eq!(hold.warning(now_ms), None, "let go, the lamp is back");
    }

    #[test]
    fn a_button_stuck_since_the_start_never_asks_for_a_reset() {
        let mut hold = Hold::new(50);
        for now_ms in (0..100_000).step_by(20) {
            assert_eq!(hold.on(true, now_ms), None);
            assert_eq!(hold.warning(now_ms), None);
        }
    }

    #[test]
    fn a_wire_that_breaks_while_the_button_is_held_asks_for_nothing() {
        let (mut hold, from_ms, events) = run(&[(true, 9_900)]);
        assert_eq!(events.len(), 1);
        hold.unreadable();
        for now_ms in (from_ms..from_ms + 60_000).step_by(20) {
            assert_eq!(hold.on(true, now_ms), None);
            assert_eq!(hold.warning(now_ms), None);
        }
    }

    proptest! {
        #[test]
        fn no_sequence_of_short_holds_adds_up_to_a_reset(holds in prop::collection::vec((1_u64..490, 1_u64..100), 1..30)) {
            // Each shorter than 10 s; ups long enough to be seen as let go.
            let stretches: Vec<_> = holds.iter().flat_map(|&(down, up)| [(true, down * 20), (false, 80 + up * 20)]).collect();
            let (_, _, events) = run(&stretches);
            prop_assert!(events.iter().all(|(event, _)| *event == HoldEvent::Pressed), "{events:?}");
        }

        #[test]
        fn a_reset_is_asked_only_after_ten_seconds_without_a_break(samples in prop::collection::vec(any::<bool>(), 600..900), held_from in 0_usize..300) {
            let (mut hold, mut down_since) = (Hold::new(50), None);
            for (n, sample) in samples.iter().enumerate() {
                let (now_ms, down) = (n as u64 * 20, *sample || n >= held_from);
                if down { down_since.get_or_insert(now_ms); } else { down_since = None; }
                if hold.on(down, now_ms) == Some(HoldEvent::ResetAsked) {
                    // A break shorter than the debounce time is a bounce of the contact; the debounced hold itself is at least 10 s.
                    prop_assert!(now_ms >= RESET_AFTER_MS && down_since.is_some());
                }
            }
        }
    }
}
