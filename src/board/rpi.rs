//! The header pins of a Raspberry Pi through rppal: lights -> output levels, input level -> button.
//!
//! rppal 0.22.1 is the last release (the project was retired in July 2025; it works up to the Pi 5) and is used in this file
//! alone, behind the Cargo feature of its name. It writes the pin registers through `/dev/gpiomem` (`/dev/gpiomem0` on a Pi 5), which
//! Raspberry Pi OS has and Debian's own kernel has not (there: `/dev/mem` as root with `iomem=relaxed`).
//!
//! **When the process dies**, the pins keep their level, a green lamp stays lit, and nobody else knows that the pins are in use: the lamp
//! keeper and the unit's stop hook switch the lamps off. Leaving the board leaves it dark rather than floating (no reset on drop).

use rppal::gpio::{Gpio, InputPin, Level, OutputPin};

use super::profile::{Bias, BoardProfile, Button, Output};
use super::{Board, BoardError, Lights};

/// One light.
#[derive(Debug)]
struct Light {
    pin: OutputPin,
    active_low: bool,
}

/// A Raspberry Pi with up to four lights and one button.
#[derive(Debug)]
pub struct RpiBoard {
    name: String,
    red: Light,
    yellow: Light,
    green: Light,
    buzzer: Option<Light>,
    button: Option<(InputPin, bool)>,
}

fn cannot_open(what: String, cause: impl std::fmt::Display) -> BoardError {
    BoardError::Open { what, cause: cause.to_string() }
}

impl Light {
    fn open(gpio: &Gpio, key: &str, output: &Output) -> Result<Self, BoardError> {
        let number = output.pin.ok_or_else(|| cannot_open(key.to_owned(), "its profile names no pin"))?;
        let pin = gpio.get(number).map_err(|cause| cannot_open(format!("{key} (GPIO {number})"), cause))?;
        // The level is set before the direction, so that no lamp flashes.
        let mut pin = if output.active_low { pin.into_output_high() } else { pin.into_output_low() };
        pin.set_reset_on_drop(false);
        Ok(Self { pin, active_low: output.active_low })
    }

    fn set(&mut self, lit: bool) {
        self.pin.write(if lit == self.active_low { Level::Low } else { Level::High });
    }
}

impl RpiBoard {
    /// Takes the pins of the profile; all lights off.
    ///
    /// # Errors
    /// [`BoardError::Open`] names the lamp and the pin, or the header where this is no Raspberry Pi.
    pub fn open(profile: &BoardProfile) -> Result<Self, BoardError> {
        let gpio = Gpio::new().map_err(|cause| cannot_open("the GPIO header of the Raspberry Pi".to_owned(), cause))?;
        let lamps =
            profile.lamps.as_ref().ok_or_else(|| cannot_open(format!("board {}", profile.name), "its profile names no lamps"))?;
        let button = |button: &Button| -> Result<(InputPin, bool), BoardError> {
            let number = button.pin.ok_or_else(|| cannot_open("button".to_owned(), "its profile names no pin"))?;
            let pin = gpio.get(number).map_err(|cause| cannot_open(format!("button (GPIO {number})"), cause))?;
            let pin = match button.bias() {
                Bias::PullUp => pin.into_input_pullup(),
                Bias::PullDown => pin.into_input_pulldown(),
                Bias::None => pin.into_input(),
            };
            Ok((pin, button.active_low))
        };
        Ok(Self {
            name: profile.name.clone(),
            red: Light::open(&gpio, "lamps.red", &lamps.red)?,
            yellow: Light::open(&gpio, "lamps.yellow", &lamps.yellow)?,
            green: Light::open(&gpio, "lamps.green", &lamps.green)?,
            buzzer: profile.buzzer.as_ref().map(|buzzer| Light::open(&gpio, "buzzer", buzzer)).transpose()?,
            button: profile.button.as_ref().map(button).transpose()?,
        })
    }
}

impl Board for RpiBoard {
    fn name(&self) -> &str {
        &self.name
    }

    fn set_lamps(&mut self, lights: Lights) -> Result<(), BoardError> {
        self.red.set(lights.red);
        self.yellow.set(lights.yellow);
        self.green.set(lights.green);
        if let Some(buzzer) = &mut self.buzzer {
            buzzer.set(lights.buzzer);
        }
        Ok(())
    }

    fn button_pressed(&mut self) -> Result<bool, BoardError> {
        Ok(self.button.as_ref().is_some_and(|(pin, active_low)| (pin.read() == Level::Low) == *active_low))
    }
}
