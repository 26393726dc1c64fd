//! `scanside board show` and `scanside board test`: a board in -> its lights one after the other; text (or JSON) and an exit status out.
//!
//! Both go through the lamp keeper when it runs, in its role for tests, so that they never draw against it; else a keeper's loop of their own
//! draws on the board that the profile names. The lights are given back at the end, whatever happens: the keeper ends a test by itself when its
//! words stop, and a loop of our own leaves the board dark. Exit status as in DESIGN.md section 4: 0 done, 1 the board failed (or the person
//! saw something else), 2 the profile or the lamp's name is wrong.

use std::io::Write;
use std::path::Path;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use scanside_lamp::life::TEST_MS_MAX;

use super::draw::FRAME;
use super::keeper;
use super::keeper_protocol::{KeeperState, ToKeeper};
use super::session::Session;
use super::sim::draw_lamp;
use super::{BoardError, JitterStats, LAMPS, Lights, ProfileError, lamp_named};
use crate::domain::Lamp;

/// Socket of the lamp keeper on a box.
pub const KEEPER_SOCKET: &str = "/run/scanside-keeper/lamp.sock";
/// How long each lamp is shown unless the caller says otherwise: one whole turn of the slowest pattern.
pub const SECONDS_EACH: u64 = 4;
/// How long a light burns in a scripted test.
const LIGHT_SECONDS: u64 = 1;
/// How long `test` waits for the button, s, unless the caller says otherwise.
pub const BUTTON_SECONDS: u64 = 15;
/// Half of the frames may be at most this late, and 99 of 100 the second, before `test` fails: the eye does not see less than a
/// frame (20 ms). GUESS: to be measured on a loaded Raspberry Pi.
const JITTER_MEDIAN_US_MAX: u64 = 5_000;
const JITTER_P99_US_MAX: u64 = 20_000;
/// How long the board has to show what it was told.
const SHOW_WAIT: Duration = Duration::from_secs(1);

/// Which board, and how to show it.
#[derive(Clone, Debug)]
pub struct ShowRequest<'a> {
    /// Name of the profile, for a board without a keeper; with a keeper it is the keeper's.
    pub profile: &'a str,
    /// Folder of the site's profiles.
    pub profiles_dir: Option<&'a Path>,
    /// Socket of the lamp keeper; where nobody answers there, the board is drawn directly.
    pub keeper: Option<&'a Path>,
    /// Name of one lamp, or all.
    pub lamp: Option<&'a str>,
    /// Seconds for each lamp, at most 3600 (through a keeper 120 in all); by default [`SECONDS_EACH`], none for the dark lamp alone.
    pub seconds: Option<u64>,
    /// Whether the text may have colour and be redrawn in place (a terminal).
    pub colour: bool,
    /// A clock that never goes back.
    pub clock: fn() -> Duration,
}

/// How to test.
#[derive(Clone, Copy)]
pub struct TestRequest<'a> {
    /// One JSON object per line and nothing else.
    pub json: bool,
    /// Seconds to wait for the button; 0 leaves it out.
    pub button_seconds: u64,
    /// Only measure how evenly frames come, for so many seconds.
    pub jitter_seconds: Option<u64>,
    /// Asks the person; `None` for a script.
    pub ask: Option<Ask<'a>>,
}

/// Asks a person a question; their yes or no comes through the channel. The board is kept alive meanwhile.
pub type Ask<'a> = &'a dyn Fn(&str) -> Receiver<bool>;

/// Why a board command did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// the profile is wrong
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// there is no such lamp
    #[error("there is no lamp {0:?}: choose one of dark, ready, working, degraded, indeterminate, suspicious, fault, critical")]
    UnknownLamp(String),
    /// the board failed
    #[error(transparent)]
    Board(#[from] BoardError),
    /// lamps or button do not work
    #[error("the board {0}")]
    Failed(String),
    /// the keeper does not let the lamp go
    #[error("the lamp keeper {0}")]
    Keeper(String),
    /// the text could not be written
    #[error("the output cannot be written: {0}")]
    Output(#[from] std::io::Error),
}

impl CommandError {
    /// Exit status of DESIGN.md section 4.
    #[must_use]
    pub const fn exit_status(&self) -> u8 {
        match self {
            Self::Profile(_) | Self::UnknownLamp(_) => 2,
            Self::Board(_) | Self::Failed(_) | Self::Keeper(_) | Self::Output(_) => 1,
        }
    }
}

/// Shows the lamps one after the other, or the one named, and gives the board back.
///
/// # Errors
/// [`CommandError`]; its text goes to stderr, its status to the shell.
pub fn show(request: &ShowRequest<'_>, out: &mut dyn Write) -> Result<(), CommandError> {
    let only = request.lamp.map(|name| lamp_named(name).ok_or_else(|| CommandError::UnknownLamp(name.to_owned()))).transpose()?;
    let mut session = Session::start(request)?;
    session.describe(out)?;
    let each = Duration::from_secs(request.seconds.unwrap_or(SECONDS_EACH).min(3600));
    match only {
        Some(Lamp::Dark) if request.seconds.is_none() => session.show(Lamp::Dark, FRAME, request.colour, out)?,
        Some(lamp) => session.show(lamp, each, request.colour, out)?,
        None => {
            for lamp in LAMPS.into_iter().filter(|&lamp| lamp != Lamp::Dark) {
                session.show(lamp, each, request.colour, out)?;
            }
        }
    }
    session.check()
}

/// Tests every light, the buzzer and the button, and how evenly frames come.
///
/// # Errors
/// [`CommandError::Failed`] names everything that failed, was not seen or not pressed, or that frames came too late.
pub fn test(request: &ShowRequest<'_>, how: &TestRequest<'_>, out: &mut dyn Write) -> Result<(), CommandError> {
    let mut session = Session::start(request)?;
    if !how.json {
        session.describe(out)?;
    }
    let mut report = Report { json: how.json, failed: Vec::new() };
    match how.jitter_seconds {
        Some(seconds) => session.measure(Duration::from_secs(seconds.min(3600)))?,
        None => {
            session.test_lights(request, how, &mut report, out)?;
            session.test_button(how, &mut report, out)?;
        }
    }
    let stats = session.state.jitter;
    report.frames(&session.state, out)?;
    session.check()?;
    if stats.median_us > JITTER_MEDIAN_US_MAX || stats.p99_us > JITTER_P99_US_MAX {
        report.failed.push("draws unevenly: the processor is overloaded".to_owned());
    }
    if report.failed.is_empty() { Ok(()) } else { Err(CommandError::Failed(report.failed.join("; "))) }
}

/// What came of each part, as lines.
struct Report {
    json: bool,
    failed: Vec<String>,
}

impl Report {
    /// One line for a part of the board.
    fn part(&mut self, name: &str, result: &str, failed: Option<String>, out: &mut dyn Write) -> Result<(), CommandError> {
        if self.json {
            writeln!(out, r#"{{"part":"{name}","ok":{},"result":"{result}"}}"#, failed.is_none())?;
        } else {
            writeln!(out, "{name}: {result}")?;
        }
        out.flush()?;
        self.failed.extend(failed);
        Ok(())
    }

    #[allow(clippy::cast_precision_loss)] // for display
    fn frames(&self, state: &KeeperState, out: &mut dyn Write) -> Result<(), CommandError> {
        let JitterStats { n, median_us, p99_us, max_us } = state.jitter;
        if self.json {
            let late = format!(r#"{{"median":{median_us},"p99":{p99_us},"max":{max_us}}}"#);
            writeln!(out, r#"{{"part":"frames","n":{n},"missed":{},"late_us":{late}}}"#, state.frames_missed)?;
        } else {
            let ms = |us: u64| us as f64 / 1000.0;
            writeln!(
                out,
                "Frames: {n} drawn, {} missed; late by {:.1} ms (median), {:.1} ms (99 %), {:.1} ms (worst).",
                state.frames_missed,
                ms(median_us),
                ms(p99_us),
                ms(max_us)
            )?;
        }
        Ok(())
    }
}

impl Session {
    /// In a terminal the line is redrawn as the lamp blinks; elsewhere there is one line per lamp.
    fn show(&mut self, lamp: Lamp, each: Duration, colour: bool, out: &mut dyn Write) -> Result<(), CommandError> {
        self.say(ToKeeper::TestLamp(lamp))?;
        let is_shown = |session: &Self| keeper::shown(&session.state).0 == lamp && session.state.testing;
        self.turn_until(SHOW_WAIT, |session| is_shown(session) || session.state.failing)?;
        let until = (self.clock)() + each;
        let mut drawn = false;
        loop {
            let (shown, lights) = keeper::shown(&self.state);
            if shown == lamp && (colour || !drawn) {
                drawn = true;
                if colour {
                    write!(out, "\r{}", draw_lamp(lamp, lights, true))?;
                    out.flush()?;
                } else {
                    writeln!(out, "{}", draw_lamp(lamp, lights, false))?;
                }
            }
            if (self.clock)() >= until {
                break;
            }
            self.turn()?;
        }
        if colour && drawn {
            writeln!(out)?;
        }
        self.check()
    }

    fn test_lights(
        &mut self,
        request: &ShowRequest<'_>,
        how: &TestRequest<'_>,
        report: &mut Report,
        out: &mut dyn Write,
    ) -> Result<(), CommandError> {
        let one = |bits| Lights::from_bits(bits);
        let buzzer = self.profile.buzzer.is_some();
        for (name, lights, there) in
            [("red", one(1), true), ("yellow", one(2), true), ("green", one(4), true), ("buzzer", one(8), buzzer)]
        {
            if !there {
                report.part(name, "this board has none", None, out)?;
                continue;
            }
            self.say(ToKeeper::TestLights(lights))?;
            let shown = self.turn_until(SHOW_WAIT, |session| session.state.lights == lights.bits() && session.state.testing)?;
            if !shown || self.state.failing {
                let cause = self.trouble.clone().unwrap_or_else(|| "the board did not take it".to_owned());
                report.part(name, "failed", Some(format!("failed to switch {name}: {cause}")), out)?;
                continue;
            }
            let Some(ask) = how.ask else {
                self.turn_until(Duration::from_secs(request.seconds.unwrap_or(LIGHT_SECONDS)), |_| false)?;
                report.part(name, "shown", None, out)?;
                continue;
            };
            let what = if name == "buzzer" {
                "Does the buzzer sound?".to_owned()
            } else {
                format!("Does the {name} light burn, and it alone?")
            };
            let answer = ask(&what);
            let mut seen = None;
            self.turn_until(Duration::from_millis(TEST_MS_MAX), |_| {
                // A person who has gone answers nothing, and that is no.
                seen = match answer.try_recv() {
                    Ok(seen) => Some(seen),
                    Err(TryRecvError::Empty) => None,
                    Err(TryRecvError::Disconnected) => Some(false),
                };
                seen.is_some()
            })?;
            match seen {
                Some(true) => report.part(name, "seen", None, out)?,
                _ => report.part(
                    name,
                    "not seen",
                    Some(format!("was not seen to switch {name}: check its wiring and the profile")),
                    out,
                )?,
            }
        }
        self.say(ToKeeper::TestLights(Lights::DARK))
    }

    fn test_button(&mut self, how: &TestRequest<'_>, report: &mut Report, out: &mut dyn Write) -> Result<(), CommandError> {
        if !self.has_button {
            return report.part("button", "this board has none", None, out);
        }
        if how.button_seconds == 0 {
            return report.part("button", "left out", None, out);
        }
        if !how.json {
            writeln!(out, "Press the button within {} s.", how.button_seconds)?;
        }
        let before = self.n_presses;
        if self.turn_until(Duration::from_secs(how.button_seconds), |session| session.n_presses > before)? {
            return report.part("button", "pressed", None, out);
        }
        let failed = "saw no press of the button: check its pin and polarity in the profile".to_owned();
        report.part("button", "not pressed", Some(failed), out)
    }

    /// Draws a blinking lamp and measures. Through a keeper the figures are those since its start.
    fn measure(&mut self, time: Duration) -> Result<(), CommandError> {
        let time = if self.of_keeper { time.min(Duration::from_millis(TEST_MS_MAX - 5_000)) } else { time };
        self.say(ToKeeper::TestLamp(Lamp::Suspicious))?;
        self.turn_until(time, |_| false)?;
        Ok(())
    }
}
