//! `receive` without its sockets: the pure files, at the names that they call each other by.

#[path = "../../src/receive/command.rs"]
pub mod command;
#[path = "../../src/receive/dimse.rs"]
pub mod dimse;
#[path = "../../src/receive/element_reader.rs"]
mod element_reader;
#[path = "../../src/receive/element_walk.rs"]
mod element_walk;
#[path = "../receive_targets.rs"]
pub mod fuzz_targets;
#[path = "../../src/receive/functional_groups.rs"]
mod functional_groups;
#[path = "../../src/receive/header_fields.rs"]
mod header_fields;
#[path = "../../src/receive/header_scan.rs"]
pub mod header_scan;
#[path = "../../src/receive/header_values.rs"]
mod header_values;
#[path = "../../src/receive/negotiate.rs"]
pub mod negotiate;
#[path = "../../src/receive/options.rs"]
mod options;
#[path = "../../src/receive/pdu_buffer.rs"]
mod pdu_buffer;
#[path = "../../src/receive/roles.rs"]
mod roles;
#[path = "../../src/receive/sop_classes.rs"]
pub mod sop_classes;
#[path = "../../src/receive/values.rs"]
mod values;

pub use command::DimseStatus;
pub use header_scan::{PixelFacts, ScanError, ScanLimits, scan_part10, scan_with_pixel_facts};
pub use options::ReceiveOptions;
