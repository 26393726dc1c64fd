//! Status: what the pages and programs are told about the box. The conductor's view in -> a `StatusSnapshot` in a watch channel.

use tokio::sync::watch;

use super::fetch::Held;
use super::vitals::Vitals;
use super::{monotonic_now, wall_now};
use crate::board::LampView;
use crate::domain::{DeviceCondition, DeviceState, Lamp, Monotonic, Study, Uid};
use crate::health::Reading;
use crate::infer::NpuStatus;
use crate::web::{Lights, NamedText, Probe, Stage, StatusSnapshot, WorkItem};

/// A reading older than this is shown as stale, ms.
const STALE_MS: u64 = 10_000;

/// Keeps the snapshot and publishes it when something in it changed.
pub(super) struct StatusTeller {
    snapshot: StatusSnapshot,
    out: watch::Sender<StatusSnapshot>,
    lamp_view: LampView,
    /// Engine on the processor, which serves where no NPU does.
    engine: String,
}

impl StatusTeller {
    /// `fixed` holds what does not change while the service runs: model, addresses, board, versions.
    pub(super) fn new(fixed: StatusSnapshot, lamp_view: LampView) -> (Self, watch::Receiver<StatusSnapshot>) {
        let (out, seen) = watch::channel(fixed.clone());
        let engine = fixed.model.as_ref().map(|model| model.engine.clone()).unwrap_or_default();
        (Self { snapshot: fixed, out, lamp_view, engine }, seen)
    }

    /// Studies, verdicts or acknowledgements in the store changed.
    pub(super) fn studies_changed(&mut self) {
        self.snapshot.studies_revision += 1;
    }

    /// The service serves.
    pub(super) fn ready(&mut self) {
        self.snapshot.ready = true;
    }

    /// The lamp thread's view.
    pub(super) fn lamp_view(&self) -> &LampView {
        &self.lamp_view
    }

    /// Which engine serves, and why it is not the NPU where it should be.
    pub(super) fn set_npu(&mut self, npu: NpuStatus) {
        if let Some(model) = &mut self.snapshot.model {
            model.engine = npu.engine.unwrap_or_else(|| self.engine.clone());
        }
        self.set_detail(DeviceCondition::NpuLost, npu.lost);
    }

    /// What is known of a condition beyond its sentence; `None` when it is over.
    pub(super) fn set_detail(&mut self, condition: DeviceCondition, text: Option<String>) {
        let name = condition.as_str();
        self.snapshot.condition_details.retain(|detail| detail.name != name);
        self.snapshot.condition_details.extend(text.map(|text| NamedText { name: name.to_owned(), text }));
    }

    /// Health figures, about once a second.
    pub(super) fn set_vitals(&mut self, vitals: &Vitals) {
        let s = &mut self.snapshot;
        s.conditions = vitals.conditions().to_vec();
        s.device_state = DeviceState::of(&s.conditions);
        s.probes = probes(vitals);
        s.uptime_s = monotonic_now().0 / 1000;
        if let Some(usage) = vitals.usage() {
            (s.spool_bytes, s.spool_bytes_max) = (usage.bytes, usage.bytes_max);
            (s.spool_free_bytes, s.spool_n_instances) = (usage.free_bytes, usage.n_instances);
        }
        (s.outbox_n_waiting, s.outbox_oldest_s) = vitals.outbox_waiting();
        s.at = wall_now();
    }

    /// Work in progress and the lamp; publishes the snapshot if it differs from the last one.
    pub(super) fn tell(
        &mut self,
        lamp: Lamp,
        n_associations: u64,
        (fetching, waiting): (&[&Held], &[&Study]),
        in_work: Option<&(Uid, u64, Monotonic)>,
    ) {
        let s = &mut self.snapshot;
        (s.lamp, s.n_associations) = (lamp, n_associations);
        s.n_waiting_for_inference = waiting.len() as u64;
        let now = monotonic_now();
        s.work = in_work
            .iter()
            .map(|(uid, n, since)| item(uid, *n, Stage::Inferring, now.since_ms(*since)))
            .chain(fetching.iter().map(|held| {
                let (uid, n_instances) = (held.study.study_instance_uid(), held.study.n_instances() as u64);
                item(uid, n_instances, Stage::Fetching, now.since_ms(held.since))
            }))
            .chain(waiting.iter().take(20).map(|study| {
                item(
                    study.study_instance_uid(),
                    study.n_instances() as u64,
                    Stage::Waiting,
                    now.since_ms(study.last_instance_at()),
                )
            }))
            .collect();
        // Ages move all the time: they are no reason to publish by themselves.
        let snapshot = &self.snapshot;
        self.out.send_if_modified(|shown| {
            let mut same_age = snapshot.clone();
            for (new, old) in same_age.work.iter_mut().zip(&shown.work) {
                new.since_ms = old.since_ms;
            }
            let lights = self.lamp_view.lights().map(|l| Lights { red: l.red, yellow: l.yellow, green: l.green });
            same_age.lights = shown.lights;
            let modified = same_age != *shown;
            *shown = snapshot.clone();
            shown.lights = lights;
            modified
        });
    }
}

fn item(uid: &Uid, n_instances: u64, stage: Stage, since_ms: u64) -> WorkItem {
    WorkItem { study_instance_uid: uid.clone(), n_instances, stage, since_ms }
}

#[allow(clippy::cast_precision_loss)] // figures for people
fn probes(vitals: &Vitals) -> Vec<Probe> {
    let (now, p) = (monotonic_now(), vitals.probes());
    let probe = |name: &str, unit: &str, reading: Option<(f64, u64)>| Probe {
        name: name.into(),
        value: reading.map(|(value, _)| value),
        unit: unit.into(),
        age_ms: reading.map_or(0, |(_, age)| age),
        stale: reading.is_none_or(|(_, age)| age > STALE_MS),
    };
    fn of<T: Copy>(reading: Option<&Reading<T>>, now: Monotonic, value: impl Fn(T) -> f64) -> Option<(f64, u64)> {
        reading.map(|r| (value(r.value), r.age_ms(now)))
    }
    let mib = |bytes: u64| (bytes as f64 / 1_048_576.0).round();
    let mut list = vec![
        probe("processor load", "%", of(p.cpu_percent.as_ref(), now, |v| f64::from(v).round())),
        probe("memory available", "MiB", of(p.memory_available_bytes.as_ref(), now, mib)),
        probe("memory of the service", "MiB", of(p.memory_process_bytes.as_ref(), now, mib)),
    ];
    // A machine without a sensor has no temperature to be stale.
    if let Some(Reading { value: Some(celsius), at }) = p.temperature_c {
        list.push(probe("temperature", "Celsius", Some((f64::from(celsius).round(), now.since_ms(at)))));
    }
    list
}
