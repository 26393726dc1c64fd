//! Brain mask: brain scores on a grid -> the largest connected part of the predicted brain, its volume and centre, and the same part grown
//! by a margin. The reference in Python is `brain_mask` in `models/train/cns_mri/findings.py`.

use crate::domain::{Grid, ScoreMap};

use super::runs::{Part, parts};

/// The predicted brain of one study.
#[derive(Clone, Debug, PartialEq)]
pub struct BrainMask {
    /// One entry per voxel, C order k, j, i: inside the brain or its margin.
    pub inside_kji: Vec<bool>,
    /// The same without the margin.
    pub brain_kji: Vec<bool>,
    /// Volume of the brain before the margin was added, ml.
    pub volume_ml: f64,
    /// That volume divided by the area of its bounding box seen from above (left by posterior), mm: small where parts are missing.
    pub mean_height_mm: f64,
    /// Its centroid before the margin was added, LPS, mm.
    pub centroid_lps_mm: [f64; 3],
}

/// Position of a voxel: k, j, i.
pub(crate) type Kji = [usize; 3];

/// Linear index -> k, j, i.
pub(crate) fn kji(idx: usize, shape: Kji) -> Kji {
    let [_, n_j, n_i] = shape;
    let plane = (n_j * n_i).max(1);
    [idx / plane, (idx % plane) / n_i.max(1), idx % n_i.max(1)]
}

/// The brain: voxels of score `threshold` or more, of these the largest 6-connected part (the first in raster order among equals), grown by
/// `margin_voxels` steps to face neighbours. `None` when no voxel reaches the threshold.
#[must_use]
pub fn brain_mask(brain: &ScoreMap, grid: &Grid, threshold: f32, margin_voxels: u32) -> Option<BrainMask> {
    let mut wanted = brain.at_least(threshold);
    wanted.resize(grid.n_voxels(), false);
    let shape = grid.shape_kji;
    let largest =
        parts(&wanted, shape, true).into_iter().reduce(|best, part| if part.n_voxels > best.n_voxels { part } else { best })?;
    let mut brain_kji = wanted;
    brain_kji.fill(false);
    largest.fill(&mut brain_kji, shape);
    Some(BrainMask {
        inside_kji: grown(&brain_kji, shape, margin_voxels),
        brain_kji,
        volume_ml: count(largest.n_voxels) * grid.voxel_ml(),
        mean_height_mm: mean_height_mm(&largest, grid),
        centroid_lps_mm: centroid_of(&largest, grid),
    })
}

/// `mask` and all voxels that at most `n_steps` steps to face neighbours lead to. Whole rows at a time: a row takes its own voxels one to the
/// left and right, and those of the four rows beside it.
pub(crate) fn grown(mask: &[bool], shape: Kji, n_steps: u32) -> Vec<bool> {
    let [n_k, n_j, n_i] = shape;
    let mut inside = mask.to_vec();
    let mut before = Vec::new();
    for _ in 0..n_steps {
        before.clone_from(&inside);
        for row in 0..n_k * n_j {
            let (k, j) = (row / n_j, row % n_j);
            let out = &mut inside[row * n_i..(row + 1) * n_i];
            let mut take = |from: &[bool]| out.iter_mut().zip(from).for_each(|(out, &set)| *out |= set);
            let other = |row: usize| &before[row * n_i..(row + 1) * n_i];
            if j > 0 {
                take(other(row - 1));
            }
            if j + 1 < n_j {
                take(other(row + 1));
            }
            if k > 0 {
                take(other(row - n_j));
            }
            if k + 1 < n_k {
                take(other(row + n_j));
            }
            let own = other(row);
            take(&own[1.min(n_i)..]);
            out.iter_mut().skip(1).zip(own).for_each(|(out, &set)| *out |= set);
        }
    }
    inside
}

/// Volume of the part divided by the area of its bounding box seen from above, mm.
fn mean_height_mm(part: &Part, grid: &Grid) -> f64 {
    let n_j = grid.shape_kji[1].max(1);
    let (mut low, mut high) = ([usize::MAX; 2], [0_usize; 2]);
    for run in &part.runs {
        let j = run.row % n_j;
        (low[0], high[0]) = (low[0].min(j), high[0].max(j));
        (low[1], high[1]) = (low[1].min(run.from), high[1].max(run.to - 1));
    }
    let area = (0..2).map(|axis| count((high[axis] + 1).saturating_sub(low[axis]))).product::<f64>();
    if area > 0.0 { count(part.n_voxels) / area * grid.spacing_mm } else { 0.0 }
}

/// Centroid of the part, LPS, mm. Index sums are exact integers; one division each.
fn centroid_of(part: &Part, grid: &Grid) -> [f64; 3] {
    let n_j = grid.shape_kji[1].max(1);
    let mut sums = [0_usize; 3];
    for run in &part.runs {
        let n = run.to - run.from;
        sums[0] += run.row / n_j * n;
        sums[1] += run.row % n_j * n;
        sums[2] += (run.from + run.to - 1) * n / 2;
    }
    let n = count(part.n_voxels.max(1));
    let [k, j, i] = sums.map(|sum| count(sum) / n);
    grid.lps_mm(k, j, i)
}

/// Centroid of the voxels, LPS, mm. Index sums are exact integers; one division each.
pub(crate) fn centroid_lps_mm(voxels: &[usize], grid: &Grid) -> [f64; 3] {
    let mut sums = [0_usize; 3];
    for &idx in voxels {
        for (sum, part) in sums.iter_mut().zip(kji(idx, grid.shape_kji)) {
            *sum += part;
        }
    }
    let n = count(voxels.len().max(1));
    let [k, j, i] = sums.map(|sum| count(sum) / n);
    grid.lps_mm(k, j, i)
}

/// A count as a number; exact, for no grid has 2^53 voxels.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn count(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Quantisation;

    fn map(inside: &[bool]) -> ScoreMap {
        ScoreMap::new(inside.iter().map(|&b| if b { 100 } else { -100 }).collect(), Quantisation { scale: 0.1, zero_point: 0 })
    }

    fn grid(shape_kji: Kji) -> Grid {
        Grid { origin_lps_mm: [0.0; 3], spacing_mm: 10.0, shape_kji }
    }

    #[test]
    fn the_largest_part_is_the_brain_and_the_margin_does_not_count_in_its_volume() {
        // One row of 9 voxels: a part of two, a gap, a part of three.
        let inside = [true, true, false, false, true, true, true, false, false];
        let mask = brain_mask(&map(&inside), &grid([1, 1, 9]), 0.5, 1).expect("a brain");
        assert_eq!(mask.inside_kji, [false, false, false, true, true, true, true, true, false]);
        assert_eq!(mask.brain_kji, [false, false, false, false, true, true, true, false, false]);
        assert!((mask.volume_ml - 3.0).abs() < 1e-12);
        assert!((mask.centroid_lps_mm[0] - 50.0).abs() < 1e-12);
    }

    #[test]
    fn a_margin_grows_by_faces_and_stops_at_the_border() {
        let mut mask = vec![false; 27];
        mask[0] = true;
        let inside = grown(&mask, [3, 3, 3], 2);
        let expected: Vec<bool> = (0..27).map(|idx| idx / 9 + idx / 3 % 3 + idx % 3 <= 2).collect();
        assert_eq!(inside, expected);
        assert_eq!(grown(&mask, [3, 3, 3], 0), mask);
    }

    #[test]
    fn nothing_above_the_threshold_is_no_brain() {
        assert_eq!(brain_mask(&map(&[false; 8]), &grid([2, 2, 2]), 0.5, 3), None);
    }
}
