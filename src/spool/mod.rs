//! Spool: instances, verdicts and notices that survive power loss, inside a byte budget. Bytes of an instance in -> `StoredInstance` out.

mod error;
mod sink;
mod types;

pub use error::{FullBecause, SpoolError};
pub use sink::{IncomingInstance, InstanceSink, Store};
pub use types::{
    Acknowledgement, Committed, Delivery, Notice, OutboxEntry, OutboxStats, SpoolOptions, StoredInstanceRecord, StoredVerdict,
    StudyDetail, StudyState, StudySummary, Usage, VerdictRecord,
};

/// A notice that has waited longer than this is stale: the device condition `AlertsUndelivered` is due. 10 minutes.
pub const NOTICE_STALE_MS: i64 = 10 * 60 * 1000;
/// Longest wait before the next attempt that the outbox accepts; a later time is brought forward to it. 1 hour.
pub const RETRY_AHEAD_MS_MAX: i64 = 60 * 60 * 1000;
/// Most studies that one listing returns.
pub const STUDIES_LISTED_MAX: usize = 1000;
/// Most verdicts, notices or acknowledgements that one study's detail returns, each.
pub const DETAIL_ROWS_MAX: usize = 64;
