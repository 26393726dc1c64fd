//! Runs: a mask on a grid -> its connected parts. A run is a stretch of set voxels along i; runs of neighbouring rows that touch are united,
//! so that the work grows with the number of runs and not with the number of voxels and their neighbours.
//!
//! The reference in Python is `scipy.ndimage.label` (6 or 26 neighbours) in `models/train/cns_mri/findings.py`.

use super::mask::Kji;

/// Set voxels `from..to` of one row; rows are numbered k * n_j + j.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) row: usize,
    pub(crate) from: usize,
    pub(crate) to: usize,
}

/// One connected part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Part {
    /// Its runs in raster order.
    pub(crate) runs: Vec<Run>,
    /// How many voxels they hold.
    pub(crate) n_voxels: usize,
}

impl Part {
    /// Linear indices of its voxels, rising.
    pub(crate) fn voxels(&self, shape: Kji) -> Vec<usize> {
        let n_i = shape[2];
        self.runs.iter().flat_map(|run| run.row * n_i + run.from..run.row * n_i + run.to).collect()
    }

    /// Sets its voxels in `mask`.
    pub(crate) fn fill(&self, mask: &mut [bool], shape: Kji) {
        for run in &self.runs {
            if let Some(voxels) = mask.get_mut(run.row * shape[2] + run.from..run.row * shape[2] + run.to) {
                voxels.fill(true);
            }
        }
    }
}

/// Connected parts of `wanted` in raster order of their first voxel: by faces (6 neighbours), or by faces, edges and corners (26).
pub(crate) fn parts(wanted: &[bool], shape: Kji, faces_only: bool) -> Vec<Part> {
    let (runs, first) = runs(wanted, shape);
    let mut parent: Vec<usize> = (0..runs.len()).collect();
    let n_j = shape[1].max(1);
    for row in 0..first.len().saturating_sub(1) {
        let j = row % n_j;
        // Rows before this one: the one beside it, and those of the plane below.
        let mut unite_with = |earlier: Option<usize>| {
            if let Some(earlier) = earlier {
                unite_rows(&runs, (first[row], first[row + 1]), (first[earlier], first[earlier + 1]), faces_only, &mut parent);
            }
        };
        unite_with((j > 0).then(|| row - 1));
        unite_with(row.checked_sub(n_j));
        if !faces_only {
            unite_with(row.checked_sub(n_j + 1).filter(|_| j > 0));
            unite_with((row + 1).checked_sub(n_j).filter(|_| j + 1 < n_j));
        }
    }
    let mut part_of = vec![usize::MAX; runs.len()];
    let mut parts: Vec<Part> = Vec::new();
    for (idx, run) in runs.iter().enumerate() {
        let root = root(&mut parent, idx);
        if part_of[root] == usize::MAX {
            part_of[root] = parts.len();
            parts.push(Part::default());
        }
        let part = &mut parts[part_of[root]];
        part.runs.push(*run);
        part.n_voxels += run.to - run.from;
    }
    parts
}

/// All runs in raster order, and where each row's runs begin (with one entry more than rows).
fn runs(wanted: &[bool], shape: Kji) -> (Vec<Run>, Vec<usize>) {
    let (mut runs, mut first) = (Vec::new(), vec![0]);
    for (row, voxels) in wanted.chunks_exact(shape[2].max(1)).enumerate() {
        let mut at = 0;
        while let Some(from) = voxels[at..].iter().position(|&set| set).map(|step| at + step) {
            let to = voxels[from..].iter().position(|&set| !set).map_or(voxels.len(), |step| from + step);
            runs.push(Run { row, from, to });
            at = to;
        }
        first.push(runs.len());
    }
    (runs, first)
}

/// Unites the runs of two rows (as ranges of `runs`) that touch; both ranges rise along i.
fn unite_rows(runs: &[Run], ours: (usize, usize), theirs: (usize, usize), faces_only: bool, parent: &mut [usize]) {
    let reach = usize::from(!faces_only);
    let (mut a, mut b) = (ours.0, theirs.0);
    while a < ours.1 && b < theirs.1 {
        let (x, y) = (runs[a], runs[b]);
        if x.from < y.to + reach && y.from < x.to + reach {
            unite(parent, a, b);
        }
        // The one that ends first can touch nothing further on: between two runs of a row there is a gap of at least one voxel.
        if x.to < y.to { a += 1 } else { b += 1 }
    }
}

/// The root is always the smallest index, so that a part is known by its first run.
fn unite(parent: &mut [usize], a: usize, b: usize) {
    let (a, b) = (root(parent, a), root(parent, b));
    let (low, high) = (a.min(b), a.max(b));
    parent[high] = low;
}

fn root(parent: &mut [usize], mut idx: usize) -> usize {
    while parent[idx] != idx {
        parent[idx] = parent[parent[idx]];
        idx = parent[idx];
    }
    idx
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Flood fill, voxel by voxel.
    fn flooded(wanted: &[bool], shape: Kji, faces_only: bool) -> Vec<Vec<usize>> {
        let [_, n_j, n_i] = shape;
        let at = |idx: usize| [idx / (n_j * n_i), idx / n_i % n_j, idx % n_i];
        let mut open = wanted.to_vec();
        let mut found = Vec::new();
        for start in 0..open.len() {
            if !std::mem::replace(&mut open[start], false) {
                continue;
            }
            let mut part = vec![start];
            let mut next = 0;
            while next < part.len() {
                let here = at(part[next]);
                for (other, open) in open.iter_mut().enumerate() {
                    let steps: Vec<usize> = here.iter().zip(at(other)).map(|(a, b)| a.abs_diff(b)).collect();
                    let touches = steps.iter().all(|&s| s <= 1) && (!faces_only || steps.iter().sum::<usize>() == 1);
                    if touches && std::mem::replace(open, false) {
                        part.push(other);
                    }
                }
                next += 1;
            }
            part.sort_unstable();
            found.push(part);
        }
        found
    }

    proptest! {
        #[test]
        fn parts_are_those_of_a_flood_fill(wanted in prop::collection::vec(prop::bool::weighted(0.4), 4 * 5 * 7), faces_only in any::<bool>()) {
            let shape = [4, 5, 7];
            let found = parts(&wanted, shape, faces_only);
            prop_assert_eq!(found.iter().map(|part| part.voxels(shape)).collect::<Vec<_>>(), flooded(&wanted, shape, faces_only));
            prop_assert!(found.iter().all(|part| part.n_voxels == part.voxels(shape).len()));
            let mut filled = vec![false; wanted.len()];
            found.iter().for_each(|part| part.fill(&mut filled, shape));
            prop_assert_eq!(filled, wanted);
        }
    }
}
