//! `GET /metrics`: counters of the journal and gauges of the status in -> Prometheus text format 0.0.4 out. No patient data, no UIDs.

use std::fmt::Write as _;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::status::Stage;
use super::{StatusSnapshot, WebState};
use crate::domain::{DeviceCondition, DeviceState, Lamp};
use crate::journal::Journal;

const LAMPS: [Lamp; 8] =
    [Lamp::Dark, Lamp::Ready, Lamp::Working, Lamp::Degraded, Lamp::Indeterminate, Lamp::Suspicious, Lamp::Fault, Lamp::Critical];
const DEVICE_STATES: [DeviceState; 3] = [DeviceState::Ready, DeviceState::Degraded, DeviceState::Fault];
const CONDITIONS: [DeviceCondition; 19] = [
    DeviceCondition::DiskNearlyFull,
    DeviceCondition::DiskFull,
    DeviceCondition::StorageFailing,
    DeviceCondition::Hot,
    DeviceCondition::MemoryShort,
    DeviceCondition::AlertsUndelivered,
    DeviceCondition::CommitmentsUndelivered,
    DeviceCondition::ModelUnusable,
    DeviceCondition::InferenceStuck,
    DeviceCondition::ProbeSilent,
    DeviceCondition::ReceiverDown,
    DeviceCondition::LampFailing,
    DeviceCondition::NpuLost,
    DeviceCondition::CertificateExpiring,
    DeviceCondition::CertificateNotLoaded,
    DeviceCondition::CertificateUnusable,
    DeviceCondition::PacsUnreachable,
    DeviceCondition::ClockDoubtful,
    DeviceCondition::DataLost,
];
const STAGES: [Stage; 5] = [Stage::Receiving, Stage::Fetching, Stage::Waiting, Stage::Preparing, Stage::Inferring];

/// The page for Prometheus.
pub(super) async fn metrics(State(state): State<WebState>) -> Response {
    let text = render(&state.snapshot(), &state.journal);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// A label value: backslash, quote and line feed escaped (exposition format 0.0.4).
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Collects metrics; a family's help and type come before its samples.
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<String> = labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    fn one_of<T: Copy + PartialEq>(
        &mut self,
        name: &str,
        label: &str,
        help: &str,
        all: &[T],
        text: fn(T) -> &'static str,
        on: impl Fn(T) -> bool,
    ) {
        self.family(name, "gauge", help);
        for item in all {
            self.sample(name, &[(label, text(*item))], if on(*item) { 1.0 } else { 0.0 });
        }
    }
}

#[allow(clippy::cast_precision_loss)] // Prometheus samples are doubles; counts beyond 2^53 lose their last digits
fn number(count: u64) -> f64 {
    count as f64
}

fn render(s: &StatusSnapshot, journal: &Journal) -> String {
    let mut out = Text(String::new());
    out.gauge("scanside_ready", "1 once everything has started.", if s.ready { 1.0 } else { 0.0 });
    out.one_of("scanside_lamp", "state", "What the lamp shows.", &LAMPS, Lamp::as_str, |lamp| lamp == s.lamp);
    let state_help = "What the conditions add up to.";
    out.one_of("scanside_device_state", "state", state_help, &DEVICE_STATES, DeviceState::as_str, |state| {
        state == s.device_state
    });
    let help = "1 while the condition holds.";
    out.one_of("scanside_condition", "condition", help, &CONDITIONS, DeviceCondition::as_str, |c| s.conditions.contains(&c));
    out.family("scanside_build_info", "gauge", "Version of the program; always 1.");
    out.sample("scanside_build_info", &[("version", &s.version.scanside), ("target", &s.version.target)], 1.0);
    if let Some(model) = &s.model {
        out.family("scanside_model_info", "gauge", "The installed model; always 1.");
        let labels =
            [("name", model.name.as_str()), ("version", &model.version), ("sha256", &model.sha256), ("engine", &model.engine)];
        out.sample("scanside_model_info", &labels, 1.0);
        let passed = if model.self_test_passed { 1.0 } else { 0.0 };
        out.gauge("scanside_model_self_test_passed", "1 when the golden outputs were reproduced.", passed);
    }
    out.gauge("scanside_uptime_seconds", "Since the start.", number(s.uptime_s));
    out.gauge("scanside_associations", "DICOM associations open now.", number(s.n_associations));
    out.family("scanside_studies_in_work", "gauge", "Studies in work, by stage.");
    for stage in STAGES {
        let n = s.work.iter().filter(|item| item.stage == stage).count();
        out.sample("scanside_studies_in_work", &[("stage", stage.as_str())], number(n as u64));
    }
    out.gauge("scanside_inference_waiting", "Studies that wait for the network.", number(s.n_waiting_for_inference));
    out.gauge("scanside_spool_bytes", "Bytes that stored images take.", number(s.spool_bytes));
    out.gauge("scanside_spool_bytes_max", "Budget of the store.", number(s.spool_bytes_max));
    out.gauge("scanside_spool_free_bytes", "Free on the store's file system.", number(s.spool_free_bytes));
    out.gauge("scanside_spool_instances", "Images in the store.", number(s.spool_n_instances));
    out.gauge("scanside_outbox_waiting", "Alerts that wait for delivery.", number(s.outbox_n_waiting));
    out.gauge(
        "scanside_outbox_oldest_seconds",
        "Age of the oldest such alert; 0 without one.",
        number(s.outbox_oldest_s.unwrap_or(0)),
    );
    for probe in &s.probes {
        let plain =
            !probe.name.is_empty() && probe.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if let (true, Some(value), false) = (plain, probe.value, probe.stale) {
            out.gauge(&format!("scanside_box_{}", probe.name), &format!("Reading of the box, {}.", escaped(&probe.unit)), value);
        }
    }
    out.family("scanside_events_total", "counter", "Events of the journal since the start.");
    for (room, event, count) in journal.counts() {
        out.sample("scanside_events_total", &[("room", room), ("event", event)], number(count));
    }
    out.family("scanside_journal_overwritten_total", "counter", "Lines that left the page's list for newer ones.");
    out.sample("scanside_journal_overwritten_total", &[], number(journal.lost()));
    out.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::WallTime;
    use crate::web::{Probe, VersionInfo};

    #[test]
    fn labels_are_escaped_and_odd_probe_names_left_out() {
        let snapshot = StatusSnapshot {
            version: VersionInfo { scanside: "1\"2\\3\n4".to_owned(), target: String::new() },
            probes: vec![
                Probe { name: "x} 1".to_owned(), value: Some(1.0), ..Probe::default() },
                Probe { name: "temperature_celsius".to_owned(), value: Some(61.5), ..Probe::default() },
                Probe { name: "load".to_owned(), value: Some(1.0), stale: true, ..Probe::default() },
            ],
            ..StatusSnapshot::default()
        };
        let text = render(&snapshot, &Journal::new(|| WallTime(0)));
        assert!(text.contains(r#"scanside_build_info{version="1\"2\\3\n4",target=""} 1"#), "{text}");
        assert!(text.contains("\nscanside_box_temperature_celsius 61.5\n"));
        assert!(!text.contains("x}") && !text.contains("scanside_box_load"), "old data is never fresh data");
        assert!(text.contains("scanside_lamp{state=\"dark\"} 1\n"));
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let value = line.rsplit(' ').next().expect("a value");
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
}
