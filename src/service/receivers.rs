//! Who is told of a verdict: the configuration's webhooks and brokers in -> one list of receivers, and the ways out of the box to them, out.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::ServiceError;
use crate::config::{Config, MqttConfig};
use crate::deliver::{Channel, Mqtt, MqttOptions, MqttPassword, Secret, TlsClient, Webhook, verdict_json};
use crate::domain::{Lamp, Verdict, VerdictKind};
use crate::journal::Journal;
use crate::spool::Notice;

/// One receiver.
#[derive(Clone, Debug)]
pub(super) struct Receiver {
    /// Name of its channel in the outbox.
    channel: String,
    /// Which verdicts it is told.
    on: Vec<VerdictKind>,
    /// Whether the accession number goes along.
    include_accession_number: bool,
}

/// All receivers, in the order of the configuration.
pub(super) fn receivers(config: &Config) -> Vec<Receiver> {
    let of =
        |channel, on: &Vec<VerdictKind>, include_accession_number| Receiver { channel, on: on.clone(), include_accession_number };
    let hooks = config.alerts.webhook.iter().enumerate();
    let brokers = config.alerts.mqtt.iter().enumerate();
    hooks
        .map(|(n, hook)| of(webhook_name(n), &hook.on, hook.include_accession_number))
        .chain(brokers.map(|(n, broker)| of(mqtt_name(n), &broker.on, broker.include_accession_number)))
        .collect()
}

fn webhook_name(number: usize) -> String {
    format!("webhook:{number}")
}

fn mqtt_name(number: usize) -> String {
    format!("mqtt:{number}")
}

impl Receiver {
    /// Whether it is told verdicts of this kind.
    pub(super) fn wants(&self, kind: VerdictKind) -> bool {
        self.on.contains(&kind)
    }

    /// The message to it. Its key is the digest of what it says, so a repetition carries the same key and the next verdict another.
    pub(super) fn notice(&self, verdict: &Verdict) -> Notice {
        let body = verdict_json::to_alert_json(verdict, self.include_accession_number);
        let digest = Sha256::digest([self.channel.as_bytes(), b"|", body.as_bytes()].concat());
        let idempotency_key = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Notice { channel: self.channel.clone(), idempotency_key, body }
    }
}

/// The ways out of the box that the configuration names, in its order. `lamp` is what the box shows.
pub(super) fn channels(
    config: &Config,
    lamp: &watch::Receiver<Lamp>,
    journal: &Journal,
) -> Result<Vec<Arc<dyn Channel>>, ServiceError> {
    let fault = |key: &str, number: usize, error: &dyn std::fmt::Display| {
        ServiceError::Configuration(format!("alerts.{key}[{number}]: {error}"))
    };
    let mut channels: Vec<Arc<dyn Channel>> = Vec::new();
    for (number, hook) in config.alerts.webhook.iter().enumerate() {
        let secret = Secret::read(&hook.secret_file).map_err(|error| fault("webhook", number, &error))?;
        let timeout = Duration::from_secs(hook.timeout_s);
        let webhook = Webhook::try_new(&webhook_name(number), hook.url.as_str(), secret, timeout);
        channels.push(Arc::new(webhook.map_err(|error| fault("webhook", number, &error))?));
    }
    for (number, broker) in config.alerts.mqtt.iter().enumerate() {
        let options = mqtt_options(mqtt_name(number), broker).map_err(|error| fault("mqtt", number, &error))?;
        channels.push(Arc::new(Mqtt::new(options, lamp.clone(), journal.clone())));
    }
    Ok(channels)
}

/// How a broker is called; reads the files that its block names.
fn mqtt_options(name: String, broker: &MqttConfig) -> Result<MqttOptions, String> {
    let tls = broker.tls.as_ref().map(|tls| {
        let identity = tls.identity.as_ref().map(|(certificate, key)| (certificate.as_path(), key.as_path()));
        TlsClient::load_for_broker(&tls.ca_file, identity)
    });
    Ok(MqttOptions {
        name,
        address: broker.address.as_str().to_owned(),
        topic: broker.topic.clone(),
        client_id: broker.client_id.clone(),
        user: broker.user.clone(),
        password: broker.password_file.as_deref().map(MqttPassword::read).transpose()?,
        tls: tls.transpose()?,
        timeout: Duration::from_secs(broker.timeout_s),
    })
}
