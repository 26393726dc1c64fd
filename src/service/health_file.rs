//! Tells `scanside health`: the latest state of the box in -> `health.json` in the runtime folder, every two seconds, until the end.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;

use super::events::ServiceReport;
use super::wall_now;
use crate::health::report::{HealthReport, REPORT_FILE, REPORT_SCHEMA, ReportedCause, boottime_ms};
use crate::journal::Journal;
use crate::web::StatusSnapshot;

/// Time between two reports.
const PAUSE: Duration = Duration::from_secs(2);

/// The folder that systemd made for this service; `None` outside systemd.
pub(super) fn runtime_dir() -> Option<PathBuf> {
    std::env::var_os("RUNTIME_DIRECTORY").filter(|dir| !dir.is_empty()).map(PathBuf::from)
}

/// Reports until `shutdown`; then the report is removed.
pub(super) async fn keep(
    dir: PathBuf,
    mut status: watch::Receiver<StatusSnapshot>,
    journal: Journal,
    mut shutdown: watch::Receiver<bool>,
) {
    let (mut failed, mut was_ready) = (false, false);
    loop {
        let report = report(&status.borrow_and_update().clone().seen_at(wall_now()));
        was_ready |= report.ready;
        let written = tokio::task::spawn_blocking({
            let dir = dir.clone();
            move || report.write(&dir)
        })
        .await;
        let error = match written {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        // Said once; a report that is not written ages, and so is not believed.
        if let (Some(error), false) = (&error, failed) {
            journal.record(&ServiceReport::HealthNotTold { error: error.clone() });
        }
        failed = error.is_some();
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            // Whoever waits for a start need not wait longer.
            _ = status.wait_for(|status| status.ready), if !was_ready => {}
            _ = shutdown.wait_for(|stop| *stop) => break,
        }
    }
    // Without it `scanside health` says that nothing runs; if it stays it ages.
    let _ = std::fs::remove_file(dir.join(REPORT_FILE));
}

fn report(status: &StatusSnapshot) -> HealthReport {
    let cause = |condition: &crate::domain::DeviceCondition| ReportedCause {
        code: condition.as_str().to_owned(),
        text: condition.sentence().to_owned(),
        fault: condition.is_fault(),
        details: status.condition_details.iter().filter(|d| d.name == condition.as_str()).map(|d| d.text.clone()).collect(),
    };
    HealthReport {
        schema: REPORT_SCHEMA.to_owned(),
        at_boottime_ms: boottime_ms(),
        pid: std::process::id(),
        version: status.version.scanside.clone(),
        ready: status.ready,
        state: status.device_state.as_str().to_owned(),
        causes: status.conditions.iter().map(cause).collect(),
    }
}
