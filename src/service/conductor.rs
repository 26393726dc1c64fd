//! The conductor: one task that takes every notice in turn and tells the rooms what happened. Notices in -> actions carried out.
//!
//! It holds the two pure state machines (assemble, signal), so their order of events is the order in which this task sees them. Calls that
//! wait for the disk run inside `block_in_place`; nothing here waits for the model or for a peer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::block_in_place;

use super::backlog::Backlog;
use super::fetch::{FetchDesk, FetchReport, Held};
use super::receivers::Receiver;
use super::status::StatusTeller;
use super::vitals::Vitals;
use super::{ServiceEvent, monotonic_now, past, wall_now};
use crate::assemble::{AssembleAction, AssembleEvent, Assembler};
use crate::board::{BoardNotice, LampHandle};
use crate::deliver::{CommitmentHealth, DeliverWaker, DeliveryHealth};
use crate::domain::{
    AvailableInstances, DeviceCondition, Lamp, Monotonic, ProcedureStep, StoredInstance, Study, Uid, Verdict, VerdictKind,
};
use crate::infer::NpuWatch;
use crate::journal::Journal;
use crate::receive::ReceiveNotice;
use crate::secure::TlsKeeper;
use crate::signal::{SignalAction, SignalEvent, Signaller, StudySignal};
use crate::spool::{Spool, Store};
use crate::web::WebCommand;

/// How often time is told to the state machines.
const TICK: Duration = Duration::from_millis(100);
/// Ticks between two looks at the slow things: the store's figures, the outbox, health.
const SLOW_TICKS: u64 = 10;

/// Runs a call that waits for the disk. Others go on meanwhile, and the lamp is told that this silence has a cause.
pub(super) fn on_disk<T>(lamp: &LampHandle, wait: impl FnOnce() -> T) -> T {
    lamp.excused(|| block_in_place(wait))
}

/// What the conductor listens to.
pub(super) struct Inlets {
    pub(super) receive: mpsc::Receiver<ReceiveNotice>,
    pub(super) assessed: mpsc::Receiver<(Study, Verdict)>,
    pub(super) board: mpsc::Receiver<BoardNotice>,
    pub(super) web: mpsc::Receiver<WebCommand>,
    pub(super) fetched: mpsc::Receiver<FetchReport>,
    pub(super) shutdown: watch::Receiver<bool>,
}

/// What the conductor acts on.
pub(super) struct Conductor {
    pub(super) spool: Spool,
    pub(super) journal: Journal,
    pub(super) assembler: Assembler,
    pub(super) signaller: Signaller,
    pub(super) lamp: LampHandle,
    pub(super) events: broadcast::Sender<ServiceEvent>,
    /// `None` when the model is unusable: studies are kept and wait.
    pub(super) to_pipeline: Option<mpsc::Sender<Study>>,
    pub(super) backlog: Backlog,
    /// The snapshot that was read last, and what came of it: a closing with the same content need not be read again.
    pub(super) read_ahead: Option<(Study, Verdict)>,
    /// Instances of one study that are read back from the spool.
    pub(super) instances_per_study_max: usize,
    pub(super) in_work: Option<(Uid, u64, Monotonic)>,
    pub(super) overloaded: Arc<AtomicBool>,
    /// `None` without a PACS in the configuration.
    pub(super) fetch: Option<FetchDesk>,
    pub(super) receivers: Vec<Receiver>,
    pub(super) waker: DeliverWaker,
    pub(super) delivery: watch::Receiver<DeliveryHealth>,
    pub(super) commitments: watch::Receiver<CommitmentHealth>,
    pub(super) npu: NpuWatch,
    /// The certificates for DICOM.
    pub(super) dicom_tls: Option<Arc<TlsKeeper>>,
    /// The certificate of the page.
    pub(super) page_tls: Option<Arc<TlsKeeper>>,
    pub(super) vitals: Vitals,
    pub(super) n_associations: u64,
    pub(super) is_working: bool,
    /// What the lamp shows; the channels see it.
    pub(super) shown: watch::Sender<Lamp>,
    pub(super) teller: StatusTeller,
}

impl Conductor {
    /// Runs until the shutdown signal.
    pub(super) async fn run(mut self, mut inlets: Inlets) {
        let mut ticker = tokio::time::interval(TICK);
        ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut n_ticks = 0_u64;
        loop {
            tokio::select! {
                changed = inlets.shutdown.changed() => {
                    if changed.is_err() || *inlets.shutdown.borrow() {
                        self.vitals.tell_stopping();
                        return;
                    }
                }
                Some(notice) = inlets.receive.recv() => self.on_receive(notice),
                Some((study, verdict)) = inlets.assessed.recv() => self.on_assessed(study, verdict),
                Some(notice) = inlets.board.recv() => self.on_board(notice),
                Some(command) = inlets.web.recv() => self.on_web(command),
                Some(report) = inlets.fetched.recv() => self.on_fetched(report),
                _ = ticker.tick() => {
                    self.vitals.beat(monotonic_now());
                    self.on_assemble(AssembleEvent::Tick);
                    self.on_fetch_tick();
                    self.watch_work();
                    if n_ticks.is_multiple_of(SLOW_TICKS) {
                        self.on_slow_tick();
                    }
                    n_ticks += 1;
                }
            }
            // Each turn is a sign of life; with the ticks there are ten a second at least.
            self.lamp.alive();
            self.feed_pipeline();
            self.tell_work();
            let waiting: Vec<&Study> = self.backlog.iter().collect();
            let fetching: Vec<&Held> = self.fetch.iter().flat_map(FetchDesk::held).collect();
            self.teller.tell(self.signaller.lamp(), self.n_associations, (&fetching, &waiting), self.in_work.as_ref());
        }
    }

    fn on_receive(&mut self, notice: ReceiveNotice) {
        match notice {
            ReceiveNotice::InstanceStored(instance) => {
                self.set_condition(DeviceCondition::StorageFailing, false);
                self.on_stored(Arc::new(*instance));
            }
            ReceiveNotice::AssociationOpened { id, calling, peer } => {
                self.n_associations += 1;
                let _ = self.events.send(ServiceEvent::AssociationOpened { id, peer: format!("{calling} at {peer}") });
                self.on_assemble(AssembleEvent::AssociationOpened { id });
            }
            ReceiveNotice::AssociationClosed { id, released, n_instances } => {
                self.n_associations = self.n_associations.saturating_sub(1);
                let _ = self.events.send(ServiceEvent::AssociationClosed { id, released, n_instances });
                self.on_assemble(AssembleEvent::AssociationClosed { id });
            }
            ReceiveNotice::StorageFailed { error } => {
                if let Some(condition) = error.device_condition() {
                    self.set_condition(condition, true);
                }
            }
            // A repeated instance changes nothing, but an open study has given a sign of life. A study that the assembler no longer
            // knows has its verdict, which has seen this instance.
            ReceiveNotice::InstanceRepeated(instance) => {
                if self.assembler.knows(&instance.header.study_instance_uid) {
                    self.on_assemble(AssembleEvent::InstanceStored(Arc::new(*instance)));
                }
            }
            // The evidence is kept and journalled by the spool; it never replaces the first.
            ReceiveNotice::InstanceConflict { .. } => self.teller.studies_changed(),
            ReceiveNotice::StepReported(step) => self.on_step_reported(*step),
            ReceiveNotice::InstancesAvailable(available) => self.on_instances_available(*available),
        }
    }

    /// A modality has created or changed a procedure step: evidence for when its studies are complete.
    pub(super) fn on_step_reported(&mut self, step: ProcedureStep) {
        let (n_series, n_instances) = (step.series.len(), step.series.values().map(BTreeSet::len).sum());
        let status = step.status.as_str();
        self.journal.record(&super::events::ServiceReport::StepReported { status, n_series, n_instances });
        self.on_assemble(AssembleEvent::StepReported(Arc::new(step)));
    }

    /// A peer says which instances of a study it made available: evidence as well.
    pub(super) fn on_instances_available(&mut self, available: AvailableInstances) {
        let n_instances = available.series.values().map(BTreeSet::len).sum();
        self.journal.record(&super::events::ServiceReport::InstancesAvailable { n_instances });
        self.on_assemble(AssembleEvent::InstancesAvailable(Arc::new(available)));
    }

    /// A durable instance goes to the assembler. The first one of a study that has a past brings its earlier instances along.
    fn on_stored(&mut self, instance: Arc<StoredInstance>) {
        let uid = instance.header.study_instance_uid.clone();
        if !self.assembler.knows(&uid) {
            let (new, bounds) = (&instance.header.sop_instance_uid, (self.instances_per_study_max, instance.stored_at));
            match on_disk(&self.lamp, || past::earlier_instances(&self.spool, &uid, new, bounds)) {
                Ok(instances) if instances.is_empty() => {}
                Ok(instances) => self.on_assemble(AssembleEvent::StudyReloaded { instances }),
                Err(_) => self.set_condition(DeviceCondition::StorageFailing, true),
            }
        }
        self.on_assemble(AssembleEvent::InstanceStored(instance));
    }

    pub(super) fn on_assemble(&mut self, event: AssembleEvent) {
        for action in self.assembler.on(event, monotonic_now()) {
            match action {
                AssembleAction::StudyReady(study) => self.on_ready(study),
                AssembleAction::StudyClosed(study) => self.on_closed(study),
                // The verdict that is on its way will be superseded; a closing that waits is replaced by the next one.
                AssembleAction::StudyReopened { study_instance_uid } => self.on_fetch_reopened(&study_instance_uid),
                AssembleAction::Noted(note) => self.journal.record(&super::events::AssembleReport(note)),
            }
        }
    }

    /// The series that the model needs are here while the rest arrives: read them ahead.
    fn on_ready(&mut self, study: Study) {
        let study_instance_uid = study.study_instance_uid().to_string();
        let _ = self.events.send(ServiceEvent::StudyReady { study_instance_uid, n_instances: study.n_instances() });
        self.backlog.push(study);
    }

    /// A study is complete as far as the evidence goes: what the spool knows of it is noted, and it waits for the pipeline.
    fn on_closed(&mut self, study: Study) {
        let study = match on_disk(&self.lamp, || self.spool.study(study.study_instance_uid())) {
            Ok(Some(detail)) => past::with_notes(study, &detail),
            Ok(None) | Err(_) => study,
        };
        let event = ServiceEvent::StudyClosed {
            study_instance_uid: study.study_instance_uid().to_string(),
            because: study.closed_because().as_str(),
            n_instances: study.n_instances(),
        };
        let _ = self.events.send(event);
        // It may be held for the PACS: what waits of an earlier closing is out of date all the same.
        self.backlog.forget_closed(study.study_instance_uid());
        self.fetch_or_forward(study);
    }

    /// A closed study waits for the pipeline.
    pub(super) fn put_in_backlog(&mut self, study: Study) {
        self.backlog.push(study);
        self.overloaded.store(self.backlog.is_full(), Ordering::Relaxed);
    }

    /// Whether new instances are refused because too many studies wait.
    pub(super) fn is_overloaded(&self) -> bool {
        self.overloaded.load(Ordering::Relaxed)
    }

    /// Hands the next study to the pipeline when it is free.
    fn feed_pipeline(&mut self) {
        if self.to_pipeline.is_none() || self.in_work.is_some() {
            return;
        }
        while let Some(study) = self.backlog.pop() {
            if let Some(verdict) = self.read_before(&study) {
                self.on_assessed(study, verdict);
                continue;
            }
            let Some(to_pipeline) = &self.to_pipeline else { return };
            let work = (study.study_instance_uid().clone(), study.n_instances() as u64, monotonic_now());
            match to_pipeline.try_send(study) {
                Ok(()) => {
                    self.in_work = Some(work);
                    self.vitals.pipeline_busy(true);
                }
                Err(error) => self.backlog.put_back(error.into_inner()),
            }
            break;
        }
        self.overloaded.store(self.backlog.is_full(), Ordering::Relaxed);
    }

    fn on_board(&mut self, notice: BoardNotice) {
        match notice {
            BoardNotice::ButtonPressed => {
                self.on_signal(SignalEvent::AllAcknowledged { by: "button".into(), at: wall_now() });
            }
            BoardNotice::Failing(text) => {
                self.journal.record(&super::events::ServiceReport::LampFailed { text });
                self.set_condition(DeviceCondition::LampFailing, true);
            }
            BoardNotice::Recovered => self.set_condition(DeviceCondition::LampFailing, false),
            BoardNotice::DeadManReleased { silent_ms } => {
                self.journal.record(&super::events::ServiceReport::ConductorWasSilent { silent_ms });
            }
        }
    }

    fn on_web(&mut self, command: WebCommand) {
        match command {
            WebCommand::Acknowledge { study: study_instance_uid, by, reply } => {
                let at = wall_now();
                let kept = on_disk(&self.lamp, || self.spool.acknowledge(&study_instance_uid, &by, at));
                if matches!(kept, Ok(true)) {
                    self.on_signal(SignalEvent::Acknowledged { study_instance_uid, by, at });
                }
                self.teller.studies_changed();
                let _ = reply.send(kept.map_err(|error| error.to_string()));
            }
        }
    }

    pub(super) fn on_signal(&mut self, event: SignalEvent) {
        let by_button = matches!(event, SignalEvent::AllAcknowledged { .. });
        for action in self.signaller.on(event) {
            match action {
                SignalAction::SetLamp(lamp) => {
                    self.lamp.show(lamp);
                    if lamp != self.shown.send_replace(lamp) {
                        let _ = self.events.send(ServiceEvent::LampChanged(lamp));
                    }
                }
                SignalAction::AcknowledgementKept { study_instance_uid, by, at } => {
                    // The page's acknowledgement is already durable; the button's is made so here.
                    if by_button && let Err(error) = on_disk(&self.lamp, || self.spool.acknowledge(&study_instance_uid, &by, at))
                    {
                        self.journal.record(&super::events::ServiceReport::AcknowledgementNotKept { error: error.to_string() });
                    }
                    self.teller.studies_changed();
                }
                // The notices stand in the outbox since the verdict was recorded.
                SignalAction::Notify { .. } => {}
                SignalAction::ReloadUnacknowledged => self.reload_unacknowledged(),
            }
        }
    }

    /// Tells the signaller which verdicts nobody has acknowledged yet: at the start, and when it had to let some go.
    pub(super) fn reload_unacknowledged(&mut self) {
        match on_disk(&self.lamp, || self.spool.unacknowledged()) {
            Ok(summaries) => {
                let signals = summaries
                    .into_iter()
                    .map(|s| {
                        let urgency = s.standing_urgency.or(s.urgency);
                        // A provisional verdict that flags nothing calls nobody: what waits is an indeterminate one before it.
                        let kind = s.verdict.filter(|kind| !s.provisional || *kind == VerdictKind::Flagged);
                        let kind = kind.unwrap_or(VerdictKind::Indeterminate);
                        StudySignal { study_instance_uid: s.study_instance_uid, kind, urgency }
                    })
                    .collect();
                self.on_signal(SignalEvent::Restored(signals));
            }
            Err(_) => self.set_condition(DeviceCondition::StorageFailing, true),
        }
    }

    /// A condition that a room reports; it counts at once, not only at the next look.
    pub(super) fn set_condition(&mut self, condition: DeviceCondition, present: bool) {
        self.vitals.report(condition, present);
    }

    fn on_slow_tick(&mut self) {
        for uid in self.spool.take_evicted() {
            self.on_assemble(AssembleEvent::StudyForgotten { study_instance_uid: uid });
        }
        let (undelivered, why) = {
            let delivery = self.delivery.borrow_and_update();
            (delivery.undelivered, delivery.detail.clone())
        };
        self.set_condition(DeviceCondition::AlertsUndelivered, undelivered);
        self.teller.set_detail(DeviceCondition::AlertsUndelivered, why);
        let untold = self.commitments.borrow_and_update().undelivered;
        self.set_condition(DeviceCondition::CommitmentsUndelivered, untold);
        let npu = self.npu.status();
        self.set_condition(DeviceCondition::NpuLost, npu.lost.is_some());
        self.teller.set_npu(npu);
        self.look_at_certificates();
        self.look_at_vitals();
    }

    /// A study that stands still is told at once, and so is one that moves again: the room must not wait for the next slow look.
    fn watch_work(&mut self) {
        let Some(stall) = self.vitals.watch_work() else { return };
        self.teller.set_detail(DeviceCondition::InferenceStuck, stall);
        self.look_at_vitals();
    }

    fn look_at_vitals(&mut self) {
        let changed = on_disk(&self.lamp, || self.vitals.look(&self.spool, self.teller.lamp_view()));
        if let Some(conditions) = changed {
            self.on_signal(SignalEvent::ConditionsChanged(conditions));
        }
        self.teller.set_vitals(&self.vitals);
    }

    /// Takes up new certificate files, and says what of them needs somebody.
    fn look_at_certificates(&mut self) {
        let [dicom, page] = [&self.dicom_tls, &self.page_tls].map(|keeper| {
            let standing = keeper.as_ref().map(|keeper| on_disk(&self.lamp, || keeper.look()));
            standing.unwrap_or_default()
        });
        let of = |serves: &'static str| move |text| format!("for {serves}: {text}");
        let (of_dicom, of_page) = (of("DICOM"), of("the page"));
        // Studies come and go without the page: whatever its certificate is worth, the box can be relied on.
        let ending = dicom.expiring.map(of_dicom).or(page.unusable.or(page.expiring).map(of_page));
        let details = [
            (DeviceCondition::CertificateUnusable, dicom.unusable.map(of_dicom)),
            (DeviceCondition::CertificateExpiring, ending),
            (DeviceCondition::CertificateNotLoaded, dicom.not_loaded.map(of_dicom).or(page.not_loaded.map(of_page))),
        ];
        for (condition, text) in details {
            self.set_condition(condition, text.is_some());
            self.teller.set_detail(condition, text);
        }
    }

    /// Work shows as a pulse: an open association, a study in the pipeline, or one that waits for it or for the PACS.
    fn tell_work(&mut self) {
        let holds = self.fetch.as_ref().is_some_and(|desk| desk.held().next().is_some());
        let working = self.n_associations > 0 || self.in_work.is_some() || !self.backlog.is_empty() || holds;
        if working != self.is_working {
            self.is_working = working;
            self.on_signal(if working { SignalEvent::WorkStarted } else { SignalEvent::WorkEnded });
        }
    }
}
