//! Standing: may the NPU serve? Events and times in -> the state, its cause, and what is due. Pure.
//!
//! ```text
//!   start ──> Probing ──admitted──> Serving
//!               ^  └──failed──┐       │ failed (error, late, ended, nonsense)
//!               │             v       v
//!               └──due── Benched(until) : 60 s, doubling to 1 h
//! ```
//!
//! Only a probe (a new worker, and every golden case) leads to Serving. The back-off forgets what was when the NPU has served for an hour.

use std::time::Duration;

/// First bench.
pub const BENCH_MIN: Duration = Duration::from_secs(60);
/// Longest bench, and how long the NPU must serve until its faults are forgotten.
pub const BENCH_MAX: Duration = Duration::from_secs(3600);

/// Where the NPU stands. Times are those of one clock that never goes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A worker is being started and checked.
    Probing,
    /// It passed every golden case and serves.
    Serving {
        /// Since when.
        since: Duration,
    },
    /// It failed and is left alone for a while.
    Benched {
        /// Until when.
        until: Duration,
        /// What went wrong.
        cause: String,
    },
}

/// The state machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    standing: Standing,
    n_faults: u32,
    bench_min: Duration,
}

impl Machine {
    /// Begins by probing; the first bench is `bench_min` ([`BENCH_MIN`] but for tests).
    #[must_use]
    pub fn new(bench_min: Duration) -> Self {
        Self { standing: Standing::Probing, n_faults: 0, bench_min }
    }

    /// Where it stands.
    #[must_use]
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Whether the NPU may take a study.
    #[must_use]
    pub fn may_serve(&self) -> bool {
        matches!(self.standing, Standing::Serving { .. })
    }

    /// The probe passed. Only a probe that is under way can.
    pub fn on_admitted(&mut self, now: Duration) {
        if self.standing == Standing::Probing {
            self.standing = Standing::Serving { since: now };
        }
    }

    /// The probe, or the worker that served, failed; gives how long the NPU is benched. A fault while benched changes nothing.
    pub fn on_failed(&mut self, now: Duration, cause: String) -> Duration {
        match self.standing {
            Standing::Benched { until, .. } => return until.saturating_sub(now),
            Standing::Serving { since } if now.saturating_sub(since) >= BENCH_MAX => self.n_faults = 0,
            Standing::Serving { .. } | Standing::Probing => {}
        }
        let doubled = 1_u32.checked_shl(self.n_faults).unwrap_or(u32::MAX);
        let bench = self.bench_min.saturating_mul(doubled).min(BENCH_MAX);
        self.n_faults = self.n_faults.saturating_add(1);
        self.standing = Standing::Benched { until: now.saturating_add(bench), cause };
        bench
    }

    /// Begins a probe when the bench is over; gives whether it did.
    pub fn begin_probe_if_due(&mut self, now: Duration) -> bool {
        let due = matches!(self.standing, Standing::Benched { until, .. } if now >= until);
        if due {
            self.standing = Standing::Probing;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn the_bench_doubles_up_to_an_hour_and_an_hour_of_service_ends_that() {
        let mut machine = Machine::new(BENCH_MIN);
        let mut now = Duration::ZERO;
        let mut benches = Vec::new();
        for _ in 0..9 {
            let bench = machine.on_failed(now, "x".to_owned());
            benches.push(bench.as_secs());
            assert!(!machine.begin_probe_if_due(now + bench - S), "not before its time");
            now += bench;
            assert!(machine.begin_probe_if_due(now));
        }
        assert_eq!(benches, [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]);
        machine.on_admitted(now);
        assert_eq!(machine.clone().on_failed(now + BENCH_MAX - S, "early".to_owned()), BENCH_MAX);
        assert_eq!(machine.on_failed(now + BENCH_MAX, "late".to_owned()), BENCH_MIN);
    }

    #[test]
    fn a_fault_while_benched_does_not_lengthen_the_bench() {
        let mut machine = Machine::new(BENCH_MIN);
        machine.on_failed(S, "first".to_owned());
        assert_eq!(machine.on_failed(11 * S, "second".to_owned()), 50 * S);
        assert_eq!(*machine.standing(), Standing::Benched { until: 61 * S, cause: "first".to_owned() });
    }

    proptest! {
        #[test]
        fn the_npu_serves_only_after_a_probe_that_passed(events in prop::collection::vec((0_u8..4, 0_u64..5000), 1..60)) {
            let mut machine = Machine::new(BENCH_MIN);
            let (mut now, mut probing, mut longest) = (Duration::ZERO, true, Duration::ZERO);
            for (event, seconds) in events {
                now += Duration::from_secs(seconds);
                let before = machine.standing().clone();
                match event {
                    0 => machine.on_admitted(now),
                    1 => longest = longest.max(machine.on_failed(now, "fault".to_owned())),
                    _ => probing |= machine.begin_probe_if_due(now),
                }
                if machine.may_serve() && before != *machine.standing() {
                    prop_assert!(probing && event == 0, "admitted without a probe");
                }
                if matches!(machine.standing(), Standing::Benched { .. }) {
                    probing = false;
                }
                if let Standing::Benched { until, .. } = machine.standing() {
                    prop_assert!(*until <= now + BENCH_MAX);
                }
            }
            prop_assert!(longest <= BENCH_MAX);
        }
    }
}
