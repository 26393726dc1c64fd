//! Largest distance inside a set of voxels: sorted linear indices -> squared distance between the two farthest voxel centres, in voxels.
//!
//! The farthest pair of a finite set are corners of its convex hull, and a voxel that lies between two others of the set on a line along an
//! axis is no corner: only voxels that end their line in all three axes are compared. Of these, two can only be farther apart than the best pair so
//! far when their distances from the middle sum to more (triangle inequality): compared in falling order of that distance, each voxel meets few
//! others, and the result stays exact. Should more than [`CANDIDATES_MAX`] remain (never seen below 10 litres), only the extremes along a fixed
//! set of directions are compared: then the distance is a lower bound, at most 1 % short.

use super::mask::{Kji, kji};

/// Most voxels that are compared exactly.
pub(crate) const CANDIDATES_MAX: usize = 4096;

/// Steps from a far point to the farthest from it, to begin with a good pair.
const FIRST_STEPS: usize = 4;
/// Distances that may still be compared although they seem too short, voxels: far above what rounding can do, and far below a voxel.
const MARGIN: f64 = 1e-6;

/// Largest number of voxels along an axis that a direction's steps may have.
const DIRECTION_STEPS: i64 = 4;

/// Squared distance between the farthest two of `voxels` (sorted linear indices), in voxels squared; 0 for one voxel or none.
pub(crate) fn farthest_squared(voxels: &[usize], shape: Kji) -> i64 {
    let all: Vec<[i64; 3]> = voxels.iter().map(|&idx| kji(idx, shape).map(|v| i64::try_from(v).unwrap_or(i64::MAX))).collect();
    let corners = line_ends(&all);
    if corners.len() <= CANDIDATES_MAX { farthest_pair(&corners) } else { farthest_pair(&extremes(&corners)) }
}

/// Keeps the points that are first or last on their line along i, along j and along k.
fn line_ends(points: &[[i64; 3]]) -> Vec<[i64; 3]> {
    let mut kept = points.to_vec();
    for axis in [2, 1, 0] {
        let others = |p: &[i64; 3]| -> [i64; 2] {
            let [k, j, i] = *p;
            match axis {
                0 => [j, i],
                1 => [k, i],
                _ => [k, j],
            }
        };
        kept.sort_unstable_by_key(|p| (others(p), p[axis]));
        let mut ends = Vec::with_capacity(kept.len());
        for line in kept.chunk_by(|a, b| others(a) == others(b)) {
            ends.extend(line.first());
            if line.len() > 1 {
                ends.extend(line.last());
            }
        }
        kept = ends;
    }
    kept
}

/// The farthest points in both senses of each direction with integer steps of up to [`DIRECTION_STEPS`].
fn extremes(points: &[[i64; 3]]) -> Vec<[i64; 3]> {
    let steps = -DIRECTION_STEPS..=DIRECTION_STEPS;
    let mut kept = Vec::new();
    for direction in steps.clone().flat_map(|k| steps.clone().flat_map(move |j| (0..=DIRECTION_STEPS).map(move |i| [k, j, i]))) {
        let along = |p: &&[i64; 3]| p.iter().zip(direction).map(|(a, b)| a * b).sum::<i64>();
        kept.extend(points.iter().min_by_key(along));
        kept.extend(points.iter().max_by_key(along));
    }
    kept.sort_unstable();
    kept.dedup();
    kept
}

fn squared(a: &[i64; 3], b: &[i64; 3]) -> i64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

/// The middle of the points' box, doubled, so that it stays whole.
fn doubled_middle(points: &[[i64; 3]]) -> [i64; 3] {
    std::array::from_fn(|axis| {
        let along = || points.iter().map(|p| p[axis]);
        along().min().unwrap_or(0) + along().max().unwrap_or(0)
    })
}

/// Compares pairs in falling order of distance from the middle, and none that cannot be farther apart than the best one.
fn farthest_pair(points: &[[i64; 3]]) -> i64 {
    let middle = doubled_middle(points);
    // Four times the squared distance from the middle: a whole number.
    let mut far: Vec<(i64, [i64; 3])> = points.iter().map(|p| (squared(&p.map(|x| 2 * x), &middle), *p)).collect();
    far.sort_unstable_by_key(|(from_middle, p)| (std::cmp::Reverse(*from_middle), *p));
    #[allow(clippy::cast_precision_loss)] // far below 2^53
    let radii: Vec<f64> = far.iter().map(|(from_middle, _)| (*from_middle as f64).sqrt() / 2.0).collect();
    // A first pair: from the farthest point to the one farthest from it, and on from there.
    let farthest_from = |a: [i64; 3]| far.iter().map(|(_, b)| (squared(&a, b), *b)).max();
    let mut best = 0;
    let mut here = far.first().map(|(_, p)| *p);
    for _ in 0..FIRST_STEPS {
        if let Some((distance, there)) = here.and_then(farthest_from) {
            best = best.max(distance);
            here = Some(there);
        }
    }
    for (n, (_, a)) in far.iter().enumerate() {
        #[allow(clippy::cast_precision_loss)]
        let enough = (best as f64).sqrt() - MARGIN;
        // The radii fall: what a cannot reach with the first one after it, it cannot with any.
        let n_within = radii[n + 1..].partition_point(|r| r + radii[n] > enough);
        if n_within == 0 {
            break;
        }
        best = far[n + 1..n + 1 + n_within].iter().map(|(_, b)| squared(a, b)).max().unwrap_or(0).max(best);
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every pair.
    fn naive(points: &[[i64; 3]]) -> i64 {
        points.iter().flat_map(|a| points.iter().map(move |b| squared(a, b))).max().unwrap_or(0)
    }

    proptest! {
        #[test]
        fn pairs_that_are_not_compared_were_not_the_farthest(seed in prop::collection::vec(0_i64..30, 0..3 * 80), flat in 1_i64..30) {
            let points: Vec<[i64; 3]> = seed.chunks_exact(3).map(|c| [c[0] % flat, c[1], c[2]]).collect();
            prop_assert_eq!(farthest_pair(&points), naive(&points));
        }

        #[test]
        fn dropping_inner_voxels_never_changes_the_largest_distance(mut voxels in prop::collection::vec(0_usize..6 * 7 * 8, 0..120)) {
            voxels.sort_unstable();
            voxels.dedup();
            let all: Vec<[i64; 3]> = voxels.iter().map(|&v| kji(v, [6, 7, 8]).map(|v| v as i64)).collect();
            prop_assert_eq!(farthest_squared(&voxels, [6, 7, 8]), naive(&all));
        }

        #[test]
        fn the_bound_for_huge_sets_is_at_most_one_percent_short(seed in prop::collection::vec(0_i64..400, 3 * 60)) {
            let points: Vec<[i64; 3]> = seed.chunks_exact(3).map(|c| [c[0], c[1], c[2]]).collect();
            let (exact, bound) = (naive(&points) as f64, farthest_pair(&extremes(&points)) as f64);
            prop_assert!(bound <= exact && bound.sqrt() >= 0.99 * exact.sqrt(), "{bound} of {exact}");
        }
    }

    #[test]
    fn one_voxel_has_no_distance() {
        assert_eq!(farthest_squared(&[5], [2, 2, 2]), 0);
        assert_eq!(farthest_squared(&[], [2, 2, 2]), 0);
    }
}
