//! Progress: heartbeats of the tasks in -> whether everything that should move moves. Pure but for the atomics.
//!
//! A watchdog that a timer feeds proves that a timer runs. Here each task of the pipeline has a heartbeat with its own limit, and
//! systemd's watchdog is fed only while all of them are fresh (frigate#1025, #1873: "hangs but looks alive").
//! A task that waits for work rests: it must not move until it takes work again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::domain::Monotonic;

/// Most heartbeats on a board; more are a mistake in the service and are refused.
pub const HEARTBEATS_MAX: usize = 16;
/// Time of a heart that rests.
const RESTING: u64 = u64::MAX;

#[derive(Debug)]
struct Heart {
    name: &'static str,
    age_ms_max: AtomicU64,
    last_ms: AtomicU64,
}

/// A task's own end; clones beat for the same task.
#[derive(Clone, Debug)]
pub struct Heartbeat(Arc<Heart>);

impl Heartbeat {
    /// The task moved at `now`.
    pub fn beat(&self, now: Monotonic) {
        self.0.last_ms.store(now.0.min(RESTING - 1), Ordering::Release);
    }

    /// How long the task may stand still from now on, ms.
    pub fn allow(&self, age_ms_max: u64) {
        self.0.age_ms_max.store(age_ms_max, Ordering::Release);
    }

    /// The task waits for work and is not expected to move until the next beat.
    pub fn rest(&self) {
        self.0.last_ms.store(RESTING, Ordering::Release);
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.0.name
    }
}

/// Beats for a task that only counts, such as the lamp thread: the heart beats when the counter has moved.
#[derive(Debug)]
pub struct CounterWatch {
    heartbeat: Heartbeat,
    last: Option<u64>,
}

impl CounterWatch {
    /// Watches a counter on behalf of `heartbeat`.
    #[must_use]
    pub const fn new(heartbeat: Heartbeat) -> Self {
        Self { heartbeat, last: None }
    }

    /// The counter is not expected to move; the next observation counts as a beat.
    pub fn rest(&mut self) {
        self.heartbeat.rest();
        self.last = None;
    }

    /// Takes the value at `now` of a counter that may stand still for `age_ms_max`. The first value after a rest is a beat.
    pub fn observe_for(&mut self, counter: u64, age_ms_max: u64, now: Monotonic) {
        self.heartbeat.allow(age_ms_max);
        if self.last != Some(counter) {
            self.heartbeat.beat(now);
        }
        self.last = Some(counter);
    }

    /// Takes the counter's value at `now`.
    pub fn observe(&mut self, counter: u64, now: Monotonic) {
        if self.last.is_some_and(|last| last != counter) {
            self.heartbeat.beat(now);
        }
        self.last = Some(counter);
    }
}

/// A task that does not move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stalled {
    /// Task.
    pub name: &'static str,
    /// For how long, ms.
    pub age_ms: u64,
    /// What is allowed, ms.
    pub age_ms_max: u64,
}

/// All heartbeats; clones share them.
#[derive(Clone, Debug, Default)]
pub struct ProgressBoard(Arc<Mutex<heapless::Vec<Heartbeat, HEARTBEATS_MAX>>>);

impl ProgressBoard {
    /// Adds a task that must move at least every `age_ms_max`, counted from `now`; `None` when the board is full.
    #[must_use]
    pub fn add(&self, name: &'static str, age_ms_max: u64, now: Monotonic) -> Option<Heartbeat> {
        let heartbeat = Heartbeat(Arc::new(Heart {
            name,
            age_ms_max: AtomicU64::new(age_ms_max),
            last_ms: AtomicU64::new(now.0.min(RESTING - 1)),
        }));
        let mut hearts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hearts.push(heartbeat.clone()).ok().map(|()| heartbeat)
    }

    /// The tasks that should have moved and have not, the most overdue first. Empty means: feed the watchdog.
    #[must_use]
    pub fn stalled(&self, now: Monotonic) -> Vec<Stalled> {
        let hearts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stalled: Vec<Stalled> = hearts
            .iter()
            .filter_map(|Heartbeat(heart)| {
                let last_ms = heart.last_ms.load(Ordering::Acquire);
                let age_ms = now.since_ms(Monotonic(last_ms));
                let age_ms_max = heart.age_ms_max.load(Ordering::Acquire);
                let overdue = last_ms != RESTING && age_ms > age_ms_max;
                overdue.then_some(Stalled { name: heart.name, age_ms, age_ms_max })
            })
            .collect();
        stalled.sort_by_key(|s| std::cmp::Reverse(s.age_ms.saturating_sub(s.age_ms_max)));
        stalled
    }

    /// Every task with its age, ms; `None` while it rests. For the page and `/metrics`.
    #[must_use]
    pub fn ages(&self, now: Monotonic) -> Vec<(&'static str, Option<u64>)> {
        let hearts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let age = |last_ms: u64| (last_ms != RESTING).then(|| now.since_ms(Monotonic(last_ms)));
        hearts.iter().map(|Heartbeat(heart)| (heart.name, age(heart.last_ms.load(Ordering::Acquire)))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_task_that_stands_still_is_enough_to_starve_the_watchdog() {
        let board = ProgressBoard::default();
        let accept = board.add("accept", 100, Monotonic(0)).expect("room");
        let _assemble = board.add("assemble", 50, Monotonic(0)).expect("room");
        accept.beat(Monotonic(90));
        assert_eq!(board.stalled(Monotonic(50)), []);
        assert_eq!(board.stalled(Monotonic(51)), [Stalled { name: "assemble", age_ms: 51, age_ms_max: 50 }]);
        assert_eq!(board.stalled(Monotonic(200)).iter().map(|s| s.name).collect::<Vec<_>>(), ["assemble", "accept"]);
    }

    #[test]
    fn a_resting_task_is_not_expected_to_move_until_it_takes_work() {
        let board = ProgressBoard::default();
        let infer = board.add("infer", 100, Monotonic(0)).expect("room");
        infer.rest();
        assert_eq!(board.stalled(Monotonic(1_000_000)), []);
        assert_eq!(board.ages(Monotonic(5)), [("infer", None)]);
        infer.beat(Monotonic(1_000_000));
        assert_eq!(board.stalled(Monotonic(1_000_101)).len(), 1);
    }

    #[test]
    fn a_counter_that_stands_still_does_not_beat() {
        let board = ProgressBoard::default();
        let mut lamp = CounterWatch::new(board.add("lamp", 100, Monotonic(0)).expect("room"));
        for now_ms in (0..1000).step_by(50) {
            lamp.observe(now_ms / 50, Monotonic(now_ms));
            assert_eq!(board.stalled(Monotonic(now_ms)), []);
        }
        for now_ms in (1000..1100).step_by(50) {
            lamp.observe(19, Monotonic(now_ms));
        }
        assert_eq!(board.stalled(Monotonic(1100)).len(), 1);
    }

    #[test]
    fn a_study_that_stands_still_is_seen_after_the_limit_of_its_own_step_and_recovers() {
        let board = ProgressBoard::default();
        let mut work = CounterWatch::new(board.add("study", 1, Monotonic(0)).expect("room"));
        work.rest();
        assert_eq!(board.stalled(Monotonic(1_000_000)), [], "no study, no step");
        work.observe_for(7, 1_500, Monotonic(5_000));
        work.observe_for(7, 1_500, Monotonic(6_500));
        assert_eq!(board.stalled(Monotonic(6_500)), []);
        assert_eq!(board.stalled(Monotonic(6_501)).len(), 1);
        work.observe_for(8, 10_000, Monotonic(7_000));
        assert_eq!(board.stalled(Monotonic(16_999)), [], "a longer step has longer");
        work.observe_for(8, 10_000, Monotonic(17_001));
        assert_eq!(board.stalled(Monotonic(17_001)).len(), 1);
        work.rest();
        work.observe_for(8, 1_500, Monotonic(20_000));
        assert_eq!(board.stalled(Monotonic(21_000)), [], "the next study begins anew, though its counter stands where it stood");
    }

    #[test]
    fn a_full_board_refuses_instead_of_forgetting() {
        let board = ProgressBoard::default();
        assert!((0..HEARTBEATS_MAX).all(|_| board.add("task", 1, Monotonic(0)).is_some()));
        assert!(board.add("one too many", 1, Monotonic(0)).is_none());
    }

    proptest! {
        #[test]
        fn stalled_means_exactly_older_than_the_limit(beats in prop::collection::vec((0_u64..1000, 0_u64..1000), 1..10), now in 0_u64..3000) {
            let board = ProgressBoard::default();
            for &(age_ms_max, last) in &beats {
                board.add("task", age_ms_max, Monotonic(0)).expect("room").beat(Monotonic(last));
            }
            let expected = beats.iter().filter(|(age_ms_max, last)| now.saturating_sub(*last) > *age_ms_max).count();
            prop_assert_eq!(board.stalled(Monotonic(now)).len(), expected);
        }
    }
}
