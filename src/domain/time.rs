//! Two clocks that must never be mixed: `Monotonic` for waiting, `WallTime` for telling people.
//!
//! Both are passed in by `service.rs`; no other room reads a clock for a decision.

/// Milliseconds since the process started; never goes back. For quiet times, deadlines and ages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Monotonic(
    /// Milliseconds since start.
    pub u64,
);

impl Monotonic {
    /// Milliseconds from `earlier` to `self`, zero if `earlier` lies later.
    #[must_use]
    pub fn since_ms(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment `ms` milliseconds later.
    #[must_use]
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

/// Milliseconds since 1970-01-01T00:00:00Z by the box's clock. It may jump: only for display and records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(
    /// Milliseconds since the Unix epoch.
    pub i64,
);
