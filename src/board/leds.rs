//! LEDs of the Linux LED class: lights -> `1` and `0` in plain files.
//!
//! `/sys/class/leds/NAME/brightness` takes a number up to `max_brightness`, `NAME/trigger` takes `none` so that the kernel
//! does not draw as well (kernel documentation, leds/leds-class). The service's user needs the group of both files (systemd/
//! brings the udev rule). What was last written stays after the process died: the unit's stop hook switches the lamps off.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::profile::{BoardProfile, Output};
use super::{Board, BoardError, Lights};

/// Where the LED class lives.
pub const LEDS_DIR: &str = "/sys/class/leds";

/// One LED, open.
#[derive(Debug)]
struct Led {
    name: String,
    brightness: File,
    /// `max_brightness` in decimal with a line end; the bytes that switch it on.
    on: String,
    lit: Option<bool>,
}

/// Up to four LEDs.
#[derive(Debug)]
pub struct LedClassBoard {
    name: String,
    red: Led,
    yellow: Led,
    green: Led,
    buzzer: Option<Led>,
}

impl Led {
    fn open(dir: &Path, output: &Output) -> Result<Self, BoardError> {
        let name = output.led.clone().unwrap_or_default();
        let what = |file: &str| format!("LED {name} ({file})");
        let open_error = |file: &str, cause: std::io::Error| BoardError::Open { what: what(file), cause: cause.to_string() };
        let folder = dir.join(&name);
        let mut text = String::new();
        File::open(folder.join("max_brightness"))
            .and_then(|file| file.take(16).read_to_string(&mut text))
            .map_err(|cause| open_error("max_brightness", cause))?;
        let max: u32 = text.trim().parse().ok().filter(|&max| max > 0).ok_or_else(|| BoardError::Open {
            what: what("max_brightness"),
            cause: "it does not hold a number above 0".to_owned(),
        })?;
        let written =
            OpenOptions::new().write(true).open(folder.join("trigger")).and_then(|file| file.write_all_at(b"none\n", 0));
        match written {
            Ok(()) => {}
            // A kernel without triggers has no such file; then nobody else draws.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(cause) => return Err(open_error("trigger", cause)),
        }
        let brightness =
            OpenOptions::new().write(true).open(folder.join("brightness")).map_err(|cause| open_error("brightness", cause))?;
        let mut led = Self { brightness, on: format!("{max}\n"), lit: None, name };
        led.set(false)?;
        Ok(led)
    }

    fn set(&mut self, lit: bool) -> Result<(), BoardError> {
        let bytes: &[u8] = if lit { self.on.as_bytes() } else { b"0\n" };
        self.lit = None;
        self.brightness
            .write_all_at(bytes, 0)
            .map_err(|cause| BoardError::Write { what: format!("LED {}", self.name), cause: cause.to_string() })?;
        self.lit = Some(lit);
        Ok(())
    }
}

impl LedClassBoard {
    /// Opens the LEDs of the profile below `dir` (on a real box [`LEDS_DIR`]) and switches them off.
    ///
    /// # Errors
    /// [`BoardError::Open`] names the LED and the file.
    pub fn open(profile: &BoardProfile, dir: &Path) -> Result<Self, BoardError> {
        let lamps = profile.lamps.as_ref().ok_or_else(|| BoardError::Open {
            what: format!("board {}", profile.name),
            cause: "its profile names no lamps".to_owned(),
        })?;
        Ok(Self {
            name: profile.name.clone(),
            red: Led::open(dir, &lamps.red)?,
            yellow: Led::open(dir, &lamps.yellow)?,
            green: Led::open(dir, &lamps.green)?,
            buzzer: profile.buzzer.as_ref().map(|buzzer| Led::open(dir, buzzer)).transpose()?,
        })
    }
}

impl Board for LedClassBoard {
    fn name(&self) -> &str {
        &self.name
    }

    /// Writes every LED, also an unchanged one: the lamp thread calls this on changes and once a second, and the repetition heals
    /// what another program may have written.
    fn set_lamps(&mut self, lights: Lights) -> Result<(), BoardError> {
        let Self { red, yellow, green, buzzer, .. } = self;
        let lamps = [
            (Some(red), lights.red),
            (Some(yellow), lights.yellow),
            (Some(green), lights.green),
            (buzzer.as_mut(), lights.buzzer),
        ];
        let mut first_error = None;
        for (led, lit) in lamps {
            // One broken LED must not keep the others from showing.
            if let Some(Err(error)) = led.map(|led| led.set(lit)) {
                first_error.get_or_insert(error);
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    fn button_pressed(&mut self) -> Result<bool, BoardError> {
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::super::lights_at;
    use super::*;
    use crate::domain::Lamp;

    fn tree(max: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("folder");
        for led in ["scanside:red", "scanside:yellow", "scanside:green"] {
            let folder = dir.path().join(led);
            std::fs::create_dir(&folder).expect("folder");
            std::fs::write(folder.join("max_brightness"), max).expect("file");
            std::fs::write(folder.join("brightness"), "7").expect("file");
            std::fs::write(folder.join("trigger"), "[heartbeat]").expect("file");
        }
        dir
    }

    fn brightness(dir: &tempfile::TempDir, led: &str) -> u32 {
        // A plain file keeps old bytes behind a shorter write; the kernel's file takes each write alone. The first line is it.
        let text = std::fs::read_to_string(dir.path().join(led).join("brightness")).expect("file");
        text.lines().next().and_then(|line| line.parse().ok()).expect("number")
    }

    fn profile() -> BoardProfile {
        BoardProfile::load("led-class", None).expect("built in")
    }

    #[test]
    fn opening_takes_the_leds_from_the_kernel_and_leaves_them_dark() {
        let dir = tree("255\n");
        let _board = LedClassBoard::open(&profile(), dir.path()).expect("opens");
        for led in ["scanside:red", "scanside:yellow", "scanside:green"] {
            assert_eq!(brightness(&dir, led), 0);
            assert!(std::fs::read_to_string(dir.path().join(led).join("trigger")).expect("file").starts_with("none\n"));
        }
    }

    #[test]
    fn each_lamp_reaches_its_file_with_the_full_brightness() {
        let dir = tree("255\n");
        let mut board = LedClassBoard::open(&profile(), dir.path()).expect("opens");
        board.set_lamps(lights_at(Lamp::Degraded, 0)).expect("written");
        assert_eq!(["scanside:red", "scanside:yellow", "scanside:green"].map(|led| brightness(&dir, led)), [0, 255, 255]);
        board.set_lamps(lights_at(Lamp::Critical, 0)).expect("written");
        assert_eq!(["scanside:red", "scanside:yellow", "scanside:green"].map(|led| brightness(&dir, led)), [255, 0, 0]);
    }

    #[test]
    fn a_missing_led_and_a_wrong_maximum_are_named() {
        let dir = tree("0\n");
        let error = LedClassBoard::open(&profile(), dir.path()).expect_err("refused").to_string();
        assert!(error.contains("scanside:red") && error.contains("above 0"), "{error}");
        let error = LedClassBoard::open(&profile(), &dir.path().join("no")).expect_err("refused").to_string();
        assert!(error.contains("LED scanside:red (max_brightness)") && error.contains("board profile"), "{error}");
    }
}
