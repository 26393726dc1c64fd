//! Noise: normalised intensities inside the brain -> their noise, in the same normalised units (z).
//!
//! For every voxel that lies in the brain (mask without its margin) with all six face neighbours: r = v - (mean of the six). White noise of
//! standard deviation s gives r a standard deviation of s sqrt(1 + 1/6); anatomy is mostly smooth at that scale and its edges are few, so that
//! the median of |r| sees the noise: noise_z = 1.4826 median(|r|) / sqrt(7 / 6) (1.4826: from the median absolute deviation to the standard
//! deviation of a normal distribution). |r| is rounded to single precision before the median, the mean of the two middle values of an even
//! number; the result is rounded to four decimals.

use super::mask::Kji;

/// From the median absolute deviation of a normal distribution to its standard deviation.
const MAD_TO_SD: f64 = 1.4826;
/// Fewer voxels than this say nothing about noise.
const VOXELS_MIN: usize = 1000;

/// Noise of `voxels_kji` inside `brain_kji`, z; `None` for too few voxels, for values that are no numbers and for another shape.
#[must_use]
pub fn noise_z(voxels_kji: &[f32], brain_kji: &[bool], shape_kji: Kji) -> Option<f64> {
    let [n_k, n_j, n_i] = shape_kji;
    let plane = n_j * n_i;
    if voxels_kji.len() != n_k * plane || brain_kji.len() != voxels_kji.len() {
        return None;
    }
    let mut residuals = Vec::new();
    for row in 0..n_k * n_j {
        let (k, j) = (row / n_j, row % n_j);
        let from = row * n_i;
        if k == 0 || k + 1 == n_k || j == 0 || j + 1 == n_j || !brain_kji[from..from + n_i].contains(&true) {
            continue;
        }
        for at in from + 1..from + n_i.saturating_sub(1) {
            let around = [at - plane, at - n_i, at - 1, at + 1, at + n_i, at + plane];
            if brain_kji[at] && around.iter().all(|&other| brain_kji[other]) {
                let sum: f64 = around.iter().map(|&other| f64::from(voxels_kji[other])).sum();
                #[allow(clippy::cast_possible_truncation)] // single precision is meant
                let residual = (f64::from(voxels_kji[at]) - sum / 6.0).abs() as f32;
                // The bits of numbers that are not negative sort as the numbers do, and faster.
                residuals.push(residual.to_bits());
            }
        }
    }
    if residuals.len() < VOXELS_MIN || residuals.iter().any(|&bits| !f32::from_bits(bits).is_finite()) {
        return None;
    }
    let n = residuals.len();
    let (below, middle, _) = residuals.select_nth_unstable(n / 2);
    let high = f64::from(f32::from_bits(*middle));
    let low = if n.is_multiple_of(2) { below.iter().max().map_or(high, |&bits| f64::from(f32::from_bits(bits))) } else { high };
    Some(super::round4(MAD_TO_SD * ((low + high) / 2.0) / (7.0_f64 / 6.0).sqrt()))
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)] // made-up values
mod tests {
    use super::*;

    const SHAPE: Kji = [16, 18, 20];
    const N: usize = 16 * 18 * 20;

    /// Normal enough: the sum of twelve even numbers of a fixed generator, standard deviation 1.
    fn white() -> Vec<f64> {
        let mut state = 88_172_645_463_325_252_u64;
        let mut even = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1_u64 << 53) as f64
        };
        (0..N).map(|_| (0..12).map(|_| even()).sum::<f64>() - 6.0).collect()
    }

    #[test]
    fn white_noise_is_measured_and_a_smooth_slope_is_not_noise() {
        let brain = vec![true; N];
        for sd in [0.1, 0.5] {
            let noisy: Vec<f32> = white().iter().enumerate().map(|(n, v)| (v * sd + (n % 20) as f64 * 0.3) as f32).collect();
            let measured = noise_z(&noisy, &brain, SHAPE).expect("measured");
            assert!((measured - sd).abs() < 0.05 * sd, "{measured} for {sd}");
        }
    }

    #[test]
    fn voxels_outside_the_brain_do_not_count() {
        let mut values = vec![1.0_f32; N];
        let mut brain = vec![true; N];
        for at in (0..N).filter(|at| at % 20 < 6) {
            values[at] = (at * 7919 % 13) as f32;
            brain[at] = false;
        }
        assert_eq!(noise_z(&values, &brain, SHAPE), Some(0.0));
    }

    #[test]
    fn too_little_or_broken_is_not_measured() {
        assert_eq!(noise_z(&[0.0; N], &[false; N], SHAPE), None);
        assert_eq!(noise_z(&[0.0; 5], &[true; 5], SHAPE), None);
        assert_eq!(noise_z(&[f32::NAN; N], &[true; N], SHAPE), None);
    }
}
