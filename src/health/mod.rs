//! Health: is the box fit to be relied on? Probes and progress in -> device conditions, the watchdog, figures for the page.
//!
//! | File | Holds |
//! | --- | --- |
//! | [`reading`] | values with their age |
//! | [`conditions`](mod@conditions) | the pure decision: readings + limits -> `DeviceCondition`s, with hysteresis |
//! | [`probes`] | sysinfo on a thread of its own; a probe that hangs goes stale and is told |
//! | [`progress`] | heartbeats of the pipeline's tasks: the watchdog is fed only while all of them move |
//! | [`clock`] | whether the box's clock can be believed |
//! | [`disk_probe`] | the disk's own check: writes, syncs, reads back, on a thread of its own |
//! | [`report`] | the file that `scanside health` reads, and whether it may be believed |
//! | [`notify`] | the thin edge to systemd: READY, STATUS, WATCHDOG |

pub mod clock;
pub mod conditions;
pub mod disk_probe;
pub mod notify;
pub mod probes;
pub mod progress;
pub mod reading;
pub mod report;

pub use conditions::{HealthLimits, conditions};
pub use disk_probe::DiskProbe;
pub use notify::Notifier;
pub use probes::ProbeThread;
pub use progress::{Heartbeat, ProgressBoard, Stalled};
pub use reading::{DiskReading, HealthSnapshot, Probes, Reading};

use crate::domain::DeviceCondition;
use crate::journal::{Event, Level};

/// What this room reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthEvent {
    /// A condition began.
    ConditionRaised(DeviceCondition),
    /// A condition ended.
    ConditionCleared(DeviceCondition),
    /// A task of the pipeline does not move; systemd's watchdog is no longer fed.
    ProgressStalled(Stalled),
    /// All tasks move again.
    ProgressResumed,
    /// The box's clock may be wrong: why.
    ClockDoubted(clock::ClockDoubt),
    /// The disk's own check fails: why.
    DiskCheckFailed(String),
    /// systemd could not be told.
    NotifyFailed(String),
}

impl HealthEvent {
    /// The events between two lists of conditions, both as [`conditions()`] gives them.
    #[must_use]
    pub fn between(before: &[DeviceCondition], after: &[DeviceCondition]) -> Vec<Self> {
        let raised = after.iter().filter(|c| !before.contains(c)).map(|&c| Self::ConditionRaised(c));
        let cleared = before.iter().filter(|c| !after.contains(c)).map(|&c| Self::ConditionCleared(c));
        raised.chain(cleared).collect()
    }
}

impl Event for HealthEvent {
    fn room(&self) -> &'static str {
        "health"
    }

    fn name(&self) -> &'static str {
        match self {
            Self::ConditionRaised(_) => "ConditionRaised",
            Self::ConditionCleared(_) => "ConditionCleared",
            Self::ProgressStalled(_) => "ProgressStalled",
            Self::ProgressResumed => "ProgressResumed",
            Self::ClockDoubted(_) => "ClockDoubted",
            Self::DiskCheckFailed(_) => "DiskCheckFailed",
            Self::NotifyFailed(_) => "NotifyFailed",
        }
    }

    fn level(&self) -> Level {
        match self {
            Self::ConditionRaised(condition) if condition.is_fault() => Level::Error,
            Self::ConditionRaised(_) | Self::ClockDoubted(_) | Self::NotifyFailed(_) => Level::Warn,
            Self::ConditionCleared(_) | Self::ProgressResumed => Level::Info,
            Self::ProgressStalled(_) | Self::DiskCheckFailed(_) => Level::Error,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::ConditionRaised(condition) => format!("{}: {}", condition.as_str(), condition.sentence()),
            Self::ConditionCleared(condition) => format!("{} is over.", condition.as_str()),
            Self::ProgressStalled(Stalled { name, age_ms, age_ms_max }) => {
                format!("{name} has not moved for {age_ms} ms (limit {age_ms_max} ms); the watchdog is not fed until it does.")
            }
            Self::ProgressResumed => "All tasks move again.".to_owned(),
            Self::ClockDoubted(doubt) => format!("The box's clock may be wrong: {doubt}."),
            Self::DiskCheckFailed(cause) => format!("The disk of the state folder fails its check: {cause}."),
            Self::NotifyFailed(cause) => format!("systemd could not be told: {cause}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DeviceCondition::{DiskFull, Hot, MemoryShort};

    #[test]
    fn only_changes_of_the_conditions_are_events() {
        let events = HealthEvent::between(&[Hot, MemoryShort], &[DiskFull, Hot]);
        assert_eq!(events, [HealthEvent::ConditionRaised(DiskFull), HealthEvent::ConditionCleared(MemoryShort)]);
        assert!(HealthEvent::between(&[Hot], &[Hot]).is_empty());
        assert_eq!(events.first().map(Event::level), Some(Level::Error), "a full disk is a fault");
    }
}
