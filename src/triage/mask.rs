//! Brain mask: brain scores on a grid -> the largest connected part of the predicted brain, its volume and centre, and the same part grown
//! by a margin. The reference in Python is `brain_mask` in `models/train/cns_mri/findings.py`.

use crate::domain::{Grid, ScoreMap};

/// The predicted brain of one study.
#[derive(Clone, Debug, PartialEq)]
pub struct BrainMask {
    /// One entry per voxel, C order k, j, i: inside the brain or its margin.
    pub inside_kji: Vec<bool>,
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

/// Calls `visit` with the linear index of each of the voxel's neighbours inside the grid: 6 (faces) or 26 (faces, edges, corners).
pub(crate) fn for_neighbours(idx: usize, shape: Kji, faces_only: bool, mut visit: impl FnMut(usize)) {
    let [k, j, i] = kji(idx, shape);
    let [n_k, n_j, n_i] = shape;
    for k1 in k.saturating_sub(1)..(k + 2).min(n_k) {
        for j1 in j.saturating_sub(1)..(j + 2).min(n_j) {
            for i1 in i.saturating_sub(1)..(i + 2).min(n_i) {
                let steps = k1.abs_diff(k) + j1.abs_diff(j) + i1.abs_diff(i);
                if steps != 0 && (!faces_only || steps == 1) {
                    visit((k1 * n_j + j1) * n_i + i1);
                }
            }
        }
    }
}

/// Connected parts of `wanted`, each as sorted linear indices, in raster order of their first voxel. Every voxel is visited once; the stack
/// is on the heap and at most one entry per voxel long.
pub(crate) fn parts(wanted: &[bool], shape: Kji, faces_only: bool) -> Vec<Vec<usize>> {
    let mut open = wanted.to_vec();
    let mut found = Vec::new();
    let mut stack = Vec::new();
    for start in 0..open.len() {
        if !std::mem::replace(&mut open[start], false) {
            continue;
        }
        stack.push(start);
        let mut part = Vec::new();
        while let Some(idx) = stack.pop() {
            part.push(idx);
            for_neighbours(idx, shape, faces_only, |next| {
                if open.get_mut(next).is_some_and(std::mem::take) {
                    stack.push(next);
                }
            });
        }
        part.sort_unstable();
        found.push(part);
    }
    found
}

/// The brain: voxels of score `threshold` or more, of these the largest 6-connected part (the first in raster order among equals), grown by
/// `margin_voxels` steps to face neighbours. `None` when no voxel reaches the threshold.
#[must_use]
pub fn brain_mask(brain: &ScoreMap, grid: &Grid, threshold: f32, margin_voxels: u32) -> Option<BrainMask> {
    let wanted: Vec<bool> = (0..grid.n_voxels()).map(|idx| brain.score(idx) >= threshold).collect();
    let largest = parts(&wanted, grid.shape_kji, true)
        .into_iter()
        .reduce(|best, part| if part.len() > best.len() { part } else { best })?;
    let mut inside_kji = vec![false; wanted.len()];
    for &idx in &largest {
        inside_kji[idx] = true;
    }
    let mut front = largest.clone();
    for _ in 0..margin_voxels {
        let mut grown = Vec::new();
        for &idx in &front {
            for_neighbours(idx, grid.shape_kji, true, |next| {
                if inside_kji.get_mut(next).is_some_and(|inside| !std::mem::replace(inside, true)) {
                    grown.push(next);
                }
            });
        }
        front = grown;
    }
    Some(BrainMask {
        inside_kji,
        volume_ml: count(largest.len()) * grid.voxel_ml(),
        mean_height_mm: mean_height_mm(&largest, grid),
        centroid_lps_mm: centroid_lps_mm(&largest, grid),
    })
}

/// Volume of the voxels divided by the area of their bounding box seen from above, mm.
fn mean_height_mm(voxels: &[usize], grid: &Grid) -> f64 {
    let (mut low, mut high) = ([usize::MAX; 2], [0_usize; 2]);
    for &idx in voxels {
        let [_, j, i] = kji(idx, grid.shape_kji);
        for (axis, at) in [j, i].into_iter().enumerate() {
            low[axis] = low[axis].min(at);
            high[axis] = high[axis].max(at);
        }
    }
    let area = (0..2).map(|axis| count((high[axis] + 1).saturating_sub(low[axis]))).product::<f64>();
    if area > 0.0 { count(voxels.len()) / area * grid.spacing_mm } else { 0.0 }
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
        assert!((mask.volume_ml - 3.0).abs() < 1e-12);
        assert!((mask.centroid_lps_mm[0] - 50.0).abs() < 1e-12);
    }

    #[test]
    fn voxels_that_touch_by_a_corner_are_one_part_only_with_26_neighbours() {
        let mut wanted = vec![false; 8];
        wanted[0] = true;
        wanted[7] = true;
        assert_eq!(parts(&wanted, [2, 2, 2], true).len(), 2);
        assert_eq!(parts(&wanted, [2, 2, 2], false), vec![vec![0, 7]]);
    }

    #[test]
    fn nothing_above_the_threshold_is_no_brain() {
        assert_eq!(brain_mask(&map(&[false; 8]), &grid([2, 2, 2]), 0.5, 3), None);
    }
}
