//! What the network said, voxel by voxel: `infer` makes it, `triage` reads it.

use super::{Grid, ModelIdentity, Quantisation, Role};

/// One output channel: int8 logits on the grid, with a table that turns a logit into a score in [0, 1].
#[derive(Clone, Debug)]
pub struct ScoreMap {
    logits_kji: Vec<i8>,
    table: Box<[f32; 256]>,
}

impl ScoreMap {
    /// Takes logits in C order k, j, i. Scores are the logistic function of the dequantised logit, rounded to 1e-6 so that the last
    /// bits of a platform's `exp` cannot change a verdict (DESIGN.md rule 4).
    #[must_use]
    pub fn new(logits_kji: Vec<i8>, quantisation: Quantisation) -> Self {
        let mut table = Box::new([0.0_f32; 256]);
        for (q, score) in (i8::MIN..=i8::MAX).zip(table.iter_mut()) {
            let logit = (f64::from(q) - f64::from(quantisation.zero_point)) * f64::from(quantisation.scale);
            let rounded = ((1.0 / (1.0 + (-logit).exp())) * 1e6).round() / 1e6;
            #[allow(clippy::cast_possible_truncation)] // a score needs no more than single precision
            let narrow = rounded as f32;
            *score = narrow;
        }
        Self { logits_kji, table }
    }

    /// Number of voxels.
    #[must_use]
    pub fn len(&self) -> usize {
        self.logits_kji.len()
    }

    /// Whether there are no voxels.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.logits_kji.is_empty()
    }

    /// Score of the voxel at linear index `idx`; 0 outside.
    #[must_use]
    pub fn score(&self, idx: usize) -> f32 {
        self.logits_kji.get(idx).map_or(0.0, |q| self.table[usize::from(q.wrapping_sub(i8::MIN).cast_unsigned())])
    }

    /// One entry per voxel: whether its score is `threshold` or more.
    #[must_use]
    pub fn at_least(&self, threshold: f32) -> Vec<bool> {
        // Scores rise with the logit (a scale is positive), so that one comparison of integers per voxel does.
        let lowest = (i8::MIN..=i8::MAX).zip(self.table.iter()).find(|(_, score)| **score >= threshold).map(|(q, _)| q);
        lowest.map_or_else(|| vec![false; self.len()], |lowest| self.logits_kji.iter().map(|&q| q >= lowest).collect())
    }

    /// The int8 logits, C order k, j, i.
    #[must_use]
    pub fn logits_kji(&self) -> &[i8] {
        &self.logits_kji
    }
}

/// Further maps of a model with six outputs: anatomy that is no finding, to measure signs and contrast with.
#[derive(Clone, Debug)]
pub struct AnatomyMaps {
    /// The patient's right half of the brain; means something inside the brain only, where what is not right is left.
    pub right_hemisphere: ScoreMap,
    /// Lateral ventricles with their horns and choroid plexus.
    pub ventricle: ScoreMap,
    /// Structures that are bright because contrast agent was given and are no lesion: vessels, sinuses, dura, choroid plexus, pituitary.
    pub normal_enhancement: ScoreMap,
}

/// The network's answer for one study.
#[derive(Clone, Debug)]
pub struct Findings {
    /// The grid of all maps.
    pub grid: Grid,
    /// Enhancing lesion.
    pub enhancing_lesion: ScoreMap,
    /// Any FLAIR abnormality.
    pub abnormality: ScoreMap,
    /// Brain tissue and inner CSF.
    pub brain: ScoreMap,
    /// The further maps; `None` for a model with three outputs.
    pub anatomy: Option<AnatomyMaps>,
    /// The inputs that were there.
    pub inputs: Vec<Role>,
    /// Who said so.
    pub model: ModelIdentity,
    /// How long the network ran, ms.
    pub infer_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_logit_scores_one_half_and_the_table_rises() {
        let map = ScoreMap::new((i8::MIN..=i8::MAX).collect(), Quantisation { scale: 0.1, zero_point: -28 });
        assert!((map.score(100) - 0.5).abs() < 1e-6, "index 100 is q = -28");
        assert!((1..256).all(|idx| map.score(idx) >= map.score(idx - 1)));
        assert!(map.score(256).abs() < f32::EPSILON, "outside the map there is no score");
        assert_eq!(map.at_least(2.0), [false; 256]);
        assert_eq!(map.at_least(0.5), (0..256).map(|idx| map.score(idx) >= 0.5).collect::<Vec<_>>());
    }
}
