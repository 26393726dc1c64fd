//! Readings with their time: a value that nobody renewed is not a value.

use crate::domain::{DeviceCondition, DeviceState, Monotonic};

/// A value and when it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading<T> {
    /// Value.
    pub value: T,
    /// When.
    pub at: Monotonic,
}

impl<T> Reading<T> {
    /// A reading of `value` at `at`.
    pub const fn new(value: T, at: Monotonic) -> Self {
        Self { value, at }
    }

    /// Its age, ms.
    pub fn age_ms(&self, now: Monotonic) -> u64 {
        now.since_ms(self.at)
    }
}

/// The spool's disk, as the service reads it from the spool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskReading {
    /// Bytes that the spool holds.
    pub bytes: u64,
    /// Bytes of those that it may give up when it needs room (verdict out, notices delivered): a spool that is full of
    /// finished work is not short of space.
    pub bytes_evictable: u64,
    /// The spool's budget.
    pub bytes_max: u64,
    /// Free bytes of the file system.
    pub free_bytes: u64,
    /// Free bytes below which the spool refuses.
    pub free_bytes_min: u64,
    /// Whether the spool refused the last instance for want of space.
    pub refusing: bool,
}

/// Everything that is measured; `None` until first read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Probes {
    /// Load of all processors together, 0 to 100 %.
    pub cpu_percent: Option<Reading<f32>>,
    /// Memory that new work could have, bytes.
    pub memory_available_bytes: Option<Reading<u64>>,
    /// Memory that this process holds (resident set), bytes.
    pub memory_process_bytes: Option<Reading<u64>>,
    /// The hottest sensor, °C; the value is `None` where the machine has no sensor.
    pub temperature_c: Option<Reading<Option<f32>>>,
    /// The spool's disk.
    pub disk: Option<Reading<DiskReading>>,
    /// How long the system has run, s.
    pub uptime_s: Option<Reading<u64>>,
    /// Conditions that other rooms know of themselves: storage failing, alerts undelivered, model unusable, inference stuck,
    /// receiver down, lamp failing. The service collects them.
    pub reported: Vec<DeviceCondition>,
}

/// The box's health at one moment, for the page and `/metrics`.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthSnapshot {
    /// When.
    pub at: Monotonic,
    /// What was measured.
    pub probes: Probes,
    /// What is wrong, sorted, each once.
    pub conditions: Vec<DeviceCondition>,
}

impl HealthSnapshot {
    /// What the conditions add up to.
    #[must_use]
    pub fn state(&self) -> DeviceState {
        DeviceState::of(&self.conditions)
    }
}
