//! The simulated board: lights in -> what others can read; presses in -> the button. And a lamp drawn in the terminal.
//!
//! It is what `scanside demo`, the default configuration and the tests run on.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use super::{Board, BoardError, Lights};
use crate::domain::Lamp;

#[derive(Debug, Default)]
struct Shared {
    bits: AtomicU8,
    writes: AtomicU64,
    pressed: AtomicBool,
    broken: AtomicBool,
}

/// A board without lamps.
#[derive(Debug)]
pub struct SimBoard {
    name: String,
    shared: Arc<Shared>,
}

/// The other side of a simulated board: sees its lights, presses its button, breaks its wire.
#[derive(Clone, Debug)]
pub struct SimPanel(Arc<Shared>);

impl SimBoard {
    /// A board and its panel.
    #[must_use]
    pub fn new(name: String) -> (Self, SimPanel) {
        let shared = Arc::new(Shared::default());
        (Self { name, shared: Arc::clone(&shared) }, SimPanel(shared))
    }
}

impl SimPanel {
    /// What burns now.
    #[must_use]
    pub fn lights(&self) -> Lights {
        Lights::from_bits(self.0.bits.load(Ordering::Acquire))
    }

    /// How often the lights were set.
    #[must_use]
    pub fn n_writes(&self) -> u64 {
        self.0.writes.load(Ordering::Acquire)
    }

    /// Holds the button down, or lets it go.
    pub fn hold_button(&self, down: bool) {
        self.0.pressed.store(down, Ordering::Release);
    }

    /// Makes the board fail from now on, or work again.
    pub fn break_wire(&self, broken: bool) {
        self.0.broken.store(broken, Ordering::Release);
    }
}

impl Board for SimBoard {
    fn name(&self) -> &str {
        &self.name
    }

    fn set_lamps(&mut self, lights: Lights) -> Result<(), BoardError> {
        if self.shared.broken.load(Ordering::Acquire) {
            return Err(BoardError::Write { what: "the simulated lamp".to_owned(), cause: "its wire is broken".to_owned() });
        }
        self.shared.bits.store(lights.bits(), Ordering::Release);
        self.shared.writes.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    fn button_pressed(&mut self) -> Result<bool, BoardError> {
        Ok(self.shared.pressed.load(Ordering::Acquire))
    }
}

/// One line that shows the lights: three discs, then the lamp's name and meaning. With `colour`, ANSI escape codes
/// (ECMA-48 SGR); without, letters: `R`, `Y`, `G`, or a dot where nothing burns.
#[must_use]
pub fn draw_lamp(lamp: Lamp, lights: Lights, colour: bool) -> String {
    let mut line = String::with_capacity(96);
    for (lit, letter, code) in [(lights.red, 'R', 91), (lights.yellow, 'Y', 93), (lights.green, 'G', 92)] {
        let written = match (colour, lit) {
            (true, true) => write!(line, "\x1b[1;{code}m●\x1b[0m "),
            (true, false) => write!(line, "\x1b[2m○\x1b[0m "),
            (false, true) => write!(line, "{letter} "),
            (false, false) => write!(line, ". "),
        };
        debug_assert!(written.is_ok(), "a String takes all");
    }
    line.push_str(lamp.as_str());
    line.push_str(": ");
    line.push_str(lamp.sentence());
    line
}

#[cfg(test)]
mod tests {
    use super::super::{LAMPS, lights_at};
    use super::*;

    #[test]
    fn the_panel_sees_what_the_board_was_told() {
        let (mut board, panel) = SimBoard::new("sim".to_owned());
        for lamp in LAMPS {
            board.set_lamps(lights_at(lamp, 0)).expect("works");
            assert_eq!(panel.lights(), lights_at(lamp, 0));
        }
        panel.hold_button(true);
        assert!(board.button_pressed().expect("works"));
        panel.break_wire(true);
        assert!(board.set_lamps(Lights::DARK).is_err());
        assert_eq!(panel.lights(), lights_at(Lamp::Critical, 0), "a broken wire changes nothing");
    }

    #[test]
    fn a_lamp_is_drawn_with_and_without_colour() {
        assert_eq!(draw_lamp(Lamp::Degraded, lights_at(Lamp::Degraded, 0), false), ". Y G degraded: Works, but IT must look.");
        let drawn = draw_lamp(Lamp::Critical, lights_at(Lamp::Critical, 0), true);
        assert!(drawn.starts_with("\x1b[1;91m●\x1b[0m") && drawn.contains("Call the radiologist now."));
        assert_eq!(drawn.matches('●').count(), 1);
    }
}
