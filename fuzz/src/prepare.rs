//! The part of `prepare` that reads one instance, with stand-ins for the limits and the memory estimate that it asks.

#[path = "../../src/prepare/codestream.rs"]
mod codestream;
#[path = "../../src/prepare/dataset.rs"]
mod dataset;
#[path = "../../src/prepare/frames.rs"]
mod frames;
#[path = "../prepare_targets.rs"]
pub mod fuzz_targets;
#[path = "../../src/prepare/tail.rs"]
mod tail;

/// What `prepare::PrepareLimits` holds of use here.
pub struct PrepareLimits {
    pub instance_bytes_max: u64,
    pub memory_bytes_max: u64,
}

impl Default for PrepareLimits {
    fn default() -> Self {
        Self { instance_bytes_max: 4 << 20, memory_bytes_max: 64 << 20 }
    }
}

mod budget {
    //! As `prepare::budget::check_parse`.
    use crate::domain::Reason;

    pub(super) fn check_parse(n_bytes: usize, limits: &super::PrepareLimits) -> Result<(), Reason> {
        let bytes = n_bytes as u64 * 16;
        if bytes <= limits.memory_bytes_max { Ok(()) } else { Err(Reason::memory("Reading", bytes, limits.memory_bytes_max)) }
    }
}
