//! Lines of the GPIO character device (uAPI v2, crate gpiocdev): lights -> output lines, input line -> button.
//!
//! A chip is found by its label and a line by its name (or its number on that chip), never by `gpiochipN`: those numbers depend on the
//! order in which drivers start, and a Raspberry Pi 5 numbers them otherwise than a Raspberry Pi 4. Polarity and the button's resistor
//! are the kernel's flags. Needs the group of `/dev/gpiochip*`, and each line for itself: the kernel refuses one that is in use.
//!
//! **When the process dies**, the kernel takes the lines back, and what they show is the chip driver's choice, not ours: Debian's kernel
//! turns a Raspberry Pi's pin into an input (dark), Raspberry Pi OS's keeps the level (`persist_gpio_outputs`: a green lamp stays
//! lit), a PL061 keeps it too. Nothing draws a fault. So this driver needs the lamp keeper more than the LED class does, and no board
//! has it as its default that can have LEDs.

use std::path::PathBuf;

use gpiocdev::line::Value;
use gpiocdev::{Chip, Request, chip};

use super::profile::{Bias, BoardProfile, Button, Line, Output};
use super::{Board, BoardError, Lights};

/// Who uses the line, as `gpioinfo` shows it.
const CONSUMER: &str = "scanside";
/// Most chips that are looked through: a board has a handful.
const CHIPS_MAX: usize = 64;
/// Most lines of one chip that are looked through for a name.
const LINES_MAX: u32 = 1024;

fn cannot_open(what: String, cause: impl std::fmt::Display) -> BoardError {
    BoardError::Open { what, cause: cause.to_string() }
}

/// A chip as the search sees it.
#[derive(Debug, Default)]
struct ChipView {
    path: PathBuf,
    label: String,
    n_lines: u32,
    /// Name and present user of each line.
    lines: Vec<(String, Option<String>)>,
    /// Why it could not be looked into.
    closed: Option<String>,
}

impl ChipView {
    fn read(path: PathBuf) -> Self {
        let read = |path: &PathBuf| -> Result<Self, gpiocdev::Error> {
            let chip = Chip::from_path(path)?;
            let info = chip.info()?;
            let lines = (0..info.num_lines.min(LINES_MAX))
                .map(|number| chip.line_info(number).map(|line| (line.name, line.used.then_some(line.consumer))))
                .collect::<Result<_, _>>()?;
            Ok(Self { path: path.clone(), label: info.label, n_lines: info.num_lines, lines, closed: None })
        };
        read(&path).unwrap_or_else(|cause| Self { closed: Some(cause.to_string()), path, ..Self::default() })
    }

    fn name(&self) -> String {
        self.closed.as_ref().map_or_else(|| format!("{:?}", self.label), |cause| format!("{} ({cause})", self.path.display()))
    }
}

/// All chips of this machine, looked at once while a board opens.
#[derive(Debug)]
pub(super) struct Chips(Vec<ChipView>);

impl Chips {
    /// Looks at every chip.
    pub(super) fn read() -> Self {
        Self(chip::chips().unwrap_or_default().into_iter().take(CHIPS_MAX).map(ChipView::read).collect())
    }

    /// The device and the number of a line; the text of a fault says what there is instead.
    fn find(&self, label: Option<&str>, line: &Line) -> Result<(&ChipView, u32), String> {
        let of_label = |chip: &&ChipView| chip.closed.is_none() && label.is_none_or(|label| chip.label == label);
        let chips: Vec<&ChipView> = self.0.iter().filter(of_label).collect();
        let choices = || {
            let names: Vec<String> = self.0.iter().map(ChipView::name).collect();
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        };
        if chips.is_empty() {
            let wanted = label.map_or_else(String::new, |label| format!(" with the label {label:?}"));
            return Err(format!("there is no GPIO chip{wanted} (chips here: {})", choices()));
        }
        let found: Vec<(&ChipView, u32)> = match line {
            Line::Number(number) => chips.iter().filter(|chip| *number < chip.n_lines).map(|&chip| (chip, *number)).collect(),
            Line::Name(name) => chips.iter().flat_map(|&chip| chip.named(name).map(move |number| (chip, number))).collect(),
        };
        match found.as_slice() {
            [one] => Ok(*one),
            [] => Err(format!("no such line (chips here: {})", choices())),
            _ => Err("there are several such lines: give the chip's label and the line's number".to_owned()),
        }
    }
}

impl ChipView {
    fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = u32> + 'a {
        (0..).zip(&self.lines).filter(move |(_, line)| line.0 == name).map(|(number, _)| number)
    }

    /// `EBUSY` alone helps nobody: who has the line?
    fn explain(&self, number: u32, cause: &gpiocdev::Error) -> String {
        let user = usize::try_from(number).ok().and_then(|idx| self.lines.get(idx)).and_then(|line| line.1.as_deref());
        match user {
            Some("") => format!("{cause}; the kernel itself uses it"),
            Some(user) => format!("{cause}; {user:?} uses it"),
            None => cause.to_string(),
        }
    }
}

/// One light.
#[derive(Debug)]
struct Light {
    key: &'static str,
    request: Request,
}

impl Light {
    fn open(chips: &Chips, label: Option<&str>, key: &'static str, output: &Output) -> Result<Self, BoardError> {
        let line = output.line.as_ref().ok_or_else(|| cannot_open(key.to_owned(), "its profile names no line"))?;
        let what = || format!("{key} (GPIO line {line})");
        let (chip, number) = chips.find(label, line).map_err(|cause| cannot_open(what(), cause))?;
        let mut builder = Request::builder();
        // The level comes with the direction, in one call: no lamp flashes.
        builder.on_chip(&chip.path).with_consumer(CONSUMER).with_line(number).as_output(Value::Inactive);
        if output.active_low {
            builder.as_active_low();
        }
        let request = builder.request().map_err(|cause| cannot_open(what(), chip.explain(number, &cause)))?;
        Ok(Self { key, request })
    }

    /// One ioctl, no allocation.
    fn set(&self, lit: bool) -> Result<(), BoardError> {
        self.request
            .set_lone_value(Value::from(lit))
            .map_err(|cause| BoardError::Write { what: self.key.to_owned(), cause: cause.to_string() })
    }
}

/// The button, for every driver whose board has it on a GPIO line.
#[derive(Debug)]
pub(super) struct ButtonLine(Request);

impl ButtonLine {
    /// Takes the line of the profile's button.
    ///
    /// # Errors
    /// [`BoardError::Open`] names the line.
    pub(super) fn open(chips: &Chips, label: Option<&str>, button: &Button) -> Result<Self, BoardError> {
        let line = button.line.as_ref().ok_or_else(|| cannot_open("button".to_owned(), "its profile names no line"))?;
        let what = || format!("button (GPIO line {line})");
        let (chip, number) = chips.find(label, line).map_err(|cause| cannot_open(what(), cause))?;
        let mut builder = Request::builder();
        builder.on_chip(&chip.path).with_consumer(CONSUMER).with_line(number).as_input();
        // A chip without resistors of its own (PL061) takes the flag and ignores it.
        match button.bias() {
            Bias::PullUp => builder.with_bias(gpiocdev::line::Bias::PullUp),
            Bias::PullDown => builder.with_bias(gpiocdev::line::Bias::PullDown),
            Bias::None => builder.with_bias(gpiocdev::line::Bias::Disabled),
        };
        if button.active_low {
            builder.as_active_low();
        }
        builder.request().map(Self).map_err(|cause| cannot_open(what(), chip.explain(number, &cause)))
    }

    /// Whether it is down now. One ioctl, no allocation.
    ///
    /// # Errors
    /// [`BoardError::Read`].
    pub(super) fn pressed(&self) -> Result<bool, BoardError> {
        match self.0.lone_value() {
            Ok(value) => Ok(value == Value::Active),
            Err(cause) => Err(BoardError::Read { what: "button".to_owned(), cause: cause.to_string() }),
        }
    }
}

/// Up to four lights and one button on GPIO lines.
#[derive(Debug)]
pub struct GpiochipBoard {
    name: String,
    red: Light,
    yellow: Light,
    green: Light,
    buzzer: Option<Light>,
    button: Option<ButtonLine>,
}

impl GpiochipBoard {
    /// Takes the lines of the profile; all lights off.
    ///
    /// # Errors
    /// [`BoardError::Open`] names the lamp and the line, and which chips there are.
    pub fn open(profile: &BoardProfile) -> Result<Self, BoardError> {
        let lamps =
            profile.lamps.as_ref().ok_or_else(|| cannot_open(format!("board {}", profile.name), "its profile names no lamps"))?;
        let chips = Chips::read();
        let label = profile.chip.as_deref();
        let light = |key, output| Light::open(&chips, label, key, output);
        Ok(Self {
            name: profile.name.clone(),
            red: light("lamps.red", &lamps.red)?,
            yellow: light("lamps.yellow", &lamps.yellow)?,
            green: light("lamps.green", &lamps.green)?,
            buzzer: profile.buzzer.as_ref().map(|buzzer| light("buzzer", buzzer)).transpose()?,
            button: profile.button.as_ref().map(|button| ButtonLine::open(&chips, label, button)).transpose()?,
        })
    }
}

impl Board for GpiochipBoard {
    fn name(&self) -> &str {
        &self.name
    }

    fn set_lamps(&mut self, lights: Lights) -> Result<(), BoardError> {
        let lamps = [
            (Some(&self.red), lights.red),
            (Some(&self.yellow), lights.yellow),
            (Some(&self.green), lights.green),
            (self.buzzer.as_ref(), lights.buzzer),
        ];
        // All of them: one broken line must not keep the others from showing.
        lamps.into_iter().filter_map(|(light, lit)| Some(light?.set(lit))).fold(Ok(()), Result::and)
    }

    fn button_pressed(&mut self) -> Result<bool, BoardError> {
        self.button.as_ref().map_or(Ok(false), ButtonLine::pressed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chips() -> Chips {
        let chip = |path: &str, label: &str, names: &[&str]| ChipView {
            path: PathBuf::from(path),
            label: label.to_owned(),
            n_lines: u32::try_from(names.len()).expect("few"),
            lines: names.iter().map(|name| ((*name).to_owned(), None)).collect(),
            closed: None,
        };
        let closed = ChipView {
            path: PathBuf::from("/dev/gpiochip9"),
            closed: Some("Permission denied".to_owned()),
            ..ChipView::default()
        };
        Chips(vec![
            chip("/dev/gpiochip0", "expander", &["", "RED", "SAME"]),
            chip("/dev/gpiochip4", "pinctrl-rp1", &["SAME", "GPIO1", ""]),
            closed,
        ])
    }

    fn found(label: Option<&str>, line: Line) -> Result<(String, u32), String> {
        let chips = chips();
        chips.find(label, &line).map(|(chip, number)| (chip.path.display().to_string(), number))
    }

    fn name(name: &str) -> Line {
        Line::Name(name.to_owned())
    }

    #[test]
    fn a_line_is_found_by_label_and_name_wherever_its_chip_is_numbered() {
        assert_eq!(found(None, name("RED")), Ok(("/dev/gpiochip0".to_owned(), 1)));
        assert_eq!(found(Some("pinctrl-rp1"), name("GPIO1")), Ok(("/dev/gpiochip4".to_owned(), 1)));
        assert_eq!(found(Some("pinctrl-rp1"), Line::Number(2)), Ok(("/dev/gpiochip4".to_owned(), 2)));
        assert_eq!(found(Some("pinctrl-rp1"), name("SAME")), Ok(("/dev/gpiochip4".to_owned(), 0)), "the label decides");
    }

    #[test]
    fn a_line_or_chip_that_is_not_there_is_told_with_the_choices() {
        let text = found(Some("pinctrl-bcm2711"), name("RED")).expect_err("no such chip");
        assert!(text.contains("\"pinctrl-bcm2711\"") && text.contains("\"expander\", \"pinctrl-rp1\""), "{text}");
        assert!(text.contains("/dev/gpiochip9 (Permission denied)"), "a closed chip may be the one: {text}");
        assert!(found(Some("expander"), name("GPIO1")).expect_err("on the other chip").contains("no such line"));
        assert!(found(Some("expander"), Line::Number(3)).expect_err("it has three").contains("no such line"));
        assert!(Chips(Vec::new()).find(None, &name("RED")).expect_err("nothing").contains("chips here: none"));
    }

    #[test]
    fn a_name_that_two_chips_have_is_refused_instead_of_guessed() {
        assert!(found(None, name("SAME")).expect_err("which?").contains("several"));
    }

    #[test]
    fn a_line_in_use_names_its_user() {
        let mut chips = chips();
        let chip = chips.0.first_mut().expect("there");
        chip.lines =
            vec![(String::new(), None), ("RED".to_owned(), Some("led-red".to_owned())), (String::new(), Some(String::new()))];
        let busy = gpiocdev::Error::InvalidArgument("busy".to_owned());
        assert_eq!(chip.explain(0, &busy), "busy");
        assert_eq!(chip.explain(1, &busy), "busy; \"led-red\" uses it");
        assert_eq!(chip.explain(2, &busy), "busy; the kernel itself uses it");
    }

    #[test]
    fn a_machine_without_the_chip_fails_with_the_lamp_and_the_line() {
        let profile = BoardProfile::load("generic-gpiochip", None).expect("built in");
        let error = GpiochipBoard::open(&profile).expect_err("no such lines here").to_string();
        assert!(error.contains("lamps.red (GPIO line \"LAMP_RED\")") && error.contains("group of the device"), "{error}");
    }
}
