//! The configuration room as it is, and its target.

#[path = "../config_targets.rs"]
pub mod fuzz_targets;
#[path = "../../src/config/mod.rs"]
mod room;

pub use room::*;
