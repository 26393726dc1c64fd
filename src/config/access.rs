//! `[dicom.tls]` and `[[dicom.peer]]`: TOML tables in -> who may send, and with which certificates; written back, and what the page must say.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::credential;
use super::parse::{LIST_MAX, ae_title, listen};
use super::reader::{Faults, Section};
use super::text::{list, quoted};
use super::{Config, ConfigNotice, DicomConfig, PeerRange};
use crate::domain::{AeTitle, CertificateSha256};

/// `[dicom.tls]`: the listener for DICOM over TLS (PS3.15 section B.12). All files are PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// Address and port; 2762 is registered for it (PS3.15 section B.1).
    pub listen: SocketAddr,
    /// Our certificate, then those between it and its authority.
    pub certificate_file: PathBuf,
    /// Its private key; readable by the service alone.
    pub key_file: PathBuf,
    /// Authorities of clients: with it, a client must show a certificate that one of them signed.
    pub client_ca_file: Option<PathBuf>,
    /// Clients' certificates: with it, a client must show one of them (or one that a `[[dicom.peer]]` names).
    pub client_certificates_sha256: Vec<CertificateSha256>,
}

/// One `[[dicom.peer]]`: who it is, from where it comes, with which certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// The AE title that it calls itself.
    pub ae_title: AeTitle,
    /// Where it comes from; never empty.
    pub addresses: Vec<PeerRange>,
    /// The certificate that it must show; it must come over TLS then.
    pub certificate_sha256: Option<CertificateSha256>,
    /// Where it listens itself, for what we call it for.
    pub call: Option<SocketAddr>,
}

impl DicomConfig {
    /// Whether a client of the TLS listener must prove who it is.
    #[must_use]
    pub fn tls_clients_are_known(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.client_ca_file.is_some() || !tls.client_certificates_sha256.is_empty())
    }
}

pub(super) fn tls(faults: &mut Faults<'_>, dicom: &mut Section<'_, '_>) -> Option<TlsConfig> {
    dicom.know("tls");
    if !dicom.is_set("tls") {
        return None;
    }
    let mut s = dicom.section(faults, "tls");
    let address = s.text(faults, "listen", listen);
    s.missing(faults, "listen", "the address and port, such as listen = \"0.0.0.0:2762\"");
    let certificate_file = s.text(faults, "certificate_file", credential::path);
    s.missing(faults, "certificate_file", "the file with this box's certificate (PEM)");
    let key_file = s.text(faults, "key_file", credential::path);
    s.missing(faults, "key_file", "the file with the certificate's private key (PEM)");
    let client_ca_file = s.text(faults, "client_ca_file", credential::path);
    let n_faults = faults.len();
    let pins = s.texts(faults, "client_certificates_sha256", LIST_MAX, pin);
    if faults.len() == n_faults && pins.as_ref().is_some_and(Vec::is_empty) {
        let key = "client_certificates_sha256";
        faults.add(
            s.offset_of(key),
            s.full(key),
            "is empty, so nobody could connect: leave it out, or list fingerprints".to_owned(),
        );
    }
    s.finish(faults);
    Some(TlsConfig {
        listen: address?,
        certificate_file: certificate_file?,
        key_file: key_file?,
        client_ca_file,
        client_certificates_sha256: pins.unwrap_or_default(),
    })
}

pub(super) fn peers(faults: &mut Faults<'_>, dicom: &mut Section<'_, '_>) -> Vec<PeerConfig> {
    let has_tls = dicom.is_set("tls");
    let entries = dicom.sections(faults, "peer", LIST_MAX);
    entries.into_iter().filter_map(|entry| peer(faults, entry, has_tls)).collect()
}

fn peer(faults: &mut Faults<'_>, mut s: Section<'_, '_>, has_tls: bool) -> Option<PeerConfig> {
    let title = s.text(faults, "ae_title", ae_title);
    s.missing(faults, "ae_title", "the title that this peer calls itself");
    let n_faults = faults.len();
    let addresses = s.texts(faults, "addresses", LIST_MAX, PeerRange::try_new);
    s.missing(faults, "addresses", "where it comes from, such as addresses = [\"10.1.2.3\"], or [\"0.0.0.0/0\"] for anywhere");
    if faults.len() == n_faults && addresses.as_ref().is_some_and(Vec::is_empty) {
        faults.add(s.offset_of("addresses"), s.full("addresses"), "is empty, so it could never connect".to_owned());
    }
    let certificate_sha256 = s.text(faults, "certificate_sha256", pin);
    if certificate_sha256.is_some() && !has_tls {
        let key = "certificate_sha256";
        faults.add(s.offset_of(key), s.full(key), "needs a [dicom.tls] table: without TLS nobody shows a certificate".to_owned());
    }
    let call = s.text(faults, "call", listen);
    s.finish(faults);
    Some(PeerConfig { ae_title: title?, addresses: addresses?, certificate_sha256, call })
}

fn pin(text: &str) -> Result<CertificateSha256, String> {
    CertificateSha256::try_new(text)
        .map_err(|error| format!("{error}: `openssl x509 -noout -fingerprint -sha256 -in FILE` prints it after the ="))
}

/// Addresses that two listeners would share, and no listener at all.
pub(super) fn check_listeners(faults: &mut Faults<'_>, dicom: &Section<'_, '_>, config: &DicomConfig) {
    match &config.tls {
        None if !config.plain && !dicom.is_set("tls") => {
            let message = "switches the plain listener off, but there is no [dicom.tls] table: nobody could send".to_owned();
            faults.add(dicom.offset_of("plain"), dicom.full("plain"), message);
        }
        Some(tls) if config.plain && tls.listen == config.listen && tls.listen.port() != 0 => {
            let message = format!("{} is also dicom.listen: choose another port (2762 is the usual one)", tls.listen);
            faults.add(dicom.offset_of("tls"), dicom.full("tls.listen"), message);
        }
        _ => {}
    }
}

/// Lines of the two tables.
pub(super) fn lines(dicom: &DicomConfig, mut line: impl FnMut(String)) {
    if let Some(tls) = &dicom.tls {
        let path = |path: &PathBuf| quoted(&path.to_string_lossy());
        line(format!("\n[dicom.tls]\nlisten = {}", quoted(&tls.listen.to_string())));
        line(format!("certificate_file = {}\nkey_file = {}", path(&tls.certificate_file), path(&tls.key_file)));
        if let Some(file) = &tls.client_ca_file {
            line(format!("client_ca_file = {}", path(file)));
        }
        if !tls.client_certificates_sha256.is_empty() {
            line(format!("client_certificates_sha256 = {}", list(&tls.client_certificates_sha256)));
        }
    }
    for peer in &dicom.peer {
        let title = quoted(peer.ae_title.as_str());
        line(format!("\n[[dicom.peer]]\nae_title = {title}\naddresses = {}", list(&peer.addresses)));
        if let Some(pin) = &peer.certificate_sha256 {
            line(format!("certificate_sha256 = {}", quoted(&pin.to_string())));
        }
        if let Some(call) = &peer.call {
            line(format!("call = {}", quoted(&call.to_string())));
        }
    }
}

/// What is allowed about receiving but must be said.
pub(super) fn notices(config: &Config) -> Vec<ConfigNotice> {
    let dicom = &config.dicom;
    let mut notices = Vec::new();
    let mut add = |key: &str, text: String| notices.push(ConfigNotice { key: key.to_owned(), text });
    let plain_is_far = dicom.plain && !dicom.listen.ip().is_loopback();
    if plain_is_far {
        let remedy = if dicom.tls.is_some() { " Once every sender speaks TLS, set dicom.plain = false." } else { "" };
        add(
            "dicom.listen",
            format!("DICOM on {} is plain text: whoever shares this network segment can read the images.{remedy}", dicom.listen),
        );
    }
    let tls_is_far = dicom.tls.as_ref().filter(|tls| !tls.listen.ip().is_loopback());
    if (plain_is_far || tls_is_far.is_some() && !dicom.tls_clients_are_known()) && dicom.peers.is_empty() && dicom.peer.is_empty()
    {
        add(
            "dicom.peers",
            "Every address may send studies: name the scanners and routers in dicom.peers or [[dicom.peer]].".to_owned(),
        );
    }
    if let Some(tls) = tls_is_far
        && !dicom.tls_clients_are_known()
    {
        add(
            "dicom.tls",
            format!(
                "DICOM over TLS on {} is encrypted, but asks senders for no certificate: set dicom.tls.client_ca_file or \
                 client_certificates_sha256.",
                tls.listen
            ),
        );
    }
    if dicom.associations_per_peer_max == dicom.associations_max && dicom.associations_max > 1 {
        add(
            "dicom.associations_per_peer_max",
            "One address may hold every association at once and keep the others out: set it below dicom.associations_max."
                .to_owned(),
        );
    }
    notices
}
