//! How alike two images of one head are, whatever their contrast: samples of the first image and a place of the second in -> normalised
//! mutual information.
//!
//! Studholme, Hill and Hawkes, "An overlap invariant entropy measure of 3D medical image alignment", Pattern Recognition 32 (1999): (H(A) + H(B)) /
//! H(A, B) of the joint histogram; 1 for unrelated images, 2 for such that determine each other. Both images are brought to 32 grey levels, the
//! second one is interpolated linearly and its value shared between the two nearest levels, which keeps the measure smooth. Samples lie off the
//! grids' points, by a fixed pattern, so that no shift by whole voxels is favoured (Pluim 2000). Sums in double precision in a fixed order; the
//! logarithm is a series of plain arithmetic: bit-identical on every platform.

use super::rigid::Rigid;
use crate::domain::Grid;

/// Grey levels of each image.
const N_LEVELS: usize = 32;
/// The highest level.
const TOP_LEVEL: f32 = 31.0;
/// Share of the samples that must lie inside the second image; below, the place is worth nothing.
const INSIDE_MIN: f64 = 0.3;

/// An image in grey levels, 0 to 31; not a number where nothing was acquired.
pub(super) struct Levels {
    grid: Grid,
    values_kji: Vec<f32>,
}

impl Levels {
    /// Values from `low` to `high` become levels; what lies outside is clamped. `value_of` a point is `None` where nothing was acquired.
    pub(super) fn new(grid: &Grid, [low, high]: [f32; 2], value_of: impl Fn(usize) -> Option<f32>) -> Self {
        let scale = TOP_LEVEL / (high - low).max(f32::MIN_POSITIVE);
        let level = |v: f32| ((v - low) * scale).clamp(0.0, TOP_LEVEL);
        Self { grid: grid.clone(), values_kji: (0..grid.n_voxels()).map(|at| value_of(at).map_or(f32::NAN, level)).collect() }
    }

    pub(super) fn grid(&self) -> &Grid {
        &self.grid
    }

    pub(super) fn values_kji(&self) -> &[f32] {
        &self.values_kji
    }

    /// Means over blocks of `factor` voxels along each axis; what is left over at the far ends is dropped. A block with a hole is one.
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn coarser(&self, factor: usize) -> Self {
        let old = self.grid.shape_kji;
        let shape_kji = old.map(|n| n / factor);
        let shift_mm = (factor as f64 - 1.0) / 2.0 * self.grid.spacing_mm;
        let grid = Grid {
            origin_lps_mm: self.grid.origin_lps_mm.map(|x| x + shift_mm),
            spacing_mm: self.grid.spacing_mm * factor as f64,
            shape_kji,
        };
        let mut values_kji = vec![0.0_f32; grid.n_voxels()];
        let share = 1.0 / (factor * factor * factor) as f32;
        for k in 0..shape_kji[0] * factor {
            for j in 0..shape_kji[1] * factor {
                let from = (k * old[1] + j) * old[2];
                let to = ((k / factor) * shape_kji[1] + j / factor) * shape_kji[2];
                let line = self.values_kji[from..from + shape_kji[2] * factor].chunks_exact(factor);
                for (sum, block) in values_kji[to..to + shape_kji[2]].iter_mut().zip(line) {
                    *sum += block.iter().sum::<f32>() * share;
                }
            }
        }
        Self { grid, values_kji }
    }

    /// The image after a mean over [1 2 1] / 4 along each axis; at a border or a hole the middle stands for what is missing.
    pub(super) fn smoothed(&self) -> Self {
        let [n_k, n_j, n_i] = self.grid.shape_kji;
        let (mut old, mut values) = (self.values_kji.clone(), vec![0.0; self.values_kji.len()]);
        let mean = |before: f32, own: f32, after: f32| {
            let or_own = |v: f32| if v.is_nan() { own } else { v };
            (or_own(before) + or_own(after) + 2.0 * own) / 4.0
        };
        for (to, line) in values.chunks_exact_mut(n_i.max(1)).zip(old.chunks_exact(n_i.max(1))) {
            for (i, to) in to.iter_mut().enumerate() {
                let own = line[i];
                let before = if i > 0 { line[i - 1] } else { own };
                *to = mean(before, own, line.get(i + 1).copied().unwrap_or(own));
            }
        }
        // Along j and k whole rows or planes meet their neighbours.
        for (stride, n) in [(n_i, n_j), (n_i * n_j, n_k)] {
            std::mem::swap(&mut old, &mut values);
            for (part, to) in values.chunks_exact_mut(stride.max(1)).enumerate() {
                let (from, index) = (part * stride, part % n.max(1));
                let own = &old[from..from + stride];
                let before = if index > 0 { &old[from - stride..from] } else { own };
                let after = if index + 1 < n { &old[from + stride..from + 2 * stride] } else { own };
                for (((to, &before), &own), &after) in to.iter_mut().zip(before).zip(own).zip(after) {
                    *to = mean(before, own, after);
                }
            }
        }
        Self { grid: self.grid.clone(), values_kji: values }
    }

    /// Linear between the eight points around `p`, LPS, mm; not a number where one of them has no level.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // checked against the shape first
    fn at(&self, p: [f64; 3]) -> f32 {
        let [n_k, n_j, n_i] = self.grid.shape_kji;
        let [x, y, z] = self.grid.origin_lps_mm;
        let scale = 1.0 / self.grid.spacing_mm;
        let (u, v, w) = ((p[0] - x) * scale, (p[1] - y) * scale, (p[2] - z) * scale);
        // Negated, so that what is not a number stays outside.
        if !(u >= 0.0 && v >= 0.0 && w >= 0.0) {
            return f32::NAN;
        }
        // Thirty-two bits: processors have no single instruction for the others. Saturates far beyond any grid.
        let whole = [u, v, w].map(|x| x as i32);
        let [i, j, k] = whole.map(|x| x as usize);
        if i + 1 >= n_i || j + 1 >= n_j || k + 1 >= n_k {
            return f32::NAN;
        }
        let [f, g, h] = [(u, whole[0]), (v, whole[1]), (w, whole[2])].map(|(x, whole)| (x - f64::from(whole)) as f32);
        let first = (k * n_j + j) * n_i + i;
        let line = |at: usize| {
            let pair = &self.values_kji[at..at + 2];
            pair[0] + (pair[1] - pair[0]) * f
        };
        let plane = |at: usize| {
            let (a, b) = (line(at), line(at + n_i));
            a + (b - a) * g
        };
        let (a, b) = (plane(first), plane(first + n_i * n_j));
        a + (b - a) * h
    }
}

/// A point of the first image with its grey level.
struct Sample {
    point_lps_mm: [f64; 3],
    level: usize,
}

/// Points of the first image at which the second is compared with it.
pub(super) struct Samples(Vec<Sample>);

/// A well mixed number from a voxel's index: the finaliser of splitmix64.
fn mixed(index: u64) -> u64 {
    let mut z = index.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Samples {
    /// About `n_wanted` points of `image`, one in a voxel of `mask_kji` on `mask_grid`, drawn by a fixed pattern. Different `part`s (0 to
    /// `n_parts`) share no voxel.
    #[allow(clippy::cast_precision_loss)] // 16 bits
    pub(super) fn draw(
        image: &Levels,
        (mask_grid, mask_kji): (&Grid, &[bool]),
        n_wanted: usize,
        part: u64,
        n_parts: usize,
    ) -> Self {
        let n_mask = mask_kji.iter().filter(|&&is| is).count();
        // Of 2^20 tickets, so many draw a voxel of the mask.
        let tickets = ((n_wanted * n_parts) << 20) / n_mask.max(1);
        let [_, n_j, n_i] = mask_grid.shape_kji;
        let mut samples = Vec::with_capacity(n_wanted + n_wanted / 8);
        for (at, _) in mask_kji.iter().enumerate().filter(|&(_, &is)| is) {
            let hash = mixed(at as u64);
            if (hash >> 4) % n_parts as u64 != part || (hash >> 16 & 0xf_ffff) as usize >= tickets {
                continue;
            }
            let place = mixed(hash);
            let off = |bits: u64| (place >> bits & 0xffff) as f64 / 65_536.0 - 0.5;
            let [k, j, i] = [at / (n_i * n_j), at / n_i % n_j, at % n_i].map(|n| n as f64);
            let point_lps_mm = mask_grid.lps_mm(k + off(0), j + off(16), i + off(32));
            let value = image.at(point_lps_mm);
            if value >= 0.0 {
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a level, 0 to 31
                samples.push(Sample { point_lps_mm, level: ((value + 0.5) as usize).min(N_LEVELS - 1) });
            }
        }
        Self(samples)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The normalised mutual information with `second` where `rigid` puts it; 0 where too few samples lie inside it.
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn likeness(&self, second: &Levels, rigid: &Rigid) -> f64 {
        let (joint, n) = self.joint(second, rigid);
        if n <= INSIDE_MIN * self.len() as f64 { 0.0 } else { studholme(&joint, n) }
    }

    /// Share of the samples that lie inside `second`.
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn inside(&self, second: &Levels, rigid: &Rigid) -> f64 {
        self.joint(second, rigid).1 / self.len().max(1) as f64
    }

    fn joint(&self, second: &Levels, rigid: &Rigid) -> (Vec<f64>, f64) {
        // One level more, so that the upper neighbour of the highest level has a place; it gathers nothing.
        let mut joint = vec![0.0_f64; N_LEVELS * (N_LEVELS + 1)];
        let mut n = 0.0;
        for sample in &self.0 {
            let value = second.at(rigid.apply(sample.point_lps_mm));
            if value >= 0.0 {
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a level, 0 to 31
                let level = (value as usize).min(N_LEVELS - 1);
                #[allow(clippy::cast_precision_loss)]
                let upper = f64::from(value) - level as f64;
                let at = sample.level * (N_LEVELS + 1) + level;
                joint[at] += 1.0 - upper;
                joint[at + 1] += upper;
                n += 1.0;
            }
        }
        (joint, n)
    }
}

/// (H(A) + H(B)) / H(A, B) of a joint histogram of sum `n`.
fn studholme(joint: &[f64], n: f64) -> f64 {
    let (mut second, mut both, mut first) = ([0.0_f64; N_LEVELS + 1], 0.0, 0.0);
    for row in joint.chunks_exact(N_LEVELS + 1) {
        let mut sum = 0.0;
        for (total, &c) in second.iter_mut().zip(row) {
            *total += c;
            sum += c;
            both += c * ln(c);
        }
        first += sum * ln(sum);
    }
    let second: f64 = second.iter().map(|&c| c * ln(c)).sum();
    let entropy = |sum: f64| ln(n) - sum / n;
    let together = entropy(both);
    if together <= 1e-9 { 1.0 } else { (entropy(first) + entropy(second)) / together }
}

/// Natural logarithm to about 1e-12 by plain arithmetic alone; 0 for what is not above 0 (`c ln c` is 0 there).
fn ln(x: f64) -> f64 {
    if x <= f64::MIN_POSITIVE {
        return 0.0;
    }
    let bits = x.to_bits();
    #[allow(clippy::cast_precision_loss)] // 11 bits
    let exponent = (bits >> 52) as f64 - 1023.0;
    let mantissa = f64::from_bits(bits & 0x000f_ffff_ffff_ffff | 0x3ff0_0000_0000_0000);
    let (mantissa, exponent) =
        if mantissa > std::f64::consts::SQRT_2 { (mantissa / 2.0, exponent + 1.0) } else { (mantissa, exponent) };
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let q = s * s;
    let series = 1.0 + q * (1.0 / 3.0 + q * (1.0 / 5.0 + q * (1.0 / 7.0 + q * (1.0 / 9.0 + q * (1.0 / 11.0 + q / 13.0)))));
    exponent * std::f64::consts::LN_2 + 2.0 * s * series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_one() {
        for x in [1e-9, 0.3, 0.99, 1.0, 1.41, 1.42, 2.0, 7.5, 123_456.789] {
            assert!((ln(x) - f64::ln(x)).abs() < 1e-11, "{x}: {}", ln(x));
        }
        assert!(ln(0.0).abs() < f64::EPSILON);
    }

    #[test]
    fn likeness_is_two_for_a_copy_and_one_for_what_is_unrelated() {
        let mut joint = vec![0.0; N_LEVELS * (N_LEVELS + 1)];
        (0..N_LEVELS).for_each(|a| joint[a * (N_LEVELS + 1) + a] = 10.0);
        assert!((studholme(&joint, 320.0) - 2.0).abs() < 1e-9);
        for a in 0..N_LEVELS {
            (0..N_LEVELS).for_each(|b| joint[a * (N_LEVELS + 1) + b] = 1.0);
        }
        assert!((studholme(&joint, 1024.0) - 1.0).abs() < 1e-9);
    }
}
