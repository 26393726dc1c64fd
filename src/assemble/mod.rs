//! Assemble: stored instances in -> closed studies out, each series with its role and the evidence for it.
//!
//! Pure: no clock, no file, no socket; `now` is passed in and actions are returned.

pub mod assembler;
pub mod role;

pub use assembler::{AssembleAction, AssembleEvent, AssembleNote, AssembleOptions, Assembler, missing_required};
pub use role::{classify, classify_study, says_after_contrast};
