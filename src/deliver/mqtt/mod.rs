//! Alerts over MQTT: one long-lived connection to a broker that this task holds. Notices, the lamp and the shutdown in -> published messages out.
//!
//! ```text
//!   calling --connected--> greeting --let in--> open --lost--> waiting --back-off, or an alert is due--> calling
//! ```
//!
//! `client.rs` is the task, with the socket and the clock; `session.rs` decides without I/O what is sent and what became of each alert; `link.rs` speaks
//! the protocol, `frames.rs` bounds what the broker sends, `reasons.rs` has the sentences. Nothing of a session outlives its connection: the outbox
//! is what remembers.

mod client;
mod frames;
mod link;
mod reasons;
mod session;

use std::io::Read;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::outbox::{Channel, ChannelTrouble, DeliveryFuture, UpkeepFuture};
use super::tls_client::TlsClient;
use super::webhook::DeliveryError;
use crate::domain::{Lamp, WallTime};
use crate::journal::Journal;
use crate::spool::OutboxEntry;
use client::{Client, Inlets, Job, Outlets, Standing};
use link::Identity;
use session::{ALERTS_MAX, SessionOptions};

/// A password file is one line; a longer one is some other file.
const PASSWORD_BYTES_MAX: u64 = 4096;

/// A user's password. It is never shown.
#[derive(Clone)]
pub struct MqttPassword(Vec<u8>);

impl std::fmt::Debug for MqttPassword {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MqttPassword(...)")
    }
}

impl MqttPassword {
    /// Reads the password from `path`; one line end at the end is removed.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn read(path: &Path) -> Result<Self, String> {
        let wrong = |what: &str| format!("{}: the password {what}", path.display());
        let mut bytes = Vec::new();
        let read = std::fs::File::open(path).and_then(|file| file.take(PASSWORD_BYTES_MAX + 3).read_to_end(&mut bytes));
        read.map_err(|error| wrong(&format!("cannot be read: {error}")))?;
        let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match line.len() as u64 {
            0 => Err(wrong("is empty")),
            1..=PASSWORD_BYTES_MAX => Ok(Self(line.to_vec())),
            _ => Err(wrong(&format!("is longer than {PASSWORD_BYTES_MAX} bytes: is this the right file?"))),
        }
    }
}

/// How a broker is called.
#[derive(Clone, Debug)]
pub struct MqttOptions {
    /// Name of the channel, such as `mqtt:0`.
    pub name: String,
    /// `host:port`.
    pub address: String,
    /// What our topics begin with.
    pub topic: String,
    /// Our client identifier.
    pub client_id: String,
    /// User name.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<MqttPassword>,
    /// Over TLS, and whom we trust.
    pub tls: Option<TlsClient>,
    /// Covers a whole delivery, and a whole call.
    pub timeout: Duration,
}

/// One broker, as the outbox sees it.
pub struct Mqtt {
    name: String,
    timeout: Duration,
    jobs: mpsc::Sender<Job>,
    standing: watch::Receiver<Standing>,
    opened: watch::Receiver<u64>,
    /// Taken when the service starts.
    client: Mutex<Option<Client>>,
}

impl Mqtt {
    /// A broker that is called once `upkeep` runs. `lamp` is what the box shows.
    #[must_use]
    pub fn new(options: MqttOptions, lamp: watch::Receiver<Lamp>, journal: Journal) -> Self {
        let (jobs, due) = mpsc::channel(ALERTS_MAX);
        let (standing_told, standing) = watch::channel(None);
        let (opened_told, opened) = watch::channel(0);
        let (name, timeout) = (options.name.clone(), options.timeout);
        let password = options.password.clone().map(|password| password.0).unwrap_or_default();
        let identity = Identity { client_id: options.client_id.clone(), user: options.user.clone().map(|user| (user, password)) };
        let session = SessionOptions { identity, topic: options.topic.clone() };
        let client = Client::new(
            options,
            session,
            Inlets { lamp, jobs: due },
            Outlets { standing: standing_told, opened: opened_told, journal },
        );
        Self { name, timeout, jobs, standing, opened, client: Mutex::new(Some(client)) }
    }

    async fn publish(&self, entry: &OutboxEntry) -> Result<(), DeliveryError> {
        let (answer, answered) = oneshot::channel();
        let until = Instant::now() + self.timeout;
        let (body, idempotency_key) = (entry.body.clone(), entry.idempotency_key.clone());
        let job = Job { body, idempotency_key, until, answer };
        let stopped = |_| DeliveryError::Channel("the connection's task has ended".to_owned());
        let delivery = async {
            self.jobs.send(job).await.map_err(|_| stopped(()))?;
            answered.await.map_err(|_| stopped(()))?
        };
        match timeout_at(until, delivery).await {
            Ok(outcome) => outcome,
            Err(_) => Err(DeliveryError::Channel(match &*self.standing.borrow() {
                Some((_, reason)) => reason.clone(),
                None => "the broker did not take it in time".to_owned(),
            })),
        }
    }
}

impl Channel for Mqtt {
    fn name(&self) -> &str {
        &self.name
    }

    fn deliver<'a>(&'a self, entry: &'a OutboxEntry, _now: WallTime) -> DeliveryFuture<'a> {
        Box::pin(self.publish(entry))
    }

    fn upkeep(&self, shutdown: watch::Receiver<bool>) -> Option<UpkeepFuture> {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        client.begin();
        Some(Box::pin(client.run(shutdown)))
    }

    fn reopened(&self) -> Option<watch::Receiver<u64>> {
        Some(self.opened.clone())
    }

    fn trouble(&self) -> Option<ChannelTrouble> {
        let standing = self.standing.borrow();
        standing.as_ref().map(|(since, reason)| ChannelTrouble { for_s: since.elapsed().as_secs(), reason: reason.clone() })
    }
}
