//! `scanside board show` and `scanside board test`: a profile in -> lamps one after the other; text and an exit status out.
//!
//! `show` draws each lamp (or the one named) for some seconds and always leaves the board dark: it is also what the unit's stop
//! hook calls (`--lamp dark`). `test` does the same, then waits for the button and reports how evenly the frames came.
//! Exit status as in DESIGN.md section 4: 0 done, 1 the board failed, 2 the profile or the lamp's name is wrong.

use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::lamp_thread::{self, BoardNotice, LampHandle, LampOptions};
use super::profile::{BoardProfile, Driver};
use super::sim::draw_lamp;
use super::{BoardError, LAMPS, ProfileError, lamp_named};
use crate::domain::Lamp;

/// How long each lamp is shown unless the caller says otherwise: one whole turn of the slowest pattern.
pub const SECONDS_EACH: u64 = 4;
/// How long `test` waits for the button.
pub const BUTTON_WAIT: Duration = Duration::from_secs(15);
/// Half of the frames may be at most this late, and 99 of 100 the second, before `test` fails: the eye does not see less than a
/// frame (20 ms). GUESS: to be measured on a loaded Raspberry Pi.
const JITTER_MEDIAN_US_MAX: u64 = 5_000;
const JITTER_P99_US_MAX: u64 = 20_000;

/// What to show.
#[derive(Clone, Debug)]
pub struct ShowRequest<'a> {
    /// Name of the profile.
    pub profile: &'a str,
    /// Folder of the site's profiles.
    pub profiles_dir: Option<&'a Path>,
    /// Name of one lamp, or all.
    pub lamp: Option<&'a str>,
    /// Seconds for each lamp, at most 3600; by default [`SECONDS_EACH`], none for the dark lamp alone.
    pub seconds: Option<u64>,
    /// Whether the text may have colour and be redrawn in place (a terminal).
    pub colour: bool,
    /// The clock of [`LampOptions::clock`].
    pub clock: fn() -> Duration,
}

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
            Self::Board(_) | Self::Failed(_) | Self::Output(_) => 1,
        }
    }
}

/// Shows the lamps one after the other, or the one named, and leaves the board dark.
///
/// # Errors
/// [`CommandError`]; its text goes to stderr, its status to the shell.
pub fn show(request: &ShowRequest<'_>, out: &mut dyn Write) -> Result<(), CommandError> {
    let profile = BoardProfile::load(request.profile, request.profiles_dir)?;
    let only = request.lamp.map(|name| lamp_named(name).ok_or_else(|| CommandError::UnknownLamp(name.to_owned()))).transpose()?;
    describe(&profile, out)?;
    if only == Some(Lamp::Dark) && request.seconds.is_none() {
        // Opening a board leaves it dark; written once more so that a failing lamp is told.
        super::open(&profile)?.set_lamps(super::Lights::DARK)?;
        writeln!(out, "{}", draw_lamp(Lamp::Dark, super::Lights::DARK, request.colour))?;
        return Ok(());
    }
    let mut session = Session::start(&profile, request)?;
    match only {
        Some(lamp) => session.show(lamp, out)?,
        None => session.show_all(out)?,
    }
    session.check()
}

/// Shows every lamp, waits for the button where there is one, and reports how evenly frames came.
///
/// # Errors
/// [`CommandError::Failed`] when a lamp or the button failed, was not pressed in time, or the frames came too late.
pub fn test(request: &ShowRequest<'_>, out: &mut dyn Write) -> Result<(), CommandError> {
    let profile = BoardProfile::load(request.profile, request.profiles_dir)?;
    describe(&profile, out)?;
    let mut session = Session::start(&profile, request)?;
    session.show_all(out)?;
    session.check()?;
    if profile.button.is_some() {
        writeln!(out, "Press the button within {} s.", BUTTON_WAIT.as_secs())?;
        if !session.wait_for_press()? {
            return Err(CommandError::Failed("saw no press of the button: check its pin and polarity in the profile".to_owned()));
        }
        writeln!(out, "Button: pressed.")?;
    } else {
        writeln!(out, "Button: this profile has none.")?;
    }
    let view = session.handle.view();
    let stats = view.jitter();
    writeln!(
        out,
        "Frames: {} drawn, {} missed; late by {:.1} ms (median), {:.1} ms (99 %), {:.1} ms (worst).",
        view.frames(),
        view.frames_missed(),
        ms(stats.median_us),
        ms(stats.p99_us),
        ms(stats.max_us)
    )?;
    if stats.median_us > JITTER_MEDIAN_US_MAX || stats.p99_us > JITTER_P99_US_MAX {
        return Err(CommandError::Failed("draws unevenly: the processor is overloaded".to_owned()));
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss)] // for display
fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}

fn describe(profile: &BoardProfile, out: &mut dyn Write) -> Result<(), CommandError> {
    writeln!(out, "Board {}: {}", profile.name, profile.description)?;
    if profile.driver == Driver::Sim {
        writeln!(out, "This board is simulated: no lamp is driven, only this text shows it.")?;
    }
    Ok(())
}

/// A running lamp thread with what the commands need around it.
struct Session {
    handle: LampHandle,
    notices: tokio::sync::mpsc::Receiver<BoardNotice>,
    clock: fn() -> Duration,
    each: Duration,
    colour: bool,
    failure: Option<String>,
    pressed: bool,
}

impl Session {
    fn start(profile: &BoardProfile, request: &ShowRequest<'_>) -> Result<Self, CommandError> {
        let (sender, notices) = tokio::sync::mpsc::channel(16);
        let mut options = LampOptions::new(request.clock);
        options.debounce_ms = profile.button.as_ref().map_or(options.debounce_ms, |button| button.debounce_ms);
        let handle = lamp_thread::start(super::open(profile)?, options, sender)?;
        let each = Duration::from_secs(request.seconds.unwrap_or(SECONDS_EACH).min(3600));
        Ok(Self { handle, notices, clock: request.clock, each, colour: request.colour, failure: None, pressed: false })
    }

    fn show_all(&mut self, out: &mut dyn Write) -> Result<(), CommandError> {
        LAMPS.into_iter().filter(|&lamp| lamp != Lamp::Dark).try_for_each(|lamp| self.show(lamp, out))
    }

    /// In a terminal the line is redrawn as the lamp blinks; elsewhere there is one line per lamp.
    fn show(&mut self, lamp: Lamp, out: &mut dyn Write) -> Result<(), CommandError> {
        self.handle.show(lamp);
        let until = (self.clock)() + self.each;
        let mut drawn = false;
        while (self.clock)() < until {
            self.turn();
            let (shown, lights) = self.handle.current();
            if shown == lamp && (self.colour || !drawn) {
                drawn = true;
                if self.colour {
                    write!(out, "\r{}", draw_lamp(lamp, lights, true))?;
                    out.flush()?;
                } else {
                    writeln!(out, "{}", draw_lamp(lamp, lights, false))?;
                }
            }
        }
        if self.colour && drawn {
            writeln!(out)?;
        }
        Ok(())
    }

    /// Waits one frame and takes what the thread reported.
    fn turn(&mut self) {
        self.handle.alive();
        thread::sleep(lamp_thread::FRAME);
        while let Ok(notice) = self.notices.try_recv() {
            match notice {
                BoardNotice::ButtonPressed => self.pressed = true,
                BoardNotice::Failing(text) => self.failure = Some(text),
                BoardNotice::Recovered | BoardNotice::DeadManReleased { .. } => {}
            }
        }
    }

    fn wait_for_press(&mut self) -> Result<bool, CommandError> {
        self.pressed = false;
        let until = (self.clock)() + BUTTON_WAIT;
        while (self.clock)() < until && !self.pressed {
            self.turn();
        }
        self.check()?;
        Ok(self.pressed)
    }

    fn check(&self) -> Result<(), CommandError> {
        self.failure.as_ref().map_or(Ok(()), |text| Err(CommandError::Failed(format!("failed: {text}"))))
    }
}
