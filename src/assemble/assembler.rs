//! The assembler: what became durable, which associations are open, what peers announced, the time -> studies closed for a stated reason.
//!
//! ```text
//!                    instance                                  instance that is new
//!          (none) ───────────> Collecting <──────────────────────────────────────────────┐
//!                               │  │                                                       │ StudyReopened
//!       required series arrived │  │ one of the rules below                                │
//!       (provisional.rs)        │  └───────────────────────────────────────────────> Closed(reason)
//!                               └──> StudyReady(snapshot), the study stays open            │ closed_kept_*: forgotten
//!                                                                        StudyClosed       └──> (none)
//! ```
//!
//! Evidence in order of strength; each closing names its own, and of rules due at one tick the one that was due first counts:
//!
//! | Rule | Reason |
//! | --- | --- |
//! | every role of the model is geometrically complete and no association that touched the study is open | `RequiredRolesComplete`, at once |
//! | the required roles are, no association is open, `settle_s` passed, and nobody said that more comes | `RequiredRolesComplete` |
//! | the required roles are, and all that its final procedure steps list is here, and nothing else | `StepCompleted`, `StepDiscontinued`, at once |
//! | the required roles are, and all that availability notifications list is here, and nothing else | `AnnouncedInstancesHere`, at once |
//! | `quiet_s` passed without an instance, whatever is there, and no step is IN PROGRESS | `QuietTime` |
//! | a step is IN PROGRESS, and `step_s_max` passed without an instance or a word of it | `StepSilent` |
//! | `deadline_s` passed since it was (re)opened, even while instances arrive (`step_s_max` later while a step is IN PROGRESS) | `HardDeadline` |
//!
//! "At once" by the roles needs a released association that brought at least `slices_min` frames: a sender that opens one association per
//! image says nothing by releasing it, and its study waits for `settle_s`. A step that is final while required roles are missing waits for
//! the quiet time all the same: scanners make one step for each protocol, and the next one may hold them. Time is monotonic alone.
//!
//! | What happens | What the assembler does |
//! | --- | --- |
//! | an instance is sent again (same content) to an open study | nothing is added; its association and the quiet time count as alive |
//! | a closed study is sent again, by the scanner or by the PACS beside it | nothing: no reopening, no second verdict |
//! | scanner and PACS send one study at the same time | one study; it closes when both are done |
//! | two studies are interleaved on one association | two studies, each closed by its own evidence |
//! | a new instance comes to a closed study | reopened with all that it had; the new verdict supersedes, and never lowers |
//! | the same, long after, when the closed study was forgotten | the service reads the earlier instances from the spool: `StudyReloaded` first |
//! | the same, after the spool evicted it | a study of the new images alone; the service notes that earlier ones are gone |
//! | other content under a known UID | kept as evidence by the spool, never told here; the service notes it |
//! | a step or a notification before its first instance, or after the closing | held, and counted once the study opens |
//!
//! No instance is lost: each is part of the next closed study, or an [`AssembleNote::InstanceLeftOut`] says that the study was full.
//! A closed study is kept for a while; once it is forgotten [`Assembler::knows`] is false.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::domain::{ClosedBecause, Monotonic, OpenStudy, StoredInstance, Uid};

use super::role::classify_study;

mod collecting;
mod completeness;
mod evidence;
mod messages;
mod provisional;

pub use completeness::missing_required;
pub use evidence::{LISTED_MAX, REPORTS_MAX};
pub use messages::{AssembleAction, AssembleEvent, AssembleNote, AssembleOptions};
pub use provisional::SNAPSHOTS_MAX;

use collecting::Collecting;
use evidence::{Evidence, Outlook};
use provisional::{Arrivals, Begun};

/// Open associations that are followed; receive admits fewer. Of further ones only the clocks close a study.
pub const ASSOCIATIONS_MAX: usize = 4096;
/// The roles of a growing study are looked at again after at least this long, ms: looking costs time in proportion to its instances.
pub const LOOK_AGAIN_MS: u64 = 1000;

/// A closed study that a late instance may reopen.
#[derive(Clone, Debug)]
struct Closed {
    study: OpenStudy,
    arrivals: Arrivals,
    /// Running number of the closure: the smallest is forgotten first.
    order: u64,
}

/// The state machine; see the module's diagram.
#[derive(Clone, Debug)]
pub struct Assembler {
    options: AssembleOptions,
    now: Monotonic,
    collecting: BTreeMap<Uid, Collecting>,
    closed: BTreeMap<Uid, Closed>,
    /// The open associations.
    associations: Begun,
    evidence: Evidence,
    n_closures: u64,
    n_instances: u64,
}

impl Assembler {
    /// An assembler without studies. Bounds of 0 are taken as 1.
    #[must_use]
    pub fn new(options: AssembleOptions) -> Self {
        Self {
            options,
            now: Monotonic::default(),
            collecting: BTreeMap::new(),
            closed: BTreeMap::new(),
            associations: Begun::new(),
            evidence: Evidence::default(),
            n_closures: 0,
            n_instances: 0,
        }
    }

    /// Takes an event at `now`. A `now` before an earlier one counts as that earlier one.
    pub fn on(&mut self, event: AssembleEvent, now: Monotonic) -> Vec<AssembleAction> {
        self.now = self.now.max(now);
        let mut actions = Vec::new();
        match event {
            AssembleEvent::InstanceStored(instance) => self.on_instance(instance, &mut actions),
            AssembleEvent::StudyReloaded { instances } => self.on_reloaded(instances, &mut actions),
            AssembleEvent::StepReported(step) => {
                let studies = step.study_instance_uids.clone();
                let n_forgotten = self.evidence.on_step(step, self.now);
                self.on_evidence(studies.iter(), n_forgotten, &mut actions);
            }
            AssembleEvent::InstancesAvailable(available) => {
                let study = available.study_instance_uid.clone();
                let n_forgotten = self.evidence.on_available(available, self.now);
                self.on_evidence(std::iter::once(&study), n_forgotten, &mut actions);
            }
            AssembleEvent::AssociationOpened { id } => {
                if self.associations.len() < ASSOCIATIONS_MAX {
                    self.associations.insert(id, 0);
                }
            }
            AssembleEvent::AssociationClosed { id } => {
                self.associations.remove(&id);
                for one in self.collecting.values_mut() {
                    one.on_association_closed(id, self.options.slices_min, self.now);
                }
                self.close_due(&mut actions);
            }
            AssembleEvent::StudyForgotten { study_instance_uid } => {
                self.closed.remove(&study_instance_uid);
            }
            AssembleEvent::Tick => self.close_due(&mut actions),
        }
        actions
    }

    /// Closes every open study for `because`, whatever its state: at the end of a folder.
    pub fn close_all(&mut self, because: ClosedBecause) -> Vec<AssembleAction> {
        let uids: Vec<Uid> = self.collecting.keys().cloned().collect();
        let mut actions = Vec::new();
        for uid in uids {
            self.transition_to_closed(&uid, because, &mut actions);
        }
        actions
    }

    /// Whether the study is open, or closed and still kept with its instances.
    #[must_use]
    pub fn knows(&self, study_instance_uid: &Uid) -> bool {
        self.collecting.contains_key(study_instance_uid) || self.closed.contains_key(study_instance_uid)
    }

    /// Studies that collect.
    #[must_use]
    pub fn n_open(&self) -> usize {
        self.collecting.len()
    }

    /// When the next [`AssembleEvent::Tick`] may close something or find it ready; `None` while no study is open. Another series that begins
    /// may make a study ready before that.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Monotonic> {
        self.collecting.values().map(|one| one.next_tick(&self.options)).min()
    }

    fn on_instance(&mut self, instance: Arc<StoredInstance>, actions: &mut Vec<AssembleAction>) {
        let uid = instance.header.study_instance_uid.clone();
        if let Some(closed) = self.closed.get(&uid) {
            if closed.study.contains(&instance.header.sop_instance_uid) {
                return; // sent again: nothing new to read
            }
            if closed.study.n_instances() >= self.options.instances_per_study_max.max(1) {
                return actions.push(self.left_out(uid));
            }
        }
        if !self.collecting.contains_key(&uid) {
            self.transition_to_collecting(&uid, actions);
        }
        let (now, n_max) = (self.now, self.options.instances_per_study_max.max(1));
        let Some(one) = self.collecting.get_mut(&uid) else { return };
        if self.associations.contains_key(&instance.association_id) {
            // Also for a copy: while it comes, the sender is not done with the study.
            *one.associations.entry(instance.association_id).or_default() += u64::from(instance.header.n_frames);
        }
        one.active_at = now;
        if one.study.n_instances() >= n_max && !one.study.contains(&instance.header.sop_instance_uid) {
            return actions.push(self.left_out(uid));
        }
        if one.study.insert(Arc::clone(&instance), now) {
            self.n_instances += 1;
            one.completeness = None;
            one.has_whole_series = false;
            one.outlook.on_arrived(&instance.header.sop_instance_uid);
            let has_begun = one.arrivals.on_instance(&instance, self.n_instances, now, self.options.slices_min);
            if let Some(last_begun) = self.associations.get_mut(&instance.association_id).filter(|_| has_begun) {
                *last_begun = self.n_instances;
            }
        }
    }

    fn on_reloaded(&mut self, instances: Vec<Arc<StoredInstance>>, actions: &mut Vec<AssembleAction>) {
        let uid = instances.first().map(|instance| instance.header.study_instance_uid.clone());
        for instance in instances {
            self.on_instance(instance, actions);
        }
        if let Some(one) = uid.and_then(|uid| self.collecting.get_mut(&uid)) {
            one.arrivals.on_assessed(&one.study);
        }
    }

    /// Something was told about these studies: those that collect see it at once.
    fn on_evidence<'a>(&mut self, studies: impl Iterator<Item = &'a Uid>, n_forgotten: usize, actions: &mut Vec<AssembleAction>) {
        if n_forgotten > 0 {
            actions.push(AssembleAction::Noted(AssembleNote::EvidenceForgotten { n_reports: n_forgotten }));
        }
        for uid in studies {
            if let Some(one) = self.collecting.get_mut(uid) {
                one.outlook = self.evidence.outlook(&one.study);
            }
        }
        self.close_due(actions);
    }

    fn left_out(&self, study_instance_uid: Uid) -> AssembleAction {
        let instances_per_study_max = self.options.instances_per_study_max.max(1);
        AssembleAction::Noted(AssembleNote::InstanceLeftOut { study_instance_uid, instances_per_study_max })
    }

    /// Closes the study that is idle longest while there are as many open ones as there may be.
    fn make_room(&mut self, actions: &mut Vec<AssembleAction>) {
        let open_studies_max = self.options.open_studies_max.max(1);
        while self.collecting.len() >= open_studies_max {
            let idle =
                self.collecting.iter().min_by_key(|(uid, one)| (one.active_at, (*uid).clone())).map(|(uid, _)| uid.clone());
            let Some(study_instance_uid) = idle else { return };
            let note = AssembleNote::StudyClosedEarly { study_instance_uid: study_instance_uid.clone(), open_studies_max };
            actions.push(AssembleAction::Noted(note));
            self.transition_to_closed(&study_instance_uid, ClosedBecause::HardDeadline, actions);
        }
    }

    /// Closes every study that one of the rules closes by now; of the others, tells which are ready for a provisional look.
    fn close_due(&mut self, actions: &mut Vec<AssembleAction>) {
        let mut due = Vec::new();
        for (uid, one) in &mut self.collecting {
            one.look(&self.options, self.now);
            let (at, because) = one.first_due(&self.options);
            if at <= self.now {
                due.push((uid.clone(), because));
            } else if let Some(snapshot) = one.arrivals.look(&one.study, &self.associations, &self.options, self.now) {
                actions.push(AssembleAction::StudyReady(snapshot));
            }
        }
        for (uid, because) in due {
            self.transition_to_closed(&uid, because, actions);
        }
    }

    /// A study begins, or a closed one begins again with all that it had.
    fn transition_to_collecting(&mut self, uid: &Uid, actions: &mut Vec<AssembleAction>) {
        self.make_room(actions);
        let reopened = self.closed.remove(uid);
        if reopened.is_some() {
            actions.push(AssembleAction::StudyReopened { study_instance_uid: uid.clone() });
        }
        let (study, arrivals) = reopened.map_or_else(
            || (OpenStudy::new(uid.clone(), self.now), Arrivals::default()),
            |closed| (closed.study, closed.arrivals),
        );
        let outlook: Outlook = self.evidence.outlook(&study);
        self.collecting.insert(uid.clone(), Collecting::new(study, arrivals, outlook, self.now));
    }

    fn transition_to_closed(&mut self, uid: &Uid, because: ClosedBecause, actions: &mut Vec<AssembleAction>) {
        let Some(Collecting { study, outlook, mut arrivals, .. }) = self.collecting.remove(uid) else { return };
        let mut closed = study.close_with(because, classify_study);
        // Closed on its own merits before the rest came: then the rest is no loss to the reader.
        if let Some(note) = outlook.note(&study).filter(|_| because != ClosedBecause::RequiredRolesComplete) {
            closed = closed.with_note(note);
        }
        actions.push(AssembleAction::StudyClosed(closed));
        if because == ClosedBecause::StepSilent {
            self.evidence.forget_in_progress(uid);
        }
        arrivals.on_assessed(&study);
        self.n_closures += 1;
        self.closed.insert(uid.clone(), Closed { study, arrivals, order: self.n_closures });
        let n_kept = |closed: &BTreeMap<Uid, Closed>| closed.values().map(|one| one.study.n_instances()).sum::<usize>();
        while self.closed.len() > self.options.closed_kept_max || n_kept(&self.closed) > self.options.closed_instances_kept_max {
            let Some(oldest) = self.closed.iter().min_by_key(|(_, one)| one.order).map(|(uid, _)| uid.clone()) else { return };
            self.closed.remove(&oldest);
        }
    }
}
