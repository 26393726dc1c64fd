//! Synth: synthetic head MR studies as true DICOM, for the demonstration, the tests and the self-test. A plan in -> files.

pub mod anatomy;
pub mod render;
pub mod study;

pub use render::{Lesion, Weighting};
pub use study::{Plane, SYNTHETIC_NOTE, SeriesPlan, StudyPlan, SynthError, demo_plans, derived_uid, write_study};
