//! Components: scores on a grid and a brain mask -> connected enhancing components with their measures, in millimetres and millilitres of
//! the patient. The reference in Python is `components` in `models/train/cns_mri/findings.py`.

use crate::domain::{Findings, Grid, OperatingPoint, Role, Volume};

use super::diameter::farthest_squared;
use super::mask::{BrainMask, centroid_lps_mm, count, kji};
use super::round4;
use super::runs::parts;

/// One 26-connected component of enhancing voxels inside the brain mask.
#[derive(Clone, Debug, PartialEq)]
pub struct Component {
    /// Linear index of its first voxel in raster order: the last resort when components tie.
    pub first_idx: usize,
    /// Number of voxels.
    pub n_voxels: usize,
    /// Volume, ml.
    pub volume_ml: f64,
    /// Largest distance between two voxel centres plus one voxel, mm.
    pub max_diameter_mm: f64,
    /// Centroid, LPS, mm.
    pub centroid_lps_mm: [f64; 3],
    /// Smallest and largest corner of the outer faces, LPS, mm.
    pub bbox_lps_mm: [[f64; 3]; 2],
    /// Mean enhancing score.
    pub score: f64,
    /// Highest enhancing score.
    pub peak_score: f64,
    /// Mean score of any abnormality over the same voxels.
    pub abnormality_score: f64,
    /// Mean normalised T1 post-contrast intensity over the component less that over the brain outside all components, in standard
    /// deviations of the head's foreground; `None` without the intensities.
    pub enhancement_z: Option<f64>,
    /// The same of FLAIR.
    pub flair_z: Option<f64>,
}

/// Normalised channels of the study, to measure what the network saw; empty where they are not at hand.
pub type Intensities<'a> = &'a [Option<Volume>];

/// The components at `point` of at least `point.component_ml_min`, highest score first (then the larger, then the first in raster order).
#[must_use]
pub fn components(findings: &Findings, mask: &BrainMask, point: &OperatingPoint, intensities: Intensities<'_>) -> Vec<Component> {
    let grid = &findings.grid;
    let mut wanted = findings.enhancing_lesion.at_least(point.voxel_threshold);
    wanted.iter_mut().zip(&mask.inside_kji).for_each(|(wanted, &inside)| *wanted &= inside);
    let contrasts = [Role::T1Post, Role::Flair].map(|role| Contrast::of(role, intensities, mask, &wanted));
    let mut found: Vec<Component> = parts(&wanted, grid.shape_kji, false)
        .iter()
        .filter(|part| count(part.n_voxels) * grid.voxel_ml() >= point.component_ml_min)
        .map(|part| measure(&part.voxels(grid.shape_kji), findings, &contrasts))
        .collect();
    found.sort_by(|a, b| b.score.total_cmp(&a.score).then(b.n_voxels.cmp(&a.n_voxels)).then(a.first_idx.cmp(&b.first_idx)));
    found
}

fn measure(voxels: &[usize], findings: &Findings, contrasts: &[Option<Contrast<'_>>; 2]) -> Component {
    let grid = &findings.grid;
    let scores = || voxels.iter().map(|&idx| f64::from(findings.enhancing_lesion.score(idx)));
    let farthest = farthest_squared(voxels, grid.shape_kji);
    #[allow(clippy::cast_precision_loss)] // below 2^53 for any grid that fits in memory
    let max_diameter_mm = ((farthest as f64).sqrt() + 1.0) * grid.spacing_mm;
    let [enhancement_z, flair_z] = contrasts.each_ref().map(|c| c.as_ref().map(|c| round4(c.above_brain(voxels))));
    Component {
        first_idx: voxels.first().copied().unwrap_or(0),
        n_voxels: voxels.len(),
        volume_ml: round4(count(voxels.len()) * grid.voxel_ml()),
        max_diameter_mm: round4(max_diameter_mm),
        centroid_lps_mm: centroid_lps_mm(voxels, grid).map(round4),
        bbox_lps_mm: bbox_lps_mm(voxels, grid),
        score: round4(mean(scores())),
        peak_score: round4(scores().fold(0.0, f64::max)),
        abnormality_score: round4(mean(voxels.iter().map(|&idx| f64::from(findings.abnormality.score(idx))))),
        enhancement_z,
        flair_z,
    }
}

/// Mean in the order given; 0 of nothing.
fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, n) = values.fold((0.0, 0_usize), |(sum, n), value| (sum + value, n + 1));
    if n == 0 { 0.0 } else { sum / count(n) }
}

fn bbox_lps_mm(voxels: &[usize], grid: &Grid) -> [[f64; 3]; 2] {
    let (mut low, mut high) = ([usize::MAX; 3], [0_usize; 3]);
    for &idx in voxels {
        for ((low, high), at) in low.iter_mut().zip(&mut high).zip(kji(idx, grid.shape_kji)) {
            *low = (*low).min(at);
            *high = (*high).max(at);
        }
    }
    let [k0, j0, i0] = low.map(|v| count(v) - 0.5);
    let [k1, j1, i1] = high.map(|v| count(v) + 0.5);
    [grid.lps_mm(k0, j0, i0).map(round4), grid.lps_mm(k1, j1, i1).map(round4)]
}

/// A channel's intensities and their mean over the brain outside all enhancing components.
struct Contrast<'a> {
    voxels_kji: &'a [f32],
    brain_mean: f64,
}

impl<'a> Contrast<'a> {
    fn of(role: Role, intensities: Intensities<'a>, mask: &BrainMask, lesion: &[bool]) -> Option<Self> {
        let volume = intensities.iter().flatten().find(|volume| volume.role == role)?;
        if volume.voxels_kji.len() != mask.inside_kji.len() || volume.voxels_kji.iter().any(|v| !v.is_finite()) {
            return None;
        }
        let around = mask.inside_kji.iter().zip(lesion).zip(&volume.voxels_kji);
        let brain_mean = mean(around.filter(|((inside, lesion), _)| **inside && !**lesion).map(|(_, v)| f64::from(*v)));
        Some(Self { voxels_kji: &volume.voxels_kji, brain_mean })
    }

    fn above_brain(&self, voxels: &[usize]) -> f64 {
        mean(voxels.iter().filter_map(|&idx| self.voxels_kji.get(idx)).map(|v| f64::from(*v))) - self.brain_mean
    }
}
