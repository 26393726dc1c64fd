//! How long the oldest entry that waits has waited: its time stamp and the box's clock in -> an age that a clock set back cannot hide.
//!
//! Time stamps come from the box's clock, which may jump by years when a box without a battery for it finds a time server. Set forward, an
//! entry looks older than it is until it is delivered, which is the safe side. Set back, it would look new, for years: so its age
//! is at least the time that this process has watched it wait.

use tokio::time::Instant;

use crate::domain::WallTime;

/// Watches the oldest entry.
#[derive(Debug, Default)]
pub(super) struct WaitingAge {
    /// Its time stamp, and since when it has been seen to wait.
    watched: Option<(WallTime, Instant)>,
}

impl WaitingAge {
    /// Age of the entry of time stamp `oldest`, s; `None` when none waits. `now` is the box's clock, `at` one that never jumps.
    pub(super) fn seconds(&mut self, oldest: Option<WallTime>, now: WallTime, at: Instant) -> Option<u64> {
        self.watched = oldest.map(|made| match self.watched {
            Some((watched, since)) if watched == made => (made, since),
            _ => (made, at),
        });
        let (made, since) = self.watched?;
        let by_clock = u64::try_from(now.0.saturating_sub(made.0) / 1000).unwrap_or(0);
        Some(by_clock.max(at.saturating_duration_since(since).as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOON: WallTime = WallTime(1_790_000_000_000);
    const TEN_YEARS_MS: i64 = 10 * 365 * 86_400_000;

    #[test]
    fn a_clock_set_back_by_years_does_not_make_a_waiting_notice_new() {
        let (mut age, begin) = (WaitingAge::default(), Instant::now());
        assert_eq!(age.seconds(Some(NOON), WallTime(NOON.0 + 5_000), begin), Some(5));
        let back = WallTime(NOON.0 - TEN_YEARS_MS);
        assert_eq!(age.seconds(Some(NOON), back, begin + Duration::from_secs(1)), Some(1));
        assert_eq!(age.seconds(Some(NOON), back, begin + Duration::from_secs(900)), Some(900));
    }

    #[test]
    fn a_clock_set_forward_makes_it_old_and_the_next_one_is_new_again() {
        let (mut age, begin) = (WaitingAge::default(), Instant::now());
        let forward = WallTime(NOON.0 + TEN_YEARS_MS);
        assert!(age.seconds(Some(NOON), forward, begin).is_some_and(|s| s > 300_000_000));
        assert_eq!(age.seconds(None, forward, begin), None, "delivered");
        assert_eq!(age.seconds(Some(forward), forward, begin + Duration::from_secs(60)), Some(0));
    }

    #[test]
    fn the_watch_starts_anew_with_another_oldest_entry() {
        let (mut age, begin) = (WaitingAge::default(), Instant::now());
        age.seconds(Some(NOON), NOON, begin);
        let other = WallTime(NOON.0 + 1_000);
        assert_eq!(age.seconds(Some(other), other, begin + Duration::from_secs(500)), Some(0));
    }
}
