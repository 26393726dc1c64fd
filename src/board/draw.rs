//! Drawing: a lamp with its lights in -> the board, 50 times a second on a grid that does not drift; what fails and heals out.
//!
//! Used by the service's lamp thread and by the lamp keeper. Nothing here allocates while the board works.

use std::thread;
use std::time::Duration;

use super::{Board, BoardError, Lights};
use crate::domain::Lamp;

/// Frames per second.
pub const FRAMES_PER_S: u32 = 50;
/// Time of one frame.
pub const FRAME: Duration = Duration::from_millis(1000 / FRAMES_PER_S as u64);
/// Unchanged lights are written again after this many frames (1 s), so that a lamp that lost its state comes back; a failing lamp
/// is tried again as often.
const REFRESH_FRAMES: u64 = 50;

/// What the board's owner is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PenNote {
    /// Lamps or button cannot be used; once, until they work again.
    Failing(String),
    /// They work again.
    Recovered,
}

/// A board, and what was written to it.
pub(super) struct Pen {
    board: Box<dyn Board>,
    written: Option<(Lamp, Lights)>,
    frames_since_write: u64,
    lamps_fail: bool,
    button_fails: bool,
    /// Whether the failure has been told.
    told: bool,
    note: Option<PenNote>,
}

impl Pen {
    pub(super) fn new(board: Box<dyn Board>) -> Self {
        Self { board, written: None, frames_since_write: 0, lamps_fail: false, button_fails: false, told: false, note: None }
    }

    /// Draws one frame; unchanged lights are written once a second. Gives what the board has taken, if it was written now.
    pub(super) fn draw(&mut self, frame: (Lamp, Lights)) -> Option<(Lamp, Lights)> {
        let refresh = self.frames_since_write >= REFRESH_FRAMES;
        if !refresh && (self.lamps_fail || self.written == Some(frame)) {
            self.frames_since_write += 1;
            return None;
        }
        self.frames_since_write = 0;
        match self.board.set_lamps(frame.1) {
            Ok(()) => {
                (self.written, self.lamps_fail) = (Some(frame), false);
                self.written
            }
            Err(error) => {
                (self.written, self.lamps_fail) = (None, true);
                self.tell(Some(&error));
                None
            }
        }
    }

    /// The button's contact; `None` when it cannot be read. To be called after [`Self::draw`].
    pub(super) fn button(&mut self) -> Option<bool> {
        let read = self.board.button_pressed();
        self.button_fails = read.is_err();
        self.tell(read.as_ref().err());
        read.ok()
    }

    /// Keeps the first failure, and that lamps and button both work again.
    fn tell(&mut self, error: Option<&BoardError>) {
        if self.failing() == self.told {
            return;
        }
        self.told = !self.told;
        self.note = Some(error.map_or(PenNote::Recovered, |error| PenNote::Failing(error.to_string())));
    }

    /// Whether lamps or button fail.
    pub(super) const fn failing(&self) -> bool {
        self.lamps_fail || self.button_fails
    }

    /// What there is to tell.
    pub(super) fn take_note(&mut self) -> Option<PenNote> {
        self.note.take()
    }

    /// Switches everything off. Three attempts, because nobody will repeat this one.
    pub(super) fn darken(&mut self) {
        for _ in 0..3 {
            if self.board.set_lamps(Lights::DARK).is_ok() {
                break;
            }
        }
    }

    /// Name of the board's profile.
    pub(super) fn board_name(&self) -> &str {
        self.board.name()
    }
}

/// Frames at fixed moments: each is the one before plus 20 ms, not "now plus 20 ms".
pub(super) struct Grid {
    deadline: Duration,
    clock: fn() -> Duration,
}

impl Grid {
    /// A grid that begins now.
    pub(super) fn new(clock: fn() -> Duration) -> Self {
        Self { deadline: clock(), clock }
    }

    /// Sleeps until the next frame: how late it came, and how many whole frames were missed. Those are skipped instead of drawn in a burst.
    pub(super) fn wait(&mut self) -> (Duration, u32) {
        self.deadline += FRAME;
        thread::sleep(self.deadline.saturating_sub((self.clock)()));
        let late = (self.clock)().saturating_sub(self.deadline);
        let missed = u32::try_from(late.as_micros() / FRAME.as_micros()).unwrap_or(u32::MAX);
        self.deadline = self.deadline.saturating_add(FRAME.saturating_mul(missed));
        (late, missed)
    }
}
