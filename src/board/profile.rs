//! Board profiles: one TOML file of `board/` -> `BoardProfile`, checked.
//!
//! ```toml
//! name = "rpi4"                # as the file, without .toml
//! description = "..."          # one sentence for `scanside board show`
//! driver = "rppal"             # sim | led-class | rppal
//! [lamps.red]                  # each of red, yellow, green
//! pin = 17                     # rppal: GPIO number of the header (0 to 27), not the position
//! led = "red:status"           # led-class: a folder of /sys/class/leds
//! active_low = false           # rppal: a low pin lights the lamp (default false)
//! [buzzer]                     # optional; the keys of a lamp
//! [button]                     # optional; rppal only
//! pin = 22
//! active_low = true            # pressing connects to ground, a pull-up is switched on (default true)
//! debounce_ms = 50             # 20 to 1000 (default 50)
//! [limits]
//! temperature_warn_c = 80.0    # the box counts as hot from here on
//! memory_available_bytes_min = 268435456   # below: memory is short
//! memory_process_bytes_max = 1073741824    # above: memory is short; the service's own budget
//! [npu]                        # optional: the board's NPU, unless the configuration has [infer.npu]
//! runtime_library = "/opt/npu/libonnxruntime.so.1.28.0"            # ONNX Runtime, by its whole path
//! provider_library = "/opt/npu/libonnxruntime_providers_qnn.so"    # optional: the vendor's plug-in
//! provider = "QNN"             # the execution provider
//! options = { backend_type = "htp" }       # optional: its options, as texts
//! ```
//!
//! Unknown keys are refused. The profiles of `board/` are built into the program, so that the binary alone can start; a file of the
//! same name in the site's folder wins.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Folder of a site's own profiles on the appliance.
pub const PROFILES_DIR: &str = "/etc/scanside/board";
/// Largest profile file that is read, bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// Highest GPIO number on the 40-pin header (GPIO 0 to 27: Raspberry Pi documentation, "GPIO and the 40-pin header").
const HEADER_PIN_MAX: u8 = 27;

/// The profiles of this build: name and text.
const BUILT_IN: [(&str, &str); 4] = [
    ("sim", include_str!("../../board/sim.toml")),
    ("led-class", include_str!("../../board/led-class.toml")),
    ("rpi4", include_str!("../../board/rpi4.toml")),
    ("rpi5", include_str!("../../board/rpi5.toml")),
];

/// Which driver draws the lamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Driver {
    /// Nothing is driven.
    Sim,
    /// The Linux LED class.
    LedClass,
    /// The header pins of a Raspberry Pi.
    Rppal,
}

/// Where one light is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// GPIO number (rppal).
    pub pin: Option<u8>,
    /// Name in the LED class (led-class).
    pub led: Option<String>,
    /// A low pin lights it.
    #[serde(default)]
    pub active_low: bool,
}

/// The three lamps; none on the simulated board.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lamps {
    /// Red.
    pub red: Output,
    /// Yellow.
    pub yellow: Output,
    /// Green.
    pub green: Output,
}

/// The acknowledge button.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Button {
    /// GPIO number.
    pub pin: u8,
    /// Pressing pulls the pin low.
    #[serde(default = "yes")]
    pub active_low: bool,
    /// How long it must read the same to count, ms.
    #[serde(default = "debounce_ms_default")]
    pub debounce_ms: u64,
}

/// What the board can bear.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BoardLimits {
    /// Hot from here on, °C.
    pub temperature_warn_c: f32,
    /// Memory is short below this much available to new work, bytes.
    pub memory_available_bytes_min: u64,
    /// Memory is short when the service itself holds more, bytes.
    pub memory_process_bytes_max: u64,
}

/// The board's NPU: the same keys as `[infer.npu]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Npu {
    /// File of the ONNX Runtime library.
    pub runtime_library: PathBuf,
    /// File of a plug-in execution provider.
    pub provider_library: Option<PathBuf>,
    /// Name of the execution provider.
    pub provider: String,
    /// Its options.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

/// One board.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BoardProfile {
    /// Name, as the file's.
    pub name: String,
    /// One sentence.
    #[serde(default)]
    pub description: String,
    /// Driver.
    pub driver: Driver,
    /// The lamps; must be there unless the driver is `sim`.
    pub lamps: Option<Lamps>,
    /// The buzzer.
    pub buzzer: Option<Output>,
    /// The button.
    pub button: Option<Button>,
    /// Limits.
    pub limits: BoardLimits,
    /// The NPU.
    pub npu: Option<Npu>,
}

const fn yes() -> bool {
    true
}

const fn debounce_ms_default() -> u64 {
    50
}

/// Why there is no profile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// the name is not one
    #[error(
        "board.profile {0:?} is not a profile name: use small letters, digits, '-' and '_', without .toml and without a folder"
    )]
    BadName(String),
    /// there is no such profile
    #[error("there is no board profile {name:?}: choose one of {known}, or put {name}.toml into the folder of profiles")]
    Unknown {
        /// What was asked for.
        name: String,
        /// The built-in names.
        known: String,
    },
    /// the file cannot be read
    #[error("board profile {name:?} cannot be read: {cause}")]
    Unreadable {
        /// Profile.
        name: String,
        /// Why.
        cause: String,
    },
    /// the file is wrong
    #[error("board profile {name:?}: {cause}")]
    Invalid {
        /// Profile.
        name: String,
        /// What is wrong, with the line or key, and the valid values.
        cause: String,
    },
}

impl BoardProfile {
    /// The names of the profiles in this build.
    pub fn built_in_names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|&(name, _)| name)
    }

    /// The profile of that name: from `folder` when a file of that name is there, else from this build.
    /// The name is checked first: it becomes a file name.
    ///
    /// # Errors
    /// [`ProfileError`] names the profile and the remedy.
    pub fn load(name: &str, folder: Option<&Path>) -> Result<Self, ProfileError> {
        let fine = !name.is_empty()
            && name.len() <= 64
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
        if !fine {
            return Err(ProfileError::BadName(name.to_owned()));
        }
        if let Some(text) = folder.map(|folder| read_bounded(name, &folder.join(format!("{name}.toml")))).transpose()?.flatten() {
            return Self::parse(name, &text);
        }
        match BUILT_IN.iter().find(|&&(known, _)| known == name) {
            Some(&(_, text)) => Self::parse(name, text),
            None => {
                let known = Self::built_in_names().collect::<Vec<_>>().join(", ");
                Err(ProfileError::Unknown { name: name.to_owned(), known })
            }
        }
    }

    /// Reads the text of the profile that is to be called `name`.
    ///
    /// # Errors
    /// [`ProfileError::Invalid`] names the key and the valid values.
    pub fn parse(name: &str, text: &str) -> Result<Self, ProfileError> {
        let invalid = |cause: String| ProfileError::Invalid { name: name.to_owned(), cause };
        let profile: Self = toml::from_str(text).map_err(|error| invalid(error.to_string()))?;
        profile.check(name).map_err(invalid)?;
        Ok(profile)
    }

    /// Lamps and buzzer with their keys.
    fn outputs(&self) -> impl Iterator<Item = (&'static str, &Output)> {
        let lamps = self
            .lamps
            .iter()
            .flat_map(|lamps| [("lamps.red", &lamps.red), ("lamps.yellow", &lamps.yellow), ("lamps.green", &lamps.green)]);
        lamps.chain(self.buzzer.iter().map(|buzzer| ("buzzer", buzzer)))
    }

    fn check(&self, name: &str) -> Result<(), String> {
        if self.name != name {
            return Err(format!("name is {:?}, but the file is called {name:?}: make them the same", self.name));
        }
        self.check_limits()?;
        self.npu.as_ref().map_or(Ok(()), check_npu)?;
        match self.driver {
            Driver::Sim => {
                if self.lamps.is_some() || self.buzzer.is_some() || self.button.is_some() {
                    return Err("driver \"sim\" drives nothing: leave out lamps, buzzer and button".to_owned());
                }
                return Ok(());
            }
            Driver::LedClass if self.button.is_some() => {
                return Err("driver \"led-class\" has no button yet: leave out [button]".to_owned());
            }
            Driver::LedClass | Driver::Rppal => {}
        }
        if self.lamps.is_none() {
            return Err("lamps.red, lamps.yellow and lamps.green are missing".to_owned());
        }
        for (key, output) in self.outputs() {
            match (self.driver, output.pin, output.led.as_deref()) {
                (Driver::Rppal, Some(pin), None) => check_pin(key, pin)?,
                (Driver::Rppal, _, _) => return Err(format!("{key} needs pin and no led with driver \"rppal\"")),
                (_, None, Some(led)) => check_led(key, led, output.active_low)?,
                (_, _, _) => return Err(format!("{key} needs led and no pin with driver \"led-class\"")),
            }
        }
        if let Some(button) = &self.button {
            check_pin("button", button.pin)?;
            if !(20..=1000).contains(&button.debounce_ms) {
                return Err(format!("button.debounce_ms is {}, but must be 20 to 1000", button.debounce_ms));
            }
        }
        self.check_no_place_twice()
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
        let mut pins = std::collections::BTreeMap::new();
        let mut leds = std::collections::BTreeMap::new();
        let button = self.button.iter().map(|button| ("button", button.pin));
        for (key, pin) in self.outputs().filter_map(|(key, output)| Some((key, output.pin?))).chain(button) {
            if let Some(other) = pins.insert(pin, key) {
                return Err(format!("{other} and {key} both use pin {pin}"));
            }
        }
        for (key, led) in self.outputs().filter_map(|(key, output)| Some((key, output.led.as_deref()?))) {
            if let Some(other) = leds.insert(led, key) {
                return Err(format!("{other} and {key} both use led {led:?}"));
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

/// The name becomes a folder below `/sys/class/leds`: only the characters of LED class names, and nothing that leads elsewhere.
fn check_led(key: &str, led: &str, active_low: bool) -> Result<(), String> {
    let fine = !led.is_empty()
        && led.len() <= 63
        && !led.starts_with('.')
        && led.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b':' | b'-' | b'_' | b'.'));
    if !fine {
        return Err(format!("{key}.led {led:?} is not a name in /sys/class/leds: letters, digits, ':', '-', '_' and '.'"));
    }
    if active_low {
        return Err(format!(
            "{key}.active_low: polarity is the kernel's business with driver \"led-class\" (device tree); leave it out"
        ));
    }
    Ok(())
}

/// `None` when there is no such file.
fn read_bounded(name: &str, path: &Path) -> Result<Option<String>, ProfileError> {
    use std::io::Read as _;
    let unreadable = |cause: String| ProfileError::Unreadable { name: name.to_owned(), cause };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error.to_string())),
    };
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| unreadable(error.to_string()))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(unreadable(format!("it is longer than {FILE_BYTES_MAX} bytes")));
    }
    Ok(Some(text))
}

#[cfg(test)]
#[path = "profile_tests.rs"]
mod tests;
