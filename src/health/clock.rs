//! Whether the box's clock can be believed: the clock, and when it was last synchronised -> a doubt, or none. The decision is pure.
//!
//! A board without a battery for its clock starts at the time at which it was switched off, or in the past. Nothing of the pipeline waits by
//! this clock (that is `Monotonic`'s), but dates in results and the validity of certificates come from it. The only sign is from
//! systemd-timesyncd, which touches a file at each successful synchronisation (systemd-timesyncd.service(8)); where another program
//! or nobody keeps the time, only a clock before [`MADE_AT`] is doubted.

use std::io::ErrorKind;
use std::path::Path;
use std::time::SystemTime;

use crate::domain::WallTime;

/// Folder of systemd-timesyncd's state while it runs.
pub const TIMESYNC_DIR: &str = "/run/systemd/timesync";
/// This program was made after 2026-11-01T00:00:00Z: a clock that says less is wrong.
const MADE_AT: WallTime = WallTime(1_793_491_200_000);
/// A quartz is off by some seconds a week (50 ppm: 30 s), which harms nobody; but a week without a time server is worth a look.
const UNSYNCHRONISED_MS_MAX: i64 = 7 * 86_400_000;
/// A last synchronisation that lies this far ahead means that the clock was set back since.
const AHEAD_MS_MAX: i64 = 3_600_000;

/// When the clock was last synchronised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastSync {
    /// systemd-timesyncd does not run here: nobody who could be asked.
    Unknown,
    /// It runs, and has not succeeded since the start of the system.
    Never,
    /// Then.
    At(WallTime),
}

/// Why the clock may be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClockDoubt {
    /// it is before this program was made
    #[error("the clock says a time before this program was made")]
    BeforeProgram,
    /// it was set back
    #[error("the clock was set back since it was last synchronised")]
    SetBack,
    /// no time server has been heard
    #[error("the clock has not been synchronised for {days} days")]
    Unsynchronised {
        /// Whole days.
        days: i64,
    },
}

/// Reads the sign of systemd-timesyncd in `dir` ([`TIMESYNC_DIR`]).
#[must_use]
pub fn last_sync(dir: &Path) -> LastSync {
    match dir.join("synchronized").metadata().and_then(|metadata| metadata.modified()) {
        Ok(at) => {
            let since_epoch = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            LastSync::At(WallTime(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)))
        }
        Err(error) if error.kind() == ErrorKind::NotFound && dir.is_dir() => LastSync::Never,
        Err(_) => LastSync::Unknown,
    }
}

/// Whether the clock `now` is to be doubted; `uptime_s` is how long the system runs.
#[must_use]
pub fn doubt(now: WallTime, last: LastSync, uptime_s: u64) -> Option<ClockDoubt> {
    if now < MADE_AT {
        return Some(ClockDoubt::BeforeProgram);
    }
    let unsynchronised_ms = match last {
        LastSync::Unknown => return None,
        LastSync::At(at) if at.0.saturating_sub(now.0) > AHEAD_MS_MAX => return Some(ClockDoubt::SetBack),
        LastSync::At(at) => now.0.saturating_sub(at.0),
        LastSync::Never => i64::try_from(uptime_s).unwrap_or(i64::MAX).saturating_mul(1000),
    };
    (unsynchronised_ms > UNSYNCHRONISED_MS_MAX).then_some(ClockDoubt::Unsynchronised { days: unsynchronised_ms / 86_400_000 })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: WallTime = WallTime(MADE_AT.0 + 100 * DAY_MS);
    const DAY_MS: i64 = 86_400_000;
    const YEAR_MS: i64 = 365 * DAY_MS;

    #[test]
    fn a_synchronised_clock_is_believed_and_a_week_without_a_time_server_is_told() {
        assert_eq!(doubt(NOW, LastSync::At(NOW), 0), None);
        assert_eq!(doubt(NOW, LastSync::At(WallTime(NOW.0 - 7 * DAY_MS)), 0), None);
        let week = doubt(NOW, LastSync::At(WallTime(NOW.0 - 7 * DAY_MS - 1)), 0);
        assert_eq!(week.expect("doubted").to_string(), "the clock has not been synchronised for 7 days");
    }

    #[test]
    fn a_box_that_never_met_a_time_server_has_a_week_from_its_start() {
        assert_eq!(doubt(NOW, LastSync::Never, 7 * 86_400), None);
        assert_eq!(doubt(NOW, LastSync::Never, 8 * 86_400), Some(ClockDoubt::Unsynchronised { days: 8 }));
    }

    #[test]
    fn where_nobody_can_be_asked_only_an_impossible_clock_is_doubted() {
        assert_eq!(doubt(NOW, LastSync::Unknown, 1_000_000_000), None);
        assert_eq!(doubt(WallTime(0), LastSync::Unknown, 0), Some(ClockDoubt::BeforeProgram));
    }

    #[test]
    fn a_jump_of_years_either_way_is_told_and_over_with_the_next_synchronisation() {
        let synchronised = LastSync::At(NOW);
        assert_eq!(doubt(WallTime(NOW.0 - 10 * YEAR_MS), synchronised, 0), Some(ClockDoubt::BeforeProgram));
        assert_eq!(doubt(WallTime(NOW.0 - 50 * DAY_MS), synchronised, 0), Some(ClockDoubt::SetBack));
        let ahead = WallTime(NOW.0 + 10 * YEAR_MS);
        assert_eq!(doubt(ahead, synchronised, 0), Some(ClockDoubt::Unsynchronised { days: 3650 }));
        assert_eq!(doubt(ahead, LastSync::At(ahead), 0), None);
    }

    #[test]
    fn the_sign_is_the_time_of_the_file() {
        let folder = tempfile::tempdir().expect("folder");
        let dir = folder.path().join("timesync");
        assert_eq!(last_sync(&dir), LastSync::Unknown);
        std::fs::create_dir(&dir).expect("made");
        assert_eq!(last_sync(&dir), LastSync::Never);
        let file = std::fs::File::create(dir.join("synchronized")).expect("made");
        file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1_793_600_000_000)).expect("set");
        assert_eq!(last_sync(&dir), LastSync::At(WallTime(1_793_600_000_000)));
    }
}
