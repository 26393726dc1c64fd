//! Movement within one series: a stack of thick slices in -> by how much its even and odd slices lie apart, when that is more than they should.
//!
//! Scanners acquire the slices of a 2D stack in two passes or more, the even ones after the odd ones. A patient who moved in between lies in one
//! half of the slices elsewhere than in the other: lesions look doubled or serrated. The two halves are registered like two series (`register.rs`).
//! Thin slices come from 3D acquisitions, whose whole volume is blurred by motion; nothing can be said about them here.

use super::acquired::Acquired;
use super::register::{BETWEEN_PASSES, First, Outcome, Rigid};
use super::resample::Resampled;
use super::{PrepareLimits, normalise, resample};
use crate::domain::{Grid, ModelSpec, Reason};

/// Slices at least this far apart come from a 2D acquisition, mm. GUESS: 3D brain protocols have 0.8 to 2 mm.
const SPACING_MM_MIN: f64 = 2.5;
/// Fewer slices than this in each half show too little of the head.
const HALF_SLICES_MIN: usize = 8;
/// Voxel of the grid on which the halves are compared, mm: finer than their slices.
const GRID_MM: f64 = 3.0;

/// The move between the even and the odd slices of `volume`, looked for on the field of `grid`; `None` where there is none, or none can be told.
///
/// # Errors
/// `BudgetExceeded` when the time is up.
pub(super) fn between_passes(
    volume: &Acquired,
    grid: &Grid,
    filled: Option<f32>,
    model: &ModelSpec,
    limits: &PrepareLimits,
) -> Result<Option<Rigid>, Reason> {
    let is_thick = volume.stack.slice_spacing_mm.is_some_and(|mm| mm >= SPACING_MM_MIN);
    if !is_thick || volume.stack.n_slices() < 2 * HALF_SLICES_MIN {
        return Ok(None);
    }
    let grid = coarser(grid);
    let half = |part: usize| -> Result<Option<Resampled>, Reason> {
        let mut seen = resample::every_other_to_grid(volume, part, &grid, filled, limits)?;
        let is_shown = normalise::normalise(&mut seen.values_kji, &seen.background_kji, &model.normalisation);
        Ok(is_shown.then_some(seen))
    };
    let (Some(even), Some(odd)) = (half(0)?, half(1)?) else { return Ok(None) };
    Ok(match First::new(&grid, &even, BETWEEN_PASSES.n_smoothed).check(&grid, &odd, &BETWEEN_PASSES, limits)? {
        Outcome::Moved(rigid) => Some(rigid),
        Outcome::Still | Outcome::Doubtful(_) => None,
    })
}

/// The same field with voxels of [`GRID_MM`] or more.
fn coarser(grid: &Grid) -> Grid {
    let spacing_mm = grid.spacing_mm.max(GRID_MM);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // fewer than before
    let shape_kji = grid.shape_kji.map(|n| ((n as f64 * grid.spacing_mm / spacing_mm).floor() as usize).max(1));
    let shift_mm = (spacing_mm - grid.spacing_mm) / 2.0;
    Grid { origin_lps_mm: grid.origin_lps_mm.map(|x| x + shift_mm), spacing_mm, shape_kji }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_coarser_grid_covers_the_same_field() {
        let fine = Grid { origin_lps_mm: [-95.0, -119.0, -95.0], spacing_mm: 2.0, shape_kji: [96, 120, 96] };
        let coarse = Grid { origin_lps_mm: [-94.5, -118.5, -94.5], spacing_mm: 3.0, shape_kji: [64, 80, 64] };
        assert_eq!(coarser(&fine), coarse);
        assert_eq!(coarser(&coarse), coarse);
    }
}
