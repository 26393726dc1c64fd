//! Deliver: what leaves the box. Verdicts and notices in -> JSON, signed webhook calls, MQTT messages and DICOM stores out, retried from the durable outbox;
//! questions to a PACS; storage commitments in -> their reports out.

mod age;
mod association;
mod dimse_scu;
mod event_report;
mod events;
mod mqtt;
mod outbox;
mod outbox_watch;
mod part10;
mod query_messages;
pub mod query_scu;
mod secure_scu;
pub mod store_scu;
mod tls_client;
mod transport;
pub mod verdict_json;
mod webhook;

pub use association::AssociationOptions;
pub use event_report::{CommitmentHealth, EventReportOptions, EventReporter};
pub use events::DeliverEvent;
pub use mqtt::{Mqtt, MqttOptions, MqttPassword};
pub use outbox::{BACKOFF_MS_MAX, Channel, ChannelTrouble, DeliverWaker, Deliverer, DeliveryFuture, UpkeepFuture, backoff_ms};
pub use outbox_watch::DeliveryHealth;
pub use query_messages::{Availability, PacsSeries, STUDY_ROOT_FIND, STUDY_ROOT_MOVE};
pub use tls_client::TlsClient;
pub use webhook::{DeliveryError, Secret, Webhook, WebhookError, install_crypto_provider};
