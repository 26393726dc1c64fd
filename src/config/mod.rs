//! Config: one TOML file. Text in -> a [`Config`] whose every value is checked, or all faults together with line, key and choices.
//!
//! Nothing binds or opens until a whole `Config` exists (DESIGN.md section 4). `Config::default()` is the file without a line in it:
//! loopback only, simulated board, no alerts. Durations end in `_s`, sizes in `_mib`, bounds in `_max` or `_min`.
//!
//! `reader.rs` walks the parsed document and collects faults, `parse.rs`, `access.rs`, `alerts.rs` and `web.rs` say which keys exist and what they may hold,
//! `values.rs` holds the small value types, `credential.rs` finds the files of `credential:NAME`, `text.rs` writes a `Config` back as TOML, `notices.rs` says what of it people must know.

mod access;
mod alerts;
mod credential;
#[cfg(test)]
#[path = "../../fuzz/config_targets.rs"]
mod fuzz_targets;
mod notices;
mod parse;
mod reader;
mod text;
mod values;
mod web;

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::domain::{AeTitle, Uid};

pub use access::{PeerConfig, TlsConfig};
pub use alerts::{AlertsConfig, MqttConfig, MqttTlsConfig, WebhookConfig};
pub use credential::{credential_file, with_credential_files};
pub use values::{Durability, EngineChoice, HostPort, LogLevel, PeerRange, WebhookUrl};
pub use web::{WebConfig, WebTlsConfig};

/// Longest configuration file, bytes: a real one has a few thousand.
pub const FILE_BYTES_MAX: u64 = 256 * 1024;

/// One fault of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFault {
    /// Line, from 1.
    pub line: usize,
    /// Full name of the key, such as `dicom.listen`; empty where the text is no TOML.
    pub key: String,
    /// What is wrong, and the valid choices.
    pub message: String,
}

impl fmt::Display for ConfigFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            write!(f, "line {}: {}", self.line, self.message)
        } else {
            write!(f, "line {}: {}: {}", self.line, self.key, self.message)
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// the file cannot be read
    #[error("{}: cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// the file is not plausible as a configuration
    #[error("{}: {reason}", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// the file has faults
    #[error("{}", display_faults(path, faults))]
    Faults {
        /// The file.
        path: PathBuf,
        /// All of them, by line.
        faults: Vec<ConfigFault>,
    },
}

fn display_faults(path: &Path, faults: &[ConfigFault]) -> String {
    let mut text = format!("{}: {} fault{}", path.display(), faults.len(), if faults.len() == 1 { "" } else { "s" });
    for fault in faults {
        text.push_str("\n  ");
        text.push_str(&fault.to_string());
    }
    text
}

/// Something that is allowed but that the page and the start-up log must say (DESIGN.md rule 8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigNotice {
    /// The key that causes it.
    pub key: String,
    /// A sentence for IT.
    pub text: String,
}

/// Everything that a site can set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// `[dicom]`: the listener for studies.
    pub dicom: DicomConfig,
    /// `[spool]`: the store on disk.
    pub spool: SpoolConfig,
    /// `[assemble]`: when a study counts as complete.
    pub assemble: AssembleConfig,
    /// `[infer]`: the model.
    pub infer: InferConfig,
    /// `[board]`: lamps and button.
    pub board: BoardConfig,
    /// `[web]`: the page.
    pub web: WebConfig,
    /// `[alerts]`: who is told.
    pub alerts: AlertsConfig,
    /// `[pacs]`: where missing series are fetched from; `None`: nowhere.
    pub pacs: Option<PacsConfig>,
    /// `[log]`: how much is written.
    pub log: LogConfig,
}

/// `[dicom]`.
#[derive(Clone, Debug, PartialEq)]
pub struct DicomConfig {
    /// Our AE title.
    pub ae_title: AeTitle,
    /// Address and port of the plain DICOM listener.
    pub listen: SocketAddr,
    /// Whether there is a plain listener.
    pub plain: bool,
    /// Calling AE titles that may send; empty: all.
    pub calling_ae_titles: Vec<AeTitle>,
    /// Addresses that may connect; empty: all.
    pub peers: Vec<PeerRange>,
    /// Whether an association must call us by `ae_title`.
    pub check_called_ae_title: bool,
    /// Associations at once.
    pub associations_max: usize,
    /// Associations at once from one address.
    pub associations_per_peer_max: usize,
    /// New connections from one address in a minute.
    pub connections_per_minute_max: u32,
    /// Connections of one address in a minute that may fail to become an association, or be rejected.
    pub failures_per_minute_max: u32,
    /// Longest PDU that we accept, bytes.
    pub pdu_length_max: u32,
    /// Largest instance, MiB.
    pub instance_mib_max: u64,
    /// An association without a byte for this long is aborted, seconds.
    pub idle_timeout_s: u64,
    /// An association request must be complete within this time, seconds (the ARTIM timer of PS3.8 section 9.1.5).
    pub request_timeout_s: u64,
    /// An association is aborted after this long whatever it does, seconds.
    pub association_s_max: u64,
    /// Storage SOP classes beyond the built-in list.
    pub sop_classes_extra: Vec<Uid>,
    /// `[dicom.tls]`: the listener for DICOM over TLS, if there is one.
    pub tls: Option<TlsConfig>,
    /// `[[dicom.peer]]`: who may send, by title, address and certificate together; empty: whoever passes the lists above.
    pub peer: Vec<PeerConfig>,
    /// Whether storage commitment is offered: whoever asks for it may delete its own images afterwards.
    pub storage_commitment: bool,
}

/// `[spool]`.
#[derive(Clone, Debug, PartialEq)]
pub struct SpoolConfig {
    /// Budget of the store, MiB.
    pub mib_max: u64,
    /// Free space that the file system must keep, MiB.
    pub free_mib_min: u64,
    /// A study whose instances were committed to a peer is not evicted before so many days have passed.
    pub commitment_hold_days: u64,
    /// When an image is acknowledged.
    pub durability: Durability,
}

/// `[assemble]`.
#[derive(Clone, Debug, PartialEq)]
pub struct AssembleConfig {
    /// A study without a new instance for this long is closed, seconds.
    pub quiet_s: u64,
    /// A study whose roles are complete is closed this long after its association ended, seconds.
    pub settle_s: u64,
    /// A study is closed this long after its first instance, seconds.
    pub deadline_s: u64,
    /// How long a study waits without a sign of life while its procedure step (MPPS) is in progress, seconds.
    pub step_s_max: u64,
    /// Whether the series that the model needs are read while the rest still arrives.
    pub provisional: bool,
    /// A series that does not state how many images it has counts as arrived after this long without one, seconds.
    pub provisional_settle_s: u64,
    /// Instances of one study.
    pub instances_per_study_max: usize,
    /// Studies open at once.
    pub open_studies_max: usize,
}

/// `[infer]`.
#[derive(Clone, Debug, PartialEq)]
pub struct InferConfig {
    /// Name of the model package: a folder of `models_dir`.
    pub model: String,
    /// Where model packages lie; `None`: the installed place.
    pub models_dir: Option<PathBuf>,
    /// Threads of the network.
    pub threads: usize,
    /// Longest inference, seconds.
    pub time_budget_s: u64,
    /// Studies that may wait for the network.
    pub queue_max: usize,
    /// Which engine runs the network.
    pub engine: EngineChoice,
    /// `[infer.npu]`: the NPU's libraries; `None`: those of the board profile, if it names any.
    pub npu: Option<NpuConfig>,
}

/// `[infer.npu]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NpuConfig {
    /// File of the ONNX Runtime library.
    pub runtime_library: PathBuf,
    /// File of a plug-in execution provider; `None`: the provider is part of the runtime library.
    pub provider_library: Option<PathBuf>,
    /// Name of the execution provider, such as `QNN`; `CPU` is the runtime's own, for tests.
    pub provider: String,
    /// `[infer.npu.options]`: the provider's options by name, and session options (keys that begin with `session.`).
    pub options: BTreeMap<String, String>,
}

/// `[board]`.
#[derive(Clone, Debug, PartialEq)]
pub struct BoardConfig {
    /// Name of the board profile: a file of `profiles_dir` without `.toml`.
    pub profile: String,
    /// Where board profiles lie; `None`: the built-in ones.
    pub profiles_dir: Option<PathBuf>,
    /// Socket of the lamp keeper; `None`: the service draws the lamps itself.
    pub keeper: Option<PathBuf>,
}

/// `[pacs]`.
#[derive(Clone, Debug, PartialEq)]
pub struct PacsConfig {
    /// The PACS's AE title.
    pub ae_title: AeTitle,
    /// Where it listens.
    pub address: HostPort,
    /// Our AE title when we ask; `None`: `dicom.ae_title`. Images are always sent to `dicom.ae_title`.
    pub calling_ae_title: Option<AeTitle>,
    /// Whether series that a closed study misses are fetched; otherwise the PACS is only watched.
    pub fetch_missing_series: bool,
    /// Longest silence of the PACS, seconds.
    pub timeout_s: u64,
    /// A study waits at most this long for what is fetched, seconds.
    pub wait_s: u64,
}

/// `[log]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogConfig {
    /// Least important level that is written.
    pub level: LogLevel,
}

impl Default for DicomConfig {
    fn default() -> Self {
        Self {
            ae_title: parse::default_ae_title(),
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 11112),
            plain: true,
            calling_ae_titles: Vec::new(),
            peers: Vec::new(),
            check_called_ae_title: true,
            associations_max: 32,
            associations_per_peer_max: 16,
            connections_per_minute_max: 6000,
            failures_per_minute_max: 60,
            pdu_length_max: 131_072,
            instance_mib_max: 2048,
            idle_timeout_s: 60,
            request_timeout_s: 30,
            association_s_max: 14_400,
            sop_classes_extra: Vec::new(),
            tls: None,
            storage_commitment: false,
            peer: Vec::new(),
        }
    }
}

impl Default for SpoolConfig {
    fn default() -> Self {
        Self { mib_max: 20_480, free_mib_min: 512, commitment_hold_days: 30, durability: Durability::Instance }
    }
}

impl Default for AssembleConfig {
    fn default() -> Self {
        Self {
            quiet_s: 60,
            settle_s: 15,
            deadline_s: 1800,
            step_s_max: 1800,
            provisional: true,
            provisional_settle_s: 3,
            instances_per_study_max: 20_000,
            open_studies_max: 64,
        }
    }
}

impl Default for InferConfig {
    fn default() -> Self {
        Self {
            model: "cns-mri".to_owned(),
            models_dir: None,
            threads: 2,
            time_budget_s: 60,
            queue_max: 16,
            engine: EngineChoice::Auto,
            npu: None,
        }
    }
}

impl Default for BoardConfig {
    fn default() -> Self {
        Self { profile: "sim".to_owned(), profiles_dir: None, keeper: None }
    }
}

impl Config {
    /// Parses the text of a configuration file.
    ///
    /// # Errors
    /// Every fault of the text at once, by line; never empty.
    pub fn parse(text: &str) -> Result<Self, Vec<ConfigFault>> {
        parse::parse(text)
    }

    /// Reads and parses the file at `path`.
    ///
    /// # Errors
    /// [`ConfigError`] names the file and every fault in it.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        let not_text = |reason: String| ConfigError::NotText { path: path.to_owned(), reason };
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(not_text(format!("longer than {} KiB: this is no configuration file", FILE_BYTES_MAX / 1024)));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            not_text(format!("byte {} is not UTF-8: save the file as UTF-8 text", error.utf8_error().valid_up_to() + 1))
        })?;
        Self::parse(&text).map_err(|faults| ConfigError::Faults { path: path.to_owned(), faults })
    }

    /// The configuration as TOML, every key written out; [`Config::parse`] reads it back as the same `Config`.
    #[must_use]
    pub fn to_toml(&self) -> String {
        text::to_toml(self)
    }
}
