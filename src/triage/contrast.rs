//! Contrast: the map of what enhances normally -> how much of it there is, ml: evidence from the pixels that contrast agent was given.

use crate::domain::{Findings, ModelSpec};

use super::mask::{BrainMask, brain_mask, count, grown};

/// Dura, sinuses and the vessels of the base lie just outside the brain: its mask is grown by this much, mm.
const AROUND_BRAIN_MM: f64 = 6.0;

/// Volume of the voxels that score as normal enhancement inside the brain mask (without its margin) grown by 6 mm, ml; `None` for a model
/// without the map.
#[must_use]
pub fn normal_enhancement_ml(findings: &Findings, mask: &BrainMask, model: &ModelSpec) -> Option<f64> {
    let (maps, limits) = (findings.anatomy.as_ref()?, model.contrast.as_ref()?);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // spacings are 0.1 mm and more
    let n_steps = (AROUND_BRAIN_MM / findings.grid.spacing_mm).round().max(1.0) as u32;
    let near = grown(&mask.brain_kji, findings.grid.shape_kji, n_steps);
    let enhances = maps.normal_enhancement.at_least(limits.voxel_threshold);
    let n = enhances.iter().zip(&near).filter(|(enhances, near)| **enhances && **near).count();
    Some(super::round4(count(n) * findings.grid.voxel_ml()))
}

/// The same straight from the network's answer; `None` also where no brain of the model's domain is found, so that nothing can be said.
#[must_use]
pub fn contrast_seen_ml(findings: &Findings, model: &ModelSpec) -> Option<f64> {
    let point = model.operating_point(&findings.inputs)?;
    let mask = brain_mask(&findings.brain, &findings.grid, point.brain_threshold, 0)?;
    let whole = mask.volume_ml >= model.brain_ml_min && mask.volume_ml <= model.brain_ml_max;
    if whole { normal_enhancement_ml(findings, &mask, model) } else { None }
}
