//! From the acquired voxels to an axis-aligned grid, in one pass: slices in -> value and background of every grid point.
//!
//! Each slice is looked at once. For every grid point near it the mean of the slice over a box as wide as the grid's spacing (or as one pixel,
//! where pixels are wider) is taken exactly from a summed-area table; pixels count as cells of constant value, so that the box of
//! one pixel width is linear interpolation between pixel centres, and a wider box is an area-weighted mean: no aliasing. Along the normal,
//! slices nearer to each other than the grid's spacing are weighted by the overlap of their cells with such a box; wider slices are
//! interpolated linearly between their centres, wherever these lie. Each slice is sampled at the foot of the perpendicular in its own position,
//! so tilted (sheared) and unevenly spaced stacks are exact. Nothing but + - * / on doubles in a fixed order: bit-identical everywhere.

mod aligned;
mod area;
mod gather;
mod level;
mod oblique;
mod profile;
mod sides;
mod slab;
#[cfg(test)]
mod tests;

use super::acquired::{Acquired, Slice};
use super::frames::Samples;
use super::register::Rigid;
use super::share::share;
use super::{PrepareLimits, budget};
use crate::domain::{Grid, Reason, SliceStack};
use gather::Work;
use profile::profiles;
use slab::{Slab, put_together};

/// An acquired volume on a grid. All vectors in C order k, j, i.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Resampled {
    /// Values; 0 where nothing was acquired.
    pub(super) values_kji: Vec<f32>,
    /// Nothing was acquired here, or filled background makes up more than half.
    pub(super) background_kji: Vec<bool>,
    /// Something was acquired here, be it filled background.
    pub(super) acquired_kji: Vec<bool>,
}

fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

fn minus(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

/// Brings `volume` to `grid`: a point of the grid shows the place where `placement` puts it in the volume, or without one its own. `filled` is the
/// value of filled background, if there is one. Every point is computed by one thread, from the slices in their order: the number of threads
/// does not matter.
///
/// # Errors
/// `BudgetExceeded` when the time is up, `InternalFault` when no thread could be started.
pub(super) fn to_grid(
    volume: &Acquired,
    grid: &Grid,
    placement: Option<&Rigid>,
    filled: Option<f32>,
    limits: &PrepareLimits,
) -> Result<Resampled, Reason> {
    let placed = placement.map(|rigid| rigid.place(&volume.stack));
    let stack = placed.as_ref().unwrap_or(&volume.stack);
    gather(stack, &volume.slices.iter().collect::<Vec<_>>(), grid, filled, limits)
}

/// Brings every other slice of `volume` to `grid`, from slice `first` on, as if there were no others.
///
/// # Errors
/// As [`to_grid`].
pub(super) fn every_other_to_grid(
    volume: &Acquired,
    first: usize,
    grid: &Grid,
    filled: Option<f32>,
    limits: &PrepareLimits,
) -> Result<Resampled, Reason> {
    let whole = &volume.stack;
    let offset_mm = whole.offsets_mm.get(first).copied().unwrap_or(0.0);
    let stack = SliceStack {
        frames: whole.frames.iter().skip(first).step_by(2).copied().collect(),
        offsets_mm: whole.offsets_mm.iter().skip(first).step_by(2).map(|t| t - offset_mm).collect(),
        positions_lps_mm: whole.positions_lps_mm.iter().skip(first).step_by(2).copied().collect(),
        origin_lps_mm: whole.positions_lps_mm.get(first).copied().unwrap_or(whole.origin_lps_mm),
        slice_spacing_mm: whole.slice_spacing_mm.map(|mm| 2.0 * mm),
        step_lps_mm: whole.step_lps_mm.map(|mm| 2.0 * mm),
        ..whole.clone()
    };
    let slices: Vec<&Slice> = volume.slices.iter().skip(first).step_by(2).collect();
    gather(&stack, &slices, grid, filled, limits)
}

fn gather(
    stack: &SliceStack,
    slices: &[&Slice],
    grid: &Grid,
    filled: Option<f32>,
    limits: &PrepareLimits,
) -> Result<Resampled, Reason> {
    let is_wide = slices.iter().any(|slice| matches!(slice.samples, Samples::F32(_)));
    budget::check_resample(stack, if is_wide { 32 } else { 16 }, grid, filled.is_some(), limits)?;
    let (profiles, view) = profiles(stack, grid.spacing_mm);
    let work = Work { stack, slices, profiles: &profiles, view, grid, filled, limits };
    let slabs = Slab::cut(grid, stack, limits.n_threads.max(1));
    let parts = share(&slabs, limits.n_threads, None, |slab| work.slab(slab))?;
    Ok(put_together(grid, &slabs, parts.into_iter().collect::<Result<Vec<_>, _>>()?))
}
