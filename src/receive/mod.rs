//! Receive: associations in -> whole, durable instances and their notices out.
//!
//! | File | In -> out |
//! | --- | --- |
//! | `header_scan.rs` | Part-10 file -> `InstanceHeader` |

mod element_reader;
mod functional_groups;
mod header_fields;
pub mod header_scan;
#[cfg(test)]
mod test_data;
mod values;

pub use header_scan::{PixelFacts, ScanError, ScanLimits, scan_part10, scan_with_pixel_facts};
