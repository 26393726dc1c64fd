//! Intensity normalisation, method `foreground-z/1`: one channel on the grid in -> z values, as `models/train` defines them.
//!
//! Background (outside the acquired field of view, or filled) is set apart; the foreground is what lies above a fraction of the way from the
//! smallest value to a high percentile; mean and standard deviation of the clipped foreground make z. All statistics in double precision over
//! the grid's points in their order, only basic arithmetic and square roots: bit-identical on every platform (DESIGN.md rule 4).

use crate::domain::Normalisation;

/// Fewer foreground points than this (13.5 ml on a 3 mm grid) are nothing to take a mean of; `FOREGROUND_VOXELS_MIN` of the trainer.
pub(super) const FOREGROUND_VOXELS_MIN: usize = 500;

/// Percentile `percent` (0 to 100) of `values`, which it reorders: linear between order statistics, position (n - 1) * p / 100 from 0 (numpy's
/// default). 0 for an empty slice. By selection, not by sorting: linear in time, and exact.
pub(super) fn percentile(values: &mut [f32], percent: f64) -> f64 {
    let Some(last) = values.len().checked_sub(1) else { return 0.0 };
    #[allow(clippy::cast_precision_loss)] // far below 2^52
    let position = (percent / 100.0).clamp(0.0, 1.0) * last as f64;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // within 0..=last
    let below = (position.floor() as usize).min(last);
    let (_, &mut a, higher) = values.select_nth_unstable_by(below, f32::total_cmp);
    let b = higher.iter().copied().min_by(f32::total_cmp).unwrap_or(a);
    let ((a, b), t) = ((f64::from(a), f64::from(b)), position - position.floor());
    // numpy's `_lerp`, which is monotonic at both ends.
    if t < 0.5 { a + (b - a) * t } else { b - (b - a) * (1.0 - t) }
}

/// The smallest value, and how far above it the foreground begins; both 0 for an empty slice. Reorders `inside`.
pub(super) fn foreground_from(inside: &mut [f32], rule: &Normalisation) -> (f64, f64) {
    let low = f64::from(inside.iter().copied().min_by(f32::total_cmp).unwrap_or(0.0));
    (low, rule.foreground_fraction * (percentile(inside, rule.foreground_percentile) - low))
}

/// Normalises `values` in place; `background` marks the points that are none. `false` (and `values` untouched) when there is too little
/// foreground to take statistics of: the channel then counts as missing.
#[must_use]
pub(super) fn normalise(values: &mut [f32], background: &[bool], rule: &Normalisation) -> bool {
    let mut chosen: Vec<f32> = values.iter().zip(background).filter(|&(_, &b)| !b).map(|(&v, _)| v).collect();
    if chosen.len() < FOREGROUND_VOXELS_MIN {
        return false;
    }
    let (low, above) = foreground_from(&mut chosen, rule);
    chosen.retain(|&v| f64::from(v) - low > above);
    if chosen.len() < FOREGROUND_VOXELS_MIN {
        return false;
    }
    let [bottom, top] = rule.clip_percentiles.map(|percent| percentile(&mut chosen, percent));
    // Sums in the grid's order, whatever order the selection left.
    let inside = || values.iter().zip(background).filter(|&(_, &b)| !b).map(|(&v, _)| f64::from(v));
    let clipped = || inside().filter(|&v| v - low > above).map(|v| v.clamp(bottom, top));
    #[allow(clippy::cast_precision_loss)] // far below 2^52
    let n = chosen.len() as f64;
    let mean = clipped().sum::<f64>() / n;
    let sd = (clipped().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n).sqrt().max(1e-9);
    let [z_min, z_max] = rule.clip_z.map(f64::from);
    for (value, &is_background) in values.iter_mut().zip(background) {
        #[allow(clippy::cast_possible_truncation)] // the network's input is single precision
        let z = (((f64::from(*value).clamp(bottom, top)) - mean) / sd).clamp(z_min, z_max) as f32;
        *value = if is_background { rule.background_value } else { z };
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule() -> Normalisation {
        Normalisation {
            background_mode_fraction: 0.2,
            foreground_fraction: 0.12,
            foreground_percentile: 98.0,
            clip_percentiles: [0.5, 99.5],
            clip_z: [-4.0, 6.0],
            background_value: -2.0,
            missing_channel_value: 0.0,
        }
    }

    /// Values made of integers alone, so that the trainer's Python makes the same: `(7919 i) mod 1009`, plus 400 where 3 does not
    /// divide i, plus 20000 where 997 does; background where 11 divides i.
    fn pattern(n: u32) -> (Vec<f32>, Vec<bool>) {
        let value = |i: u32| {
            (i * 7919) % 1009 + if i.is_multiple_of(3) { 0 } else { 400 } + if i.is_multiple_of(997) { 20_000 } else { 0 }
        };
        #[allow(clippy::cast_precision_loss)] // below 2^24
        let values = (0..n).map(|i| value(i) as f32).collect();
        (values, (0..n).map(|i| i % 11 == 0).collect())
    }

    #[test]
    fn the_trainers_own_numbers_come_out() {
        let (mut values, background) = pattern(6000);
        assert!(normalise(&mut values, &background, &rule()));
        // models/train/cns_mri/normalise.py on the same pattern.
        let expected = [
            (0, -2.0),
            (1, 1.399_364_2),
            (2, 0.914_337_5),
            (3, -0.838_733),
            (5, -0.540_742_75),
            (10, 0.232_763_98),
            (997, 1.863_404_9),
            (1500, -0.832_392_8),
            (3001, 1.700_524_6),
            (5999, -0.226_901_89_f32),
        ];
        for (idx, z) in expected {
            assert!((values[idx] - z).abs() <= 1e-6, "point {idx}: {} is not {z}", values[idx]);
        }
        let sum: f64 = values.iter().map(|&v| f64::from(v)).sum();
        assert!((sum - -1_755.279_853_692_627_5).abs() < 1e-3, "sum {sum}");
    }

    #[test]
    fn a_channel_with_too_few_points_is_left_as_it_is() {
        let (mut values, background) = pattern(520);
        let before = values.clone();
        assert!(!normalise(&mut values, &background, &rule()), "472 points inside");
        assert_eq!(values, before);
        let mut constant = vec![7.0; 4000];
        assert!(!normalise(&mut constant, &[false; 4000], &rule()), "no value above the lowest one");
    }

    #[test]
    fn percentiles_interpolate_between_order_statistics() {
        let mut values = [8.0, 1.0, 4.0, 2.0];
        for (percent, expected) in [(0.0, 1.0), (100.0, 8.0), (50.0, 3.0), (25.0, 1.75), (90.0, 6.8)] {
            assert!((percentile(&mut values, percent) - expected).abs() < 1e-12, "p{percent}");
        }
        assert!(percentile(&mut [], 50.0).abs() < f64::EPSILON);
    }
}
