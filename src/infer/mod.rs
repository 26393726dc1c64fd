//! Infer: a prepared study -> findings, by one model version, inside a time and memory budget.
//!
//! ```text
//!   folder ──> package (manifest, hashes, goldens) ──> engine_tract (graph) ──> tract-qconv (int8 arithmetic)
//!   PreparedStudy ──> pool (one worker, bounded queue, deadline) ──> engine ──> Findings
//!                                                                     └ npu::fallback ──> worker process ──> engine_ort (vendor's libraries)
//! ```
//!
//! The model's graph is integers from end to end: quantised convolutions, nearest up-sampling, concatenation. Convolutions run in our own
//! operator (`crates/tract-qconv`), bit for bit as ONNX Runtime computes them, the same on every processor (DESIGN.md rule 4).

mod control;
pub mod engine;
pub mod engine_ort;
pub mod engine_tract;
mod manifest;
pub mod npu;
pub mod package;
pub mod pool;
mod section;
mod tensors;

pub use control::{EngineOptions, LayerTime};
pub use engine::{Cancel, Engine, EngineError};
pub use engine_tract::TractEngine;
pub use npu::NpuOptions;
pub use npu::fallback::{FallbackEngine, FallbackOptions, NpuEvent, NpuStatus, NpuWatch};
pub use package::{Golden, ModelPackage, PackageError, PackageFault, Tolerance, Twin};
pub use pool::{InferencePool, Pending, PoolOptions};
pub use tract_qconv::Kernel;
