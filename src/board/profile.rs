//! Board profiles: one TOML file of `board/` -> `BoardProfile`, checked.
//!
//! ```toml
//! name = "rpi4"                # as the file, without .toml
//! description = "..."          # one sentence for `scanside board show`
//! driver = "led-class"         # sim | led-class | gpiochip | rppal
//! chip = "pinctrl-bcm2711"     # label of the GPIO chip of the lines below (never gpiochipN: numbers change between kernels)
//! [lamps.red]                  # each of red, yellow, green; the driver's own address must be there, the others may be
//! led = "scanside:red"         # led-class: a folder of /sys/class/leds
//! line = "GPIO17"              # gpiochip: the line's name, or its number on the chip
//! pin = 17                     # rppal: GPIO number of the header (0 to 27), not the position
//! active_low = false           # a low line or pin lights the lamp (default false); LEDs have it from the device tree
//! [buzzer]                     # optional; the keys of a lamp
//! [button]                     # optional; pin for rppal, line for gpiochip and led-class
//! line = "GPIO23"
//! active_low = true            # pressing connects to ground (default true)
//! bias = "pull-up"             # pull-up | pull-down | none (default: away from the pressed level)
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
//! Unknown keys are refused; `check.rs` holds what the values must fulfil. The profiles of `board/` are built into the program, so that
//! the binary alone can start; a file of the same name in the site's folder wins. A new board is one file (and its line below).

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

mod check;

/// Folder of a site's own profiles on the appliance.
pub const PROFILES_DIR: &str = "/etc/scanside/board";
/// Largest profile file that is read, bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// The profiles of this build: name and text. A test compares them with the folder `board/`.
const BUILT_IN: [(&str, &str); 6] = [
    ("sim", include_str!("../../board/sim.toml")),
    ("rpi4", include_str!("../../board/rpi4.toml")),
    ("rpi5", include_str!("../../board/rpi5.toml")),
    ("generic-arm64", include_str!("../../board/generic-arm64.toml")),
    ("generic-gpiochip", include_str!("../../board/generic-gpiochip.toml")),
    ("qemu-virt", include_str!("../../board/qemu-virt.toml")),
];
/// Names of earlier versions that configurations still hold, and the profile that each one means now.
const FORMER_NAMES: [(&str, &str); 1] = [("led-class", "generic-arm64")];

/// Which driver draws the lamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Driver {
    /// Nothing is driven.
    Sim,
    /// The Linux LED class.
    LedClass,
    /// Lines of the GPIO character device.
    Gpiochip,
    /// The header pins of a Raspberry Pi.
    Rppal,
}

impl Driver {
    /// Its name in a profile.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sim => "sim",
            Self::LedClass => "led-class",
            Self::Gpiochip => "gpiochip",
            Self::Rppal => "rppal",
        }
    }
}

/// A line of a GPIO chip.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(untagged, expecting = "expected the name of a GPIO line in quotes, or its number on the chip")]
pub enum Line {
    /// Its number on the chip of that label.
    Number(u32),
    /// Its name (`gpio-line-names` of the device tree).
    Name(String),
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Name(name) => write!(f, "{name:?}"),
        }
    }
}

/// Where one light is: by one address for each driver that can reach it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// GPIO number (rppal).
    pub pin: Option<u8>,
    /// Name in the LED class (led-class).
    pub led: Option<String>,
    /// GPIO line (gpiochip).
    pub line: Option<Line>,
    /// A low pin or line lights it.
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

/// The resistor inside the processor at the button's line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bias {
    /// To the supply.
    PullUp,
    /// To ground.
    PullDown,
    /// None: the board has its own.
    None,
}

/// The acknowledge button.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Button {
    /// GPIO number (rppal).
    pub pin: Option<u8>,
    /// GPIO line (gpiochip, led-class).
    pub line: Option<Line>,
    /// Pressing pulls the pin or line low.
    #[serde(default = "yes")]
    pub active_low: bool,
    /// The resistor; by default the one that holds the line away from the pressed level.
    pub bias: Option<Bias>,
    /// How long it must read the same to count, ms.
    #[serde(default = "debounce_ms_default")]
    pub debounce_ms: u64,
}

impl Button {
    /// The resistor to switch on.
    #[must_use]
    pub fn bias(&self) -> Bias {
        self.bias.unwrap_or(if self.active_low { Bias::PullUp } else { Bias::PullDown })
    }
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
    /// Label of the GPIO chip that has the lines.
    pub chip: Option<String>,
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

    /// The profile of that name: from `folder` when a file of that name is there, else from this build, else the one that a former
    /// name means now.
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
        if let Some(&(_, text)) = BUILT_IN.iter().find(|&&(known, _)| known == name) {
            return Self::parse(name, text);
        }
        if let Some(&(_, name_now)) = FORMER_NAMES.iter().find(|&&(former, _)| former == name) {
            return Self::load(name_now, folder);
        }
        let known = Self::built_in_names().collect::<Vec<_>>().join(", ");
        Err(ProfileError::Unknown { name: name.to_owned(), known })
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
