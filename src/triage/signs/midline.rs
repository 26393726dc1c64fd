//! Midline shift: where the halves of the brain meet, and the ideal midline -> the largest distance between the two at the level of the
//! lateral ventricles. A shift of 5 mm and more is what head injury and stroke guidelines act on; the threshold stands in the manifest.

use crate::domain::Side;

use super::plane::{Plane, Regions};
use super::rows::Rows;
use super::ventricles::Ventricles;
use super::{Frame, median};

/// Half the width of the patch over which a row's distance is smoothed, mm. With this, the next and the bounds along j, far fewer
/// synthetic heads without a shift of 5 mm seem to have one than with 4 mm, 100 mm2 and no bounds (14 of 84).
const PATCH_HALF_MM: f64 = 8.0;
/// The shift is what at least this much of the midline surface reaches, mm2: about the septum pellucidum.
const SHIFTED_MM2: f64 = 300.0;
/// A shift above this is taken for a fault of the map and not measured, mm; faults of 22 to 38 mm were seen on degraded synthetic heads. GUESS.
const SHIFT_MM_MAX: f64 = 20.0;
/// Less of the midline than this at the level of the ventricles is not measured, mm2.
const LEVEL_MM2_MIN: f64 = 500.0;
/// A shift smaller than this has no side, mm: half a voxel of the 2 mm grid.
const SIDE_MM_MIN: f64 = 1.0;

/// A shift of the midline.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Shift {
    /// mm; positive to the patient's left.
    pub(super) mm: f64,
}

impl Shift {
    /// Towards which side.
    pub(super) fn side(self) -> Option<Side> {
        (self.mm.abs() >= SIDE_MM_MIN).then_some(if self.mm > 0.0 { Side::Left } else { Side::Right })
    }
}

/// The shift, or why it cannot be measured.
pub(super) fn shift(rows: &Rows, plane: &Result<Plane, String>, frame: &Frame, ventricles: &Ventricles) -> Result<Shift, String> {
    let plane = plane.as_ref().map_err(Clone::clone)?;
    let n_j = frame.shape_kji[1].max(1);
    let distances: Vec<Option<f64>> = rows
        .x_mm
        .iter()
        .enumerate()
        .map(|(row, x)| {
            let [y, z] = Rows::yz_mm(frame, row / n_j, row % n_j);
            x.map(|x| plane.distance_mm([x, y, z]))
        })
        .collect();
    let (regions, [k_first, k_last], [j_first, j_last]) = (Regions::of(rows), ventricles.level(0), ventricles.level(1));
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a few voxels
    let half = (PATCH_HALF_MM / frame.spacing_mm).round().max(1.0) as usize;
    let mut level: Vec<f64> = (k_first..=k_last)
        .flat_map(|k| (j_first..=j_last).map(move |j| (k, j)))
        .filter(|&(k, j)| regions.is_middle(k, j))
        .filter_map(|(k, j)| smoothed(&distances, n_j, (k, j), half))
        .collect();
    if level.len() < frame.n_in_area(LEVEL_MM2_MIN) {
        return Err(
            "too little of the boundary between the halves of the brain was found at the level of the ventricles".to_owned()
        );
    }
    level.sort_unstable_by(f64::total_cmp);
    let n = frame.n_in_area(SHIFTED_MM2);
    let (right, left) = (level.get(n - 1).copied(), level.get(level.len().saturating_sub(n)).copied());
    let (right, left) = (-right.unwrap_or(0.0).min(0.0), left.unwrap_or(0.0).max(0.0));
    if left.max(right) > SHIFT_MM_MAX {
        return Err(format!("the map of the halves of the brain puts it {:.0} mm off, which cannot be", left.max(right)));
    }
    Ok(Shift { mm: if left >= right { left } else { -right } })
}

/// Median distance over the patch around row (k, j); `None` when the row or half of the patch has none.
fn smoothed(distances: &[Option<f64>], n_j: usize, (k, j): (usize, usize), half: usize) -> Option<f64> {
    distances.get(k * n_j + j).copied().flatten()?;
    let patch = (k.saturating_sub(half)..=k + half)
        .flat_map(|k| (j.saturating_sub(half)..=(j + half).min(n_j - 1)).map(move |j| k * n_j + j));
    let mut near: Vec<f64> = patch.filter_map(|row| distances.get(row).copied().flatten()).collect();
    (2 * near.len() > (2 * half + 1) * (2 * half + 1)).then(|| median(&mut near))
}
