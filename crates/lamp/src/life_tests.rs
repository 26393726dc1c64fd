//! Promises of the life cycle: never green without a live service or a person who tests; each way to fall silent is a fault or dark in time.

extern crate std;
use super::*;
use crate::LAMPS;
use proptest::prelude::*;
use std::vec; // prop_oneof! writes `vec!`
use std::vec::Vec;

fn after(events: &[(LifeEvent, u64)]) -> (Life, Vec<LifeNote>) {
    let (mut life, mut notes) = (Life::new(0), Vec::new());
    for &(event, now_ms) in events {
        let (next, told) = life.on(event, now_ms);
        life = next;
        notes.extend(told);
    }
    (life, notes)
}

const fn said(lamp: Lamp) -> LifeEvent {
    LifeEvent::Said { lamp, sound: true }
}

#[test]
fn the_start_tests_red_and_yellow_then_waits_in_the_dark_and_gives_up_after_three_minutes() {
    let life = Life::new(0);
    assert_eq!(life.lights(0), Lights { red: true, yellow: true, ..Lights::DARK });
    assert_eq!(life.lights(LAMP_TEST_MS), Lights::DARK);
    let (life, notes) = after(&[(LifeEvent::Hello, 500), (LifeEvent::Tick, 180_000)]);
    assert_eq!((life.lamp(), notes.as_slice()), (Lamp::Dark, &[][..]));
    let (life, notes) = life.on(LifeEvent::Tick, 180_001);
    assert_eq!((life.lamp(), notes.as_slice()), (Lamp::Fault, &[LifeNote::StartTooLong][..]));
}

#[test]
fn the_first_word_of_the_service_ends_the_lamp_test() {
    let (life, notes) = after(&[(LifeEvent::Hello, 100), (said(Lamp::Ready), 200)]);
    assert_eq!(life.lights(200), Lights { green: true, ..Lights::DARK });
    assert_eq!(notes, [LifeNote::ServiceLive { silent_ms: None }]);
}

#[test]
fn silence_is_a_fault_and_the_next_word_ends_it() {
    let (life, _) = after(&[(said(Lamp::Ready), 1000), (LifeEvent::Tick, 2500)]);
    assert_eq!(life.lamp(), Lamp::Ready);
    let (life, notes) = life.on(LifeEvent::Tick, 2501);
    assert_eq!((life.lamp(), notes.as_slice()), (Lamp::Fault, &[LifeNote::ServiceSilent][..]));
    let (life, notes) = life.on(said(Lamp::Ready), 4000);
    assert_eq!((life.lamp(), notes.as_slice()), (Lamp::Ready, &[LifeNote::ServiceLive { silent_ms: Some(3000) }][..]));
}

#[test]
fn a_connection_that_ends_without_a_goodbye_is_a_fault_at_once_and_stays_one_until_a_service_speaks() {
    let (life, notes) = after(&[(said(Lamp::Working), 0), (LifeEvent::Closed, 10)]);
    assert_eq!((life.lamp(), notes.last()), (Lamp::Fault, Some(&LifeNote::ServiceLost)));
    let (life, _) = life.on(LifeEvent::Hello, 2000);
    let (life, _) = life.on(LifeEvent::Tick, 60_000);
    assert_eq!(life.lamp(), Lamp::Fault, "a service that starts again has said nothing yet");
    assert_eq!(life.on(said(Lamp::Ready), 60_001).0.lamp(), Lamp::Ready);
}

#[test]
fn a_goodbye_is_dark_and_the_end_of_the_connection_after_it_changes_nothing() {
    let (life, notes) =
        after(&[(said(Lamp::Ready), 0), (LifeEvent::Goodbye, 10), (LifeEvent::Closed, 11), (LifeEvent::Tick, 1_000_000)]);
    assert_eq!((life.lamp(), notes.last()), (Lamp::Dark, Some(&LifeNote::ServiceStopped)));
    let (life, _) = life.on(LifeEvent::Hello, 1_000_000);
    assert_eq!(life.lights(1_000_000), Lights::DARK, "no lamp test: the keeper did not start");
    assert_eq!(life.on(LifeEvent::Tick, 1_180_001).0.lamp(), Lamp::Fault, "a service that starts has three minutes");
}

#[test]
fn a_service_whose_work_stands_still_shows_a_fault_by_its_own_word() {
    let stuck = LifeEvent::Said { lamp: Lamp::Working, sound: false };
    let (life, notes) = after(&[(said(Lamp::Working), 0), (stuck, 250)]);
    assert_eq!((life.lamp(), notes.last()), (Lamp::Fault, Some(&LifeNote::Sound(false))));
    let (life, notes) = life.on(said(Lamp::Working), 500);
    assert_eq!((life.lamp(), notes.as_slice()), (Lamp::Working, &[LifeNote::Sound(true)][..]));
}

#[test]
fn a_word_that_repeats_does_not_start_the_pattern_over() {
    let mut life = after(&[(said(Lamp::Critical), 0)]).0;
    for now_ms in (20..20_000).step_by(20) {
        let event = if now_ms % 240 == 0 { said(Lamp::Critical) } else { LifeEvent::Tick };
        life = life.on(event, now_ms).0;
        assert_eq!(life.lights(now_ms), lights_at(Lamp::Critical, now_ms));
    }
}

#[test]
fn a_test_shows_what_the_person_asks_and_ends_by_itself() {
    let (mut life, notes) =
        after(&[(said(Lamp::Ready), 0), (LifeEvent::TestAsked, 100), (LifeEvent::TestLights(Lights::ALL), 120)]);
    assert_eq!((life.lights(150), notes.last()), (Lights::ALL, Some(&LifeNote::TestBegan)));
    let mut over = None;
    for now_ms in (140..200_000).step_by(20) {
        for event in [said(Lamp::Ready), LifeEvent::TestLamp(Lamp::Degraded), LifeEvent::Tick] {
            let (next, notes) = life.on(event, now_ms);
            life = next;
            if notes.contains(&LifeNote::TestOver(TestEnd::TimeOver)) {
                over = over.or(Some(now_ms));
            }
        }
    }
    assert_eq!(over, Some(120_120));
    assert_eq!(life.lamp(), Lamp::Ready);
}

#[test]
fn a_critical_finding_and_a_fault_end_a_test_at_once_and_refuse_one() {
    for event in [said(Lamp::Critical), said(Lamp::Fault), LifeEvent::Said { lamp: Lamp::Ready, sound: false }, LifeEvent::Closed]
    {
        let (life, _) = after(&[(said(Lamp::Ready), 0), (LifeEvent::TestAsked, 100), (LifeEvent::TestLamp(Lamp::Ready), 110)]);
        let (life, notes) = life.on(event, 120);
        assert!(notes.contains(&LifeNote::TestOver(TestEnd::Needed)), "{event:?} {notes:?}");
        assert!(!life.is_testing() && !life.lights(120).looks_well());
        if life.is_live() {
            let (life, notes) = life.on(LifeEvent::TestAsked, 130);
            assert_eq!((life.is_testing(), notes.as_slice()), (false, &[LifeNote::TestRefused][..]));
        }
    }
    // The dead man's switch goes off in the middle of a test.
    let life = after(&[(said(Lamp::Ready), 0), (LifeEvent::TestAsked, 100), (LifeEvent::TestLamp(Lamp::Ready), 1400)]).0;
    assert_eq!(life.on(LifeEvent::Tick, 1501).0.lamp(), Lamp::Fault);
}

#[test]
fn the_lamps_of_a_box_whose_service_is_away_can_be_tested() {
    let away = [(LifeEvent::Tick, 200_000), (LifeEvent::TestAsked, 200_010), (LifeEvent::TestLamp(Lamp::Working), 200_020)];
    let (life, _) = after(&away);
    assert!(life.is_testing());
    assert_eq!(life.on(LifeEvent::Tick, 202_021).0.lamp(), Lamp::Fault, "whoever tests must go on saying so");
    assert!(!after(&away).0.on(LifeEvent::TestEnded, 200_030).0.is_testing());
}

fn any_event() -> impl Strategy<Value = LifeEvent> {
    let lamp = || prop::sample::select(&LAMPS[..]);
    prop_oneof![
        Just(LifeEvent::Hello),
        (lamp(), prop::bool::weighted(0.8)).prop_map(|(lamp, sound)| LifeEvent::Said { lamp, sound }),
        (lamp(), Just(true)).prop_map(|(lamp, sound)| LifeEvent::Said { lamp, sound }),
        Just(LifeEvent::Goodbye),
        Just(LifeEvent::Closed),
        Just(LifeEvent::TestAsked),
        lamp().prop_map(LifeEvent::TestLamp),
        (0_u8..16).prop_map(|bits| LifeEvent::TestLights(Lights::from_bits(bits))),
        Just(LifeEvent::TestEnded),
        Just(LifeEvent::Tick),
        Just(LifeEvent::Tick),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn green_needs_a_live_service_that_said_so_in_time_or_a_person_who_tests(
        events in prop::collection::vec((any_event(), prop_oneof![0_u64..100, 0_u64..4_000, 0_u64..200_000]), 1..60),
        later in 0_u64..5_000,
    ) {
        let (mut life, mut now_ms) = (Life::new(0), 0);
        // What an onlooker knows without the machine: the last word, and the last word of whoever tests.
        let (mut word, mut asked, mut test_word) = (None, None, None);
        for (event, pause_ms) in events {
            now_ms += pause_ms;
            life = life.on(LifeEvent::Tick, now_ms).0;
            if !life.is_testing() {
                (asked, test_word) = (None, None);
            }
            life = life.on(event, now_ms).0;
            match event {
                LifeEvent::Said { lamp, sound } => word = sound.then_some((lamp, now_ms)),
                LifeEvent::Goodbye | LifeEvent::Closed => word = None,
                LifeEvent::TestAsked => { asked.get_or_insert(now_ms); test_word = Some(now_ms); }
                LifeEvent::TestLamp(_) | LifeEvent::TestLights(_) if asked.is_some() => test_word = Some(now_ms),
                LifeEvent::TestEnded => (asked, test_word) = (None, None),
                _ => {}
            }
            if !life.is_testing() {
                (asked, test_word) = (None, None);
            }
            for at_ms in [now_ms, now_ms + later] {
                let seen = life.on(LifeEvent::Tick, at_ms).0;
                let well = |(lamp, heard_ms)| {
                    at_ms - heard_ms <= DEAD_MAN_MS && matches!(lamp, Lamp::Ready | Lamp::Working | Lamp::Degraded)
                };
                let person = asked.is_some_and(|asked| at_ms - asked <= TEST_MS_MAX)
                    && test_word.is_some_and(|at: u64| at_ms - at <= TEST_SILENT_MS);
                prop_assert!(!seen.lights(at_ms).green || word.is_some_and(well) || person, "{seen:?} at {at_ms}");
                let calls = word
                    .is_some_and(|(lamp, at)| now_ms - at <= DEAD_MAN_MS && matches!(lamp, Lamp::Critical | Lamp::Fault));
                prop_assert!(!(calls && at_ms == now_ms && seen.is_testing()), "a test covers a call: {seen:?}");
            }
        }
    }

    #[test]
    fn after_any_past_a_live_service_is_shown_at_once(
        events in prop::collection::vec((any_event(), 0_u64..100_000), 0..40), lamp in prop::sample::select(&LAMPS[..]),
    ) {
        let (mut life, mut now_ms) = (Life::new(0), 0);
        for (event, pause_ms) in events {
            now_ms += pause_ms;
            life = life.on(event, now_ms).0;
        }
        life = life.on(LifeEvent::TestEnded, now_ms).0;
        life = life.on(said(lamp), now_ms).0;
        prop_assert_eq!((life.lamp(), life.is_live()), (lamp, true));
    }
}
