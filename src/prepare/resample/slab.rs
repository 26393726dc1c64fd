//! Sharing a grid between threads: a grid and a stack in -> slabs of points, and from their results one volume again.

use std::ops::Range;

use super::Resampled;
use crate::domain::{Grid, SliceStack};

/// The grid points that one thread works on: from the first to the second of each, k, j, i.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Slab {
    pub(super) k: Range<usize>,
    pub(super) j: Range<usize>,
    pub(super) i: Range<usize>,
}

impl Slab {
    pub(super) fn n_points(&self) -> usize {
        self.k.len() * self.j.len() * self.i.len()
    }

    /// Cuts the grid along the axis that is nearest to the stack's normal, so that each slab meets a part of the slices only.
    pub(super) fn cut(grid: &Grid, stack: &SliceStack, n_slabs: usize) -> Vec<Self> {
        let [n_k, n_j, n_i] = grid.shape_kji;
        let [x, y, z] = stack.normal_lps.map(f64::abs);
        let n = if z >= x && z >= y {
            n_k
        } else if y >= x {
            n_j
        } else {
            n_i
        };
        let parts = (0..n).step_by(n.div_ceil(n_slabs).max(1)).map(|from| from..(from + n.div_ceil(n_slabs)).min(n));
        let slab = |part: Range<usize>| {
            let mut slab = Self { k: 0..n_k, j: 0..n_j, i: 0..n_i };
            if z >= x && z >= y {
                slab.k = part;
            } else if y >= x {
                slab.j = part;
            } else {
                slab.i = part;
            }
            slab
        };
        parts.map(slab).collect()
    }
}

/// One volume from its slabs.
pub(super) fn put_together(grid: &Grid, slabs: &[Slab], mut parts: Vec<Resampled>) -> Resampled {
    if parts.len() == 1
        && let Some(whole) = parts.pop()
    {
        return whole;
    }
    let [_, n_j, n_i] = grid.shape_kji;
    let n = grid.n_voxels();
    let mut whole = Resampled { values_kji: vec![0.0; n], background_kji: vec![true; n], acquired_kji: vec![false; n] };
    for (slab, part) in slabs.iter().zip(parts) {
        let mut from = 0;
        for k in slab.k.clone() {
            for j in slab.j.clone() {
                let to = (k * n_j + j) * n_i + slab.i.start;
                let (to, row) = (to..to + slab.i.len(), from..from + slab.i.len());
                whole.values_kji[to.clone()].copy_from_slice(&part.values_kji[row.clone()]);
                whole.background_kji[to.clone()].copy_from_slice(&part.background_kji[row.clone()]);
                whole.acquired_kji[to].copy_from_slice(&part.acquired_kji[row]);
                from += slab.i.len();
            }
        }
    }
    whole
}
