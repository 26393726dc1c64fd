//! The signaller: events in -> actions out. The diagram is in the room's `//!`.

use std::collections::{BTreeMap, VecDeque};

use crate::domain::{DeviceCondition, DeviceState, Lamp, Uid, Urgency, VerdictKind, WallTime};

/// Bounds and choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignalOptions {
    /// Unacknowledged studies held in memory. At the bound the least urgent one is dropped from memory, not from the spool: its
    /// urgency keeps burning, and the list is read again from the spool after the next acknowledgement.
    pub unacknowledged_max: usize,
    /// Acknowledged studies remembered. At the bound the oldest is forgotten: a later verdict on it would light the lamp again.
    pub acknowledged_max: usize,
    /// Whether a study that is not flagged sends its plain result.
    pub notify_not_flagged: bool,
}

impl Default for SignalOptions {
    fn default() -> Self {
        Self { unacknowledged_max: 256, acknowledged_max: 1024, notify_not_flagged: true }
    }
}

/// What the signaller needs to know of a verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StudySignal {
    /// Study Instance UID.
    pub study_instance_uid: Uid,
    /// The answer.
    pub kind: VerdictKind,
    /// How urgent; `None` unless flagged.
    pub urgency: Option<Urgency>,
}

/// What happens to a signaller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignalEvent {
    /// The spool's list of unacknowledged studies, at the start or after [`SignalAction::ReloadUnacknowledged`]. It
    /// replaces what was held.
    Restored(Vec<StudySignal>),
    /// A verdict is durable.
    VerdictReached(StudySignal),
    /// A person acknowledged one study (on the page).
    Acknowledged {
        /// Study Instance UID.
        study_instance_uid: Uid,
        /// Who.
        by: String,
        /// When.
        at: WallTime,
    },
    /// The button was pressed, or "all" on the page: everything at the most urgent level that is shown.
    AllAcknowledged {
        /// Who.
        by: String,
        /// When.
        at: WallTime,
    },
    /// A study began to be received or read.
    WorkStarted,
    /// It ended.
    WorkEnded,
    /// The device's conditions, all of them.
    ConditionsChanged(Vec<DeviceCondition>),
}

/// What a notice is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeKind {
    /// Findings: call or tell the radiologist.
    Flagged(Urgency),
    /// Could not be assessed.
    Indeterminate,
    /// A plain result: not flagged.
    Result,
}

impl NoticeKind {
    /// Stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Flagged(Urgency::Critical) => "critical",
            Self::Flagged(Urgency::Suspicious) => "suspicious",
            Self::Indeterminate => "indeterminate",
            Self::Result => "result",
        }
    }
}

/// What the service must do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignalAction {
    /// Show this lamp; only when it changed.
    SetLamp(Lamp),
    /// Send the verdict of this study to the configured channels.
    Notify {
        /// Study Instance UID.
        study_instance_uid: Uid,
        /// What about.
        kind: NoticeKind,
    },
    /// Keep who acknowledged what and when.
    AcknowledgementKept {
        /// Study Instance UID.
        study_instance_uid: Uid,
        /// Who.
        by: String,
        /// When.
        at: WallTime,
    },
    /// Some unacknowledged studies did not fit into memory: read the spool's list again and pass it as [`SignalEvent::Restored`].
    ReloadUnacknowledged,
}

/// How loudly a study calls; in the order of urgency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Indeterminate,
    Suspicious,
    Critical,
}

impl Level {
    fn of(signal: &StudySignal) -> Option<Self> {
        match signal.kind {
            // A flagged verdict always has an urgency; should one ever come without, it counts as the higher.
            VerdictKind::Flagged => Some(match signal.urgency {
                Some(Urgency::Suspicious) => Self::Suspicious,
                Some(Urgency::Critical) | None => Self::Critical,
            }),
            VerdictKind::Indeterminate => Some(Self::Indeterminate),
            VerdictKind::NotFlagged => None,
        }
    }

    const fn lamp(self) -> Lamp {
        match self {
            Self::Indeterminate => Lamp::Indeterminate,
            Self::Suspicious => Lamp::Suspicious,
            Self::Critical => Lamp::Critical,
        }
    }
}

/// The pure state machine of what people are told.
#[derive(Clone, Debug)]
pub struct Signaller {
    options: SignalOptions,
    unacknowledged: BTreeMap<Uid, Level>,
    /// The most urgent level that did not fit; burns until the next reload.
    overflow: Option<Level>,
    acknowledged: BTreeMap<Uid, Level>,
    /// Acknowledged studies, oldest first.
    acknowledged_order: VecDeque<Uid>,
    n_working: usize,
    device: DeviceState,
    lamp_set: Option<Lamp>,
}

impl Signaller {
    /// Nothing unacknowledged, no work, no conditions.
    #[must_use]
    pub fn new(options: SignalOptions) -> Self {
        Self {
            options,
            unacknowledged: BTreeMap::new(),
            overflow: None,
            acknowledged: BTreeMap::new(),
            acknowledged_order: VecDeque::new(),
            n_working: 0,
            device: DeviceState::Ready,
            lamp_set: None,
        }
    }

    /// Takes one event. The lamp comes last, and only when it changed (always with the first event).
    pub fn on(&mut self, event: SignalEvent) -> Vec<SignalAction> {
        let mut actions = match event {
            SignalEvent::Restored(signals) => self.on_restored(&signals),
            SignalEvent::VerdictReached(signal) => self.on_verdict(signal),
            SignalEvent::Acknowledged { study_instance_uid, by, at } => self.on_acknowledged(study_instance_uid, by, at),
            SignalEvent::AllAcknowledged { by, at } => self.on_all_acknowledged(&by, at),
            SignalEvent::WorkStarted => {
                self.n_working = self.n_working.saturating_add(1);
                Vec::new()
            }
            SignalEvent::WorkEnded => {
                self.n_working = self.n_working.saturating_sub(1);
                Vec::new()
            }
            SignalEvent::ConditionsChanged(conditions) => {
                self.device = DeviceState::of(&conditions);
                Vec::new()
            }
        };
        let lamp = self.lamp();
        if self.lamp_set != Some(lamp) {
            self.lamp_set = Some(lamp);
            actions.push(SignalAction::SetLamp(lamp));
        }
        actions
    }

    /// The lamp that all this adds up to.
    #[must_use]
    pub fn lamp(&self) -> Lamp {
        let device = match self.device {
            DeviceState::Ready => Lamp::Ready,
            DeviceState::Degraded => Lamp::Degraded,
            DeviceState::Fault => Lamp::Fault,
        };
        let work = if self.n_working > 0 { Lamp::Working } else { Lamp::Ready };
        let study = self.level_max().map_or(Lamp::Ready, Level::lamp);
        device.max(work).max(study)
    }

    /// Unacknowledged studies in memory.
    #[must_use]
    pub fn n_unacknowledged(&self) -> usize {
        self.unacknowledged.len()
    }

    fn level_max(&self) -> Option<Level> {
        self.unacknowledged.values().copied().max().max(self.overflow)
    }

    fn on_restored(&mut self, signals: &[StudySignal]) -> Vec<SignalAction> {
        self.unacknowledged.clear();
        self.overflow = None;
        for signal in signals {
            if let Some(level) = Level::of(signal) {
                self.raise(signal.study_instance_uid.clone(), level);
            }
        }
        Vec::new()
    }

    fn on_verdict(&mut self, signal: StudySignal) -> Vec<SignalAction> {
        let level = Level::of(&signal);
        let kind = match level {
            Some(Level::Critical) => NoticeKind::Flagged(Urgency::Critical),
            Some(Level::Suspicious) => NoticeKind::Flagged(Urgency::Suspicious),
            Some(Level::Indeterminate) => NoticeKind::Indeterminate,
            None => NoticeKind::Result,
        };
        if let Some(level) = level {
            let already = self.acknowledged.get(&signal.study_instance_uid).copied();
            if already.is_none_or(|acknowledged| level > acknowledged) {
                self.forget_acknowledgement(&signal.study_instance_uid);
                self.raise(signal.study_instance_uid.clone(), level);
            }
        }
        if kind == NoticeKind::Result && !self.options.notify_not_flagged {
            return Vec::new();
        }
        vec![SignalAction::Notify { study_instance_uid: signal.study_instance_uid, kind }]
    }

    /// Makes a study call at least as loudly as `level`; over the bound the least urgent one (by UID among equals) leaves memory.
    fn raise(&mut self, study_instance_uid: Uid, level: Level) {
        let held = self.unacknowledged.entry(study_instance_uid).or_insert(level);
        *held = (*held).max(level);
        while self.unacknowledged.len() > self.options.unacknowledged_max {
            let least = self.unacknowledged.iter().min_by_key(|&(_, &level)| level).map(|(uid, &level)| (uid.clone(), level));
            let Some((uid, level)) = least else { break };
            self.unacknowledged.remove(&uid);
            self.overflow = self.overflow.max(Some(level));
        }
    }

    fn on_acknowledged(&mut self, study_instance_uid: Uid, by: String, at: WallTime) -> Vec<SignalAction> {
        match self.unacknowledged.remove(&study_instance_uid) {
            Some(level) => self.remember_acknowledgement(study_instance_uid.clone(), level),
            // Acknowledged before: the first one stands.
            None if self.acknowledged.contains_key(&study_instance_uid) => return Vec::new(),
            // Not flagged, or not in memory: kept all the same, the spool knows better.
            None => {}
        }
        let mut actions = vec![SignalAction::AcknowledgementKept { study_instance_uid, by, at }];
        self.reload_if_needed(&mut actions);
        actions
    }

    fn on_all_acknowledged(&mut self, by: &str, at: WallTime) -> Vec<SignalAction> {
        // Only what the lamp shows: nobody acknowledges what they cannot see. While a fault hides yellow studies, the button leaves
        // them alone.
        let Some(top) = self.level_max().filter(|level| level.lamp() == self.lamp()) else { return Vec::new() };
        let studies: Vec<Uid> =
            self.unacknowledged.iter().filter(|&(_, &level)| level == top).map(|(uid, _)| uid.clone()).collect();
        let mut actions = Vec::with_capacity(studies.len() + 1);
        for study_instance_uid in studies {
            self.unacknowledged.remove(&study_instance_uid);
            self.remember_acknowledgement(study_instance_uid.clone(), top);
            actions.push(SignalAction::AcknowledgementKept { study_instance_uid, by: by.to_owned(), at });
        }
        self.reload_if_needed(&mut actions);
        actions
    }

    fn reload_if_needed(&self, actions: &mut Vec<SignalAction>) {
        if self.overflow.is_some() {
            actions.push(SignalAction::ReloadUnacknowledged);
        }
    }

    fn remember_acknowledgement(&mut self, study_instance_uid: Uid, level: Level) {
        self.forget_acknowledgement(&study_instance_uid);
        while self.acknowledged_order.len() >= self.options.acknowledged_max.max(1) {
            if let Some(oldest) = self.acknowledged_order.pop_front() {
                self.acknowledged.remove(&oldest);
            }
        }
        self.acknowledged.insert(study_instance_uid.clone(), level);
        self.acknowledged_order.push_back(study_instance_uid);
    }

    fn forget_acknowledgement(&mut self, study_instance_uid: &Uid) {
        if self.acknowledged.remove(study_instance_uid).is_some() {
            self.acknowledged_order.retain(|uid| uid != study_instance_uid);
        }
    }
}

#[cfg(test)]
#[path = "signaller_tests.rs"]
mod tests;
