//! Which of several series of one role is the better one: instances in -> [`Rank`], greater is better.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::domain::geometry::main_stack;
use crate::domain::{StoredInstance, Uid};

use super::facts::time_of_day_ms;

/// Order of preference among series of one role; compare by `Ord`, the greatest is the best. The fields count in this order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// No slice missing, none uneven.
    pub is_regular: bool,
    /// As acquired, not a reformat or otherwise derived.
    pub is_original: bool,
    /// Coarsest of the three spacings in steps of 0.5 mm, smaller is better.
    pub spacing_half_mm: Reverse<u32>,
    /// Slices.
    pub n_slices: usize,
    /// Acquired in 3D.
    pub is_3d: bool,
    /// Time of day of the acquisition, ms since midnight; later is better (contrast has spread, motion was repeated).
    pub acquired_at_ms: Option<u64>,
    /// So that there is always one best, whatever the order.
    pub series_instance_uid: Option<Reverse<Uid>>,
}

/// The rank of a series. A series without any usable geometry ranks below all others.
#[must_use]
pub fn rank(instances: &[Arc<StoredInstance>]) -> Rank {
    let stack = main_stack(instances).ok();
    let headers = || instances.iter().map(|instance| &instance.header);
    let says = |values: &[String], words: &[&str]| values.iter().any(|v| words.iter().any(|word| v.eq_ignore_ascii_case(word)));
    let is_derived = headers().any(|h| says(&h.image_type, &["DERIVED", "SECONDARY", "MPR", "REFORMATTED", "RESAMPLED"]));
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    // a usable spacing is above 0; slices 2 m apart saturate below u32
    let spacing_half_mm = stack.as_ref().map_or(u32::MAX, |stack| (stack.spacing_mm_max() * 2.0).round() as u32);
    Rank {
        is_regular: stack.as_ref().is_some_and(|stack| stack.is_regular()),
        is_original: !is_derived,
        spacing_half_mm: Reverse(spacing_half_mm),
        n_slices: stack.as_ref().map_or(0, |stack| stack.n_slices()),
        is_3d: headers().any(|h| h.acquisition.mr_acquisition_type.as_deref() == Some("3D")),
        acquired_at_ms: headers().filter_map(|h| time_of_day_ms(h.acquisition.acquisition_time.as_deref()?)).min(),
        series_instance_uid: headers().map(|h| &h.series_instance_uid).min().cloned().map(Reverse),
    }
}
