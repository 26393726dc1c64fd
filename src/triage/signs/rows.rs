//! Rows: scores for the right half of the brain -> for each row of voxels from right to left, where the halves meet.

use crate::domain::ScoreMap;

use super::super::mask::{BrainMask, count};
use super::{Frame, SCORE_MIN};

/// A row is left out when more than this part of its brain voxels lies on the wrong side of the best place to divide it.
const WRONG_SIDE_MAX: f64 = 0.2;
/// The halves may be this far apart where they meet (interhemispheric fissure, a hole in the mask), mm.
const GAP_MM_MAX: f64 = 12.0;
/// Brain voxels that a row must hold on each side.
const SIDE_VOXELS_MIN: usize = 2;

/// Where the halves meet, row by row.
pub(super) struct Rows {
    /// x in mm from the brain's centroid, index k * n_j + j; `None` where no place can be named.
    pub(super) x_mm: Vec<Option<f64>>,
    /// First and last j that hold brain.
    pub(super) j_brain: [usize; 2],
    /// First and last k that hold brain.
    pub(super) k_brain: [usize; 2],
}

impl Rows {
    pub(super) fn find(right: &ScoreMap, mask: &BrainMask, frame: &Frame) -> Self {
        let [_, n_j, n_i] = frame.shape_kji;
        let is_right = right.at_least(SCORE_MIN);
        let mut rows = Self { x_mm: Vec::new(), j_brain: [usize::MAX, 0], k_brain: [usize::MAX, 0] };
        let both = mask.brain_kji.chunks_exact(n_i.max(1)).zip(is_right.chunks_exact(n_i.max(1)));
        for (row, (brain, is_right)) in both.enumerate() {
            if !brain.contains(&true) {
                rows.x_mm.push(None);
                continue;
            }
            let (k, j) = (row / n_j.max(1), row % n_j.max(1));
            rows.j_brain = [rows.j_brain[0].min(j), rows.j_brain[1].max(j)];
            rows.k_brain = [rows.k_brain[0].min(k), rows.k_brain[1].max(k)];
            let meets = divide(brain, is_right, |i| f64::from(right.score(row * n_i + i)), GAP_MM_MAX / frame.spacing_mm);
            rows.x_mm.push(meets.map(|i| (i - frame.centre_kji[2]) * frame.spacing_mm));
        }
        rows
    }

    /// y and z of row (k, j), mm.
    pub(super) fn yz_mm(frame: &Frame, k: usize, j: usize) -> [f64; 2] {
        let [_, y, z] = frame.xyz_mm([count(k), count(j), 0.0]);
        [y, z]
    }
}

/// Where along i the row changes from right to left: the place with the fewest voxels on the wrong side (the middle of all such places, so
/// that the mirrored row gives the mirrored place), refined by the scores on both sides of it.
fn divide(brain: &[bool], is_right: &[bool], score: impl Fn(usize) -> f64, gap_max: f64) -> Option<f64> {
    let inside: Vec<usize> = (0..brain.len()).filter(|&i| brain[i]).collect();
    let n_right = inside.iter().filter(|&&i| is_right[i]).count();
    // Wrong when the row is divided before its first voxel: all that are right. Each step further corrects or adds one.
    let (mut wrong, mut fewest) = (n_right, n_right);
    let (mut first, mut last) = (0, 0);
    for (n, &i) in inside.iter().enumerate() {
        wrong = if is_right[i] { wrong - 1 } else { wrong + 1 };
        if wrong < fewest {
            (fewest, first) = (wrong, n + 1);
        }
        if wrong == fewest {
            last = n + 1;
        }
    }
    if first < SIDE_VOXELS_MIN || last + SIDE_VOXELS_MIN > inside.len() || count(fewest) > WRONG_SIDE_MAX * count(inside.len()) {
        return None;
    }
    let place = |n: usize| {
        let (a, b) = (*inside.get(n - 1)?, *inside.get(n)?);
        if count(b - a) > gap_max + 1.0 {
            return None;
        }
        let (right, left) = (score(a), score(b));
        let threshold = f64::from(SCORE_MIN);
        let step = if b - a == 1 && right >= threshold && left < threshold {
            (right - threshold) / (right - left)
        } else {
            count(b - a) / 2.0
        };
        Some(count(a) + step)
    };
    Some((place(first)? + place(last)?) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(scores: &[f64], brain: &str) -> Option<f64> {
        let brain: Vec<bool> = brain.bytes().map(|b| b == b'#').collect();
        let is_right: Vec<bool> = scores.iter().map(|&s| s >= 0.5).collect();
        divide(&brain, &is_right, |i| scores[i], 3.0)
    }

    #[test]
    fn scores_place_the_boundary_between_voxels() {
        let at = place(&[0.9, 0.9, 0.9, 0.8, 0.3, 0.1, 0.1, 0.1], "########").expect("a place");
        assert!((at - 3.6).abs() < 1e-12, "{at}");
        let gap = place(&[0.9, 0.9, 0.9, 0.9, 0.1, 0.1, 0.1, 0.1], "###..###").expect("a place");
        assert!((gap - 3.5).abs() < 1e-12, "the middle of the gap: {gap}");
    }

    #[test]
    fn one_voxel_on_the_wrong_side_moves_nothing_and_many_leave_the_row_out() {
        let clean = place(&[0.9, 0.9, 0.9, 0.9, 0.9, 0.1, 0.1, 0.1, 0.1, 0.1], "##########");
        assert_eq!(place(&[0.9, 0.1, 0.9, 0.9, 0.9, 0.1, 0.1, 0.1, 0.1, 0.1], "##########"), clean);
        assert_eq!(place(&[0.9, 0.1, 0.9, 0.1, 0.9, 0.1, 0.9, 0.1, 0.9, 0.1], "##########"), None);
        assert_eq!(place(&[0.9, 0.9, 0.9, 0.9, 0.9, 0.1], "######"), None, "a row with one side only");
        assert_eq!(place(&[0.9, 0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], "##.....#"), None, "too far apart");
    }
}
