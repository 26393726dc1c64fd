//! What the values of a board profile must fulfil: a `BoardProfile` as read -> itself, or the first fault with its key and the valid
//! values.

use std::collections::BTreeMap;

use super::{BoardLimits, BoardProfile, Driver, Line, Npu, Output};

/// Highest GPIO number on the 40-pin header (GPIO 0 to 27: Raspberry Pi documentation, "GPIO and the 40-pin header").
const HEADER_PIN_MAX: u8 = 27;
/// Longest name of a line and label of a chip, bytes: `GPIO_MAX_NAME_SIZE` of the kernel's linux/gpio.h, less the zero at its end.
const GPIO_NAME_BYTES_MAX: usize = 31;
/// Highest line number that is taken; the chip itself says how many it has.
const LINE_NUMBER_MAX: u32 = 65_535;

impl BoardProfile {
    /// Lamps and buzzer with their keys.
    fn outputs(&self) -> impl Iterator<Item = (&'static str, &Output)> {
        let lamps = self
            .lamps
            .iter()
            .flat_map(|lamps| [("lamps.red", &lamps.red), ("lamps.yellow", &lamps.yellow), ("lamps.green", &lamps.green)]);
        lamps.chain(self.buzzer.iter().map(|buzzer| ("buzzer", buzzer)))
    }

    pub(super) fn check(&self, name: &str) -> Result<(), String> {
        if self.name != name {
            return Err(format!("name is {:?}, but the file is called {name:?}: make them the same", self.name));
        }
        self.check_limits()?;
        self.npu.as_ref().map_or(Ok(()), check_npu)?;
        if self.driver == Driver::Sim {
            if self.lamps.is_some() || self.buzzer.is_some() || self.button.is_some() || self.chip.is_some() {
                return Err("driver \"sim\" drives nothing: leave out chip, lamps, buzzer and button".to_owned());
            }
            return Ok(());
        }
        if self.lamps.is_none() {
            return Err("lamps.red, lamps.yellow and lamps.green are missing".to_owned());
        }
        self.outputs().try_for_each(|(key, output)| self.check_output(key, output))?;
        self.check_button()?;
        self.check_chip()?;
        self.check_no_place_twice()
    }

    /// The driver's own address must be there; any other must be right as well, so that a change of the driver is one word.
    fn check_output(&self, key: &str, output: &Output) -> Result<(), String> {
        let (needed, there) = match self.driver {
            Driver::Sim => return Ok(()),
            Driver::LedClass => ("led", output.led.is_some()),
            Driver::Gpiochip => ("line", output.line.is_some()),
            Driver::Rppal => ("pin", output.pin.is_some()),
        };
        if !there {
            return Err(format!("{key} needs {needed} with driver {:?}", self.driver.as_str()));
        }
        if self.driver == Driver::LedClass && output.active_low {
            return Err(format!(
                "{key}.active_low: polarity is the kernel's business with driver \"led-class\" (device tree); leave it out"
            ));
        }
        output.pin.map_or(Ok(()), |pin| check_pin(key, pin))?;
        output.led.as_ref().map_or(Ok(()), |led| check_led(key, led))?;
        output.line.as_ref().map_or(Ok(()), |line| check_line(key, line))
    }

    fn check_button(&self) -> Result<(), String> {
        let Some(button) = &self.button else { return Ok(()) };
        let (needed, there) = match self.driver {
            Driver::Rppal => ("pin", button.pin.is_some()),
            Driver::Sim | Driver::LedClass | Driver::Gpiochip => ("line", button.line.is_some()),
        };
        if !there {
            return Err(format!("button needs {needed} with driver {:?}", self.driver.as_str()));
        }
        button.pin.map_or(Ok(()), |pin| check_pin("button", pin))?;
        button.line.as_ref().map_or(Ok(()), |line| check_line("button", line))?;
        if !(20..=1000).contains(&button.debounce_ms) {
            return Err(format!("button.debounce_ms is {}, but must be 20 to 1000", button.debounce_ms));
        }
        Ok(())
    }

    fn check_chip(&self) -> Result<(), String> {
        if let Some(chip) = &self.chip {
            if !is_gpio_name(chip) {
                return Err(format!("chip {chip:?} is no label of a GPIO chip: 1 to {GPIO_NAME_BYTES_MAX} printable characters"));
            }
            if chip.strip_prefix("gpiochip").is_some_and(|number| number.bytes().all(|b| b.is_ascii_digit())) {
                return Err(format!(
                    "chip {chip:?} is a number that changes between kernels: give the chip's label, the word in brackets of gpiodetect"
                ));
            }
            return Ok(());
        }
        match self.lines().find(|(_, line)| matches!(line, Line::Number(_))) {
            Some((key, line)) => Err(format!(
                "{key}.line is the number {line}, but there is no chip: give the label of its chip, or the line's name"
            )),
            None => Ok(()),
        }
    }

    fn lines(&self) -> impl Iterator<Item = (&'static str, &Line)> {
        let button = self.button.iter().filter_map(|button| Some(("button", button.line.as_ref()?)));
        self.outputs().filter_map(|(key, output)| Some((key, output.line.as_ref()?))).chain(button)
    }

    fn check_limits(&self) -> Result<(), String> {
        let BoardLimits { temperature_warn_c, memory_available_bytes_min, memory_process_bytes_max } = self.limits;
        if !(30.0..=125.0).contains(&temperature_warn_c) {
            return Err(format!("limits.temperature_warn_c is {temperature_warn_c}, but must be 30 to 125"));
        }
        if memory_available_bytes_min < 16 << 20 {
            return Err("limits.memory_available_bytes_min must be at least 16777216 (16 MiB)".to_owned());
        }
        if memory_process_bytes_max < 64 << 20 {
            return Err("limits.memory_process_bytes_max must be at least 67108864 (64 MiB)".to_owned());
        }
        Ok(())
    }

    fn check_no_place_twice(&self) -> Result<(), String> {
        let button_pin = self.button.iter().filter_map(|button| Some(("button", button.pin?)));
        let pins = self.outputs().filter_map(|(key, output)| Some((key, output.pin?))).chain(button_pin);
        let leds = self.outputs().filter_map(|(key, output)| Some((key, output.led.as_ref()?)));
        let pins = pins.map(|(key, pin)| (key, format!("pin {pin}")));
        let leds = leds.map(|(key, led)| (key, format!("led {led:?}")));
        let lines = self.lines().map(|(key, line)| (key, format!("line {line}")));
        let mut seen = BTreeMap::new();
        for (key, place) in pins.chain(leds).chain(lines) {
            if let Some(other) = seen.insert(place.clone(), key) {
                return Err(format!("{other} and {key} both use {place}"));
            }
        }
        Ok(())
    }
}

fn check_npu(npu: &Npu) -> Result<(), String> {
    for (key, library) in [("runtime_library", Some(&npu.runtime_library)), ("provider_library", npu.provider_library.as_ref())] {
        if library.is_some_and(|path| !path.is_absolute()) {
            return Err(format!("npu.{key} must be a whole path: begin with /"));
        }
    }
    let name = &npu.provider;
    if name.is_empty() || name.len() > 64 || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        return Err(format!("npu.provider {name:?} is no name of an execution provider, such as \"QNN\""));
    }
    if npu.options.len() > 64 {
        return Err(format!("npu.options has {} entries: at most 64 are allowed", npu.options.len()));
    }
    Ok(())
}

fn check_pin(key: &str, pin: u8) -> Result<(), String> {
    if pin > HEADER_PIN_MAX {
        return Err(format!("{key}.pin is {pin}, but the header has GPIO 0 to {HEADER_PIN_MAX}"));
    }
    Ok(())
}

fn check_line(key: &str, line: &Line) -> Result<(), String> {
    let fine = match line {
        Line::Number(number) => *number <= LINE_NUMBER_MAX,
        Line::Name(name) => is_gpio_name(name),
    };
    if fine {
        return Ok(());
    }
    Err(format!(
        "{key}.line {line} is no GPIO line: give its name (1 to {GPIO_NAME_BYTES_MAX} printable characters) or its number, 0 to {LINE_NUMBER_MAX}"
    ))
}

fn is_gpio_name(name: &str) -> bool {
    (1..=GPIO_NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(|b| b == b' ' || b.is_ascii_graphic())
}

/// The name becomes a folder below `/sys/class/leds`: only the characters of LED class names, and nothing that leads elsewhere.
fn check_led(key: &str, led: &str) -> Result<(), String> {
    let fine = !led.is_empty()
        && led.len() <= 63
        && !led.starts_with('.')
        && led.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b':' | b'-' | b'_' | b'.'));
    if !fine {
        return Err(format!("{key}.led {led:?} is not a name in /sys/class/leds: letters, digits, ':', '-', '_' and '.'"));
    }
    Ok(())
}
