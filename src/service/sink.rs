//! The gate in front of the spool: while too many studies wait for the pipeline, `begin` answers full, so that the receiver refuses new
//! instances with 0xA700 before anything that was accepted is dropped (DESIGN.md rule 2).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::spool::{FullBecause, IncomingInstance, InstanceSink, ServiceStore, Spool, SpoolError};

/// The spool behind a gate.
pub(super) struct GatedSink {
    spool: Spool,
    overloaded: Arc<AtomicBool>,
}

impl GatedSink {
    /// A gate that closes while `overloaded` is set.
    #[must_use]
    pub(super) fn new(spool: Spool, overloaded: Arc<AtomicBool>) -> Self {
        Self { spool, overloaded }
    }
}

impl InstanceSink for GatedSink {
    fn begin(&self) -> Result<Box<dyn IncomingInstance>, SpoolError> {
        if self.overloaded.load(Ordering::Relaxed) {
            return Err(SpoolError::Full { because: FullBecause::Backlog });
        }
        self.spool.begin()
    }

    fn services(&self) -> Option<Arc<dyn ServiceStore>> {
        self.spool.services()
    }
}
