//! Presses of the button, each with its number, until the service has taken it: none is lost over a broken connection, none counts twice.
//!
//! A press acknowledges what the room sees at that moment. One that nobody has taken after [`AGE_MS_MAX`] is given up: the lamp has changed
//! since, and a late acknowledgement would be for something that the person never saw. The person sees that the lamp still calls, and
//! presses again.

use heapless::Deque;

/// Presses that may wait; at the bound the oldest is given up.
pub const WAITING_MAX: usize = 8;
/// How long a press waits for the service, ms: a lost connection is made anew well within it.
pub const AGE_MS_MAX: u64 = 5_000;

/// Numbered presses.
#[derive(Clone, Debug, Default)]
pub struct Presses {
    last: u64,
    waiting: Deque<(u64, u64), WAITING_MAX>,
}

impl Presses {
    /// None so far.
    #[must_use]
    pub const fn new() -> Self {
        Self { last: 0, waiting: Deque::new() }
    }

    /// A press at `now_ms`; gives its number. Numbers begin with 1 and rise by 1.
    pub fn pressed(&mut self, now_ms: u64) -> u64 {
        self.last = self.last.saturating_add(1);
        if self.waiting.is_full() {
            self.waiting.pop_front();
        }
        // There is room now.
        let _ = self.waiting.push_back((self.last, now_ms));
        self.last
    }

    /// The service has taken every press up to that number. A number that was never given counts as the last one.
    pub fn taken(&mut self, number: u64) {
        while self.waiting.front().is_some_and(|&(waiting, _)| waiting <= number) {
            self.waiting.pop_front();
        }
    }

    /// Gives up what has waited for too long; how many.
    pub fn give_up(&mut self, now_ms: u64) -> usize {
        let before = self.waiting.len();
        while self.waiting.front().is_some_and(|&(_, at_ms)| now_ms.saturating_sub(at_ms) > AGE_MS_MAX) {
            self.waiting.pop_front();
        }
        before - self.waiting.len()
    }

    /// The numbers that wait, the oldest first.
    pub fn waiting(&self) -> impl Iterator<Item = u64> + '_ {
        self.waiting.iter().map(|&(number, _)| number)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    #[test]
    fn a_press_waits_until_it_is_taken_and_no_longer_than_its_meaning_lasts() {
        let mut presses = Presses::new();
        assert_eq!((presses.pressed(0), presses.pressed(100), presses.pressed(200)), (1, 2, 3));
        presses.taken(1);
        assert_eq!(presses.waiting().collect::<Vec<_>>(), [2, 3]);
        assert_eq!(presses.give_up(5_100), 0);
        assert_eq!(presses.give_up(5_101), 1);
        assert_eq!(presses.waiting().collect::<Vec<_>>(), [3]);
        presses.taken(u64::MAX);
        assert_eq!(presses.waiting().count(), 0);
        assert_eq!(presses.pressed(300), 4, "a number is never given twice");
    }

    proptest! {
        #[test]
        fn whoever_takes_presses_in_order_sees_each_once(steps in prop::collection::vec((any::<bool>(), 0_u64..3), 1..100)) {
            // A peer that reads what waits, remembers the last number it saw, and confirms now and then.
            let (mut presses, mut seen, mut n_pressed) = (Presses::new(), Vec::new(), 0_usize);
            for (press, lag) in steps {
                if press {
                    presses.pressed(0);
                    n_pressed += 1;
                }
                let last = seen.last().copied().unwrap_or(0);
                seen.extend(presses.waiting().filter(|&number| number > last));
                presses.taken(seen.last().copied().unwrap_or(0).saturating_sub(lag));
                prop_assert!(presses.waiting().count() <= WAITING_MAX);
            }
            prop_assert_eq!(seen, (1..=n_pressed as u64).collect::<Vec<_>>());
        }
    }
}
