//! Domain: the words of the product as types. Data in, data out; no clock, no file, no socket.
//!
//! Every other room speaks in these types, and each stage of the pipeline takes only what the stage before it made
//! (DESIGN.md section 2). Frames of reference and units stand in the names: `_lps_mm`, `_ms`, `_ml`.

pub mod commitment;
pub mod device;
pub mod findings;
pub mod geometry;
pub mod identity;
pub mod instance;
pub mod model;
pub mod role;
pub mod speed;
pub mod step;
pub mod study;
pub mod time;
pub mod verdict;
pub mod volume;
pub mod vr;
pub mod work;

pub use commitment::{
    Commitment, CommitmentFailure, CommitmentItem, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE, SopReference,
};
pub use device::{DeviceCondition, DeviceState, Lamp};
pub use findings::{AnatomyMaps, Findings, ScoreMap};
pub use geometry::{FrameRef, GeometryError, SliceStack, StackIssue};
pub use identity::{AeTitle, CertificateSha256, IdentityError, Uid};
pub use instance::{Acquisition, Concatenation, FrameGeometry, InstanceHeader, StoredInstance};
pub use model::{
    ContrastLimits, InputChannel, ModelIdentity, ModelSpec, Normalisation, OperatingPoint, Quantisation, SignLimits,
};
pub use role::Role;
pub use step::{AvailableInstances, ProcedureStep, ReferencedSeries, StepStatus};
pub use study::{ClosedBecause, OpenStudy, Series, Study};
pub use time::{Monotonic, WallTime};
pub use verdict::{
    Finding, QualityNote, Reason, ReasonCode, Refusal, SeriesUse, Severity, Side, Sign, SignCode, TimingMs, Urgency, Verdict,
    VerdictKind,
};
pub use volume::{Grid, PreparedStudy, Volume};
pub use work::{Doing, WorkSeen, WorkSteps};
