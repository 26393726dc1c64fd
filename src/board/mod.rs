//! Board: the lamps and the button of one box. `Lamp` in -> lights on pins, LED files or a screen; presses out.
//!
//! A board is a file plus a trait: `board/*.toml` says which pin is which ([`profile`]), a driver implements [`Board`]:
//!
//! | Driver | File | What it drives |
//! | --- | --- | --- |
//! | `sim` | [`sim`] | nothing; others read its lights, tests press its button |
//! | `led-class` | [`leds`] | LEDs of the Linux LED class, plain files under `/sys/class/leds`; its button is a GPIO line |
//! | `gpiochip` | [`gpiochip`] | lines of the GPIO character device |
//! | `rppal` | `rpi` (feature `rppal`) | the header pins of a Raspberry Pi |
//!
//! What the lamps show when nobody draws any more decides which driver a board has by default:
//!
//! | Driver | The process was killed | [`Board::leave`] | The kernel panicked |
//! | --- | --- | --- | --- |
//! | `led-class` | keep what they showed | the kernel draws a fault | all blink fast (`panic-indicator` of the device tree) |
//! | `gpiochip` | up to the chip's driver: dark, or keep what they showed | dark, then up to the chip's driver | keep what they showed |
//! | `rppal` | keep what they showed | dark | keep what they showed |
//!
//! Who draws: on a box the lamp keeper, a process of its own ([`keeper`], `src/bin/scanside-keeper.rs`), to which the service talks through
//! [`keeper_client`] in the words of [`keeper_protocol`]; in the demonstration and in tests a thread of the service ([`lamp_thread`]). Both
//! draw [`pattern`]s at 50 Hz ([`draw`]) and are dead man's switches. Patterns, the button and the life cycle are `crates/lamp`, without std.
//!
//! What a dead process leaves behind:
//!
//! | What happens | Who acts | The room sees |
//! | --- | --- | --- |
//! | the service is killed, panics, aborts | the keeper: its connection ended without a goodbye | fault, at once |
//! | the service is stopped (SIGSTOP), its runtime deadlocked | the keeper: silent for 1.5 s, or the service's own word that it does not move | fault |
//! | a study stands still in work | the service (`service/vitals.rs`): no step forward | fault |
//! | the keeper dies or hangs | systemd: its watchdog of 1 s, then the stop hook, [`Board::leave`] | fault by the kernel, or dark |
//! | the kernel panics or hangs | the kernel's `panic` trigger, the hardware watchdog | the board's device tree says |
//!
//! This room uses serde and toml (for the profiles) and tokio's bounded channel (for the notices) besides heapless.

pub mod choice;
pub mod command;
pub mod draw;
pub mod gpiochip;
pub mod jitter;
pub mod keeper;
pub mod keeper_client;
pub mod keeper_notes;
pub mod keeper_protocol;
pub mod lamp_handle;
pub mod lamp_thread;
pub mod leds;
mod peer;
pub mod profile;
#[cfg(feature = "rppal")]
pub mod rpi;
mod session;
pub mod sim;

pub use jitter::JitterStats;
pub use lamp_handle::{BoardNotice, LampHandle, LampOptions, LampView};
pub use profile::{BoardProfile, Driver, ProfileError};
pub use scanside_lamp::{LAMPS, Lights, lamp_named, lights_at, pattern};
pub use sim::{SimBoard, SimPanel};

/// Why the lamps or the button cannot be used. The texts name the device and the remedy; the cause stands behind it.
#[derive(Debug, thiserror::Error)]
pub enum BoardError {
    /// the device cannot be opened
    #[error("{what} cannot be opened: {cause}; check the board profile and that the user is in the group of the device")]
    Open {
        /// What: a file or the header.
        what: String,
        /// Why.
        cause: String,
    },
    /// a lamp could not be switched
    #[error("{what} cannot be written: {cause}")]
    Write {
        /// What.
        what: String,
        /// Why.
        cause: String,
    },
    /// the button could not be read
    #[error("{what} cannot be read: {cause}")]
    Read {
        /// What.
        what: String,
        /// Why.
        cause: String,
    },
    /// the driver is not in this build
    #[error("this build has no driver {0:?}: it needs the Cargo feature of the same name")]
    NotBuilt(&'static str),
    /// the lamp thread could not be started
    #[error("the lamp thread cannot be started: {0}")]
    Thread(String),
}

/// The lamps and the button of one box.
///
/// Duties of a driver: opening it leaves every light off; `set_lamps` does not allocate when it succeeds and returns
/// within a few milliseconds (it is called from the 50 Hz loop); `button_pressed` reads the contact as it is now, not debounced.
pub trait Board: Send {
    /// Name of the profile.
    fn name(&self) -> &str;

    /// Switches all lights.
    ///
    /// # Errors
    /// [`BoardError::Write`] names the light; the others may have been switched.
    fn set_lamps(&mut self, lights: Lights) -> Result<(), BoardError>;

    /// Whether the button is down now; `false` where there is none.
    ///
    /// # Errors
    /// [`BoardError::Read`].
    fn button_pressed(&mut self) -> Result<bool, BoardError>;

    /// Leaves the lamps to themselves: what shows from now on, with nobody drawing, is a fault drawn by the kernel where the driver can
    /// ask for that, else dark (which means the same: DESIGN.md section 4). Never green.
    ///
    /// # Errors
    /// [`BoardError::Write`] names the light; the others may have been switched.
    fn leave(&mut self) -> Result<(), BoardError> {
        self.set_lamps(Lights::DARK)
    }
}

/// Opens the driver that the profile names, all lights off.
///
/// # Errors
/// [`BoardError::Open`] or [`BoardError::NotBuilt`].
pub fn open(profile: &BoardProfile) -> Result<Box<dyn Board>, BoardError> {
    match profile.driver {
        Driver::Sim => Ok(Box::new(SimBoard::new(profile.name.clone()).0)),
        Driver::LedClass => Ok(Box::new(leds::LedClassBoard::open(profile, std::path::Path::new(leds::LEDS_DIR))?)),
        Driver::Gpiochip => Ok(Box::new(gpiochip::GpiochipBoard::open(profile)?)),
        #[cfg(feature = "rppal")]
        Driver::Rppal => Ok(Box::new(rpi::RpiBoard::open(profile)?)),
        #[cfg(not(feature = "rppal"))]
        Driver::Rppal => Err(BoardError::NotBuilt("rppal")),
    }
}
