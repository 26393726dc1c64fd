//! The assembler: what became durable, which associations are open, the time -> studies closed for a stated reason.
//!
//! ```text
//!                    instance                                  instance that is new
//!          (none) ───────────> Collecting <──────────────────────────────────────────────┐
//!                                  │                                                       │ StudyReopened
//!    all roles complete, none of its associations open, a whole series just came ─┐       │
//!    required roles complete, none open, settle_s without an instance ────────────┤       │
//!    quiet_s without an instance ─────────────────────────────────────────────────┼─> Closed(reason)
//!    deadline_s since it was (re)opened; too many open studies ───────────────────┘       │ closed_kept_*: forgotten
//!                                                                        StudyClosed       └──> (none)
//! ```
//!
//! | Rule | Reason |
//! | --- | --- |
//! | every role of the model is geometrically complete and no association that touched the study is open | `RequiredRolesComplete`, at once |
//! | the required roles are, no association is open, `settle_s` passed | `RequiredRolesComplete` |
//! | `quiet_s` passed, whatever is there | `QuietTime` |
//! | `deadline_s` passed, even while instances arrive | `HardDeadline` |
//!
//! "At once" needs a released association that brought at least `slices_min` frames: a sender that opens one association per image says
//! nothing by releasing it, and its study waits for `settle_s`. Of rules due at one tick the one that was due first counts.
//!
//! No instance is lost: each is part of the next closed study, or an [`AssembleNote::InstanceLeftOut`] says that the study was full.
//! A closed study is kept for a while; a late instance reopens it with all that it had. Once it is forgotten ([`Assembler::knows`] is false)
//! the service brings the earlier instances back from the spool with [`AssembleEvent::StudyReloaded`].

use core::fmt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::domain::{ClosedBecause, InputChannel, Monotonic, OpenStudy, StoredInstance, Study, Uid};

use super::role::classify_study;

mod completeness;

use completeness::Completeness;
pub use completeness::missing_required;

/// Open associations that are followed; receive admits fewer. Of further ones only the clocks close a study.
pub const ASSOCIATIONS_MAX: usize = 4096;
/// The roles of a growing study are looked at again after at least this long, ms: looking costs time in proportion to its instances.
pub const LOOK_AGAIN_MS: u64 = 1000;

/// When studies close, and how much is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssembleOptions {
    /// A study without a new instance for this long is closed, seconds.
    pub quiet_s: u64,
    /// A study whose required roles are complete is closed this long after its last instance or association, seconds.
    pub settle_s: u64,
    /// A study is closed this long after it was opened or reopened, seconds.
    pub deadline_s: u64,
    /// Instances of one study; further ones are left out and named in a note.
    pub instances_per_study_max: usize,
    /// Studies open at once; at the bound the one that is idle longest is closed early.
    pub open_studies_max: usize,
    /// Closed studies that are kept for late instances; the one closed first is forgotten.
    pub closed_kept_max: usize,
    /// Instances of all kept closed studies together.
    pub closed_instances_kept_max: usize,
    /// Fewer slices than this are no complete series.
    pub slices_min: usize,
    /// The series roles that the model can use.
    pub roles: Vec<InputChannel>,
}

impl Default for AssembleOptions {
    fn default() -> Self {
        Self {
            quiet_s: 60,
            settle_s: 15,
            deadline_s: 1800,
            instances_per_study_max: 20_000,
            open_studies_max: 32,
            closed_kept_max: 16,
            closed_instances_kept_max: 50_000,
            slices_min: 10,
            roles: Vec::new(),
        }
    }
}

/// What happened.
#[derive(Clone, Debug)]
pub enum AssembleEvent {
    /// An instance became durable.
    InstanceStored(Arc<StoredInstance>),
    /// Earlier instances of a study that the assembler no longer knows, from the spool: they come before a late one.
    StudyReloaded {
        /// All of one study.
        instances: Vec<Arc<StoredInstance>>,
    },
    /// A peer opened an association.
    AssociationOpened {
        /// Its number.
        id: u64,
    },
    /// It was released, aborted or lost.
    AssociationClosed {
        /// Its number.
        id: u64,
    },
    /// The spool deleted the study: nothing may be kept of it.
    StudyForgotten {
        /// Study Instance UID.
        study_instance_uid: Uid,
    },
    /// Time passed.
    Tick,
}

/// What the service has to do, in this order.
#[derive(Clone, Debug)]
pub enum AssembleAction {
    /// Prepare and read it.
    StudyClosed(Study),
    /// A late instance came: the study will close again, and the new verdict supersedes the earlier one.
    StudyReopened {
        /// Study Instance UID.
        study_instance_uid: Uid,
    },
    /// Write it to the journal.
    Noted(AssembleNote),
}

/// What the journal should know beyond closing and reopening.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AssembleNote {
    /// The study holds as many instances as it may: this one is durable but will not be read.
    InstanceLeftOut {
        /// Study Instance UID.
        study_instance_uid: Uid,
        /// The bound.
        instances_per_study_max: usize,
    },
    /// Too many studies were open: this one, idle longest, was closed before its time.
    StudyClosedEarly {
        /// Study Instance UID.
        study_instance_uid: Uid,
        /// The bound.
        open_studies_max: usize,
    },
}

impl AssembleNote {
    /// Stable name for the journal.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::InstanceLeftOut { .. } => "InstanceLeftOut",
            Self::StudyClosedEarly { .. } => "StudyClosedEarly",
        }
    }
}

impl fmt::Display for AssembleNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InstanceLeftOut { study_instance_uid, instances_per_study_max } => write!(
                f,
                "study {study_instance_uid} holds {instances_per_study_max} instances already: a further one was left out (raise \
                 assemble.instances_per_study_max)"
            ),
            Self::StudyClosedEarly { study_instance_uid, open_studies_max } => write!(
                f,
                "study {study_instance_uid} was closed early: {open_studies_max} studies are open (raise assemble.open_studies_max)"
            ),
        }
    }
}

/// A study that still collects.
#[derive(Clone, Debug)]
struct Collecting {
    study: OpenStudy,
    since: Monotonic,
    /// Last instance, or last end of one of its associations.
    active_at: Monotonic,
    /// Its open associations, and how many frames each brought.
    associations: BTreeMap<u64, u64>,
    /// A whole series came over an association that ended, and nothing since.
    has_whole_series: bool,
    /// What the roles looked like, and when they were looked at; `None` once an instance came.
    completeness: Option<Completeness>,
    looked_at: Option<Monotonic>,
}

/// A closed study that a late instance may reopen.
#[derive(Clone, Debug)]
struct Closed {
    study: OpenStudy,
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
    associations: BTreeSet<u64>,
    n_closures: u64,
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
            associations: BTreeSet::new(),
            n_closures: 0,
        }
    }

    /// Takes an event at `now`. A `now` before an earlier one counts as that earlier one.
    pub fn on(&mut self, event: AssembleEvent, now: Monotonic) -> Vec<AssembleAction> {
        self.now = self.now.max(now);
        let mut actions = Vec::new();
        match event {
            AssembleEvent::InstanceStored(instance) => self.on_instance(instance, &mut actions),
            AssembleEvent::StudyReloaded { instances } => {
                for instance in instances {
                    self.on_instance(instance, &mut actions);
                }
            }
            AssembleEvent::AssociationOpened { id } => {
                if self.associations.len() < ASSOCIATIONS_MAX {
                    self.associations.insert(id);
                }
            }
            AssembleEvent::AssociationClosed { id } => {
                self.associations.remove(&id);
                self.on_association_closed(id);
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

    /// When the next [`AssembleEvent::Tick`] may close something; `None` while no study is open.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Monotonic> {
        let next = |one: &Collecting| match one.completeness {
            None if one.associations.is_empty() => one.next_look().min(self.first_due(one).0),
            _ => self.first_due(one).0,
        };
        self.collecting.values().map(next).min()
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
            self.make_room(actions);
            let reopened = self.closed.remove(&uid);
            if reopened.is_some() {
                actions.push(AssembleAction::StudyReopened { study_instance_uid: uid.clone() });
            }
            let study = reopened.map_or_else(|| OpenStudy::new(uid.clone(), self.now), |closed| closed.study);
            self.collecting.insert(uid.clone(), Collecting::new(study, self.now));
        }
        let (now, n_max) = (self.now, self.options.instances_per_study_max.max(1));
        let is_open = self.associations.contains(&instance.association_id);
        let Some(one) = self.collecting.get_mut(&uid) else { return };
        if is_open {
            // Also for a copy: while it comes, the sender is not done with the study.
            *one.associations.entry(instance.association_id).or_default() += u64::from(instance.header.n_frames);
        }
        one.active_at = now;
        if one.study.n_instances() >= n_max && !one.study.contains(&instance.header.sop_instance_uid) {
            return actions.push(self.left_out(uid));
        }
        if one.study.insert(instance, now) {
            one.completeness = None;
            one.has_whole_series = false;
        }
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

    fn on_association_closed(&mut self, id: u64) {
        for one in self.collecting.values_mut() {
            if let Some(n_frames) = one.associations.remove(&id) {
                one.active_at = self.now;
                one.has_whole_series |= n_frames >= self.options.slices_min as u64;
            }
        }
    }

    /// Closes every study that one of the rules closes by now.
    fn close_due(&mut self, actions: &mut Vec<AssembleAction>) {
        let uids: Vec<Uid> = self.collecting.keys().cloned().collect();
        for uid in uids {
            self.look(&uid);
            let due = self.collecting.get(&uid).map(|one| self.first_due(one));
            if let Some((_, because)) = due.filter(|(at, _)| *at <= self.now) {
                self.transition_to_closed(&uid, because, actions);
            }
        }
    }

    /// Looks at roles and geometry of a study that changed, when none of its associations is open and not too often.
    fn look(&mut self, uid: &Uid) {
        let Some(one) = self.collecting.get_mut(uid) else { return };
        if one.completeness.is_none() && one.associations.is_empty() && one.next_look() <= self.now {
            one.completeness = Some(Completeness::of(&one.study, &self.options));
            one.looked_at = Some(self.now);
        }
    }

    /// The rule that closes the study first, and when.
    fn first_due(&self, one: &Collecting) -> (Monotonic, ClosedBecause) {
        let after = |from: Monotonic, seconds: u64| from.plus_ms(seconds.saturating_mul(1000));
        let quiet = (after(one.study.last_at(), self.options.quiet_s), ClosedBecause::QuietTime);
        let deadline = (after(one.since, self.options.deadline_s), ClosedBecause::HardDeadline);
        let complete = one.completeness.filter(|_| one.associations.is_empty()).and_then(|completeness| {
            let at = match completeness {
                Completeness::All if one.has_whole_series => one.active_at,
                Completeness::All | Completeness::Required => after(one.active_at, self.options.settle_s),
                Completeness::Missing => return None,
            };
            Some((at, ClosedBecause::RequiredRolesComplete))
        });
        [complete, Some(quiet), Some(deadline)].into_iter().flatten().min_by_key(|(at, _)| *at).unwrap_or(deadline)
    }

    fn transition_to_closed(&mut self, uid: &Uid, because: ClosedBecause, actions: &mut Vec<AssembleAction>) {
        let Some(one) = self.collecting.remove(uid) else { return };
        actions.push(AssembleAction::StudyClosed(one.study.close_with(because, classify_study)));
        self.n_closures += 1;
        self.closed.insert(uid.clone(), Closed { study: one.study, order: self.n_closures });
        let n_kept = |closed: &BTreeMap<Uid, Closed>| closed.values().map(|one| one.study.n_instances()).sum::<usize>();
        while self.closed.len() > self.options.closed_kept_max || n_kept(&self.closed) > self.options.closed_instances_kept_max {
            let Some(oldest) = self.closed.iter().min_by_key(|(_, one)| one.order).map(|(uid, _)| uid.clone()) else { return };
            self.closed.remove(&oldest);
        }
    }
}

impl Collecting {
    fn new(study: OpenStudy, now: Monotonic) -> Self {
        Self {
            study,
            since: now,
            active_at: now,
            associations: BTreeMap::new(),
            has_whole_series: false,
            completeness: None,
            looked_at: None,
        }
    }

    /// When the roles may be looked at: at once when an association that brought a whole series ended, otherwise a while after the last
    /// look or instance.
    fn next_look(&self) -> Monotonic {
        let again = self.looked_at.map_or(Monotonic::default(), |at| at.plus_ms(LOOK_AGAIN_MS));
        if self.has_whole_series { again } else { again.max(self.active_at.plus_ms(LOOK_AGAIN_MS)) }
    }
}
