//! Deliver: what leaves the box. Verdicts and notices in -> JSON, signed webhook calls and DICOM stores out, retried from the durable outbox.

mod dimse_scu;
mod part10;
pub mod store_scu;
pub mod verdict_json;
