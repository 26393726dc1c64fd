//! A bench for the assembler: events and waiting in -> what it closed, what it called ready, what it noted.

use std::sync::Arc;

use scanside::assemble::{AssembleAction, AssembleEvent, AssembleNote, AssembleOptions, Assembler};
use scanside::domain::{
    AvailableInstances, ClosedBecause, InputChannel, Monotonic, ProcedureStep, ReferencedSeries, Role, StepStatus,
    StoredInstance, Study,
};

use super::roles::{FLAIR, MPRAGE, timed};
use super::support::{Recipe, uid};

pub(crate) fn options() -> AssembleOptions {
    let channel = |role, required| InputChannel { role, required };
    AssembleOptions { roles: vec![channel(Role::T1Post, true), channel(Role::Flair, false)], ..AssembleOptions::default() }
}

pub(crate) fn t1_post(study: &str) -> Recipe {
    let mut recipe = Recipe { acquisition: timed(MPRAGE), ..Recipe::new(study, "1") };
    recipe.acquisition.contrast_agent = Some("Gadobutrol".to_owned());
    recipe
}

pub(crate) fn flair(study: &str) -> Recipe {
    Recipe { acquisition: timed(FLAIR), ..Recipe::new(study, "2") }
}

pub(crate) fn over(association_id: u64, instances: Vec<Arc<StoredInstance>>) -> Vec<Arc<StoredInstance>> {
    instances.into_iter().map(|instance| Arc::new(StoredInstance { association_id, ..(*instance).clone() })).collect()
}

/// An assembler with a clock, that keeps what it closed.
pub(crate) struct Bench {
    pub(crate) assembler: Assembler,
    pub(crate) now: Monotonic,
    pub(crate) closed: Vec<Study>,
    /// Provisional snapshots, each with how many studies had closed before it.
    pub(crate) ready: Vec<(Study, usize)>,
    pub(crate) reopened: usize,
    pub(crate) notes: Vec<AssembleNote>,
}

impl Bench {
    pub(crate) fn new(options: AssembleOptions) -> Self {
        Self {
            assembler: Assembler::new(options),
            now: Monotonic(1_000),
            closed: Vec::new(),
            ready: Vec::new(),
            reopened: 0,
            notes: Vec::new(),
        }
    }

    pub(crate) fn on(&mut self, event: AssembleEvent) {
        for action in self.assembler.on(event, self.now) {
            match action {
                AssembleAction::StudyReady(study) => self.ready.push((study, self.closed.len())),
                AssembleAction::StudyClosed(study) => self.closed.push(study),
                AssembleAction::StudyReopened { .. } => self.reopened += 1,
                AssembleAction::Noted(note) => self.notes.push(note),
            }
        }
    }

    pub(crate) fn store(&mut self, instances: &[Arc<StoredInstance>]) {
        for instance in instances {
            self.on(AssembleEvent::InstanceStored(Arc::clone(instance)));
        }
    }

    /// Ticks each 100 ms for so many seconds.
    pub(crate) fn wait_s(&mut self, seconds: u64) {
        for _ in 0..seconds * 10 {
            self.now = self.now.plus_ms(100);
            self.on(AssembleEvent::Tick);
        }
    }

    pub(crate) fn reasons(&self) -> Vec<ClosedBecause> {
        self.closed.iter().map(Study::closed_because).collect()
    }

    pub(crate) fn n_instances(&self) -> Vec<usize> {
        self.closed.iter().map(Study::n_instances).collect()
    }

    /// Stores one instance after the other, each so many ms after the last, with ticks between.
    pub(crate) fn store_at_pace(&mut self, instances: &[Arc<StoredInstance>], ms: u64) {
        for instance in instances {
            self.store(std::slice::from_ref(instance));
            self.now = self.now.plus_ms(ms);
            self.on(AssembleEvent::Tick);
        }
    }
}

/// A procedure step of these studies that lists these instances.
pub(crate) fn step(number: u32, status: StepStatus, studies: &[&str], instances: &[Arc<StoredInstance>]) -> AssembleEvent {
    AssembleEvent::StepReported(Arc::new(ProcedureStep {
        sop_instance_uid: uid(&format!("9.{number}")),
        status,
        study_instance_uids: studies.iter().map(|study| uid(study)).collect(),
        series: listed(instances),
    }))
}

/// An availability notification of one study.
pub(crate) fn available(study: &str, instances: &[Arc<StoredInstance>]) -> AssembleEvent {
    AssembleEvent::InstancesAvailable(Arc::new(AvailableInstances { study_instance_uid: uid(study), series: listed(instances) }))
}

fn listed(instances: &[Arc<StoredInstance>]) -> ReferencedSeries {
    let mut series = ReferencedSeries::new();
    for header in instances.iter().map(|instance| &instance.header) {
        series.entry(header.series_instance_uid.clone()).or_default().insert(header.sop_instance_uid.clone());
    }
    series
}
