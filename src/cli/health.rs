//! `scanside health`: the running service's own report in -> exit status 0 when it is ready and no fault stands, else 1 and the reasons.
//!
//! The service writes the report every two seconds into its runtime folder (`src/health/report.rs`): no network, no login, and a service
//! that hangs or is gone cannot look well. On the appliance this decides whether an update stays.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::Outcome;
use super::output::{complain, say};
use crate::config::Config;
use crate::health::report::{HealthReport, boottime_ms};

/// The service's folder as systemd makes it. `$RUNTIME_DIRECTORY` is not asked: it would be that of whoever calls.
const RUNTIME_DIR: &str = "/run/scanside";
/// How often it is looked at while waiting.
const LOOK_PAUSE: Duration = Duration::from_millis(500);
/// Longest wait, seconds.
const WAIT_S_MAX: u64 = 3600;

/// What is asked.
#[derive(Clone, Debug, Default)]
pub struct HealthRequest {
    /// The configuration whose faults count, too.
    pub config: Option<PathBuf>,
    /// How long to wait for a good answer, seconds.
    pub wait_s: u64,
    /// One JSON object on stdout.
    pub json: bool,
    /// Folder of the report.
    pub dir: Option<PathBuf>,
}

/// Runs the command.
#[must_use]
pub fn run(request: &HealthRequest) -> Outcome {
    let dir = request.dir.clone().unwrap_or_else(|| RUNTIME_DIR.into());
    let until_ms = boottime_ms().saturating_add(request.wait_s.min(WAIT_S_MAX) * 1000);
    let (report, reasons) = loop {
        let (report, reasons) = look(&dir, request.config.as_deref());
        if reasons.is_empty() || boottime_ms() >= until_ms {
            break (report, reasons);
        }
        std::thread::sleep(LOOK_PAUSE);
    };
    if request.json {
        say(json!({ "healthy": reasons.is_empty(), "reasons": reasons, "report": report }).to_string());
    } else if let (Some(report), true) = (&report, reasons.is_empty()) {
        let notes: String = report.causes.iter().map(|cause| format!("; {}", cause.code)).collect();
        say(format!("{}: scanside {}{notes}", report.state, report.version));
    }
    if reasons.is_empty() {
        return Outcome::Done;
    }
    for reason in reasons {
        complain(reason);
    }
    Outcome::Failed
}

fn look(dir: &Path, config: Option<&Path>) -> (Option<HealthReport>, Vec<String>) {
    let report = HealthReport::read(dir);
    let mut reasons = match &report {
        Ok(report) => report.reasons(boottime_ms()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            vec![format!("the service does not run: there is no report in {}", dir.display())]
        }
        Err(error) => vec![format!("the report in {} cannot be read: {error}", dir.display())],
    };
    if let Some(Err(error)) = config.map(Config::load) {
        reasons.push(format!("the service would not start again: {error}"));
    }
    (report.ok(), reasons)
}
