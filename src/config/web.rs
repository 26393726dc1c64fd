//! `[web]` and `[web.tls]`: TOML tables in -> where the page is, its certificate and its login; written back, and what the page must say.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::Config;
use super::credential;
use super::parse::{host_name, listen};
use super::reader::{Faults, Section};
use super::text::{list, quoted};

/// `[web]`.
#[derive(Clone, Debug, PartialEq)]
pub struct WebConfig {
    /// Address and port of the page.
    pub listen: SocketAddr,
    /// Allows the page in plain text on an address that is not loopback.
    pub plain_text_off_loopback: bool,
    /// Names, beyond addresses and `localhost`, by which the page may be called (checked against DNS rebinding).
    pub host_names: Vec<String>,
    /// `[web.tls]`: the certificate of the page; `None`: plain text.
    pub tls: Option<WebTlsConfig>,
    /// File with the code by which the page is opened from other machines; `None`: there is no login.
    pub claim_code_file: Option<PathBuf>,
}

/// `[web.tls]`. Both files are PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebTlsConfig {
    /// The certificate of the page, then those between it and its authority.
    pub certificate_file: PathBuf,
    /// Its private key; readable by the service alone.
    pub key_file: PathBuf,
}

impl Default for WebTlsConfig {
    /// The identity of the box.
    fn default() -> Self {
        Self {
            certificate_file: PathBuf::from("credential:identity/device.crt"),
            key_file: PathBuf::from("credential:identity/device.key"),
        }
    }
}

impl Default for WebConfig {
    fn default() -> Self {
        let listen = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
        Self { listen, plain_text_off_loopback: false, host_names: Vec::new(), tls: None, claim_code_file: None }
    }
}

pub(super) fn web(faults: &mut Faults<'_>, root: &mut Section<'_, '_>) -> WebConfig {
    let default = WebConfig::default();
    let mut section = root.section(faults, "web");
    let s = &mut section;
    s.know("tls");
    let config = WebConfig {
        listen: s.text(faults, "listen", listen).unwrap_or(default.listen),
        plain_text_off_loopback: s.boolean(faults, "plain_text_off_loopback", default.plain_text_off_loopback),
        host_names: s.texts(faults, "host_names", 32, host_name).unwrap_or_default(),
        tls: s.is_set("tls").then(|| tls(faults, s)),
        claim_code_file: s.text(faults, "claim_code_file", credential::path),
    };
    if let Some(message) = fault_of(&config) {
        faults.add(s.offset_of("listen"), s.full("listen"), message);
    }
    section.finish(faults);
    config
}

fn tls(faults: &mut Faults<'_>, web: &mut Section<'_, '_>) -> WebTlsConfig {
    let default = WebTlsConfig::default();
    let mut s = web.section(faults, "tls");
    // One without the other would pair a file of the site with the identity's.
    for (given, other) in [("certificate_file", "key_file"), ("key_file", "certificate_file")] {
        if s.is_set(given) {
            s.missing(faults, other, "name both files, or neither for the identity of the box");
        }
    }
    let certificate_file = s.text(faults, "certificate_file", credential::path).unwrap_or(default.certificate_file);
    let key_file = s.text(faults, "key_file", credential::path).unwrap_or(default.key_file);
    s.finish(faults);
    WebTlsConfig { certificate_file, key_file }
}

/// Why the page may not be served there.
fn fault_of(web: &WebConfig) -> Option<String> {
    let private = web.listen.ip().to_canonical().is_loopback() || web.tls.is_some() || web.plain_text_off_loopback;
    (!private).then(|| {
        format!(
            "{} is not loopback, and the page would be plain text: add a [web.tls] table, listen on 127.0.0.1 or [::1], or set \
             web.plain_text_off_loopback = true if this network may read it",
            web.listen
        )
    })
}

impl Config {
    /// Checks the page's address again after it was changed from outside the file.
    ///
    /// # Errors
    /// Why it may not be served there, with the remedy.
    pub fn check_web_is_private(&self) -> Result<(), String> {
        fault_of(&self.web).map_or(Ok(()), |fault| Err(format!("web.listen: {fault}")))
    }
}

/// Lines of `[web]` beyond the plain keys.
pub(super) fn lines(web: &WebConfig, mut line: impl FnMut(String)) {
    if let Some(file) = &web.claim_code_file {
        line(format!("claim_code_file = {}", quoted(&file.to_string_lossy())));
    }
    if let Some(tls) = &web.tls {
        let path = |path: &std::path::Path| quoted(&path.to_string_lossy());
        line(format!("\n[web.tls]\ncertificate_file = {}\nkey_file = {}", path(&tls.certificate_file), path(&tls.key_file)));
    }
}

/// The keys of `[web]` that are always there.
pub(super) fn plain_lines(web: &WebConfig) -> String {
    format!(
        "\n[web]\nlisten = {}\nplain_text_off_loopback = {}\nhost_names = {}",
        quoted(&web.listen.to_string()),
        web.plain_text_off_loopback,
        list(&web.host_names)
    )
}

/// What is allowed about the page but must be said.
pub(super) fn notices(web: &WebConfig, add: &mut impl FnMut(&str, String)) {
    let listen = web.listen;
    if listen.ip().to_canonical().is_loopback() {
        return;
    }
    match (&web.tls, &web.claim_code_file) {
        (Some(_), Some(_)) => {}
        (Some(_), None) => add(
            "web.claim_code_file",
            format!("This page on {listen} is encrypted but without login: whoever reaches it can read and acknowledge."),
        ),
        (None, Some(_)) => add(
            "web.listen",
            format!(
                "This page on {listen} is plain text: whoever shares this network segment can read it, and the claim code with it."
            ),
        ),
        (None, None) => add(
            "web.listen",
            format!("This page on {listen} is plain text and without login: whoever reaches it can read and acknowledge."),
        ),
    }
}
