//! Signs: the maps of the brain's halves and of the lateral ventricles -> midline shift, width and volume of the ventricles, with notes about
//! what could not be measured.
//!
//! ```text
//!   right_hemisphere ──> rows (where the halves meet) ──> plane through the falx's attachments ──> midline shift
//!   ventricle ───────────────────────────────────────────────┴──> frontal horns along the plane's normal ──> index
//! ```
//!
//! All coordinates are millimetres from the brain's centroid: x to the patient's left, y to posterior, z to superior. Only basic arithmetic
//! and square roots, sums in raster order (DESIGN.md rule 4).

mod midline;
mod plane;
mod rows;
mod ventricles;

use crate::domain::{Findings, QualityNote, Severity, Sign, SignCode, SignLimits};

use super::mask::{BrainMask, count};
use super::round4;
use rows::Rows;

/// Fewer lateral ventricles than this are not measured, ml: the level of the midline shift and the place of the frontal horns are then not
/// known. GUESS: slit ventricles hold 2 to 5 ml; to be measured on real studies.
const VENTRICLE_ML_MIN: f64 = 2.0;
/// What scores at least this is right hemisphere, or ventricle.
const SCORE_MIN: f32 = 0.5;

/// What was measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// The measures, in order of their codes.
    pub signs: Vec<Sign>,
    /// What could not be measured, and why.
    pub notes: Vec<QualityNote>,
}

/// Measures the signs of one study; nothing for a model without the maps.
#[must_use]
pub fn measure(findings: &Findings, mask: &BrainMask, brain_threshold: f32, limits: &SignLimits) -> Measured {
    let mut measured = Measured::default();
    let Some(maps) = &findings.anatomy else { return measured };
    let frame = Frame::of(findings, mask);
    let ventricles = ventricles::Ventricles::find(&maps.ventricle, mask, &findings.grid);
    let rows = Rows::find(&maps.right_hemisphere, mask, &frame);
    let plane = plane::fit(&rows, &frame);
    let sign = |code, value: f64, threshold| Sign { code, value: round4(value), threshold, side: None };
    let note = |code, text: String| QualityNote { code, text, severity: Severity::Note };

    let shift = enough(&ventricles).and_then(|()| midline::shift(&rows, &plane, &frame, &ventricles));
    match shift {
        Ok(shift) => measured
            .signs
            .push(Sign { side: shift.side(), ..sign(SignCode::MidlineShift, shift.mm.abs(), Some(limits.midline_shift_mm_min)) }),
        Err(why) => {
            measured.notes.push(note("midline-not-measured", format!("The shift of the midline was not measured: {why}.")))
        }
    }
    let index = enough(&ventricles)
        .and_then(|()| plane.clone())
        .and_then(|plane| ventricles.index(&plane, &frame, findings, mask, brain_threshold));
    match index {
        Ok(index) => measured.signs.push(sign(SignCode::VentricularEnlargement, index, Some(limits.ventricle_index_min))),
        Err(why) => {
            measured.notes.push(note("ventricles-not-measured", format!("The width of the ventricles was not measured: {why}.")));
        }
    }
    measured.signs.push(sign(SignCode::VentricleVolume, ventricles.volume_ml, None));
    if mask.volume_ml > 0.0 {
        measured.signs.push(sign(SignCode::VentricleFraction, ventricles.volume_ml / mask.volume_ml, None));
    }
    measured
}

fn enough(ventricles: &ventricles::Ventricles) -> Result<(), String> {
    if ventricles.volume_ml < VENTRICLE_ML_MIN {
        return Err(format!("only {:.1} ml of lateral ventricles were found", ventricles.volume_ml));
    }
    Ok(())
}

/// Where voxels lie: millimetres from the brain's centroid.
struct Frame {
    spacing_mm: f64,
    shape_kji: [usize; 3],
    /// The centroid in voxels: k, j, i.
    centre_kji: [f64; 3],
}

impl Frame {
    fn of(findings: &Findings, mask: &BrainMask) -> Self {
        let grid = &findings.grid;
        let [x, y, z] = mask.centroid_lps_mm;
        let [x0, y0, z0] = grid.origin_lps_mm;
        let voxels = |mm: f64| mm / grid.spacing_mm;
        Self {
            spacing_mm: grid.spacing_mm,
            shape_kji: grid.shape_kji,
            centre_kji: [voxels(z - z0), voxels(y - y0), voxels(x - x0)],
        }
    }

    /// Voxel (k, j, i) -> x, y, z.
    fn xyz_mm(&self, kji: [f64; 3]) -> [f64; 3] {
        let [k, j, i] = kji;
        let [ck, cj, ci] = self.centre_kji;
        [(i - ci) * self.spacing_mm, (j - cj) * self.spacing_mm, (k - ck) * self.spacing_mm]
    }

    /// How many rows or voxels of the grid an area of `mm2` takes.
    fn n_in_area(&self, mm2: f64) -> usize {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // positive and small: spacings are 0.1 mm and more
        let n = (mm2 / (self.spacing_mm * self.spacing_mm)).ceil() as usize;
        n.max(1)
    }
}

/// Value at fraction `at` (0 to 1) of the sorted values: the nearest one; 0 for none.
fn quantile(sorted: &[f64], at: f64) -> f64 {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // within the slice
    let idx = (count(sorted.len().saturating_sub(1)) * at).round() as usize;
    sorted.get(idx).copied().unwrap_or(0.0)
}

/// Median: the mean of the two middle values of an even number; 0 for none. Sorts its argument.
fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let n = values.len();
    let (low, high) = (values.get(n.saturating_sub(1) / 2), values.get(n / 2));
    low.zip(high).map_or(0.0, |(low, high)| (low + high) / 2.0)
}
