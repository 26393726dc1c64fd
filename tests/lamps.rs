//! Promises of the lamp: it shows what the service says at 50 Hz, it never stays green for a dead service, and the button counts once.
//!
//! The lamp thread runs for real, on the simulated board. Limits are wide where a loaded machine may be late, and exact where
//! lateness must not matter.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use scanside::board::lamp_handle::QUEUE_MAX;
use scanside::board::lamp_thread::{self, FRAME};
use scanside::board::{Board, BoardError, BoardNotice, LampHandle, LampOptions, Lights, SimBoard, SimPanel, lights_at};
use scanside::domain::Lamp;
use tokio::sync::mpsc::{Receiver, channel};

const PATIENCE: Duration = Duration::from_secs(20);

fn clock() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

fn start(dead_man: Duration) -> (LampHandle, SimPanel, Receiver<BoardNotice>) {
    let (board, panel) = SimBoard::new("sim".to_owned());
    let (sender, notices) = channel(8);
    let options = LampOptions { dead_man, ..LampOptions::new(clock) };
    (lamp_thread::start(Box::new(board), options, sender).expect("started"), panel, notices)
}

/// Waits until `what` holds, giving signs of life meanwhile if asked.
fn wait_for(handle: Option<&LampHandle>, what: impl Fn() -> bool) -> bool {
    let until = clock() + PATIENCE;
    while clock() < until {
        if let Some(handle) = handle {
            handle.alive();
        }
        if what() {
            return true;
        }
        std::thread::sleep(FRAME / 4);
    }
    false
}

fn next_notice(notices: &mut Receiver<BoardNotice>, handle: &LampHandle) -> BoardNotice {
    let until = clock() + PATIENCE;
    while clock() < until {
        handle.alive();
        if let Ok(notice) = notices.try_recv() {
            return notice;
        }
        std::thread::sleep(FRAME / 4);
    }
    panic!("no notice came");
}

#[test]
fn frames_stay_on_a_50_hz_grid_without_drift() {
    let (handle, _panel, _notices) = start(PATIENCE);
    let view = handle.view();
    let grid = || view.frames() + view.frames_missed();
    assert!(wait_for(None, || grid() > 5));
    let (from, from_frames) = (clock(), grid());
    std::thread::sleep(Duration::from_millis(1500));
    let (elapsed, frames) = (clock() - from, grid() - from_frames);
    // Drawn and skipped frames together are the grid: load may turn one into the other (and hide a frame that is still being
    // slept through), it cannot change the sum by more than the lateness of the two ends.
    let expected = elapsed.as_millis() / FRAME.as_millis();
    let late = u128::from(view.jitter().max_us) / FRAME.as_micros() + 2;
    assert!(u128::from(frames).abs_diff(expected) <= late, "{frames} frames in {elapsed:?}, late by at most {late} frames");
    assert!(view.jitter().n >= view.frames() - 1, "every frame is measured");
}

#[test]
fn each_lamp_reaches_the_board_with_its_own_lights() {
    let (handle, panel, _notices) = start(PATIENCE);
    assert_eq!(handle.current(), (Lamp::Dark, Lights::DARK), "nothing burns before the first word of the service");
    for lamp in [Lamp::Ready, Lamp::Working, Lamp::Degraded, Lamp::Indeterminate, Lamp::Suspicious, Lamp::Fault, Lamp::Critical] {
        handle.show(lamp);
        assert!(wait_for(Some(&handle), || handle.current().0 == lamp), "{lamp:?}");
        let (_, lights) = handle.current();
        assert!((0..5000).any(|t_ms| lights_at(lamp, t_ms) == lights), "{lamp:?} shows {lights:?}");
        if lights_at(lamp, 0) != lights_at(lamp, 250) {
            assert!(wait_for(Some(&handle), || panel.lights() == lights_at(lamp, 250)), "{lamp:?} blinks off");
            assert!(wait_for(Some(&handle), || panel.lights().red == lights_at(lamp, 0).red), "{lamp:?} blinks on");
        }
    }
}

#[test]
fn a_silent_service_shows_a_fault_and_its_return_is_on_record() {
    let (handle, panel, mut notices) = start(Duration::from_millis(300));
    handle.show(Lamp::Ready);
    assert!(wait_for(Some(&handle), || panel.lights().green));
    // No sign of life from here on.
    assert!(wait_for(None, || handle.current().0 == Lamp::Fault), "the lamp shows {:?}", handle.current());
    assert!(!panel.lights().green);
    assert!(wait_for(Some(&handle), || handle.current().0 == Lamp::Ready), "it comes back to what was asked for");
    match next_notice(&mut notices, &handle) {
        BoardNotice::DeadManReleased { silent_ms } => assert!(silent_ms > 300, "{silent_ms}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_end_of_the_service_leaves_the_box_dark() {
    let (handle, panel, _notices) = start(PATIENCE);
    handle.show(Lamp::Ready);
    assert!(wait_for(Some(&handle), || panel.lights().green));
    let view = handle.view();
    drop(handle);
    assert_eq!(panel.lights(), Lights::DARK);
    let frames = view.frames();
    std::thread::sleep(FRAME * 5);
    assert_eq!(view.frames(), frames, "the thread has ended");
    assert_eq!(view.current(), (Lamp::Dark, Lights::DARK));
}

#[test]
fn a_panic_of_the_service_leaves_the_box_dark() {
    let (handle, panel, _notices) = start(PATIENCE);
    handle.show(Lamp::Degraded);
    assert!(wait_for(Some(&handle), || panel.lights().green));
    let died = std::thread::spawn(move || {
        let _handle = handle;
        std::panic::resume_unwind(Box::new("the service died"));
    })
    .join();
    assert!(died.is_err());
    assert_eq!(panel.lights(), Lights::DARK);
}

#[test]
fn a_burst_of_changes_ends_on_the_newest_lamp() {
    let (handle, _panel, _notices) = start(PATIENCE);
    for n in 0..QUEUE_MAX * 20 {
        handle.show(if n % 2 == 0 { Lamp::Ready } else { Lamp::Working });
    }
    handle.show(Lamp::Critical);
    assert!(wait_for(Some(&handle), || handle.current().0 == Lamp::Critical));
    std::thread::sleep(FRAME * 5);
    assert_eq!(handle.current().0, Lamp::Critical, "nothing older comes after it");
}

#[test]
fn a_press_of_the_button_is_told_once() {
    let (handle, panel, mut notices) = start(PATIENCE);
    let view = handle.view();
    let frames = |n: u64| {
        let until = view.frames() + n;
        assert!(wait_for(Some(&handle), || view.frames() >= until));
    };
    for _ in 0..2 {
        // Ten drawn frames need not be ten frame times on a loaded machine, but each state lasts well over the debounce time.
        frames(10);
        panel.hold_button(true);
        assert_eq!(next_notice(&mut notices, &handle), BoardNotice::ButtonPressed);
        frames(10);
        panel.hold_button(false);
        frames(10);
        assert!(notices.try_recv().is_err(), "holding and letting go is no second press");
    }
}

#[test]
fn a_broken_lamp_is_told_once_and_again_when_it_works() {
    let (handle, panel, mut notices) = start(PATIENCE);
    handle.show(Lamp::Ready);
    assert!(wait_for(Some(&handle), || panel.lights().green));
    panel.break_wire(true);
    handle.show(Lamp::Critical);
    assert!(matches!(next_notice(&mut notices, &handle), BoardNotice::Failing(text) if text.contains("wire")));
    assert!(handle.view().failing());
    let frames = handle.view().frames();
    assert!(wait_for(Some(&handle), || handle.view().frames() > frames + 60), "it goes on trying");
    assert!(notices.try_recv().is_err(), "one notice, not one per frame");
    panel.break_wire(false);
    assert_eq!(next_notice(&mut notices, &handle), BoardNotice::Recovered);
    assert!(wait_for(Some(&handle), || panel.lights().red && !handle.view().failing()));
}

/// A board whose button fails from the start; its lamps work.
struct NoButton(SimBoard);

impl Board for NoButton {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn set_lamps(&mut self, lights: Lights) -> Result<(), BoardError> {
        self.0.set_lamps(lights)
    }

    fn button_pressed(&mut self) -> Result<bool, BoardError> {
        Err(BoardError::Read { what: "the button".to_owned(), cause: "it fell off".to_owned() })
    }
}

#[test]
fn a_broken_button_does_not_keep_the_lamp_from_blinking() {
    let (board, panel) = SimBoard::new("sim".to_owned());
    let (sender, mut notices) = channel(8);
    let handle = lamp_thread::start(Box::new(NoButton(board)), LampOptions::new(clock), sender).expect("started");
    handle.show(Lamp::Critical);
    assert!(matches!(next_notice(&mut notices, &handle), BoardNotice::Failing(text) if text.contains("fell off")));
    let writes = panel.n_writes();
    let (from, wanted) = (handle.view().frames(), 100);
    assert!(wait_for(Some(&handle), || handle.view().frames() >= from + wanted));
    // Two seconds of a 2 Hz lamp are 8 changes; only its rare refreshes would be 2.
    assert!(panel.n_writes() - writes >= 6, "{} writes", panel.n_writes() - writes);
}

#[test]
fn a_service_that_takes_no_notices_does_not_hold_up_the_lamp() {
    let (board, panel) = SimBoard::new("sim".to_owned());
    let (sender, _notices) = channel(1);
    let handle = lamp_thread::start(Box::new(board), LampOptions::new(clock), sender).expect("started");
    let view = handle.view();
    assert!(wait_for(Some(&handle), || {
        panel.hold_button(view.frames() / 10 % 2 == 1);
        view.notices_dropped() >= 2
    }));
    handle.show(Lamp::Suspicious);
    assert!(wait_for(Some(&handle), || handle.current().0 == Lamp::Suspicious));
}

/// A board that hangs in every write, once it has said so.
struct Hanging(std::sync::mpsc::SyncSender<()>);

impl Board for Hanging {
    fn name(&self) -> &'static str {
        "hanging"
    }

    fn set_lamps(&mut self, _: Lights) -> Result<(), BoardError> {
        let _ = self.0.try_send(());
        std::thread::sleep(PATIENCE);
        Ok(())
    }

    fn button_pressed(&mut self) -> Result<bool, BoardError> {
        Ok(false)
    }
}

#[test]
fn a_board_that_hangs_shows_in_the_heartbeat_and_does_not_hang_the_end() {
    let (sender, _notices) = channel(1);
    let (hangs, hanging) = std::sync::mpsc::sync_channel(1);
    let handle = lamp_thread::start(Box::new(Hanging(hangs)), LampOptions::new(clock), sender).expect("started");
    handle.show(Lamp::Ready);
    hanging.recv_timeout(PATIENCE).expect("it writes");
    let frames = handle.view().frames();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(handle.view().frames(), frames, "a heartbeat that stands still is what the watchdog sees");
    let from = clock();
    drop(handle);
    assert!(clock() - from < PATIENCE / 2);
}

mod commands {
    use super::clock;
    use scanside::board::command::{CommandError, ShowRequest, TestRequest, show, test};

    fn request<'a>(profile: &'a str, lamp: Option<&'a str>) -> ShowRequest<'a> {
        ShowRequest { profile, profiles_dir: None, keeper: None, lamp, seconds: Some(0), colour: false, clock }
    }

    const SCRIPTED: TestRequest<'static> = TestRequest { json: false, button_seconds: 1, jitter_seconds: None, ask: None };

    #[test]
    fn show_draws_the_lamp_that_was_named() {
        let mut out = Vec::new();
        show(&ShowRequest { seconds: Some(1), ..request("sim", Some("degraded")) }, &mut out).expect("shown");
        let text = String::from_utf8(out).expect("text");
        assert!(text.contains(". Y G degraded: Works, but IT must look.\n"), "{text}");
        assert!(text.contains("simulated") && text.contains("When the process that draws dies"), "{text}");
    }

    #[test]
    fn show_dark_returns_at_once_for_a_stop_hook() {
        let mut out = Vec::new();
        let from = clock();
        show(&ShowRequest { seconds: None, ..request("sim", Some("dark")) }, &mut out).expect("shown");
        assert!(clock() - from < super::PATIENCE / 4);
        assert!(String::from_utf8(out).expect("text").contains(". . . dark"));
    }

    #[test]
    fn a_wrong_lamp_or_profile_is_bad_input_and_a_missing_device_a_failure() {
        let error = |request| show(&request, &mut Vec::new()).expect_err("refused");
        let wrong = error(request("sim", Some("purple")));
        assert_eq!(wrong.exit_status(), 2);
        assert!(wrong.to_string().contains("critical"), "{wrong}");
        assert_eq!(error(request("../x", None)).exit_status(), 2);
        let missing = error(request("led-class", None));
        assert_eq!(missing.exit_status(), 1, "{missing}");
        assert!(matches!(missing, CommandError::Board(_)) && missing.to_string().contains("scanside:red"), "{missing}");
    }

    #[test]
    fn a_scripted_test_says_one_line_for_each_part_of_the_board() {
        let mut out = Vec::new();
        let result = test(&request("sim", None), &SCRIPTED, &mut out);
        let text = String::from_utf8(out).expect("text");
        for line in ["red: shown", "yellow: shown", "green: shown", "buzzer: this board has none", "button: this board has none"]
        {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(text.contains("late by"), "{text}");
        // A machine that runs a whole test suite may be overloaded, and then the command must say just that.
        if let Err(error) = result {
            assert!(error.to_string().contains("unevenly"), "{error}");
        }
    }

    #[test]
    fn a_light_that_the_person_does_not_see_fails_the_test_by_name() {
        let asked = std::cell::RefCell::new(Vec::new());
        let ask = |question: &str| {
            asked.borrow_mut().push(question.to_owned());
            let (answer, answered) = std::sync::mpsc::channel();
            answer.send(!question.contains("yellow")).expect("listens");
            answered
        };
        let error =
            test(&request("sim", None), &TestRequest { ask: Some(&ask), ..SCRIPTED }, &mut Vec::new()).expect_err("fails");
        assert!(error.to_string().contains("yellow") && !error.to_string().contains("red"), "{error}");
        assert_eq!(asked.borrow().len(), 3, "red, yellow, green: {:?}", asked.borrow());
    }

    #[test]
    fn as_json_there_is_one_object_for_each_part_and_nothing_else() {
        let mut out = Vec::new();
        let _ = test(&request("sim", None), &TestRequest { json: true, ..SCRIPTED }, &mut out);
        let text = String::from_utf8(out).expect("text");
        let parts: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
        let names: Vec<_> = parts.iter().filter_map(|part| part["part"].as_str()).collect();
        assert_eq!(names, ["red", "yellow", "green", "buzzer", "button", "frames"]);
        assert!(parts.iter().take(3).all(|part| part["ok"] == true), "{text}");
    }
}
