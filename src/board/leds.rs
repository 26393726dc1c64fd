//! LEDs of the Linux LED class: lights -> `1` and `0` in plain files; a board that is left -> a fault that the kernel draws.
//!
//! `/sys/class/leds/NAME/brightness` takes a number up to `max_brightness`, `NAME/trigger` takes the name of who draws, `none` for nobody
//! but us (kernel documentation, leds/leds-class). Writing 0 into `brightness` takes any trigger away as well.
//!
//! **When the process dies**, the LEDs keep what was last written, so whoever is left to notice (lamp keeper, stop hook) opens the board and
//! leaves it. [`Board::leave`] gives red and yellow to the trigger `pattern` (Documentation/ABI/testing/sysfs-class-led-trigger-pattern:
//! pairs of brightness and ms, a pair of 0 ms for a hard edge, for ever unless `repeat` says otherwise), else to the trigger `timer`
//! (1 Hz unless `delay_on` and `delay_off` say otherwise), else it leaves them dark. They run on a timer each, so over days the two may
//! slide against each other; both blinking is still no lamp but the fault. Green and the buzzer are off. The modules
//! ledtrig-pattern and ledtrig-timer must be loaded: the kernel does not load a trigger by its name.
//!
//! Rights: the user needs the group of `brightness` and `trigger`. The files of a trigger (`pattern`, `repeat`, `delay_on`, `delay_off`) appear
//! when it is chosen, as root's; the kernel then sends a `change` event, on which the udev rule opens them, and [`Board::leave`]
//! waits a moment for that. Without the rule the fault is drawn by `timer` at its own 1 Hz, which needs no file but `trigger`.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::gpiochip::{ButtonLine, Chips};
use super::profile::{BoardProfile, Output};
use super::{Board, BoardError, Lights};

/// Where the LED class lives.
pub const LEDS_DIR: &str = "/sys/class/leds";
/// Half a period of the fault lamp (1 Hz, DESIGN.md section 4): red, then yellow.
const FAULT_HALF_MS: u16 = 500;
/// How long [`Board::leave`] waits for udev to open the files of the trigger: this often, this long apart.
const GRANT_TRIES: u32 = 40;
/// See [`GRANT_TRIES`]; together 400 ms, of the 2 s in which a dead process must show.
const GRANT_PAUSE: Duration = Duration::from_millis(10);

/// One LED, open.
#[derive(Debug)]
struct Led {
    name: String,
    folder: PathBuf,
    brightness: File,
    /// `None` on a kernel without triggers: then nobody else draws, and nobody can be asked to.
    trigger: Option<File>,
    /// `max_brightness` in decimal with a line end; the bytes that switch it on.
    on: String,
    /// A trigger of the kernel draws, not we.
    left: bool,
}

/// Up to four LEDs, and a button on a GPIO line.
#[derive(Debug)]
pub struct LedClassBoard {
    name: String,
    red: Led,
    yellow: Led,
    green: Led,
    buzzer: Option<Led>,
    button: Option<ButtonLine>,
}

impl Led {
    fn open(dir: &Path, output: &Output) -> Result<Self, BoardError> {
        let name = output.led.clone().unwrap_or_default();
        let what = |file: &str| format!("LED {name} ({file})");
        let open_error = |file: &str, cause: io::Error| BoardError::Open { what: what(file), cause: cause.to_string() };
        let folder = dir.join(&name);
        let mut text = String::new();
        File::open(folder.join("max_brightness"))
            .and_then(|file| file.take(16).read_to_string(&mut text))
            .map_err(|cause| open_error("max_brightness", cause))?;
        let max: u32 = text.trim().parse().ok().filter(|&max| max > 0).ok_or_else(|| BoardError::Open {
            what: what("max_brightness"),
            cause: "it does not hold a number above 0".to_owned(),
        })?;
        let trigger = match OpenOptions::new().write(true).open(folder.join("trigger")) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(cause) => return Err(open_error("trigger", cause)),
        };
        let brightness =
            OpenOptions::new().write(true).open(folder.join("brightness")).map_err(|cause| open_error("brightness", cause))?;
        let mut led = Self { brightness, trigger, on: format!("{max}\n"), left: false, folder, name };
        led.give_to("none")
            .map_err(|cause| BoardError::Open { what: format!("LED {} (trigger)", led.name), cause: cause.to_string() })?;
        led.set(false)?;
        Ok(led)
    }

    /// Chooses who draws. A kernel without triggers has nobody but us.
    fn give_to(&mut self, trigger: &str) -> io::Result<()> {
        match &self.trigger {
            Some(file) => file.write_all_at(format!("{trigger}\n").as_bytes(), 0)?,
            None if trigger == "none" => {}
            None => return Err(ErrorKind::Unsupported.into()),
        }
        self.left = trigger != "none";
        Ok(())
    }

    /// After [`Board::leave`] the LED is taken back first: a trigger would go on drawing over what is written.
    fn set(&mut self, lit: bool) -> Result<(), BoardError> {
        let taken = if self.left { self.give_to("none") } else { Ok(()) };
        let bytes: &[u8] = if lit { self.on.as_bytes() } else { b"0\n" };
        taken
            .and_then(|()| self.brightness.write_all_at(bytes, 0))
            .map_err(|cause| BoardError::Write { what: format!("LED {}", self.name), cause: cause.to_string() })
    }

    /// Writes a file of the trigger.
    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        OpenOptions::new().write(true).open(self.folder.join(file))?.write_all_at(text.as_bytes(), 0)
    }

    /// Writes a file of the trigger that may be root's for a moment more: udev opens it (see above).
    fn write_granted(&self, file: &str, text: &str) -> io::Result<()> {
        let mut tried = 0;
        loop {
            match self.write(file, text) {
                Err(error) if error.kind() == ErrorKind::PermissionDenied && tried < GRANT_TRIES => {
                    tried += 1;
                    thread::sleep(GRANT_PAUSE);
                }
                done => return done,
            }
        }
    }

    /// 1 Hz is the timer's own rate, unless somebody changed it before; so it does not matter when the files may not be written.
    fn start_timer(&mut self) -> io::Result<()> {
        self.give_to("timer")?;
        let half = format!("{FAULT_HALF_MS}\n");
        let _ = self.write("delay_on", &half).and_then(|()| self.write("delay_off", &half));
        Ok(())
    }

    /// One period of this LED's half of the fault, for the trigger `pattern`.
    fn fault_pattern(&self, first_half: bool) -> String {
        let max = self.on.trim_end();
        let (first, second) = if first_half { (max, "0") } else { ("0", max) };
        format!("{first} {FAULT_HALF_MS} {first} 0 {second} {FAULT_HALF_MS} {second} 0\n")
    }
}

impl LedClassBoard {
    /// Opens the LEDs of the profile below `dir` (on a real box [`LEDS_DIR`]), takes them back from the kernel and switches them off.
    ///
    /// # Errors
    /// [`BoardError::Open`] names the LED and the file, or the button's line.
    pub fn open(profile: &BoardProfile, dir: &Path) -> Result<Self, BoardError> {
        let lamps = profile.lamps.as_ref().ok_or_else(|| BoardError::Open {
            what: format!("board {}", profile.name),
            cause: "its profile names no lamps".to_owned(),
        })?;
        let button = |button| ButtonLine::open(&Chips::read(), profile.chip.as_deref(), button);
        Ok(Self {
            name: profile.name.clone(),
            red: Led::open(dir, &lamps.red)?,
            yellow: Led::open(dir, &lamps.yellow)?,
            green: Led::open(dir, &lamps.green)?,
            buzzer: profile.buzzer.as_ref().map(|buzzer| Led::open(dir, buzzer)).transpose()?,
            button: profile.button.as_ref().map(button).transpose()?,
        })
    }

    /// Both patterns are written when both triggers are ready, so that they start together.
    fn draw_fault_by_pattern(&mut self) -> io::Result<()> {
        self.red.give_to("pattern")?;
        self.yellow.give_to("pattern")?;
        // Without a pattern this draws nothing yet; it is what waits for udev.
        self.red.write_granted("repeat", "-1\n")?;
        self.yellow.write_granted("repeat", "-1\n")?;
        self.red.write_granted("pattern", &self.red.fault_pattern(true))?;
        self.yellow.write_granted("pattern", &self.yellow.fault_pattern(false))
    }

    /// Each timer starts lit; yellow starts half a period after red.
    fn draw_fault_by_timer(&mut self) -> io::Result<()> {
        self.red.start_timer()?;
        thread::sleep(Duration::from_millis(FAULT_HALF_MS.into()));
        self.yellow.start_timer()
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
        // All of them: one broken LED must not keep the others from showing.
        lamps.into_iter().filter_map(|(led, lit)| Some(led?.set(lit))).fold(Ok(()), Result::and)
    }

    fn button_pressed(&mut self) -> Result<bool, BoardError> {
        self.button.as_ref().map_or(Ok(false), ButtonLine::pressed)
    }

    /// May take a second: half a period of the timers, and the wait for udev.
    fn leave(&mut self) -> Result<(), BoardError> {
        let dark = self.set_lamps(Lights::DARK);
        if self.draw_fault_by_pattern().is_ok() {
            return dark;
        }
        // What was half done is undone first.
        let dark = self.set_lamps(Lights::DARK).and(dark);
        if self.draw_fault_by_timer().is_ok() {
            return dark;
        }
        self.set_lamps(Lights::DARK).and(dark)
    }
}

#[cfg(test)]
mod tests {
    use super::super::lights_at;
    use super::*;
    use crate::domain::Lamp;

    const LEDS: [&str; 3] = ["scanside:red", "scanside:yellow", "scanside:green"];

    fn tree(max: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("folder");
        for led in LEDS {
            let folder = dir.path().join(led);
            std::fs::create_dir(&folder).expect("folder");
            std::fs::write(folder.join("max_brightness"), max).expect("file");
            std::fs::write(folder.join("brightness"), "7").expect("file");
            std::fs::write(folder.join("trigger"), "").expect("file");
        }
        dir
    }

    /// As the kernel does when a trigger is chosen; plain files keep it.
    fn give_trigger_files(dir: &tempfile::TempDir, files: &[&str]) {
        for (led, file) in LEDS.iter().flat_map(|led| files.iter().map(move |file| (led, file))) {
            std::fs::write(dir.path().join(led).join(file), "").expect("file");
        }
    }

    /// What a file of each LED holds, byte for byte.
    fn texts(dir: &tempfile::TempDir, file: &str) -> [String; 3] {
        LEDS.map(|led| std::fs::read_to_string(dir.path().join(led).join(file)).unwrap_or_else(|error| error.kind().to_string()))
    }

    fn brightness(dir: &tempfile::TempDir, led: &str) -> u32 {
        // A plain file keeps old bytes behind a shorter write; the kernel's file takes each write alone. The first line is it.
        let text = std::fs::read_to_string(dir.path().join(led).join("brightness")).expect("file");
        text.lines().next().and_then(|line| line.parse().ok()).expect("number")
    }

    fn profile() -> BoardProfile {
        BoardProfile::load("generic-arm64", None).expect("built in")
    }

    #[test]
    fn opening_takes_the_leds_from_the_kernel_and_leaves_them_dark() {
        let dir = tree("255\n");
        let _board = LedClassBoard::open(&profile(), dir.path()).expect("opens");
        for led in LEDS {
            assert_eq!(brightness(&dir, led), 0);
        }
        assert_eq!(texts(&dir, "trigger"), ["none\n"; 3]);
    }

    #[test]
    fn each_lamp_reaches_its_file_with_the_full_brightness() {
        let dir = tree("255\n");
        let mut board = LedClassBoard::open(&profile(), dir.path()).expect("opens");
        board.set_lamps(lights_at(Lamp::Degraded, 0)).expect("written");
        assert_eq!(LEDS.map(|led| brightness(&dir, led)), [0, 255, 255]);
        board.set_lamps(lights_at(Lamp::Critical, 0)).expect("written");
        assert_eq!(LEDS.map(|led| brightness(&dir, led)), [255, 0, 0]);
    }

    #[test]
    fn a_missing_led_and_a_wrong_maximum_are_named() {
        let dir = tree("0\n");
        let error = LedClassBoard::open(&profile(), dir.path()).expect_err("refused").to_string();
        assert!(error.contains("scanside:red") && error.contains("above 0"), "{error}");
        let error = LedClassBoard::open(&profile(), &dir.path().join("no")).expect_err("refused").to_string();
        assert!(error.contains("LED scanside:red (max_brightness)") && error.contains("board profile"), "{error}");
    }

    #[test]
    fn a_board_that_is_left_shows_a_fault_that_the_kernel_draws() {
        let dir = tree("1\n");
        let mut board = LedClassBoard::open(&profile(), dir.path()).expect("opens");
        board.set_lamps(lights_at(Lamp::Ready, 0)).expect("written");
        give_trigger_files(&dir, &["pattern", "repeat"]);
        board.leave().expect("left");
        assert_eq!(texts(&dir, "trigger"), ["pattern\n", "pattern\n", "none\n"]);
        assert_eq!(texts(&dir, "pattern"), ["1 500 1 0 0 500 0 0\n", "0 500 0 0 1 500 1 0\n", ""]);
        assert_eq!(texts(&dir, "repeat"), ["-1\n", "-1\n", ""]);
        assert_eq!(brightness(&dir, "scanside:green"), 0, "never green");
    }

    #[test]
    fn what_the_kernel_draws_is_the_fault_lamp() {
        let dir = tree("1\n");
        let board = LedClassBoard::open(&profile(), dir.path()).expect("opens");
        let lit = |pattern: &str, t_ms: u64| {
            let numbers: Vec<u64> = pattern.split_whitespace().map(|word| word.parse().expect("number")).collect();
            let mut end_ms = 0;
            numbers.chunks(2).find_map(|pair| {
                end_ms += pair.get(1)?;
                (t_ms < end_ms).then_some(pair.first() == Some(&1))
            })
        };
        for t_ms in 0..1000 {
            let lights = lights_at(Lamp::Fault, t_ms);
            assert_eq!(lit(&board.red.fault_pattern(true), t_ms), Some(lights.red));
            assert_eq!(lit(&board.yellow.fault_pattern(false), t_ms), Some(lights.yellow));
        }
        assert_eq!(lit(&board.red.fault_pattern(true), 1000), None, "then it starts over");
    }

    #[test]
    fn without_the_pattern_trigger_timers_blink_and_their_files_need_not_be_writable() {
        for files in [&["delay_on", "delay_off"][..], &[]] {
            let dir = tree("255\n");
            let mut board = LedClassBoard::open(&profile(), dir.path()).expect("opens");
            give_trigger_files(&dir, files);
            board.leave().expect("left");
            // A plain file keeps what a longer write left behind: "pattern" under "timer".
            let [red, yellow, green] = texts(&dir, "trigger");
            assert!(
                red.starts_with("timer\n") && yellow.starts_with("timer\n") && green.starts_with("none\n"),
                "{red}{yellow}{green}"
            );
            let delays = if files.is_empty() { "entity not found" } else { "500\n" };
            assert_eq!([&texts(&dir, "delay_on")[0], &texts(&dir, "delay_off")[1]], [delays; 2]);
        }
    }

    #[test]
    fn without_triggers_a_board_that_is_left_is_dark() {
        let dir = tree("255\n");
        for led in LEDS {
            std::fs::remove_file(dir.path().join(led).join("trigger")).expect("removed");
        }
        let mut board = LedClassBoard::open(&profile(), dir.path()).expect("opens");
        board.set_lamps(lights_at(Lamp::Degraded, 0)).expect("written");
        board.leave().expect("left");
        assert_eq!(LEDS.map(|led| brightness(&dir, led)), [0, 0, 0]);
    }

    #[test]
    fn drawing_on_after_leaving_takes_the_leds_back_first() {
        let dir = tree("1\n");
        let mut board = LedClassBoard::open(&profile(), dir.path()).expect("opens");
        give_trigger_files(&dir, &["pattern", "repeat"]);
        board.leave().expect("left");
        board.set_lamps(lights_at(Lamp::Critical, 0)).expect("written");
        let [red, yellow, _] = texts(&dir, "trigger");
        assert!(red.starts_with("none\n") && yellow.starts_with("none\n"), "{red}{yellow}");
        assert_eq!(LEDS.map(|led| brightness(&dir, led)), [1, 0, 0]);
        board.leave().expect("left again");
        assert!(texts(&dir, "trigger")[0].starts_with("pattern\n"));
    }

    #[test]
    fn an_led_that_cannot_be_given_away_still_leaves_the_others_dark() {
        let dir = tree("1\n");
        let mut board = LedClassBoard::open(&profile(), dir.path()).expect("opens");
        board.set_lamps(lights_at(Lamp::Ready, 0)).expect("written");
        // Red's trigger refuses every write.
        board.red.trigger = Some(File::open(dir.path().join("scanside:red/trigger")).expect("read only"));
        board.leave().expect("dark is a fault, too");
        assert_eq!(brightness(&dir, "scanside:green"), 0);
    }
}
