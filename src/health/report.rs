//! What a running service says of itself in a file, for `scanside health`: a state of the box in -> a small JSON file out, and back; and
//! whether it may be believed. The judgement is pure.
//!
//! The file is `health.json` in the service's runtime folder (`/run/scanside`, in memory; systemd removes the folder when the service
//! ends). It is written under another name and renamed, every two seconds. Ages are counted on the clock that runs since boot
//! (clock_gettime(2), CLOCK_BOOTTIME): setting the box's clock makes nothing old or young, and no file outlives a boot.

use std::io::{self, Read as _, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Name of the file.
pub const REPORT_FILE: &str = "health.json";
/// Version of the file's form.
pub const REPORT_SCHEMA: &str = "scanside.health/1";
/// An older report is not believed, ms: it is written every two seconds.
pub const REPORT_AGE_MS_MAX: u64 = 10_000;
/// A report has less than 8 KiB.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedCause {
    /// Stable name, such as `disk-full`.
    pub code: String,
    /// A sentence with the remedy.
    pub text: String,
    /// Whether the box can no longer be relied on.
    pub fault: bool,
    /// More about it.
    pub details: Vec<String>,
}

/// What the service says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthReport {
    /// [`REPORT_SCHEMA`].
    pub schema: String,
    /// When, ms since boot.
    pub at_boottime_ms: u64,
    /// Its process.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// Whether everything has started.
    pub ready: bool,
    /// `ready`, `degraded` or `fault`.
    pub state: String,
    /// What is wrong.
    pub causes: Vec<ReportedCause>,
}

impl HealthReport {
    /// Reasons why the box cannot be relied on; empty when it can. `now_ms` is the time since boot.
    #[must_use]
    pub fn reasons(&self, now_ms: u64) -> Vec<String> {
        if self.schema != REPORT_SCHEMA {
            return vec![format!(
                "the report is of another version ({:.40}): compare the versions of service and command",
                self.schema
            )];
        }
        let age_ms = now_ms.saturating_sub(self.at_boottime_ms);
        if age_ms > REPORT_AGE_MS_MAX {
            return vec![format!("the service has not said anything for {} s", age_ms / 1000)];
        }
        let mut reasons: Vec<String> = Vec::new();
        for cause in self.causes.iter().filter(|cause| cause.fault) {
            let details: String = cause.details.iter().map(|detail| format!(" {detail}")).collect();
            reasons.push(format!("{}: {}{details}", cause.code, cause.text));
        }
        if !self.ready {
            reasons.insert(0, "the service is still starting".to_owned());
        } else if reasons.is_empty() && self.state == "fault" {
            reasons.push("the service says fault".to_owned());
        }
        reasons
    }

    /// Writes the report into `dir`, whole or not at all.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        let unfinished = dir.join(format!(".{REPORT_FILE}.new"));
        let mut file = std::fs::File::create(&unfinished)?;
        file.write_all(serde_json::to_string(self)?.as_bytes())?;
        std::fs::rename(unfinished, dir.join(REPORT_FILE))
    }

    /// Reads the report of `dir`.
    ///
    /// # Errors
    /// What the file system says, or that the file is no report.
    pub fn read(dir: &Path) -> io::Result<Self> {
        let mut text = String::new();
        std::fs::File::open(dir.join(REPORT_FILE))?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
        Ok(serde_json::from_str(&text)?)
    }
}

/// Milliseconds since boot, sleep included.
#[must_use]
pub fn boottime_ms() -> u64 {
    let at = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(at.tv_sec).unwrap_or(0) * 1000 + u64::try_from(at.tv_nsec).unwrap_or(0) / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn report(ready: bool, state: &str, causes: Vec<ReportedCause>) -> HealthReport {
        HealthReport {
            schema: REPORT_SCHEMA.into(),
            at_boottime_ms: 50_000,
            pid: 7,
            version: "1".into(),
            ready,
            state: state.into(),
            causes,
        }
    }

    fn cause(code: &str, fault: bool) -> ReportedCause {
        ReportedCause { code: code.into(), text: "Look.".into(), fault, details: vec!["Here.".into()] }
    }

    #[test]
    fn only_a_fresh_report_without_a_fault_is_good() {
        let good = report(true, "ready", vec![]);
        assert!(good.reasons(50_000 + REPORT_AGE_MS_MAX).is_empty());
        assert!(good.reasons(50_001 + REPORT_AGE_MS_MAX)[0].contains("not said anything for 10 s"));
        assert!(report(true, "degraded", vec![cause("hot", false)]).reasons(50_000).is_empty(), "degraded works");
        assert_eq!(
            report(true, "fault", vec![cause("hot", false), cause("disk-full", true)]).reasons(50_000),
            ["disk-full: Look. Here."]
        );
        assert_eq!(report(true, "fault", vec![]).reasons(50_000), ["the service says fault"]);
        assert_eq!(report(false, "fault", vec![]).reasons(50_000), ["the service is still starting"]);
        let other = HealthReport { schema: "scanside.health/9".into(), ..good };
        assert!(other.reasons(50_000)[0].contains("another version"));
    }

    #[test]
    fn a_report_is_read_as_it_was_written_and_junk_is_an_error() {
        let folder = tempfile::tempdir().expect("folder");
        assert_eq!(HealthReport::read(folder.path()).expect_err("none yet").kind(), io::ErrorKind::NotFound);
        let good = report(true, "degraded", vec![cause("hot", false)]);
        good.write(folder.path()).expect("written");
        good.write(folder.path()).expect("written again");
        assert_eq!(HealthReport::read(folder.path()).expect("read"), good);
        assert_eq!(std::fs::read_dir(folder.path()).expect("dir").count(), 1);
        for junk in ["", "{}", "null", "{\"schema\": 7}"] {
            std::fs::write(folder.path().join(REPORT_FILE), junk).expect("written");
            assert!(HealthReport::read(folder.path()).is_err(), "{junk}");
        }
    }

    proptest! {
        #[test]
        fn a_fault_is_never_good_and_age_never_makes_it_better(ready: bool, fault: bool, age_ms in 0_u64..30_000) {
            let report = report(ready, if fault { "fault" } else { "ready" }, vec![]);
            let good = report.reasons(50_000 + age_ms).is_empty();
            prop_assert_eq!(good, ready && !fault && age_ms <= REPORT_AGE_MS_MAX);
        }
    }
}
