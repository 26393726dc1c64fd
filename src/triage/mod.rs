//! Triage: the network's answer -> the verdict, with reasons for the radiologist. Pure: no clock, no file, no randomness.
//!
//! ```text
//!   Findings ──> components (brain mask, connected components, measures) ──> decide (flagged or not, how urgent) ──┐
//!      ├──> signs (midline shift, ventricles) ──> review (urgency only) <───────────────────────────────────────────┤
//!      └──> contrast, noise (from the pixels) ──> review (indeterminate)                                            ├─> Verdict
//!   Refusal  ───────────────────────────────────────────────────────────────────────────────────────────────────────┘
//!                                     earlier verdict on the same study ──> supersede ──> Verdict that never ranks lower
//! ```
//!
//! Every figure that reaches a verdict is rounded to four decimals and every sum runs in raster order, so that the same study gives the
//! same verdict on every processor (DESIGN.md rule 4).

pub mod components;
pub mod contrast;
pub mod decide;
mod diameter;
mod mask;
pub mod noise;
mod review;
mod runs;
mod sentence;
pub mod signs;
pub mod supersede;

pub use components::{Component, Intensities, components};
pub use contrast::{contrast_seen_ml, normal_enhancement_ml};
pub use decide::{Assessed, TriageInput, decide};
pub use mask::{BrainMask, brain_mask};
pub use noise::noise_z;
pub use supersede::{VerdictSummary, alerts, is_news, supersede};

/// Rounds to four decimals: finer than any use of the figure, coarser than any platform's last bit.
pub(crate) fn round4(value: f64) -> f64 {
    let rounded = (value * 1e4).round() / 1e4;
    // Minus zero would print as "-0.0".
    if rounded == 0.0 { 0.0 } else { rounded }
}
