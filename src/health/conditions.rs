//! The decision: readings and limits in -> device conditions out. Pure; `now` is passed in.
//!
//! Each condition has two thresholds (hysteresis): it begins at the first and ends at the second, so that a value that trembles
//! around a limit does not make the lamp tremble. Readings are aged to the worst case: a temperature is taken to have risen ever
//! since it was read, and a reading that is too old, or a probe that never answered, is a fault of its own.

use super::reading::{DiskReading, Probes, Reading};
use crate::domain::DeviceCondition::{DiskFull, DiskNearlyFull, Hot, MemoryShort, ProbeSilent};
use crate::domain::{DeviceCondition, Monotonic};

/// What the box can bear; the board profile brings temperature and memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HealthLimits {
    /// Hot from here on, °C.
    pub temperature_warn_c: f32,
    /// Memory is short below this much available, bytes.
    pub memory_available_bytes_min: u64,
    /// Memory is short when the process holds more, bytes.
    pub memory_process_bytes_max: u64,
    /// A reading older than this counts as none: the probe is silent, ms.
    pub age_ms_max: u64,
    /// A probe may need this long after the start before its first answer, ms.
    pub first_reading_ms_max: u64,
}

/// Temperature must fall this far below the limit before the box counts as cool again, °C.
const COOLING_C: f32 = 5.0;
/// Assumed rise of an unread temperature, °C per s. GUESS: a bare Raspberry Pi 4 under full load climbs a few tenths of a degree
/// a second; to be measured in the case.
const RISE_C_PER_S: f32 = 0.5;
/// The spool counts as nearly full at this share of its budget that it cannot give up, and as fine again at the second, %.
const NEARLY_FULL_PERCENT: [u64; 2] = [90, 85];

impl HealthLimits {
    /// The limits of a board, with readings that may be 15 s old (three missed samples of 5 s) and 30 s for the first one.
    #[must_use]
    pub const fn new(temperature_warn_c: f32, memory_available_bytes_min: u64, memory_process_bytes_max: u64) -> Self {
        Self {
            temperature_warn_c,
            memory_available_bytes_min,
            memory_process_bytes_max,
            age_ms_max: 15_000,
            first_reading_ms_max: 30_000,
        }
    }
}

/// What is wrong at `now`, sorted, each once. `before` is what this function gave last (empty at the start).
#[must_use]
pub fn conditions(probes: &Probes, limits: &HealthLimits, before: &[DeviceCondition], now: Monotonic) -> Vec<DeviceCondition> {
    let was = |condition| before.contains(&condition);
    let mut found = probes.reported.clone();
    let mut raise = |condition, holds: bool| {
        if holds {
            found.push(condition);
        }
    };
    raise(ProbeSilent, any_silent(probes, limits, now));
    if let Some((reading, celsius)) = probes.temperature_c.as_ref().and_then(|reading| Some((reading, reading.value?))) {
        raise(Hot, hot(celsius, reading.age_ms(now), limits, was(Hot)));
    }
    let available = probes.memory_available_bytes.map(|r| r.value);
    let process = probes.memory_process_bytes.map(|r| r.value);
    raise(MemoryShort, memory_short(available, process, limits, was(MemoryShort)));
    if let Some(Reading { value: disk, .. }) = probes.disk {
        let full = disk.refusing || disk.free_bytes < disk.free_bytes_min;
        raise(DiskFull, full);
        raise(DiskNearlyFull, !full && nearly_full(&disk, was(DiskNearlyFull) || was(DiskFull)));
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn any_silent(probes: &Probes, limits: &HealthLimits, now: Monotonic) -> bool {
    let silent = |at: Option<Monotonic>| match at {
        Some(at) => now.since_ms(at) > limits.age_ms_max,
        None => now.0 > limits.first_reading_ms_max,
    };
    [
        probes.cpu_percent.map(|r| r.at),
        probes.memory_available_bytes.map(|r| r.at),
        probes.memory_process_bytes.map(|r| r.at),
        probes.temperature_c.map(|r| r.at),
        probes.disk.map(|r| r.at),
        probes.uptime_s.map(|r| r.at),
    ]
    .into_iter()
    .any(silent)
}

/// A temperature that is no number is not cool.
fn hot(celsius: f32, age_ms: u64, limits: &HealthLimits, was_hot: bool) -> bool {
    #[allow(clippy::cast_precision_loss)] // an age of days is silent long before precision matters
    let aged_c = celsius + RISE_C_PER_S * (age_ms as f32 / 1000.0);
    let limit_c = limits.temperature_warn_c - if was_hot { COOLING_C } else { 0.0 };
    aged_c.is_nan() || aged_c >= limit_c
}

/// Short below the minimum or above the process's budget; fine again a quarter above the one and a tenth below the other.
fn memory_short(available: Option<u64>, process: Option<u64>, limits: &HealthLimits, was_short: bool) -> bool {
    let (min, max) = (limits.memory_available_bytes_min, limits.memory_process_bytes_max);
    let (min, max) = if was_short { (min.saturating_add(min / 4), max - max / 10) } else { (min, max) };
    available.is_some_and(|bytes| bytes < min) || process.is_some_and(|bytes| bytes > max)
}

/// Nearly full: the share that cannot be given up, or the file system within twice of what the spool refuses at.
fn nearly_full(disk: &DiskReading, was_nearly_full: bool) -> bool {
    let [begins, ends] = NEARLY_FULL_PERCENT;
    let percent = if was_nearly_full { ends } else { begins };
    let pinned = disk.bytes.saturating_sub(disk.bytes_evictable);
    let budget_short = u128::from(pinned) * 100 >= u128::from(disk.bytes_max) * u128::from(percent);
    let free_needed = disk.free_bytes_min.saturating_mul(2);
    let free_needed = if was_nearly_full { free_needed.saturating_add(free_needed / 4) } else { free_needed };
    // What the spool can give up it can also free.
    budget_short || disk.free_bytes.saturating_add(disk.bytes_evictable) < free_needed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::DeviceState;
    use proptest::prelude::*;

    const GIB: u64 = 1 << 30;

    fn limits() -> HealthLimits {
        HealthLimits::new(80.0, GIB / 4, GIB)
    }

    fn well(now: Monotonic) -> Probes {
        Probes {
            cpu_percent: Some(Reading::new(20.0, now)),
            memory_available_bytes: Some(Reading::new(2 * GIB, now)),
            memory_process_bytes: Some(Reading::new(GIB / 8, now)),
            temperature_c: Some(Reading::new(Some(50.0), now)),
            disk: Some(Reading::new(
                DiskReading {
                    bytes: GIB,
                    bytes_max: 10 * GIB,
                    free_bytes: 20 * GIB,
                    free_bytes_min: GIB,
                    ..DiskReading::default()
                },
                now,
            )),
            uptime_s: Some(Reading::new(100, now)),
            reported: Vec::new(),
        }
    }

    fn disk(change: impl FnOnce(&mut DiskReading)) -> Probes {
        let mut probes = well(Monotonic(1000));
        change(&mut probes.disk.as_mut().expect("there").value);
        probes
    }

    fn found(probes: &Probes, before: &[DeviceCondition]) -> Vec<DeviceCondition> {
        conditions(probes, &limits(), before, Monotonic(1000))
    }

    #[test]
    fn a_well_box_has_no_condition() {
        assert!(found(&well(Monotonic(1000)), &[]).is_empty());
    }

    #[test]
    fn a_machine_without_a_sensor_is_neither_hot_nor_silent() {
        let mut probes = well(Monotonic(1000));
        probes.temperature_c = Some(Reading::new(None, Monotonic(1000)));
        assert!(found(&probes, &[]).is_empty());
    }

    #[test]
    fn a_probe_that_stops_or_never_answers_is_a_fault() {
        let probes = well(Monotonic(0));
        assert!(conditions(&probes, &limits(), &[], Monotonic(15_000)).is_empty());
        let late = conditions(&probes, &limits(), &[], Monotonic(15_001));
        assert_eq!(late, [ProbeSilent]);
        assert_eq!(DeviceState::of(&late), DeviceState::Fault);
        assert!(conditions(&Probes::default(), &limits(), &[], Monotonic(30_000)).is_empty(), "still starting");
        assert_eq!(conditions(&Probes::default(), &limits(), &[], Monotonic(30_001)), [ProbeSilent]);
    }

    #[test]
    fn each_probe_alone_can_be_silent() {
        let forget: [fn(&mut Probes); 6] = [
            |p| p.cpu_percent = None,
            |p| p.memory_available_bytes = None,
            |p| p.memory_process_bytes = None,
            |p| p.temperature_c = None,
            |p| p.disk = None,
            |p| p.uptime_s = None,
        ];
        for forget in forget {
            let mut probes = well(Monotonic(40_000));
            forget(&mut probes);
            assert_eq!(conditions(&probes, &limits(), &[], Monotonic(40_000)), [ProbeSilent]);
        }
    }

    #[test]
    fn hot_begins_at_the_limit_and_ends_five_degrees_below() {
        let at = |celsius| {
            let mut probes = well(Monotonic(1000));
            probes.temperature_c = Some(Reading::new(Some(celsius), Monotonic(1000)));
            probes
        };
        assert!(found(&at(79.9), &[]).is_empty());
        assert_eq!(found(&at(80.0), &[]), [Hot]);
        assert_eq!(found(&at(75.1), &[Hot]), [Hot]);
        assert!(found(&at(74.9), &[Hot]).is_empty());
        assert_eq!(found(&at(f32::NAN), &[]), [Hot], "what is no number is not cool");
    }

    #[test]
    fn an_old_temperature_is_taken_to_have_risen() {
        let mut probes = well(Monotonic(10_000));
        probes.temperature_c = Some(Reading::new(Some(76.0), Monotonic(0)));
        assert_eq!(conditions(&probes, &limits(), &[], Monotonic(10_000)), [Hot]);
        assert!(conditions(&probes, &limits(), &[], Monotonic(5_000)).is_empty());
    }

    #[test]
    fn a_spool_full_of_finished_work_is_not_short_of_space() {
        assert!(found(&disk(|d| (d.bytes, d.bytes_evictable) = (10 * GIB, 8 * GIB)), &[]).is_empty());
        assert_eq!(found(&disk(|d| d.bytes = 9 * GIB), &[]), [DiskNearlyFull]);
        assert_eq!(found(&disk(|d| d.bytes = 10 * GIB - GIB / 8 * 11), &[DiskNearlyFull]), [DiskNearlyFull], "86 % ends nothing");
        assert!(found(&disk(|d| d.bytes = 8 * GIB), &[DiskNearlyFull]).is_empty());
    }

    #[test]
    fn a_refusing_spool_and_a_full_file_system_are_faults() {
        assert_eq!(found(&disk(|d| d.refusing = true), &[]), [DiskFull]);
        assert_eq!(found(&disk(|d| d.free_bytes = GIB - 1), &[]), [DiskFull]);
        assert_eq!(found(&disk(|d| d.free_bytes = 2 * GIB - 1), &[]), [DiskNearlyFull]);
        assert_eq!(
            found(&disk(|d| d.free_bytes = 2 * GIB + GIB / 4), &[DiskFull]),
            [DiskNearlyFull],
            "freed a little: look again"
        );
        assert!(found(&disk(|d| d.free_bytes = 3 * GIB), &[DiskFull]).is_empty());
    }

    #[test]
    fn what_other_rooms_report_is_listed_once_and_in_order() {
        let mut probes = well(Monotonic(1000));
        probes.reported = vec![DeviceCondition::LampFailing, DeviceCondition::StorageFailing, DeviceCondition::LampFailing];
        assert_eq!(found(&probes, &[]), [DeviceCondition::StorageFailing, DeviceCondition::LampFailing]);
    }

    proptest! {
        #[test]
        fn a_worse_reading_never_takes_a_condition_away(
            celsius in 0.0_f32..120.0, hotter in 0.0_f32..50.0,
            available in 0_u64..4 * GIB, less in 0_u64..GIB,
            process in 0_u64..2 * GIB, more in 0_u64..GIB,
            was_hot: bool, was_short: bool,
        ) {
            let now = Monotonic(1000);
            let mut probes = well(now);
            probes.temperature_c = Some(Reading::new(Some(celsius), now));
            probes.memory_available_bytes = Some(Reading::new(available, now));
            probes.memory_process_bytes = Some(Reading::new(process, now));
            let mut worse = probes.clone();
            worse.temperature_c = Some(Reading::new(Some(celsius + hotter), now));
            worse.memory_available_bytes = Some(Reading::new(available.saturating_sub(less), now));
            worse.memory_process_bytes = Some(Reading::new(process + more, now));
            let before: Vec<_> = [(Hot, was_hot), (MemoryShort, was_short)].into_iter().filter(|c| c.1).map(|c| c.0).collect();
            let (a, b) = (found(&probes, &before), found(&worse, &before));
            prop_assert!(a.iter().all(|c| b.contains(c)), "{a:?} {b:?}");
        }

        #[test]
        fn a_reading_that_holds_still_does_not_toggle(celsius in 60.0_f32..100.0, available in 0_u64..GIB, used in 0_u64..10 * GIB) {
            let mut probes = disk(|d| d.bytes = used);
            let now = Monotonic(1000);
            probes.temperature_c = Some(Reading::new(Some(celsius), now));
            probes.memory_available_bytes = Some(Reading::new(available, now));
            let first = found(&probes, &[]);
            prop_assert_eq!(found(&probes, &first), first);
        }
    }
}
