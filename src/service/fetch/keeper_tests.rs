//! Promises of the keeper: no study is lost or waits too long, no loop, one question at a time. Events in -> orders and studies that go on.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::keeper::{Fetched, HELD_MAX};
use super::notes::FetchNote;
use super::plan::Wanted;
use super::{FetchAction, FetchOrder, FetchReport, Keeper};
use crate::deliver::query_scu::QueryError;
use crate::domain::{ClosedBecause, Monotonic, OpenStudy, Role, Study, Uid};

const WAIT_MS: u64 = 60_000;

fn uid(n: u32) -> Uid {
    Uid::try_new(&format!("1.2.{n}")).expect("a UID")
}

fn study_closed(n: u32, because: ClosedBecause) -> Study {
    OpenStudy::new(uid(n), Monotonic(0)).close_with(because, |_| Vec::new())
}

fn study(n: u32) -> Study {
    study_closed(n, ClosedBecause::QuietTime)
}

fn wanted(n: u32) -> Option<Wanted> {
    Some(Wanted { study_instance_uid: uid(n), missing: vec![Role::T1Post], here: BTreeMap::new(), n_instances_max: 2000 })
}

fn unreachable() -> QueryError {
    QueryError::Unreachable { to: "10.1.2.3:104".into(), reason: "no answer in time".into() }
}

fn at(s: u64) -> Monotonic {
    Monotonic(s * 1000)
}

/// A keeper whose PACS was seen to answer.
fn keeper() -> Keeper {
    let mut keeper = Keeper::new(WAIT_MS, true);
    assert!(matches!(keeper.on_tick(at(0)).as_slice(), [FetchAction::Order(FetchOrder::Watch)]));
    assert!(keeper.on_report(FetchReport::Watched(Ok(())), at(0)).is_empty());
    keeper
}

fn ordered(actions: &[FetchAction]) -> Option<(Uid, BTreeSet<Uid>)> {
    actions.iter().find_map(|action| match action {
        FetchAction::Order(FetchOrder::Fetch { wanted, tried }) => Some((wanted.study_instance_uid.clone(), tried.clone())),
        _ => None,
    })
}

fn forwarded(actions: &[FetchAction]) -> Vec<Uid> {
    let go_on = actions.iter().filter_map(|action| match action {
        FetchAction::Forward(study) => Some(study.study_instance_uid().clone()),
        _ => None,
    });
    go_on.collect()
}

fn note(actions: &[FetchAction]) -> Option<&FetchNote> {
    actions.iter().find_map(|action| if let FetchAction::Noted(note) = action { Some(note) } else { None })
}

fn report(fetched: Fetched) -> FetchReport {
    FetchReport::Fetched(fetched)
}

fn sent(series: u32, n_sent: u32) -> FetchReport {
    report(Fetched { tried: vec![uid(series)], n_sent, ..Fetched::default() })
}

#[test]
fn a_study_that_lacks_nothing_goes_on_at_once() {
    let mut keeper = keeper();
    let actions = keeper.on_closed(study(1), None, true, at(1));
    assert_eq!((forwarded(&actions), ordered(&actions)), (vec![uid(1)], None));
    let mut watching = Keeper::new(WAIT_MS, false);
    assert_eq!(forwarded(&watching.on_closed(study(1), wanted(1), true, at(1))), [uid(1)], "fetching is switched off");
}

#[test]
fn a_study_waits_for_what_is_sent_and_closes_again_with_it() {
    let mut keeper = keeper();
    let actions = keeper.on_closed(study(1), wanted(1), true, at(1));
    assert_eq!(ordered(&actions), Some((uid(1), BTreeSet::new())));
    assert!(forwarded(&actions).is_empty());
    keeper.on_reopened(&uid(1));
    assert_eq!(keeper.held().count(), 0);
    assert!(forwarded(&keeper.on_report(sent(9, 150), at(4))).is_empty());
    let complete = study_closed(1, ClosedBecause::RequiredRolesComplete);
    assert_eq!(forwarded(&keeper.on_closed(complete, None, true, at(5))), [uid(1)]);
    assert!(keeper.on_tick(at(120)).is_empty(), "nothing is left over");
}

#[test]
fn a_study_of_which_the_pacs_has_nothing_goes_on_with_the_answer() {
    let mut keeper = keeper();
    keeper.on_closed(study(1), wanted(1), true, at(1));
    let actions = keeper.on_report(report(Fetched::default()), at(2));
    assert_eq!(forwarded(&actions), [uid(1)]);
    assert!(matches!(note(&actions), Some(FetchNote::NothingFetched { .. })));
}

#[test]
fn images_that_were_here_already_hold_nothing_up() {
    let mut keeper = keeper();
    keeper.on_closed(study(1), wanted(1), true, at(1));
    assert!(forwarded(&keeper.on_report(sent(9, 5), at(2))).is_empty());
    assert!(keeper.on_tick(at(6)).is_empty());
    assert_eq!(forwarded(&keeper.on_tick(at(7))), [uid(1)], "nothing reopened it");
}

#[test]
fn a_silent_pacs_delays_a_study_by_wait_s_and_no_more() {
    let mut keeper = keeper();
    keeper.on_closed(study(1), wanted(1), true, at(1));
    assert!(keeper.on_tick(at(60)).is_empty());
    let actions = keeper.on_tick(at(61));
    assert_eq!(forwarded(&actions), [uid(1)]);
    assert!(matches!(note(&actions), Some(FetchNote::Overdue { waited_ms: 60_000, .. })));
    // What was asked comes late all the same, and the study that closes again is not held a second time.
    keeper.on_report(sent(9, 150), at(90));
    assert_eq!(forwarded(&keeper.on_closed(study(1), wanted(1), true, at(91))), [uid(1)]);
}

#[test]
fn a_pacs_that_restarts_is_asked_again_while_the_study_waits() {
    let mut keeper = keeper();
    keeper.on_closed(study(1), wanted(1), true, at(1));
    let failed = || report(Fetched { failure: Some(unreachable()), ..Fetched::default() });
    let actions = keeper.on_report(failed(), at(2));
    assert!(forwarded(&actions).is_empty(), "it answered until now: worth a wait");
    assert!(keeper.trouble().is_some_and(|text| text.contains("10.1.2.3:104")));
    assert!(ordered(&keeper.on_tick(at(3))).is_none(), "back-off");
    assert!(ordered(&keeper.on_tick(at(4))).is_some());
    keeper.on_report(sent(9, 150), at(5));
    assert_eq!(keeper.trouble(), None);
}

#[test]
fn a_pacs_that_is_known_to_be_down_holds_no_study_up() {
    let mut keeper = Keeper::new(WAIT_MS, true);
    keeper.on_tick(at(0));
    keeper.on_report(FetchReport::Watched(Err(unreachable())), at(1));
    keeper.on_closed(study(1), wanted(1), true, at(1));
    let actions = keeper.on_report(report(Fetched { failure: Some(unreachable()), ..Fetched::default() }), at(2));
    assert_eq!(forwarded(&actions), [uid(1)]);
    let mut n_orders = 0;
    for s in 3..8000 {
        if ordered(&keeper.on_tick(at(s))).is_some() {
            n_orders += 1;
            keeper.on_report(report(Fetched { failure: Some(unreachable()), ..Fetched::default() }), at(s));
        } else {
            keeper.on_report(FetchReport::Watched(Err(unreachable())), at(s));
        }
    }
    assert!((10..30).contains(&n_orders), "{n_orders} repetitions, with back-off, and then given up");
}

#[test]
fn a_pacs_that_does_not_know_us_is_a_condition_that_its_echo_does_not_clear() {
    let mut keeper = keeper();
    keeper.on_closed(study(1), wanted(1), true, at(1));
    let unknown = QueryError::Refused { status: 0xA801, meaning: "enter this box in the PACS".into() };
    let actions = keeper.on_report(report(Fetched { failure: Some(unknown), ..Fetched::default() }), at(2));
    assert_eq!(forwarded(&actions), [uid(1)], "nobody enters it within a minute");
    keeper.on_report(FetchReport::Watched(Ok(())), at(300));
    assert!(keeper.trouble().is_some_and(|text| text.contains("enter this box")));
}

#[test]
fn a_study_is_asked_for_once_per_cause_and_a_series_is_sent_once() {
    let mut keeper = keeper();
    keeper.on_closed(study(1), wanted(1), true, at(1));
    keeper.on_report(sent(9, 5), at(2));
    keeper.on_reopened(&uid(1));
    let again = keeper.on_closed(study(1), wanted(1), true, at(100));
    assert_eq!((forwarded(&again), ordered(&again)), (vec![uid(1)], None));
    let later = keeper.on_closed(study_closed(1, ClosedBecause::HardDeadline), wanted(1), true, at(200));
    assert_eq!(ordered(&later), Some((uid(1), BTreeSet::from([uid(9)]))), "and says what was sent before");
}

#[test]
fn a_short_box_and_a_busy_hour_ask_for_nothing() {
    let mut keeper = keeper();
    let actions = keeper.on_closed(study(1), wanted(1), false, at(1));
    assert_eq!(forwarded(&actions), [uid(1)]);
    assert!(matches!(note(&actions), Some(FetchNote::Skipped { .. })));
    let mut n_orders = 0;
    for n in 100..300 {
        let actions = keeper.on_closed(study(n), wanted(n), true, at(2));
        n_orders += usize::from(ordered(&actions).is_some());
        if ordered(&actions).is_some() {
            assert_eq!(forwarded(&keeper.on_report(report(Fetched::default()), at(2))), [uid(n)]);
        }
    }
    assert_eq!(n_orders, 60);
    assert!(ordered(&keeper.on_closed(study(1000), wanted(1000), true, at(3603))).is_some(), "the next hour");
}

#[test]
fn a_worker_that_ended_is_a_condition_and_studies_go_on() {
    let mut keeper = keeper();
    keeper.on_closed(study(1), wanted(1), true, at(1));
    assert!(matches!(note(&keeper.on_worker_gone()), Some(FetchNote::PacsFailing { .. })));
    assert!(keeper.on_worker_gone().is_empty(), "said once");
    assert_eq!(forwarded(&keeper.on_tick(at(61))), [uid(1)]);
    assert!(keeper.trouble().is_some());
}

#[derive(Clone, Debug)]
enum Step {
    Closed(u32, bool, bool),
    Reopened(u32),
    Report(u8),
    Wait(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u32..30, any::<bool>(), any::<bool>()).prop_map(|(n, lacks, late)| Step::Closed(n, lacks, late)),
        (0u32..30).prop_map(Step::Reopened),
        (0u8..5).prop_map(Step::Report),
        (0u64..40_000).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn no_study_is_lost_and_none_waits_longer_than_wait_s(steps in proptest::collection::vec(any_step(), 1..200)) {
        let mut keeper = Keeper::new(WAIT_MS, true);
        let mut now = 0;
        let mut waits: BTreeMap<Uid, u64> = BTreeMap::new();
        let (mut busy, mut n_fetches, mut n_closed) = (false, 0, 0);
        for step in steps {
            let actions = match step {
                Step::Closed(n, lacks, late) => {
                    let because = if late { ClosedBecause::HardDeadline } else { ClosedBecause::QuietTime };
                    waits.entry(uid(n)).or_insert(now);
                    n_closed += 1;
                    keeper.on_closed(study_closed(n, because), if lacks { wanted(n) } else { None }, true, Monotonic(now))
                }
                Step::Reopened(n) => {
                    waits.remove(&uid(n));
                    keeper.on_reopened(&uid(n));
                    Vec::new()
                }
                Step::Report(kind) if busy => {
                    busy = false;
                    let answer = match kind {
                        0 => FetchReport::Watched(Ok(())),
                        1 => report(Fetched::default()),
                        2 => sent(9, 3),
                        3 => report(Fetched { failure: Some(unreachable()), ..Fetched::default() }),
                        _ => FetchReport::Watched(Err(unreachable())),
                    };
                    keeper.on_report(answer, Monotonic(now))
                }
                Step::Report(_) => Vec::new(),
                Step::Wait(ms) => {
                    now += ms;
                    keeper.on_tick(Monotonic(now))
                }
            };
            for action in &actions {
                match action {
                    FetchAction::Order(order) => {
                        prop_assert!(!busy, "one order at a time");
                        busy = true;
                        n_fetches += usize::from(matches!(order, FetchOrder::Fetch { .. }));
                    }
                    FetchAction::Forward(study) => {
                        prop_assert!(waits.remove(study.study_instance_uid()).is_some(), "each goes on once");
                    }
                    FetchAction::Noted(_) => {}
                }
            }
            prop_assert!(keeper.held().count() <= HELD_MAX);
            prop_assert_eq!(keeper.held().count(), waits.len(), "what does not go on is held");
        }
        now += WAIT_MS;
        let mut left = forwarded(&keeper.on_tick(Monotonic(now)));
        left.sort();
        prop_assert_eq!(left, waits.into_keys().collect::<Vec<_>>(), "and all of it goes on within wait_s");
        prop_assert!(n_fetches == 0 || n_closed > 0);
    }
}
