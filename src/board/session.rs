//! A board that is tested or shown: a request in -> a connection to the lamp keeper in its role for tests, or to a loop of our own.
//!
//! Through it goes every word of `scanside board`, so that it never draws against the keeper. The words are repeated: a keeper ends a test
//! that falls silent, and whatever ends this process gives the lamps back.

use std::io::{ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use scanside_lamp::TestEnd;
use scanside_lamp::life::TEST_MS_MAX;

use super::command::{CommandError, ShowRequest};
use super::keeper::{Keeper, KeeperNote, KeeperOptions};
use super::keeper_client::Link;
use super::keeper_protocol::{FromKeeper, KeeperState, Role, ToKeeper};
use super::profile::{BoardProfile, Driver, Output};
use crate::domain::Lamp;

/// Words are repeated this often: the keeper ends a test that says nothing for 2 s.
const WORD_PERIOD: Duration = Duration::from_millis(200);
/// How long the keeper has to answer.
const WELCOME_WAIT: Duration = Duration::from_secs(2);
/// Why there is no test.
const REFUSED: &str =
    "needs the lamps: the service shows a critical finding or a fault, or another test runs; try again when that is over";

/// A board of our own: a keeper's loop on a thread, behind a socket in a folder that nobody else can enter.
struct OwnLoop {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    dir: tempfile::TempDir,
}

impl OwnLoop {
    fn start(profile: &BoardProfile, clock: fn() -> Duration) -> Result<Self, CommandError> {
        let board = super::open(profile)?;
        let dir = tempfile::tempdir()?;
        let listener = std::os::unix::net::UnixListener::bind(dir.path().join("lamp.sock"))?;
        let keeper = Keeper::new(board, listener, KeeperOptions::of(profile, clock, 1))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let run = move || {
            keeper.run(|_: KeeperNote| match stopped.load(Ordering::Acquire) {
                true => std::ops::ControlFlow::Break(()),
                false => std::ops::ControlFlow::Continue(()),
            });
        };
        let thread = thread::Builder::new().name("lamp".to_owned()).spawn(run)?;
        Ok(Self { stop, thread: Some(thread), dir })
    }
}

impl Drop for OwnLoop {
    /// The loop leaves the board dark. A driver that hangs must not hang the end of the command.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        for _ in 0..100 {
            if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
                let _ = self.thread.take().map(JoinHandle::join);
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A test of a keeper, or of a board of our own behind one.
pub(super) struct Session {
    pub(super) link: Link,
    pub(super) clock: fn() -> Duration,
    word: ToKeeper,
    said_at: Duration,
    pub(super) state: KeeperState,
    pub(super) trouble: Option<String>,
    pub(super) n_presses: u64,
    pub(super) has_button: bool,
    /// The description of the board, and whether it is the keeper's.
    pub(super) profile: BoardProfile,
    pub(super) of_keeper: bool,
    /// Dropped after the link has said goodbye.
    _own: Option<OwnLoop>,
}

impl Session {
    pub(super) fn start(request: &ShowRequest<'_>) -> Result<Self, CommandError> {
        let kept = match request.keeper.map(|socket| Link::open(socket, Role::Test)) {
            Some(Ok(link)) => Some(link),
            // Nobody listens: no keeper runs. Anything else, such as a missing right, must not end in two who draw.
            Some(Err(error)) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => None,
            Some(Err(error)) => {
                let text = format!("cannot be reached: {error}; do this as root or as a member of the group scanside");
                return Err(CommandError::Keeper(text));
            }
            None => None,
        };
        let named = BoardProfile::load(request.profile, request.profiles_dir);
        let (link, own, of_keeper) = match kept {
            Some(link) => (link, None, true),
            None => {
                let own = OwnLoop::start(named.as_ref().map_err(Clone::clone)?, request.clock)?;
                (Link::open(&own.dir.path().join("lamp.sock"), Role::Test)?, Some(own), false)
            }
        };
        let (mut link, limit) = (link, (request.clock)() + WELCOME_WAIT);
        let (name, has_button) = loop {
            match link.hear() {
                Ok(Some(FromKeeper::Welcome { profile, has_button, .. })) => break (profile, has_button),
                Ok(Some(FromKeeper::TestRefused)) => return Err(CommandError::Keeper(REFUSED.to_owned())),
                Ok(_) if (request.clock)() < limit => {}
                Ok(_) => return Err(CommandError::Keeper("does not answer".to_owned())),
                Err(error) => return Err(CommandError::Keeper(format!("does not answer: {error}"))),
            }
        };
        let profile = match of_keeper {
            true => BoardProfile::load(&name, request.profiles_dir)?,
            false => named?,
        };
        let (word, said_at, state) = (ToKeeper::TestLamp(Lamp::Dark), Duration::ZERO, KeeperState::default());
        let clock = request.clock;
        Ok(Self { link, clock, word, said_at, state, trouble: None, n_presses: 0, has_button, profile, of_keeper, _own: own })
    }

    /// What the board is, and what it shows when the process that draws dies.
    pub(super) fn describe(&self, out: &mut dyn Write) -> Result<(), CommandError> {
        let profile = &self.profile;
        writeln!(out, "Board {}: {}", profile.name, profile.description)?;
        if profile.driver == Driver::Sim {
            writeln!(out, "This board is simulated: no lamp is driven, only this text shows it.")?;
        }
        let place = |output: &Output| match (&output.led, output.pin) {
            (Some(led), _) => format!("LED {led}"),
            (None, Some(pin)) => format!("GPIO {pin}{}", if output.active_low { ", lit when low" } else { "" }),
            (None, None) => "see the profile".to_owned(),
        };
        if let Some(lamps) = &profile.lamps {
            writeln!(out, "Lights: red {}; yellow {}; green {}.", place(&lamps.red), place(&lamps.yellow), place(&lamps.green))?;
        }
        let buzzer = profile.buzzer.as_ref().map_or_else(|| "none".to_owned(), place);
        writeln!(out, "Buzzer: {buzzer}. Button: {}.", if self.has_button { "one" } else { "none" })?;
        let who = if self.of_keeper { "the lamp keeper, which is asked for its lamps" } else { "this command, directly" };
        writeln!(out, "Drawn by {who}. When the process that draws dies, {}.", when_it_dies(profile.driver))?;
        Ok(())
    }

    /// Says what is to be shown from now on.
    pub(super) fn say(&mut self, word: ToKeeper) -> Result<(), CommandError> {
        self.word = word;
        self.said_at = (self.clock)();
        self.link.say(word).map_err(|error| CommandError::Keeper(format!("has gone: {error}")))
    }

    /// Repeats the word when it is time, and takes what the keeper says; returns within 40 ms.
    pub(super) fn turn(&mut self) -> Result<(), CommandError> {
        if (self.clock)().saturating_sub(self.said_at) >= WORD_PERIOD {
            self.say(self.word)?;
        }
        match self.link.hear().map_err(|error| CommandError::Keeper(format!("has gone: {error}")))? {
            Some(FromKeeper::State(state)) => self.state = state,
            Some(FromKeeper::Press(number)) => {
                self.n_presses += 1;
                self.link
                    .say(ToKeeper::PressTaken(number))
                    .map_err(|error| CommandError::Keeper(format!("has gone: {error}")))?;
            }
            Some(FromKeeper::Trouble(text)) => self.trouble = Some(text.as_str().to_owned()),
            Some(FromKeeper::TestRefused | FromKeeper::TestOver(TestEnd::Needed)) => {
                return Err(CommandError::Keeper(REFUSED.to_owned()));
            }
            Some(FromKeeper::TestOver(_)) => {
                return Err(CommandError::Keeper(format!("took the lamps back: a test ends after {} s", TEST_MS_MAX / 1000)));
            }
            Some(FromKeeper::Welcome { .. }) | None => {}
        }
        Ok(())
    }

    pub(super) fn turn_until(&mut self, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> Result<bool, CommandError> {
        let until = (self.clock)() + limit;
        while !done(self) {
            if (self.clock)() >= until {
                return Ok(false);
            }
            self.turn()?;
        }
        Ok(true)
    }

    pub(super) fn check(&self) -> Result<(), CommandError> {
        let trouble = || self.trouble.clone().unwrap_or_else(|| "lamps or button cannot be used".to_owned());
        if self.state.failing { Err(CommandError::Failed(format!("failed: {}", trouble()))) } else { Ok(()) }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Without it the keeper ends the test when the connection does; that is as good.
        let _ = self.link.say(ToKeeper::Goodbye);
    }
}

/// What the room sees of a board whose process has died; between that and the stop hook nobody draws.
fn when_it_dies(driver: Driver) -> &'static str {
    match driver {
        Driver::Sim => "there is nothing to see",
        Driver::LedClass => {
            "the lamps stay as they were until the stop hook of its unit has run: then the kernel draws a fault, or they are dark"
        }
        _ => "the lamps stay as they were until the stop hook of its unit has run: then they show a fault or are dark",
    }
}
