//! A button's contacts bounce: samples in -> one press for each true press.
//!
//! ```text
//!            sample differs            differs for debounce_ms
//!  Settled ----------------> Changing -------------------------> Settled(other); press if now down
//!     ^                         |
//!     +-------------------------+ sample is as before again
//! ```

/// Turns samples of a button into presses.
#[derive(Clone, Copy, Debug)]
pub struct Debounce {
    debounce_ms: u64,
    down: bool,
    changing_since_ms: Option<u64>,
}

impl Debounce {
    /// A button that counts as changed once it has read the same for `debounce_ms`.
    /// It starts as held down: a button that is stuck (or held while the box starts) is no press.
    #[must_use]
    pub const fn new(debounce_ms: u64) -> Self {
        Self { debounce_ms, down: true, changing_since_ms: None }
    }

    /// The same button as if the box had just started: held down until it is seen up.
    #[must_use]
    pub const fn again(self) -> Self {
        Self::new(self.debounce_ms)
    }

    /// Whether it is down, as far as it has settled.
    #[must_use]
    pub const fn is_down(&self) -> bool {
        self.down
    }

    /// Takes one sample at `now_ms`; `true` once for each press, when it has settled.
    pub fn on(&mut self, sample_down: bool, now_ms: u64) -> bool {
        if sample_down == self.down {
            self.changing_since_ms = None;
            return false;
        }
        let since_ms = *self.changing_since_ms.get_or_insert(now_ms);
        if now_ms.saturating_sub(since_ms) < self.debounce_ms {
            return false;
        }
        self.changing_since_ms = None;
        self.down = sample_down;
        self.down
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn presses(samples: &[(bool, u64)], debounce_ms: u64) -> usize {
        let mut debounce = Debounce::new(debounce_ms);
        samples.iter().filter(|&&(down, now_ms)| debounce.on(down, now_ms)).count()
    }

    #[test]
    fn a_bouncing_press_counts_once() {
        let samples: Vec<(bool, u64)> = (0..10)
            .map(|n| (false, n * 20))
            .chain([(true, 200), (false, 205), (true, 210), (false, 212), (true, 214)])
            .chain((11..20).map(|n| (true, n * 20)))
            .chain((20..30).map(|n| (n % 2 == 0 && n < 23, n * 20)))
            .collect();
        assert_eq!(presses(&samples, 50), 1);
    }

    #[test]
    fn a_button_held_while_the_box_starts_is_no_press() {
        let samples: Vec<(bool, u64)> = (0..100).map(|n| (true, n * 20)).collect();
        assert_eq!(presses(&samples, 50), 0);
    }

    proptest! {
        #[test]
        fn no_glitch_shorter_than_the_debounce_time_is_a_press(starts in prop::collection::vec(0_u64..20, 1..50)) {
            // Each glitch is one frame (20 ms) long in a stretch of 100 ms that otherwise reads "up".
            let mut samples: Vec<(bool, u64)> = (0..10).map(|n| (false, n * 20)).collect();
            for (n, _) in starts.iter().enumerate() {
                let base = 200 + 100 * u64::try_from(n).expect("few");
                samples.extend([(true, base), (false, base + 20), (false, base + 40), (false, base + 60), (false, base + 80)]);
            }
            prop_assert_eq!(presses(&samples, 50), 0);
        }

        #[test]
        fn every_true_press_counts_once(n_presses in 0_usize..30) {
            let mut samples: Vec<(bool, u64)> = (0..10).map(|n| (false, n * 20)).collect();
            let mut now_ms = 200;
            for _ in 0..n_presses {
                for down in [true, true, true, true, true, false, false, false, false, false] {
                    samples.push((down, now_ms));
                    now_ms += 20;
                }
            }
            prop_assert_eq!(presses(&samples, 50), n_presses);
        }
    }
}
