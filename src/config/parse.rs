//! Which keys exist and what they may hold: TOML text in -> [`Config`], or all faults.

use std::net::SocketAddr;
use std::path::PathBuf;

use toml::de::DeTable;

use super::reader::{Faults, Section};
use super::{
    AssembleConfig, BoardConfig, Config, ConfigFault, DicomConfig, Durability, EngineChoice, HostPort, InferConfig, LogConfig,
    LogLevel, NpuConfig, PacsConfig, PeerRange, SpoolConfig,
};
use super::{access, alerts, web};
use crate::domain::{AeTitle, Uid};

/// Longest list of names or addresses.
pub(super) const LIST_MAX: usize = 256;
/// As many as go to a worker (`infer/npu/protocol.rs`).
const NPU_OPTIONS_MAX: usize = 64;
/// A day, seconds: nothing here waits longer.
pub(super) const DAY_S: u64 = 86_400;

pub(super) fn default_ae_title() -> AeTitle {
    #[allow(clippy::expect_used)] // a constant, proven by every test that makes a Config
    AeTitle::try_new("SCANSIDE").expect("eight letters are an AE title")
}

pub(super) fn parse(text: &str) -> Result<Config, Vec<ConfigFault>> {
    let mut faults = Faults::new(text);
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let offset = error.span().map_or(0, |span| span.start);
        faults.add(offset, "", format!("not valid TOML: {}", error.message()));
    }
    let mut root = Section::new("", Some(document.get_ref()), 0);
    let dicom = dicom(&mut faults, &mut root);
    let config = Config {
        spool: spool(&mut faults, &mut root),
        assemble: assemble(&mut faults, &mut root),
        infer: infer(&mut faults, &mut root),
        board: board(&mut faults, &mut root),
        web: web::web(&mut faults, &mut root),
        alerts: alerts::alerts(&mut faults, &mut root, &dicom.ae_title),
        pacs: root.is_set("pacs").then(|| pacs(&mut faults, &mut root)).flatten(),
        log: log(&mut faults, &mut root),
        dicom,
    };
    root.know("pacs");
    let plain = Some(config.dicom.listen).filter(|_| config.dicom.plain).map(|address| (address, "dicom.listen"));
    let tls = config.dicom.tls.as_ref().map(|tls| (tls.listen, "dicom.tls.listen"));
    let taken = [plain, tls].into_iter().flatten().find(|(address, _)| *address == config.web.listen && address.port() != 0);
    if let Some((_, by)) = taken {
        let offset = match document.get_ref().get("web") {
            Some(value) => value.span().start,
            None => 0,
        };
        faults.add(offset, "web.listen", format!("{} is also {by}: choose another port", config.web.listen));
    }
    root.finish(&mut faults);
    let faults = faults.into_sorted();
    if faults.is_empty() { Ok(config) } else { Err(faults) }
}

fn dicom(faults: &mut Faults<'_>, root: &mut Section<'_, '_>) -> DicomConfig {
    let default = DicomConfig::default();
    let mut section = root.section(faults, "dicom");
    let s = &mut section;
    let mut config = DicomConfig {
        ae_title: s.text(faults, "ae_title", ae_title).unwrap_or(default.ae_title),
        listen: s.text(faults, "listen", listen).unwrap_or(default.listen),
        plain: s.boolean(faults, "plain", default.plain),
        calling_ae_titles: s.texts(faults, "calling_ae_titles", LIST_MAX, ae_title).unwrap_or_default(),
        peers: s.texts(faults, "peers", LIST_MAX, PeerRange::try_new).unwrap_or_default(),
        check_called_ae_title: s.boolean(faults, "check_called_ae_title", default.check_called_ae_title),
        associations_max: s.count(faults, "associations_max", default.associations_max, 1, 1024),
        associations_per_peer_max: s.count(faults, "associations_per_peer_max", default.associations_per_peer_max, 1, 1024),
        connections_per_minute_max: rate(faults, s, "connections_per_minute_max", default.connections_per_minute_max),
        failures_per_minute_max: rate(faults, s, "failures_per_minute_max", default.failures_per_minute_max),
        // PS3.8 section 9.3.1: 0 would mean unlimited, which is no bound; below 4096 a header eats the throughput.
        pdu_length_max: u32::try_from(s.integer(
            faults,
            "pdu_length_max",
            default.pdu_length_max.into(),
            4096,
            1_048_576,
            "bytes",
        ))
        .unwrap_or(default.pdu_length_max),
        instance_mib_max: s.integer(faults, "instance_mib_max", default.instance_mib_max, 1, 65_536, "MiB"),
        idle_timeout_s: s.integer(faults, "idle_timeout_s", default.idle_timeout_s, 1, 3600, "seconds"),
        request_timeout_s: s.integer(faults, "request_timeout_s", default.request_timeout_s, 1, 300, "seconds"),
        association_s_max: s.integer(faults, "association_s_max", default.association_s_max, 60, DAY_S, "seconds"),
        sop_classes_extra: s.texts(faults, "sop_classes_extra", LIST_MAX, uid).unwrap_or_default(),
        storage_commitment: s.boolean(faults, "storage_commitment", default.storage_commitment),
        tls: access::tls(faults, s),
        peer: access::peers(faults, s),
    };
    access::check_listeners(faults, s, &config);
    if !s.is_set("associations_per_peer_max") {
        config.associations_per_peer_max = config.associations_per_peer_max.min(config.associations_max);
    }
    if config.associations_per_peer_max > config.associations_max {
        let key = "associations_per_peer_max";
        faults.add(
            s.offset_of(key),
            s.full(key),
            format!("is more than dicom.associations_max, which is {}", config.associations_max),
        );
    }
    section.finish(faults);
    config
}

/// A rate below ten a minute would stop a person who tries things out.
fn rate(faults: &mut Faults<'_>, s: &mut Section<'_, '_>, key: &'static str, default: u32) -> u32 {
    u32::try_from(s.integer(faults, key, default.into(), 10, 1_000_000, "a minute")).unwrap_or(default)
}

fn spool(faults: &mut Faults<'_>, root: &mut Section<'_, '_>) -> SpoolConfig {
    let default = SpoolConfig::default();
    let mut section = root.section(faults, "spool");
    let config = SpoolConfig {
        // 256 MiB holds one study of two series; 64 TiB is beyond any box.
        mib_max: section.integer(faults, "mib_max", default.mib_max, 256, 67_108_864, "MiB"),
        free_mib_min: section.integer(faults, "free_mib_min", default.free_mib_min, 16, 1_048_576, "MiB"),
        commitment_hold_days: section.integer(faults, "commitment_hold_days", default.commitment_hold_days, 1, 3650, "days"),
        durability: section.text(faults, "durability", durability).unwrap_or(default.durability),
    };
    section.finish(faults);
    config
}

fn assemble(faults: &mut Faults<'_>, root: &mut Section<'_, '_>) -> AssembleConfig {
    let default = AssembleConfig::default();
    let mut section = root.section(faults, "assemble");
    let s = &mut section;
    let mut config = AssembleConfig {
        quiet_s: s.integer(faults, "quiet_s", default.quiet_s, 1, 3600, "seconds"),
        settle_s: s.integer(faults, "settle_s", default.settle_s, 0, 3600, "seconds"),
        deadline_s: s.integer(faults, "deadline_s", default.deadline_s, 10, DAY_S, "seconds"),
        step_s_max: s.integer(faults, "step_s_max", default.step_s_max, 1, DAY_S, "seconds"),
        provisional: s.boolean(faults, "provisional", default.provisional),
        provisional_settle_s: s.integer(faults, "provisional_settle_s", default.provisional_settle_s, 1, 600, "seconds"),
        instances_per_study_max: s.count(faults, "instances_per_study_max", default.instances_per_study_max, 1, 1_000_000),
        open_studies_max: s.count(faults, "open_studies_max", default.open_studies_max, 1, 4096),
    };
    // A site that shortens one time need not write the others.
    if !s.is_set("quiet_s") {
        config.quiet_s = config.quiet_s.min(config.deadline_s);
    }
    if !s.is_set("settle_s") {
        config.settle_s = config.settle_s.min(config.quiet_s);
    }
    let order =
        [("settle_s", config.settle_s, "quiet_s", config.quiet_s), ("quiet_s", config.quiet_s, "deadline_s", config.deadline_s)];
    for (short, short_s, long, long_s) in order {
        if short_s > long_s {
            faults.add(
                s.offset_of(short),
                s.full(short),
                format!("{short_s} s is longer than assemble.{long}, which is {long_s} s"),
            );
        }
    }
    section.finish(faults);
    config
}

fn infer(faults: &mut Faults<'_>, root: &mut Section<'_, '_>) -> InferConfig {
    let default = InferConfig::default();
    let mut section = root.section(faults, "infer");
    let s = &mut section;
    let config = InferConfig {
        model: s.text(faults, "model", plain_name).unwrap_or(default.model),
        models_dir: s.path(faults, "models_dir"),
        threads: s.count(faults, "threads", default.threads, 1, 64),
        time_budget_s: s.integer(faults, "time_budget_s", default.time_budget_s, 1, 3600, "seconds"),
        queue_max: s.count(faults, "queue_max", default.queue_max, 1, 1024),
        engine: s.text(faults, "engine", engine).unwrap_or(default.engine),
        npu: s.is_set("npu").then(|| npu(faults, s)).flatten(),
    };
    s.know("npu");
    section.finish(faults);
    config
}

fn npu(faults: &mut Faults<'_>, infer: &mut Section<'_, '_>) -> Option<NpuConfig> {
    let mut s = infer.section(faults, "npu");
    let runtime_library = s.text(faults, "runtime_library", whole_path);
    s.missing(faults, "runtime_library", "the file of the ONNX Runtime library");
    let provider_library = s.text(faults, "provider_library", whole_path);
    let provider = s.text(faults, "provider", plain_name);
    s.missing(faults, "provider", "the name of the execution provider, such as \"QNN\" or \"VSINPU\"");
    let options = s.text_table(faults, "options", NPU_OPTIONS_MAX, option_text);
    s.finish(faults);
    Some(NpuConfig {
        runtime_library: runtime_library?,
        provider_library,
        provider: provider?,
        options: options.unwrap_or_default(),
    })
}

fn board(faults: &mut Faults<'_>, root: &mut Section<'_, '_>) -> BoardConfig {
    let default = BoardConfig::default();
    let mut section = root.section(faults, "board");
    let config = BoardConfig {
        profile: section.text(faults, "profile", plain_name).unwrap_or(default.profile),
        profiles_dir: section.path(faults, "profiles_dir"),
        keeper: section.text(faults, "keeper", whole_path),
    };
    section.finish(faults);
    config
}

fn pacs(faults: &mut Faults<'_>, root: &mut Section<'_, '_>) -> Option<PacsConfig> {
    let mut section = root.section(faults, "pacs");
    let s = &mut section;
    let title = s.text(faults, "ae_title", ae_title);
    s.missing(faults, "ae_title", "the AE title of the PACS");
    let address = s.text(faults, "address", HostPort::try_new);
    s.missing(faults, "address", "where the PACS listens, for example address = \"10.1.2.3:104\"");
    let calling_ae_title = s.text(faults, "calling_ae_title", ae_title);
    let fetch_missing_series = s.boolean(faults, "fetch_missing_series", true);
    let timeout_s = s.integer(faults, "timeout_s", 60, 1, 600, "seconds");
    let wait_s = s.integer(faults, "wait_s", 60, 1, 600, "seconds");
    section.finish(faults);
    Some(PacsConfig { ae_title: title?, address: address?, calling_ae_title, fetch_missing_series, timeout_s, wait_s })
}

fn log(faults: &mut Faults<'_>, root: &mut Section<'_, '_>) -> LogConfig {
    let mut section = root.section(faults, "log");
    let level = section.text(faults, "level", |text| {
        let names: Vec<&str> = LogLevel::ALL.iter().map(|(name, _)| *name).collect();
        let found = LogLevel::ALL.iter().find(|(name, _)| *name == text).map(|(_, level)| *level);
        found.ok_or_else(|| format!("{text:?} is no level: choose from {}", names.join(", ")))
    });
    section.finish(faults);
    LogConfig { level: level.unwrap_or_default() }
}

fn durability(text: &str) -> Result<Durability, String> {
    if text == Durability::Instance.as_str() {
        return Ok(Durability::Instance);
    }
    let why = "the only choice is instance: an image is acknowledged once a power cut cannot lose it; anything weaker loses acknowledged images";
    Err(format!("{text:?} is no durability, {why}"))
}

fn engine(text: &str) -> Result<EngineChoice, String> {
    let found = EngineChoice::ALL.iter().find(|(name, _)| *name == text).map(|(_, choice)| *choice);
    found.ok_or_else(|| format!("{text:?} is no engine: choose from auto, cpu, npu"))
}

/// A library, or another process's socket, is named by its whole path: one that is looked for from here may be another one tomorrow.
fn whole_path(text: &str) -> Result<PathBuf, String> {
    let fine = text.starts_with('/') && text.len() <= 4096 && !text.contains('\0');
    if fine { Ok(PathBuf::from(text)) } else { Err(format!("{text:?} is no whole path: begin with /")) }
}

/// An option goes to a C library.
fn option_text(text: &str) -> Result<String, String> {
    if text.len() <= 4096 && !text.contains('\0') {
        Ok(text.to_owned())
    } else {
        Err("is longer than 4096 bytes, or with a NUL in it".to_owned())
    }
}

pub(super) fn ae_title(text: &str) -> Result<AeTitle, String> {
    AeTitle::try_new(text)
        .map_err(|error| format!("{text:?} is no AE title: {error} (1 to 16 plain ASCII characters, no backslash)"))
}

fn uid(text: &str) -> Result<Uid, String> {
    Uid::try_new(text).map_err(|error| format!("{text:?} is no UID: {error} (digits and dots, at most 64)"))
}

pub(super) fn listen(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is no address with a port: write, for example, \"127.0.0.1:11112\" or \"[::1]:11112\""))
}

/// Names of packages and profiles become file names: they must not leave their folder.
fn plain_name(text: &str) -> Result<String, String> {
    let fine = (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if fine {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is no name: letters, digits, - _ . only, at most 64, no folder"))
    }
}

pub(super) fn host_name(text: &str) -> Result<String, String> {
    let fine = (1..=253).contains(&text.len())
        && text.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        });
    if fine {
        Ok(text.to_ascii_lowercase())
    } else {
        Err(format!("{text:?} is no host name: write it without port and without http://"))
    }
}
