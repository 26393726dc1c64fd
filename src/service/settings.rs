//! Settings: one configuration in -> the options of each room, and what the page says that never changes while the service runs.

use std::net::SocketAddr;

use super::wall_now;
use crate::assemble::AssembleOptions;
use crate::board::BoardProfile;
use crate::config::{Config, PeerRange};
use crate::deliver::EventReportOptions;
use crate::domain::{InputChannel, ModelSpec};
use crate::journal::Journal;
use crate::receive::{PeerNet, PeerRule, ReceiveOptions, TlsFiles, TlsKeeper};
use crate::spool::SpoolOptions;
use crate::web::{ModelStatus, NamedText, StatusSnapshot, VersionInfo};

const MIB: u64 = 1 << 20;

/// Options of the spool.
pub(super) fn spool(config: &Config) -> SpoolOptions {
    SpoolOptions {
        bytes_max: config.spool.mib_max * MIB,
        free_bytes_min: config.spool.free_mib_min * MIB,
        instance_bytes_max: config.dicom.instance_mib_max * MIB,
        commitment_hold_ms: i64::try_from(config.spool.commitment_hold_days).unwrap_or(i64::MAX).saturating_mul(86_400_000),
    }
}

/// Options of the receiver.
pub(super) fn receive(config: &Config) -> ReceiveOptions {
    let dicom = &config.dicom;
    ReceiveOptions {
        listen: dicom.listen,
        ae_title: dicom.ae_title.clone(),
        calling_ae_titles_allowed: dicom.calling_ae_titles.clone(),
        peers_allowed: nets(&dicom.peers),
        peer_rules: dicom
            .peer
            .iter()
            .map(|peer| PeerRule {
                ae_title: peer.ae_title.clone(),
                addresses: nets(&peer.addresses),
                certificate_sha256: peer.certificate_sha256,
            })
            .collect(),
        called_ae_title_checked: dicom.check_called_ae_title,
        associations_max: dicom.associations_max,
        associations_per_peer_max: dicom.associations_per_peer_max,
        connections_per_minute_max: dicom.connections_per_minute_max,
        failures_per_minute_max: dicom.failures_per_minute_max,
        loopback_rated: false,
        pdu_length_max: dicom.pdu_length_max,
        instance_bytes_max: dicom.instance_mib_max * MIB,
        association_request_timeout_s: seconds(dicom.request_timeout_s),
        idle_timeout_s: seconds(dicom.idle_timeout_s),
        association_s_max: seconds(dicom.association_s_max),
        sop_classes_extra: dicom.sop_classes_extra.iter().map(ToString::to_string).collect(),
        storage_commitment: dicom.storage_commitment,
    }
}

fn nets(ranges: &[PeerRange]) -> Vec<PeerNet> {
    ranges.iter().filter_map(|range| PeerNet::try_new(range.address(), range.prefix_bits())).collect()
}

/// Files and clients of the TLS listener. The certificates that peers are bound to are as good as those of the list; alone they do not keep
/// other peers out here, since a peer without one may have a block without a certificate.
pub(super) fn tls(config: &Config) -> Option<TlsFiles> {
    let tls = config.dicom.tls.as_ref()?;
    let of_peers = || config.dicom.peer.iter().filter_map(|peer| peer.certificate_sha256);
    let mut client_pins = tls.client_certificates_sha256.clone();
    if !client_pins.is_empty() || tls.client_ca_file.is_none() {
        client_pins.extend(of_peers());
    }
    Some(TlsFiles {
        certificate_file: tls.certificate_file.clone(),
        key_file: tls.key_file.clone(),
        client_ca_file: tls.client_ca_file.clone(),
        client_pins,
        client_required: config.dicom.tls_clients_are_known(),
    })
}

/// Files of the page's certificate.
pub(super) fn web_tls(config: &Config) -> Option<TlsFiles> {
    config.web.tls.as_ref().map(|tls| TlsFiles::own(tls.certificate_file.clone(), tls.key_file.clone()))
}

/// What is wrong with the certificate files of the listeners, or soon will be: key of the configuration and sentence. Reads them.
pub fn certificate_notes(config: &Config) -> Vec<String> {
    let listeners = [("dicom.tls", tls(config)), ("web.tls", web_tls(config))];
    let notes = listeners.into_iter().filter_map(|(key, files)| Some((key, files?))).flat_map(|(key, files)| {
        let standing = TlsKeeper::open(files, Journal::new(wall_now), wall_now).look();
        let said = [standing.unusable, standing.expiring, standing.not_loaded].into_iter().flatten();
        said.map(move |note| format!("{key}: {note}")).collect::<Vec<_>>()
    });
    notes.collect()
}

/// The configuration bounds its seconds far below this.
fn seconds(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// Options of what tells storage commitments to their requesters.
pub(super) fn event_report(config: &Config) -> EventReportOptions {
    EventReportOptions {
        peers: config.dicom.peer.iter().filter_map(|peer| Some((peer.ae_title.clone(), peer.call?))).collect(),
        undelivered_s_max: config.alerts.undelivered_s_max,
        ..EventReportOptions::new(config.dicom.ae_title.clone())
    }
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

/// Where we listen, as bound: a port of 0 has its number here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addresses {
    pub(super) plain: Option<SocketAddr>,
    pub(super) tls: Option<SocketAddr>,
    pub(super) web: SocketAddr,
    pub(super) web_is_secure: bool,
}

impl Addresses {
    /// One line for the log and systemd.
    pub(super) fn in_words(&self) -> String {
        let plain = self.plain.map(|address| format!("DICOM {address}, "));
        let tls = self.tls.map(|address| format!("DICOM over TLS {address}, "));
        format!("{}{}{}", plain.unwrap_or_default(), tls.unwrap_or_default(), self.page())
    }

    /// The page, as a browser is told.
    fn page(&self) -> String {
        let scheme = if self.web_is_secure { "https" } else { "http" };
        format!("{scheme}://{}", self.web)
    }
}

/// What the page shows from the first moment: who, where, which model, which board, which addresses.
pub(super) fn fixed_status(
    config: &Config,
    profile: &BoardProfile,
    model: Option<&ModelSpec>,
    bound: &Addresses,
) -> StatusSnapshot {
    let mut addresses: Vec<NamedText> = bound.plain.iter().map(|address| named("DICOM", address.to_string())).collect();
    addresses.extend(bound.tls.iter().map(|address| named("DICOM over TLS", address.to_string())));
    addresses.push(named("web page", format!("{}/", bound.page())));
    let hooks = config.alerts.webhook.iter().enumerate();
    addresses.extend(hooks.map(|(n, hook)| named(&format!("webhook {n}"), hook.url.authority())));
    let brokers = config.alerts.mqtt.iter().enumerate();
    addresses.extend(brokers.map(|(n, broker)| named(&format!("MQTT broker {n}"), broker.address.as_str())));
    addresses.extend(config.pacs.iter().map(|pacs| named("PACS", format!("{} at {}", pacs.ae_title, pacs.address.as_str()))));
    let calls = |peer: &crate::config::PeerConfig| Some(named(&format!("calls {}", peer.ae_title), peer.call?.to_string()));
    addresses.extend(config.dicom.peer.iter().filter_map(calls));
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
