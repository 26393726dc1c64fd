//! Settings: one configuration in -> the options of each room, and what the page says that never changes while the service runs.

use std::net::SocketAddr;

use crate::assemble::AssembleOptions;
use crate::board::BoardProfile;
use crate::config::Config;
use crate::domain::{InputChannel, ModelSpec};
use crate::receive::{PeerNet, ReceiveOptions};
use crate::spool::SpoolOptions;
use crate::web::{ModelStatus, NamedText, StatusSnapshot, VersionInfo};

const MIB: u64 = 1 << 20;

/// Name of a webhook in the outbox.
pub(super) fn channel_name(number: usize) -> String {
    format!("webhook:{number}")
}

/// Options of the spool.
pub(super) fn spool(config: &Config) -> SpoolOptions {
    SpoolOptions {
        bytes_max: config.spool.mib_max * MIB,
        free_bytes_min: config.spool.free_mib_min * MIB,
        instance_bytes_max: config.dicom.instance_mib_max * MIB,
    }
}

/// Options of the receiver.
pub(super) fn receive(config: &Config) -> ReceiveOptions {
    let dicom = &config.dicom;
    ReceiveOptions {
        listen: dicom.listen,
        ae_title: dicom.ae_title.clone(),
        calling_ae_titles_allowed: dicom.calling_ae_titles.clone(),
        peers_allowed: dicom.peers.iter().filter_map(|range| PeerNet::try_new(range.address(), range.prefix_bits())).collect(),
        called_ae_title_checked: dicom.check_called_ae_title,
        associations_max: dicom.associations_max,
        associations_per_peer_max: dicom.associations_per_peer_max,
        pdu_length_max: dicom.pdu_length_max,
        instance_bytes_max: dicom.instance_mib_max * MIB,
        association_request_timeout_s: seconds(dicom.request_timeout_s),
        idle_timeout_s: seconds(dicom.idle_timeout_s),
        association_s_max: seconds(dicom.association_s_max),
        sop_classes_extra: dicom.sop_classes_extra.iter().map(ToString::to_string).collect(),
    }
}

/// The configuration bounds its seconds far below this.
fn seconds(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// Options of the assembler; `roles` are the model's input channels.
pub(super) fn assemble(config: &Config, roles: Vec<InputChannel>) -> AssembleOptions {
    AssembleOptions {
        quiet_s: config.assemble.quiet_s,
        settle_s: config.assemble.settle_s,
        deadline_s: config.assemble.deadline_s,
        step_s_max: config.assemble.step_s_max,
        provisional: config.assemble.provisional,
        provisional_settle_s: config.assemble.provisional_settle_s,
        instances_per_study_max: config.assemble.instances_per_study_max,
        open_studies_max: config.assemble.open_studies_max,
        roles,
        ..AssembleOptions::default()
    }
}

/// What the page shows from the first moment: who, where, which model, which board, which addresses.
pub(super) fn fixed_status(
    config: &Config,
    profile: &BoardProfile,
    model: Option<&ModelSpec>,
    (dicom, web): (SocketAddr, SocketAddr),
) -> StatusSnapshot {
    let mut addresses = vec![named("DICOM", dicom.to_string()), named("web page", format!("http://{web}/"))];
    addresses
        .extend(config.alerts.webhook.iter().enumerate().map(|(n, hook)| named(&format!("webhook {n}"), hook.url.authority())));
    StatusSnapshot {
        ae_title: config.dicom.ae_title.to_string(),
        board: format!("{}: {}", profile.name, profile.description),
        addresses,
        notices: config.notices().into_iter().map(|notice| named(&notice.key, notice.text)).collect(),
        version: VersionInfo {
            scanside: env!("CARGO_PKG_VERSION").into(),
            target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        },
        model: model.map(model_status),
        ..StatusSnapshot::default()
    }
}

fn named(name: &str, text: impl Into<String>) -> NamedText {
    NamedText { name: name.into(), text: text.into() }
}

fn model_status(spec: &ModelSpec) -> ModelStatus {
    let id = &spec.identity;
    let point = |p: &crate::domain::OperatingPoint| {
        let inputs: Vec<_> = p.inputs.iter().map(|role| role.as_str()).collect();
        format!(
            "{}: threshold {:.2}, sensitivity {:.2}, specificity {:.2} ({})",
            inputs.join(" + "),
            p.threshold,
            p.sensitivity,
            p.specificity,
            p.source
        )
    };
    ModelStatus {
        name: id.name.clone(),
        version: id.version.clone(),
        sha256: id.sha256.clone(),
        engine: id.engine.clone(),
        precision: id.precision.clone(),
        self_test_passed: true,
        operating_points: spec.operating_points.iter().map(point).collect(),
    }
}
