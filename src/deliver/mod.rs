//! Deliver: what leaves the box. Verdicts and notices in -> JSON, signed webhook calls and DICOM stores out, retried from the durable outbox;
//! storage commitments in -> their reports out.

mod dimse_scu;
mod event_report;
mod events;
mod outbox;
mod part10;
pub mod store_scu;
pub mod verdict_json;
mod webhook;

pub use event_report::{CommitmentHealth, EventReportOptions, EventReporter};
pub use events::DeliverEvent;
pub use outbox::{BACKOFF_MS_MAX, Channel, DeliverWaker, Deliverer, DeliveryFuture, DeliveryHealth, backoff_ms};
pub use webhook::{DeliveryError, Secret, Webhook, WebhookError, install_crypto_provider};
