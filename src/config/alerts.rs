//! `[alerts]`, `[[alerts.webhook]]` and `[[alerts.mqtt]]`: TOML tables in -> who is told of a verdict; written back, and what the page must say.

use std::path::{Path, PathBuf};

use super::parse::DAY_S;
use super::reader::{Faults, Section};
use super::text::{list, quoted};
use super::{HostPort, WebhookUrl, credential};
use crate::domain::{AeTitle, VerdictKind};

/// A site has a few receivers of a kind; each costs a worker.
const RECEIVERS_MAX: usize = 8;
/// Longest topic prefix, bytes. MQTT allows 65,535 (MQTT 5.0 section 1.5.4); this leaves room in the broker's logs and ours.
const TOPIC_BYTES_MAX: usize = 200;
/// Longest client identifier and user name, bytes.
const NAME_BYTES_MAX: usize = 128;

/// `[alerts]`.
#[derive(Clone, Debug, PartialEq)]
pub struct AlertsConfig {
    /// An alert that could not be delivered, or a broker that could not be reached, for this long makes the device degraded, seconds.
    pub undelivered_s_max: u64,
    /// `[[alerts.webhook]]`, in order: channel `webhook:0`, `webhook:1` ...
    pub webhook: Vec<WebhookConfig>,
    /// `[[alerts.mqtt]]`, in order: channel `mqtt:0`, `mqtt:1` ...
    pub mqtt: Vec<MqttConfig>,
}

/// One `[[alerts.webhook]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct WebhookConfig {
    /// Where verdicts are posted.
    pub url: WebhookUrl,
    /// File with the secret that signs them.
    pub secret_file: PathBuf,
    /// Which verdicts are posted.
    pub on: Vec<VerdictKind>,
    /// Longest delivery, connection included, seconds.
    pub timeout_s: u64,
    /// Whether the accession number, which is patient data, goes along.
    pub include_accession_number: bool,
}

/// One `[[alerts.mqtt]]`: a broker that speaks MQTT 5.0.
#[derive(Clone, Debug, PartialEq)]
pub struct MqttConfig {
    /// Where the broker listens.
    pub address: HostPort,
    /// What our topics begin with: alerts go to `<topic>/alert`, whether the box is there to `<topic>/status`.
    pub topic: String,
    /// How we call ourselves; no two clients of a broker may have the same.
    pub client_id: String,
    /// User name, where the broker asks for one.
    pub user: Option<String>,
    /// File with the user's password.
    pub password_file: Option<PathBuf>,
    /// `[alerts.mqtt.tls]`; `None`: plain text.
    pub tls: Option<MqttTlsConfig>,
    /// Which verdicts are published.
    pub on: Vec<VerdictKind>,
    /// Longest delivery, connection included, seconds.
    pub timeout_s: u64,
    /// Whether the accession number, which is patient data, goes along.
    pub include_accession_number: bool,
}

/// `[alerts.mqtt.tls]`. All files are PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MqttTlsConfig {
    /// Authorities that may have signed the broker's certificate.
    pub ca_file: PathBuf,
    /// Our certificate and its key, where the broker asks for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl Default for AlertsConfig {
    fn default() -> Self {
        Self { undelivered_s_max: 900, webhook: Vec::new(), mqtt: Vec::new() }
    }
}

/// The client identifier of a box that is given none. An AE title may hold characters that a broker need not take (MQTT 5.0 section 3.1.3.1).
fn default_client_id(ae_title: &AeTitle) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '-' };
    format!("scanside-{}", ae_title.as_str().chars().map(plain).collect::<String>())
}

pub(super) fn alerts(faults: &mut Faults<'_>, root: &mut Section<'_, '_>, ae_title: &AeTitle) -> AlertsConfig {
    let default = AlertsConfig::default();
    let mut section = root.section(faults, "alerts");
    let undelivered_s_max = section.integer(faults, "undelivered_s_max", default.undelivered_s_max, 10, DAY_S, "seconds");
    let hooks = section.sections(faults, "webhook", RECEIVERS_MAX);
    let webhook = hooks.into_iter().filter_map(|entry| webhook(faults, entry)).collect();
    let brokers = section.sections(faults, "mqtt", RECEIVERS_MAX);
    let mut known = Vec::new();
    let mqtt = brokers.into_iter().filter_map(|entry| mqtt(faults, entry, ae_title, &mut known)).collect();
    section.finish(faults);
    AlertsConfig { undelivered_s_max, webhook, mqtt }
}

fn webhook(faults: &mut Faults<'_>, mut s: Section<'_, '_>) -> Option<WebhookConfig> {
    let url = s.text(faults, "url", WebhookUrl::try_new);
    s.missing(faults, "url", "where are verdicts posted? For example url = \"https://alerts.hospital.example/scanside\"");
    let secret_file: Option<PathBuf> = s.text(faults, "secret_file", credential::path);
    s.missing(faults, "secret_file", "the file with the secret that signs each message");
    let (on, timeout_s, include_accession_number) = told(faults, &mut s);
    s.finish(faults);
    Some(WebhookConfig { url: url?, secret_file: secret_file?, on, timeout_s, include_accession_number })
}

/// What every receiver has: which verdicts, the longest delivery, whether the accession number goes along.
fn told(faults: &mut Faults<'_>, s: &mut Section<'_, '_>) -> (Vec<VerdictKind>, u64, bool) {
    let n_faults = faults.len();
    let on = s.texts(faults, "on", 3, verdict_kind);
    if faults.len() == n_faults && on.as_ref().is_some_and(Vec::is_empty) {
        faults.add(s.offset_of("on"), s.full("on"), format!("is empty, so nothing would be sent: choose from {VERDICTS}"));
    }
    let timeout_s = s.integer(faults, "timeout_s", 10, 1, 120, "seconds");
    let include_accession_number = s.boolean(faults, "include_accession_number", false);
    let mut on = on.unwrap_or_else(|| vec![VerdictKind::Flagged, VerdictKind::Indeterminate, VerdictKind::NotFlagged]);
    on.dedup();
    (on, timeout_s, include_accession_number)
}

/// `known`: address and client identifier of the brokers before this one.
fn mqtt(
    faults: &mut Faults<'_>,
    mut s: Section<'_, '_>,
    ae_title: &AeTitle,
    known: &mut Vec<(HostPort, String)>,
) -> Option<MqttConfig> {
    let address = s.text(faults, "address", HostPort::try_new);
    s.missing(faults, "address", "where does the broker listen? For example address = \"broker.hospital.example:8883\"");
    let prefix = s.text(faults, "topic", topic);
    s.missing(faults, "topic", "what its topics begin with, for example topic = \"scanside/mr2\"");
    let client_id = s.text(faults, "client_id", name).unwrap_or_else(|| default_client_id(ae_title));
    let user = s.text(faults, "user", name);
    let password_file = s.text(faults, "password_file", credential::path);
    if s.is_set("password_file") {
        s.missing(faults, "user", "a password needs the name of its user");
    }
    s.know("tls");
    let (has_tls, tls) = (s.is_set("tls"), s.is_set("tls").then(|| tls(faults, &mut s)));
    let (on, timeout_s, include_accession_number) = told(faults, &mut s);
    if let Some(address) = &address {
        if password_file.is_some() && !has_tls && !address.is_loopback() {
            let message = format!(
                "would send the password to {} in plain text: add an [alerts.mqtt.tls] table with ca_file, or leave it out",
                address.as_str()
            );
            faults.add(s.offset_of("password_file"), s.full("password_file"), message);
        }
        if known.iter().any(|(other, id)| other == address && *id == client_id) {
            let message = format!(
                "{client_id:?} is also the client of another entry at {}: a broker lets the last one in and throws the other out; give \
                 each a client_id of its own",
                address.as_str()
            );
            faults.add(s.offset_of("client_id"), s.full("client_id"), message);
        }
        known.push((address.clone(), client_id.clone()));
    }
    s.finish(faults);
    let tls = match tls {
        Some(tls) => Some(tls?),
        None => None,
    };
    Some(MqttConfig {
        address: address?,
        topic: prefix?,
        client_id,
        user,
        password_file,
        tls,
        on,
        timeout_s,
        include_accession_number,
    })
}

fn tls(faults: &mut Faults<'_>, mqtt: &mut Section<'_, '_>) -> Option<MqttTlsConfig> {
    let mut s = mqtt.section(faults, "tls");
    let ca_file = s.text(faults, "ca_file", credential::path);
    s.missing(faults, "ca_file", "the file with the authority that signed the broker's certificate (PEM)");
    for (given, other) in [("certificate_file", "key_file"), ("key_file", "certificate_file")] {
        if s.is_set(given) {
            s.missing(faults, other, "name both files, or neither where the broker asks for no certificate");
        }
    }
    let certificate_file = s.text(faults, "certificate_file", credential::path);
    let key_file = s.text(faults, "key_file", credential::path);
    s.finish(faults);
    Some(MqttTlsConfig { ca_file: ca_file?, identity: certificate_file.zip(key_file) })
}

/// A topic that messages can be published under (MQTT 5.0 section 4.7), one more level behind it.
fn topic(text: &str) -> Result<String, String> {
    let remedy = "write one such as \"scanside/mr2\"";
    if text.is_empty() {
        return Err(format!("is empty: {remedy}"));
    }
    if text.len() > TOPIC_BYTES_MAX {
        return Err(format!("is longer than {TOPIC_BYTES_MAX} bytes: {remedy}"));
    }
    if text.contains(['+', '#']) {
        return Err(format!("{text:?} holds + or #, which only subscribers may use: {remedy}"));
    }
    if text.chars().any(char::is_control) {
        return Err(format!("{text:?} holds a control character: {remedy}"));
    }
    if text.starts_with('$') {
        return Err(format!("{text:?} begins with $, where only the broker publishes: {remedy}"));
    }
    if text.starts_with('/') || text.ends_with('/') {
        return Err(format!("{text:?} begins or ends with /, which makes a level without a name: {remedy}"));
    }
    Ok(text.to_owned())
}

/// A client identifier or user name.
fn name(text: &str) -> Result<String, String> {
    let fine = (1..=NAME_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
    if fine { Ok(text.to_owned()) } else { Err(format!("must have 1 to {NAME_BYTES_MAX} bytes, without control characters")) }
}

const VERDICTS: &str = "\"flagged\", \"indeterminate\", \"not_flagged\"";

fn verdict_kind(text: &str) -> Result<VerdictKind, String> {
    [VerdictKind::Flagged, VerdictKind::NotFlagged, VerdictKind::Indeterminate]
        .into_iter()
        .find(|kind| kind.as_str() == text)
        .ok_or_else(|| format!("{text:?} is no verdict: choose from {VERDICTS}"))
}

/// Lines of the three tables.
pub(super) fn lines(alerts: &AlertsConfig, mut line: impl FnMut(String)) {
    let path = |path: &Path| quoted(&path.to_string_lossy());
    let told = |on: &[VerdictKind], timeout_s: u64, include: bool| {
        let on: Vec<&str> = on.iter().map(|kind| kind.as_str()).collect();
        format!("on = {}\ntimeout_s = {timeout_s}\ninclude_accession_number = {include}", list(&on))
    };
    line(format!("\n[alerts]\nundelivered_s_max = {}", alerts.undelivered_s_max));
    for hook in &alerts.webhook {
        line(format!("\n[[alerts.webhook]]\nurl = {}", quoted(hook.url.as_str())));
        line(format!("secret_file = {}", path(&hook.secret_file)));
        line(told(&hook.on, hook.timeout_s, hook.include_accession_number));
    }
    for broker in &alerts.mqtt {
        line(format!("\n[[alerts.mqtt]]\naddress = {}", quoted(broker.address.as_str())));
        line(format!("topic = {}\nclient_id = {}", quoted(&broker.topic), quoted(&broker.client_id)));
        if let Some(user) = &broker.user {
            line(format!("user = {}", quoted(user)));
        }
        if let Some(file) = &broker.password_file {
            line(format!("password_file = {}", path(file)));
        }
        line(told(&broker.on, broker.timeout_s, broker.include_accession_number));
        if let Some(tls) = &broker.tls {
            line(format!("\n[alerts.mqtt.tls]\nca_file = {}", path(&tls.ca_file)));
            if let Some((certificate, key)) = &tls.identity {
                line(format!("certificate_file = {}\nkey_file = {}", path(certificate), path(key)));
            }
        }
    }
}

/// Every path that may be a credential's name.
pub(super) fn files(alerts: &mut AlertsConfig) -> Vec<&mut PathBuf> {
    let mut files: Vec<&mut PathBuf> = alerts.webhook.iter_mut().map(|hook| &mut hook.secret_file).collect();
    for broker in &mut alerts.mqtt {
        files.extend(&mut broker.password_file);
        if let Some(tls) = &mut broker.tls {
            files.push(&mut tls.ca_file);
            files.extend(tls.identity.iter_mut().flat_map(|(certificate, key)| [certificate, key]));
        }
    }
    files
}

/// What is allowed about alerts but must be said.
pub(super) fn notices(alerts: &AlertsConfig, add: &mut impl FnMut(&str, String)) {
    let accession = |to: &str| format!("Alerts to {to} carry the accession number, which is patient data.");
    for (idx, hook) in alerts.webhook.iter().enumerate() {
        let (key, to) = (|key: &str| format!("alerts.webhook[{idx}].{key}"), hook.url.authority());
        if !hook.url.is_https() && !hook.url.is_loopback() {
            add(&key("url"), format!("Alerts to {to} travel in plain text (signed, but readable)."));
        }
        if hook.include_accession_number {
            add(&key("include_accession_number"), accession(to));
        }
    }
    for (idx, broker) in alerts.mqtt.iter().enumerate() {
        let (key, to) = (|key: &str| format!("alerts.mqtt[{idx}].{key}"), broker.address.as_str());
        if broker.tls.is_none() && !broker.address.is_loopback() {
            let text = format!(
                "Alerts to the broker at {to} travel in plain text: whoever shares this network segment can read and forge them. Add an \
                 [alerts.mqtt.tls] table."
            );
            add(&key("address"), text);
        }
        if broker.include_accession_number {
            add(&key("include_accession_number"), accession(to));
        }
    }
}

/// Whom the box calls for alerts, and on which channel.
pub(super) fn addresses(alerts: &AlertsConfig) -> impl Iterator<Item = (String, String)> {
    let calls = |to: &str, channel: String| (format!("calls {to}"), format!("alerts, channel {channel}"));
    let hooks = alerts.webhook.iter().enumerate().map(move |(idx, hook)| calls(hook.url.authority(), format!("webhook:{idx}")));
    let brokers = alerts.mqtt.iter().enumerate().map(move |(idx, broker)| calls(broker.address.as_str(), format!("mqtt:{idx}")));
    hooks.chain(brokers)
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    fn faults(text: &str) -> Vec<(String, String)> {
        Config::parse(text).expect_err("the text has faults").into_iter().map(|fault| (fault.key, fault.message)).collect()
    }

    fn one(extra: &str) -> String {
        format!("[[alerts.mqtt]]\naddress = \"broker:1883\"\ntopic = \"scanside/mr2\"\n{extra}\n")
    }

    #[test]
    fn all_faults_of_a_broker_come_at_once_with_their_remedies() {
        let text = "[[alerts.mqtt]]\naddress = \"broker\"\ntopic = \"a/#\"\nclient_id = \"\"\npassword_file = \"/p\"\non = []\ntimout_s = 1\n\
                    [alerts.mqtt.tls]\ncertificate_file = \"/c\"\n";
        let all = faults(text);
        let keys: Vec<&str> = all.iter().map(|(key, _)| key.strip_prefix("alerts.mqtt[0].").expect("of the first")).collect();
        for key in ["address", "topic", "client_id", "user", "on", "timout_s", "tls.ca_file", "tls.key_file"] {
            assert!(keys.contains(&key), "{key} is not among {all:?}");
        }
        assert_eq!(keys.len(), 8, "{all:?}");
    }

    #[test]
    fn topics_that_cannot_be_published_under_are_refused() {
        for bad in ["", "a/+", "#", "$SYS/x", "/a", "a/", "a\\u0000b", "a\\u0007", &"x".repeat(201)] {
            let text = format!("[[alerts.mqtt]]\naddress = \"127.0.0.1:1883\"\ntopic = \"{bad}\"\n");
            let all = faults(&text);
            assert!(all.len() == 1 && all[0].0 == "alerts.mqtt[0].topic" && all[0].1.contains("scanside/mr2"), "{bad}: {all:?}");
        }
        assert!(topic("Klinik für Radiologie/MR 2").is_ok(), "a topic is any text");
    }

    #[test]
    fn a_password_in_plain_text_leaves_the_box_nowhere() {
        let all = faults(&one("user = \"u\"\npassword_file = \"/p\""));
        assert_eq!(all.len(), 1, "{all:?}");
        assert!(all[0].0 == "alerts.mqtt[0].password_file" && all[0].1.contains("[alerts.mqtt.tls]"), "{all:?}");
        assert!(Config::parse(&one("user = \"u\"\npassword_file = \"/p\"\n[alerts.mqtt.tls]\nca_file = \"/ca\"")).is_ok());
        let near = "[[alerts.mqtt]]\naddress = \"127.0.0.1:1883\"\ntopic = \"t\"\nuser = \"u\"\npassword_file = \"/p\"";
        assert!(Config::parse(near).expect("on this box").notices().is_empty());
    }

    #[test]
    fn plain_text_to_a_broker_is_allowed_and_noted_and_its_address_is_listed() {
        let config = Config::parse(&one("include_accession_number = true")).expect("valid");
        let keys: Vec<String> = config.notices().into_iter().map(|notice| notice.key).collect();
        assert_eq!(keys, ["alerts.mqtt[0].address", "alerts.mqtt[0].include_accession_number"]);
        assert!(config.addresses().contains(&("calls broker:1883".to_owned(), "alerts, channel mqtt:0".to_owned())));
        assert!(Config::parse(&one("[alerts.mqtt.tls]\nca_file = \"/ca\"")).expect("valid").notices().is_empty());
    }

    #[test]
    fn two_clients_of_one_broker_have_two_names() {
        let title = "[dicom]\nae_title = \"MR 2\"\n";
        let config = Config::parse(&format!("{title}{}", one(""))).expect("valid");
        assert_eq!(config.alerts.mqtt.first().map(|broker| broker.client_id.as_str()), Some("scanside-MR-2"));
        let all = faults(&format!("{}{}", one(""), one("")));
        assert!(all.len() == 1 && all[0].0 == "alerts.mqtt[1].client_id", "{all:?}");
        assert!(Config::parse(&format!("{}{}", one(""), one("client_id = \"second\""))).is_ok());
    }
}
