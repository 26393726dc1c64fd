//! Tests of the signaller: the table of urgencies, and the promises as properties against a plain model.

use super::*;
use DeviceCondition::{DiskFull, Hot};
use proptest::prelude::*;

fn uid(n: u32) -> Uid {
    Uid::try_new(&format!("1.2.{n}")).expect("a UID")
}

fn verdict(n: u32, kind: VerdictKind, urgency: Option<Urgency>) -> StudySignal {
    StudySignal { study_instance_uid: uid(n), kind, urgency }
}

fn critical(n: u32) -> StudySignal {
    verdict(n, VerdictKind::Flagged, Some(Urgency::Critical))
}

fn suspicious(n: u32) -> StudySignal {
    verdict(n, VerdictKind::Flagged, Some(Urgency::Suspicious))
}

fn indeterminate(n: u32) -> StudySignal {
    verdict(n, VerdictKind::Indeterminate, None)
}

fn not_flagged(n: u32) -> StudySignal {
    verdict(n, VerdictKind::NotFlagged, None)
}

fn acknowledge(n: u32) -> SignalEvent {
    SignalEvent::Acknowledged { study_instance_uid: uid(n), by: "anna".to_owned(), at: WallTime(5) }
}

fn press() -> SignalEvent {
    SignalEvent::AllAcknowledged { by: "button".to_owned(), at: WallTime(6) }
}

fn after(events: impl IntoIterator<Item = SignalEvent>) -> Signaller {
    let mut signaller = Signaller::new(SignalOptions::default());
    for event in events {
        signaller.on(event);
    }
    signaller
}

fn kept(actions: &[SignalAction]) -> Vec<(Uid, String)> {
    let keep = |action: &SignalAction| match action {
        SignalAction::AcknowledgementKept { study_instance_uid, by, .. } => Some((study_instance_uid.clone(), by.clone())),
        SignalAction::SetLamp(_) | SignalAction::Notify { .. } | SignalAction::ReloadUnacknowledged => None,
    };
    actions.iter().filter_map(keep).collect()
}

#[test]
fn the_most_urgent_state_wins_in_the_order_of_the_table() {
    use SignalEvent::{ConditionsChanged, VerdictReached, WorkStarted};
    let mut signaller = Signaller::new(SignalOptions::default());
    let steps = [
        (SignalEvent::Restored(Vec::new()), Lamp::Ready),
        (WorkStarted, Lamp::Working),
        (ConditionsChanged(vec![Hot]), Lamp::Degraded),
        (VerdictReached(indeterminate(1)), Lamp::Indeterminate),
        (VerdictReached(suspicious(2)), Lamp::Suspicious),
        (ConditionsChanged(vec![DiskFull]), Lamp::Fault),
        (VerdictReached(critical(3)), Lamp::Critical),
    ];
    for (event, lamp) in steps {
        let actions = signaller.on(event);
        assert_eq!(actions.last(), Some(&SignalAction::SetLamp(lamp)));
    }
    // And back, each step giving way to the next.
    for (event, lamp) in [
        (acknowledge(3), Lamp::Fault),
        (ConditionsChanged(vec![]), Lamp::Suspicious),
        (acknowledge(2), Lamp::Indeterminate),
        (acknowledge(1), Lamp::Working),
        (SignalEvent::WorkEnded, Lamp::Ready),
    ] {
        let actions = signaller.on(event);
        assert_eq!(actions.last(), Some(&SignalAction::SetLamp(lamp)));
    }
}

#[test]
fn the_lamp_is_set_only_when_it_changes() {
    let mut signaller = after([SignalEvent::VerdictReached(critical(1))]);
    assert_eq!(
        signaller.on(SignalEvent::VerdictReached(critical(2))),
        [SignalAction::Notify { study_instance_uid: uid(2), kind: NoticeKind::Flagged(Urgency::Critical) }]
    );
    assert_eq!(signaller.on(SignalEvent::WorkStarted), []);
}

#[test]
fn every_kind_of_verdict_is_told_and_only_the_plain_result_can_be_turned_off() {
    for quiet in [false, true] {
        let mut signaller = Signaller::new(SignalOptions { notify_not_flagged: !quiet, ..SignalOptions::default() });
        for (signal, kind) in [
            (critical(1), NoticeKind::Flagged(Urgency::Critical)),
            (suspicious(2), NoticeKind::Flagged(Urgency::Suspicious)),
            (indeterminate(3), NoticeKind::Indeterminate),
            (not_flagged(4), NoticeKind::Result),
        ] {
            let notify = SignalAction::Notify { study_instance_uid: signal.study_instance_uid.clone(), kind };
            let expected = !(quiet && kind == NoticeKind::Result);
            assert_eq!(signaller.on(SignalEvent::VerdictReached(signal)).contains(&notify), expected, "{kind:?}");
        }
    }
}

#[test]
fn a_later_verdict_never_lowers_the_lamp_but_a_higher_one_raises_it() {
    let mut signaller = after([SignalEvent::VerdictReached(suspicious(1)), SignalEvent::VerdictReached(not_flagged(1))]);
    assert_eq!(signaller.lamp(), Lamp::Suspicious);
    signaller.on(SignalEvent::VerdictReached(indeterminate(1)));
    assert_eq!(signaller.lamp(), Lamp::Suspicious);
    signaller.on(SignalEvent::VerdictReached(critical(1)));
    assert_eq!(signaller.lamp(), Lamp::Critical);
}

#[test]
fn an_acknowledged_study_lights_again_only_for_something_more_urgent() {
    let mut signaller = after([SignalEvent::VerdictReached(suspicious(1)), acknowledge(1)]);
    for again in [suspicious(1), indeterminate(1), not_flagged(1)] {
        signaller.on(SignalEvent::VerdictReached(again));
        assert_eq!(signaller.lamp(), Lamp::Ready);
    }
    signaller.on(SignalEvent::VerdictReached(critical(1)));
    assert_eq!(signaller.lamp(), Lamp::Critical);
    assert_eq!(kept(&signaller.on(acknowledge(1))).len(), 1, "the raised verdict needs its own acknowledgement");
}

#[test]
fn the_button_acknowledges_what_the_lamp_shows_and_nothing_below() {
    let mut signaller = after([critical(1), critical(2), suspicious(3), indeterminate(4)].map(SignalEvent::VerdictReached));
    let by = "button".to_owned();
    assert_eq!(kept(&signaller.on(press())), [(uid(1), by.clone()), (uid(2), by.clone())]);
    assert_eq!(signaller.lamp(), Lamp::Suspicious);
    assert_eq!(kept(&signaller.on(press())), [(uid(3), by.clone())]);
    assert_eq!(kept(&signaller.on(press())), [(uid(4), by)]);
    assert_eq!(signaller.on(press()), [], "nothing is left to acknowledge");
}

#[test]
fn a_fault_that_hides_yellow_studies_keeps_them_from_being_acknowledged_unseen() {
    let mut signaller = after([SignalEvent::VerdictReached(suspicious(1)), SignalEvent::ConditionsChanged(vec![DiskFull])]);
    assert_eq!(signaller.lamp(), Lamp::Fault);
    assert_eq!(signaller.on(press()), []);
    signaller.on(SignalEvent::ConditionsChanged(vec![]));
    assert_eq!(signaller.lamp(), Lamp::Suspicious);
}

#[test]
fn the_first_acknowledgement_stands() {
    let mut signaller = after([SignalEvent::VerdictReached(critical(1))]);
    assert_eq!(kept(&signaller.on(acknowledge(1))), [(uid(1), "anna".to_owned())]);
    let second = SignalEvent::Acknowledged { study_instance_uid: uid(1), by: "ben".to_owned(), at: WallTime(9) };
    assert_eq!(signaller.on(second), []);
}

#[test]
fn a_restart_shows_what_was_not_acknowledged() {
    let mut signaller = Signaller::new(SignalOptions::default());
    let actions = signaller.on(SignalEvent::Restored(vec![indeterminate(1), critical(2), not_flagged(3)]));
    assert_eq!(actions, [SignalAction::SetLamp(Lamp::Critical)], "restoring tells nobody twice");
    assert_eq!(signaller.n_unacknowledged(), 2);
}

#[test]
fn studies_beyond_the_bound_keep_burning_until_they_are_read_again() {
    let options = SignalOptions { unacknowledged_max: 2, ..SignalOptions::default() };
    let mut signaller = Signaller::new(options);
    for signal in [critical(1), suspicious(2), critical(3), critical(4)] {
        signaller.on(SignalEvent::VerdictReached(signal));
    }
    assert_eq!(signaller.n_unacknowledged(), 2);
    let actions = signaller.on(press());
    assert_eq!(kept(&actions).len(), 2);
    assert!(actions.contains(&SignalAction::ReloadUnacknowledged));
    assert_eq!(signaller.lamp(), Lamp::Critical, "one critical study left memory and still burns");
    signaller.on(SignalEvent::Restored(vec![critical(1), suspicious(2)]));
    assert_eq!(signaller.lamp(), Lamp::Critical);
    signaller.on(press());
    assert_eq!(signaller.lamp(), Lamp::Suspicious);
}

#[test]
fn the_memory_of_acknowledged_studies_is_bounded() {
    let mut signaller = Signaller::new(SignalOptions { acknowledged_max: 3, ..SignalOptions::default() });
    for n in 0..100 {
        signaller.on(SignalEvent::VerdictReached(critical(n)));
        signaller.on(acknowledge(n));
    }
    assert_eq!((signaller.acknowledged.len(), signaller.acknowledged_order.len()), (3, 3));
    signaller.on(SignalEvent::VerdictReached(critical(0)));
    assert_eq!(signaller.lamp(), Lamp::Critical, "forgotten means: it may light again, never that it stays dark");
}

fn any_signal() -> impl Strategy<Value = StudySignal> {
    (0_u32..6, 0..4).prop_map(|(n, what)| match what {
        0 => critical(n),
        1 => suspicious(n),
        2 => indeterminate(n),
        _ => not_flagged(n),
    })
}

fn any_event() -> impl Strategy<Value = SignalEvent> {
    prop_oneof![
        6 => any_signal().prop_map(SignalEvent::VerdictReached),
        3 => (0_u32..6).prop_map(acknowledge),
        1 => Just(press()),
        1 => Just(SignalEvent::WorkStarted),
        1 => Just(SignalEvent::WorkEnded),
        1 => prop::sample::subsequence(vec![Hot, DiskFull], 0..=2).prop_map(SignalEvent::ConditionsChanged),
    ]
}

/// What the table says, kept the plainest way: per study the loudest level since its last acknowledgement and the one acknowledged.
#[derive(Default)]
struct Model {
    loud: BTreeMap<Uid, Level>,
    done: BTreeMap<Uid, Level>,
    working: usize,
    conditions: Vec<DeviceCondition>,
}

impl Model {
    fn lamp(&self) -> Lamp {
        let critical = self.loud.values().any(|&l| l == Level::Critical);
        let suspicious = self.loud.values().any(|&l| l == Level::Suspicious);
        match () {
            () if critical => Lamp::Critical,
            () if self.conditions.contains(&DiskFull) => Lamp::Fault,
            () if suspicious => Lamp::Suspicious,
            () if !self.loud.is_empty() => Lamp::Indeterminate,
            () if !self.conditions.is_empty() => Lamp::Degraded,
            () if self.working > 0 => Lamp::Working,
            () => Lamp::Ready,
        }
    }

    fn acknowledge(&mut self, study: &Uid) {
        if let Some(level) = self.loud.remove(study) {
            self.done.insert(study.clone(), level);
        }
    }

    fn on(&mut self, event: &SignalEvent) {
        match event {
            SignalEvent::Restored(_) => unreachable!("not generated"),
            SignalEvent::VerdictReached(signal) => {
                if let Some(level) = Level::of(signal)
                    && self.done.get(&signal.study_instance_uid).is_none_or(|&done| level > done)
                {
                    self.done.remove(&signal.study_instance_uid);
                    let held = self.loud.entry(signal.study_instance_uid.clone()).or_insert(level);
                    *held = level.max(*held);
                }
            }
            SignalEvent::Acknowledged { study_instance_uid, .. } => self.acknowledge(study_instance_uid),
            SignalEvent::AllAcknowledged { .. } => {
                let shown = self.lamp();
                let studies: Vec<Uid> = self.loud.iter().filter(|(_, l)| l.lamp() == shown).map(|(uid, _)| uid.clone()).collect();
                studies.iter().for_each(|study| self.acknowledge(study));
            }
            SignalEvent::WorkStarted => self.working += 1,
            SignalEvent::WorkEnded => self.working = self.working.saturating_sub(1),
            SignalEvent::ConditionsChanged(conditions) => self.conditions.clone_from(conditions),
        }
    }
}

proptest! {
    #[test]
    fn the_lamp_follows_the_table_through_any_history(events in prop::collection::vec(any_event(), 0..60)) {
        let (mut signaller, mut model) = (Signaller::new(SignalOptions::default()), Model::default());
        let mut set = None;
        for event in events {
            model.on(&event);
            for action in signaller.on(event) {
                if let SignalAction::SetLamp(lamp) = action {
                    set = Some(lamp);
                }
            }
            prop_assert_eq!(signaller.lamp(), model.lamp());
            prop_assert_eq!(set, Some(signaller.lamp()), "what was sent to the lamp is what it should show");
        }
    }

    #[test]
    fn an_acknowledged_study_never_lights(events in prop::collection::vec(any_event(), 0..40)) {
        let mut signaller = after(events);
        for n in 0..6 {
            signaller.on(acknowledge(n));
        }
        prop_assert_eq!(signaller.n_unacknowledged(), 0);
        prop_assert!(matches!(signaller.lamp(), Lamp::Ready | Lamp::Working | Lamp::Degraded | Lamp::Fault));
    }

    #[test]
    fn an_unacknowledged_critical_study_always_shows(
        before in prop::collection::vec(any_event(), 0..40),
        later in prop::collection::vec(any_event(), 0..40),
        unacknowledged_max in 0_usize..4,
    ) {
        let mut signaller = Signaller::new(SignalOptions { unacknowledged_max, ..SignalOptions::default() });
        for event in before {
            signaller.on(event);
        }
        signaller.on(SignalEvent::VerdictReached(critical(77)));
        for event in later {
            // Any history but one that acknowledges it: nobody presses the button.
            if !matches!(event, SignalEvent::AllAcknowledged { .. }) {
                signaller.on(event);
            }
            prop_assert_eq!(signaller.lamp(), Lamp::Critical);
        }
    }

    #[test]
    fn the_order_of_acknowledgements_does_not_matter(
        events in prop::collection::vec(any_event(), 0..40),
        order in Just((0_u32..6).collect::<Vec<_>>()).prop_shuffle(),
        n_acknowledged in 0_usize..6,
    ) {
        let start = after(events);
        let (mut one, mut other) = (start.clone(), start);
        let (mut kept_one, mut kept_other) = (Vec::new(), Vec::new());
        let chosen: Vec<u32> = order.into_iter().take(n_acknowledged).collect();
        for &n in &chosen {
            kept_one.extend(kept(&one.on(acknowledge(n))));
        }
        for &n in chosen.iter().rev() {
            kept_other.extend(kept(&other.on(acknowledge(n))));
        }
        kept_one.sort();
        kept_other.sort();
        prop_assert_eq!(one.lamp(), other.lamp());
        prop_assert_eq!(kept_one, kept_other);
        prop_assert_eq!(one.unacknowledged, other.unacknowledged);
    }
}
