//! Finding the head: an acquired volume in -> where the model's grid is placed, or why this is no head that the model knows.
//!
//! The volume is brought to a coarse grid over its whole field of view; what remains of the foreground after an opening is measured by counting,
//! so that noise, hot voxels and thin artefacts do not matter. The convention is the trainer's (`models/train`, `grid_centre`): in the plane the
//! centre of the foreground's box in the upper 150 mm, along the body 90 mm below its top.

use super::PrepareLimits;
use super::acquired::Acquired;
use super::normalise::{foreground_from, percentile};
use super::resample::{Resampled, to_grid};
use crate::domain::{Grid, ModelSpec, Normalisation, Reason, ReasonCode};

/// Voxel of the coarse grid, mm.
const COARSE_MM: f64 = 4.0;
/// A field of view wider than this along any axis is no head examination, mm. GUESS: the widest head protocols cover 320 mm.
const VIEW_MM_MAX: f64 = 520.0;
/// A coarse layer belongs to the head when it holds this many foreground voxels (1.9 cm2). GUESS: a head's top reaches it within 0.4 mm.
const LAYER_VOXELS_MIN: usize = 12;
/// The grid's centre lies this far below the top of the foreground, mm (`TOP_TO_CENTRE_MM` of the trainer).
const TOP_TO_CENTRE_MM: f64 = 90.0;
/// The in-plane centre is taken in this much of the upper foreground, mm (`UPPER_MM` of the trainer).
const UPPER_MM: f64 = 150.0;
/// Plausible width and length of a head in the axial plane, mm. GUESS: skull-stripped brains measure 120 to 185 mm, heads with noses
/// up to 250 mm; to be measured on the acceptance cohort.
const HEAD_MM: [f64; 2] = [100.0, 260.0];

/// Where the head is.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Head {
    /// The model's grid on it.
    pub(super) grid: Grid,
    /// Height of the foreground, mm.
    pub(super) height_mm: f64,
}

/// Places the model's grid on `volume`.
///
/// # Errors
/// `CoverageOrResolution` for an empty image or a field of view that shows too little, `OutsideDomain` for what is not of a head's size,
/// `BudgetExceeded` when the time is up.
pub(super) fn place(volume: &Acquired, filled: Option<f32>, model: &ModelSpec, limits: &PrepareLimits) -> Result<Head, Reason> {
    let coarse = coarse_grid(volume)?;
    let seen = to_grid(volume, &coarse, None, filled, limits)?;
    let Some(mask) = foreground(&seen, coarse.shape_kji, &model.normalisation) else {
        return Err(Reason::new(ReasonCode::CoverageOrResolution, "The images are empty: all voxels have the same value."));
    };
    let nothing = || Reason::new(ReasonCode::CoverageOrResolution, "The images show nothing: no foreground was found in them.");
    let full = layers(&mask, coarse.shape_kji, [0, 0, 0], coarse.shape_kji);
    let [k0, k1] = full[0].ok_or_else(nothing)?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let n_upper = (UPPER_MM / COARSE_MM) as usize;
    let upper_from = (k1 + 1).saturating_sub(n_upper).max(k0);
    let upper = layers(&mask, coarse.shape_kji, [upper_from, 0, 0], coarse.shape_kji);
    let ([j0, j1], [i0, i1]) = (upper[1].ok_or_else(nothing)?, upper[2].ok_or_else(nothing)?);
    #[allow(clippy::cast_precision_loss)]
    let face = |index: usize| index as f64 * COARSE_MM - COARSE_MM / 2.0;
    let [x, y, z] = coarse.origin_lps_mm;
    check_size("left to right", face(i1 + 1) - face(i0), coarse.shape_kji[2])?;
    check_size("front to back", face(j1 + 1) - face(j0), coarse.shape_kji[1])?;
    let (bottom, top) = (z + face(k0), z + face(k1 + 1));
    let centre_z = centre_along_body(bottom, top, model);
    let centre = [x + (face(i0) + face(i1 + 1)) / 2.0, y + (face(j0) + face(j1 + 1)) / 2.0, centre_z];
    Ok(Head { grid: grid_around(centre, model), height_mm: top - bottom })
}

/// 90 mm below the top; where that would cut off the lower end of data that fit as a whole, the middle of the data.
fn centre_along_body(bottom: f64, top: f64, model: &ModelSpec) -> f64 {
    #[allow(clippy::cast_precision_loss)]
    let grid_mm = model.shape_kji[0] as f64 * model.spacing_mm;
    let by_top = top - TOP_TO_CENTRE_MM;
    let is_cut = bottom < by_top - grid_mm / 2.0 || top > by_top + grid_mm / 2.0;
    if is_cut && top - bottom <= grid_mm { (top + bottom) / 2.0 } else { by_top }
}

/// The model's grid with this centre.
fn grid_around(centre_lps_mm: [f64; 3], model: &ModelSpec) -> Grid {
    let [n_k, n_j, n_i] = model.shape_kji;
    #[allow(clippy::cast_precision_loss)]
    let half = |n: usize| (n as f64 - 1.0) / 2.0 * model.spacing_mm;
    let [x, y, z] = centre_lps_mm;
    Grid {
        origin_lps_mm: [x - half(n_i), y - half(n_j), z - half(n_k)],
        spacing_mm: model.spacing_mm,
        shape_kji: model.shape_kji,
    }
}

fn check_size(direction: &str, size_mm: f64, n_view: usize) -> Result<(), Reason> {
    #[allow(clippy::cast_precision_loss)]
    let view_mm = n_view as f64 * COARSE_MM;
    let [min, max] = HEAD_MM;
    if size_mm > max {
        let text = format!("What the images show is {size_mm:.0} mm wide from {direction}: no head is wider than {max:.0} mm.");
        return Err(Reason::new(ReasonCode::OutsideDomain, text));
    }
    if size_mm < min && size_mm >= view_mm - 4.0 * COARSE_MM {
        let text = format!("The images cover only {size_mm:.0} mm from {direction}: {min:.0} mm of the head are needed.");
        return Err(Reason::new(ReasonCode::CoverageOrResolution, text));
    }
    if size_mm < min {
        let text = format!("What the images show is {size_mm:.0} mm wide from {direction}: a head is at least {min:.0} mm wide.");
        return Err(Reason::new(ReasonCode::OutsideDomain, text));
    }
    Ok(())
}

/// An axis-aligned grid over all corners of all slices.
fn coarse_grid(volume: &Acquired) -> Result<Grid, Reason> {
    let stack = &volume.stack;
    let (mut low, mut high) = ([f64::INFINITY; 3], [f64::NEG_INFINITY; 3]);
    let along_row = f64::from(stack.n_columns.saturating_sub(1)) * stack.column_spacing_mm;
    let along_column = f64::from(stack.n_rows.saturating_sub(1)) * stack.row_spacing_mm;
    for position in &stack.positions_lps_mm {
        for (u, v) in [(0.0, 0.0), (along_row, 0.0), (0.0, along_column), (along_row, along_column)] {
            for axis in 0..3 {
                let x = position[axis] + u * stack.row_direction_lps[axis] + v * stack.column_direction_lps[axis];
                (low[axis], high[axis]) = (low[axis].min(x), high[axis].max(x));
            }
        }
    }
    let mut shape = [0_usize; 3];
    for axis in 0..3 {
        let extent_mm = high[axis] - low[axis];
        if !(0.0..=VIEW_MM_MAX).contains(&extent_mm) {
            let text = format!("The field of view spans {extent_mm:.0} mm: head examinations span at most {VIEW_MM_MAX:.0} mm.");
            return Err(Reason::new(ReasonCode::OutsideDomain, text));
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // at most 130
        let n = (extent_mm / COARSE_MM).ceil() as usize + 1;
        shape[2 - axis] = n;
    }
    Ok(Grid { origin_lps_mm: low, spacing_mm: COARSE_MM, shape_kji: shape })
}

/// Foreground by the model's own rule, opened by one voxel; `None` when there is no contrast at all.
fn foreground(seen: &Resampled, shape_kji: [usize; 3], rule: &Normalisation) -> Option<Vec<bool>> {
    let pairs = || seen.values_kji.iter().map(|&v| f64::from(v)).zip(&seen.background_kji);
    let shown = seen.values_kji.iter().zip(&seen.background_kji).filter(|&(_, &b)| !b);
    let mut inside: Vec<f32> = shown.map(|(&v, _)| v).collect();
    let (low, above) = foreground_from(&mut inside, rule);
    if inside.is_empty() || percentile(&mut inside, 100.0) <= low {
        return None;
    }
    let mask: Vec<bool> = pairs().map(|(v, &b)| !b && v - low > above).collect();
    let opened = spread(&spread(&mask, shape_kji, false), shape_kji, true);
    Some(main_parts(&opened, shape_kji))
}

/// The 6-connected parts that hold at least half as many voxels as the largest one. The head is one part, or scalp and brain; what lies apart
/// (corners that a reslice filled with another value than the background, markers, ghosts) must not move the box.
pub(super) fn main_parts(mask: &[bool], shape_kji: [usize; 3]) -> Vec<bool> {
    let [n_k, n_j, n_i] = shape_kji;
    let mut part_of = vec![0_usize; mask.len()]; // 0: none yet
    let mut sizes = vec![0_usize];
    let mut open = Vec::new();
    for start in 0..mask.len() {
        if !mask[start] || part_of[start] != 0 {
            continue;
        }
        let part = sizes.len();
        sizes.push(0);
        part_of[start] = part;
        open.push(start);
        while let Some(at) = open.pop() {
            sizes[part] += 1;
            let (k, j, i) = (at / (n_i * n_j), at / n_i % n_j, at % n_i);
            let neighbours = [
                (i > 0).then(|| at - 1),
                (i + 1 < n_i).then(|| at + 1),
                (j > 0).then(|| at - n_i),
                (j + 1 < n_j).then(|| at + n_i),
                (k > 0).then(|| at - n_i * n_j),
                (k + 1 < n_k).then(|| at + n_i * n_j),
            ];
            for next in neighbours.into_iter().flatten() {
                if mask[next] && part_of[next] == 0 {
                    part_of[next] = part;
                    open.push(next);
                }
            }
        }
    }
    let largest = sizes.iter().copied().max().unwrap_or(0);
    part_of.into_iter().map(|part| part != 0 && 2 * sizes[part] >= largest).collect()
}

/// Erodes (`grow` false: all six neighbours must be set) or dilates by one voxel. Beyond the border everything counts as the voxel itself.
pub(super) fn spread(mask: &[bool], shape_kji: [usize; 3], grow: bool) -> Vec<bool> {
    let [n_k, n_j, n_i] = shape_kji;
    let mut out = mask.to_vec();
    // Whole rows at a time: a row meets its own voxels one to the left and right, and those of the four rows beside it.
    for row in 0..n_k * n_j {
        let (k, j) = (row / n_j, row % n_j);
        let line = |row: usize| &mask[row * n_i..(row + 1) * n_i];
        let to = &mut out[row * n_i..(row + 1) * n_i];
        let meet = |to: &mut [bool], from: &[bool]| {
            if grow {
                to.iter_mut().zip(from).for_each(|(to, &other)| *to |= other);
            } else {
                to.iter_mut().zip(from).for_each(|(to, &other)| *to &= other);
            }
        };
        if j > 0 {
            meet(to, line(row - 1));
        }
        if j + 1 < n_j {
            meet(to, line(row + 1));
        }
        if k > 0 {
            meet(to, line(row - n_j));
        }
        if k + 1 < n_k {
            meet(to, line(row + n_j));
        }
        meet(to, line(row).get(1..).unwrap_or_default());
        meet(to.get_mut(1..).unwrap_or_default(), line(row));
    }
    out
}

/// First and last layer along k, j and i that hold enough of the mask between the corners `from` and `to`.
fn layers(mask: &[bool], shape_kji: [usize; 3], from: [usize; 3], to: [usize; 3]) -> [Option<[usize; 2]>; 3] {
    let mut counts = shape_kji.map(|n| vec![0_usize; n]);
    for k in from[0]..to[0] {
        for j in from[1]..to[1] {
            for i in from[2]..to[2] {
                if mask[(k * shape_kji[1] + j) * shape_kji[2] + i] {
                    counts[0][k] += 1;
                    counts[1][j] += 1;
                    counts[2][i] += 1;
                }
            }
        }
    }
    counts.map(|layer| {
        let is_full = |&n: &usize| n >= LAYER_VOXELS_MIN;
        Some([layer.iter().position(is_full)?, layer.iter().rposition(is_full)?])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opening_removes_single_voxels_and_keeps_a_ball() {
        let shape = [15, 15, 15];
        let at = |k: usize, j: usize, i: usize| (k * 15 + j) * 15 + i;
        let mut mask = vec![false; 15 * 15 * 15];
        for (k, j, i) in (0..15 * 225).map(|n| (n / 225, n / 15 % 15, n % 15)) {
            mask[at(k, j, i)] = k.abs_diff(7).pow(2) + j.abs_diff(7).pow(2) + i.abs_diff(7).pow(2) <= 16;
        }
        mask[at(0, 0, 0)] = true;
        mask[at(1, 13, 13)] = true;
        let opened = spread(&spread(&mask, shape, false), shape, true);
        assert!(!opened[at(1, 13, 13)], "a single voxel is gone");
        assert!(opened[at(7, 7, 11)] && opened[at(11, 7, 7)], "the ball still reaches as far");
        let boxes = layers(&opened, shape, [0, 0, 0], shape);
        assert_eq!(boxes[0], Some([4, 10]), "layers with too few voxels do not count");
    }

    #[test]
    fn what_lies_apart_and_is_small_does_not_count() {
        let shape = [1, 3, 12];
        let mut mask = vec![false; 36];
        for at in [0, 1, 2, 3, 12, 13, 14, 15, 24, 25] {
            mask[at] = true; // ten together
        }
        for at in [6, 7, 18, 19, 20, 11, 23, 35] {
            mask[at] = true; // five together, and three
        }
        let kept = main_parts(&mask, shape);
        assert_eq!(kept.iter().filter(|&&k| k).count(), 15);
        assert!(kept[0] && kept[18] && !kept[11]);
    }

    #[test]
    fn the_box_of_the_upper_head_decides_the_size() {
        assert!(check_size("left to right", 150.0, 60).is_ok());
        assert!(check_size("left to right", 300.0, 80).is_err_and(|r| r.code == ReasonCode::OutsideDomain));
        assert!(check_size("left to right", 70.0, 60).is_err_and(|r| r.code == ReasonCode::OutsideDomain));
        assert!(check_size("left to right", 70.0, 18).is_err_and(|r| r.code == ReasonCode::CoverageOrResolution));
    }
}
