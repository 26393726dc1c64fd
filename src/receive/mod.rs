//! Receive: associations in -> whole, durable instances and their notices out.
//!
//! | File | In -> out |
//! | --- | --- |
//! | `server.rs`, `shared.rs` | connections, plain and TLS -> one bounded task each |
//! | `slots.rs` (pure) | connections, requests, pauses -> who may stay |
//! | `rates.rs` (pure) | connections, failures, lines -> who is put off, who is only counted |
//! | `handshake.rs`, `stream.rs` | socket -> plain or TLS stream, or why not |
//! | `connection.rs` | stream -> whole PDUs, within deadlines |
//! | `progress.rs` (pure) | bytes and pauses -> how long to wait |
//! | `pdu_buffer.rs` (pure) | bytes -> PDUs and fragments, as ranges |
//! | `negotiate.rs`, `roles.rs`, `sop_classes.rs`, `options.rs` (pure) | A-ASSOCIATE-RQ -> accept or reject |
//! | `dimse.rs`, `command.rs` (pure) | fragments -> events; responses |
//! | `association.rs`, `ending.rs` | PDUs -> answers, notices, and how it ended |
//! | `store.rs` (blocking) | fragments -> durable instance or status |
//! | `n_services.rs`, `services.rs` (blocking), `service_data.rs` (pure) | N requests -> durable steps and commitments, and their reports |
//! | `header_scan.rs`, `element_reader.rs`, `header_fields.rs`, `header_values.rs`, `functional_groups.rs`, `values.rs` | Part-10 file -> `InstanceHeader` |
//! | `events.rs` | what is told to the service and to the journal |

mod association;
pub mod command;
mod connection;
pub mod dimse;
mod element_reader;
mod element_walk;
mod ending;
mod events;
mod functional_groups;
#[cfg(test)]
#[path = "../../fuzz/receive_targets.rs"]
mod fuzz_targets;
mod handshake;
mod header_fields;
pub mod header_scan;
mod header_values;
mod n_services;
pub mod negotiate;
mod options;
mod pdu_buffer;
mod progress;
mod rates;
mod roles;
mod server;
mod service_data;
mod services;
mod shared;
mod slots;
pub mod sop_classes;
mod store;
mod stream;
#[cfg(test)]
mod test_data;
mod values;

pub use crate::secure::{TlsError, TlsFiles, TlsKeeper, TlsStanding, cipher_suites};
pub use command::DimseStatus;
pub use events::ReceiveNotice;
pub use header_scan::{PixelFacts, ScanError, ScanLimits, scan_part10, scan_with_pixel_facts};
pub use negotiate::{Caller, IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME};
pub use options::{PeerNet, PeerNetError, PeerRule, ReceiveOptions};
pub use server::{Listeners, ReceiveError, bind, serve};
