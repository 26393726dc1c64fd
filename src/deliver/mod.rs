//! Deliver: what leaves the box. Verdicts and notices in -> JSON, signed webhook calls and DICOM stores out, retried from the durable outbox.

pub mod verdict_json;
