//! Images on the model's grid: what `prepare` makes and `infer` takes.

use super::{QualityNote, Role, SeriesUse, Uid};

/// An axis-aligned grid in the patient: i runs to the patient's left, j to posterior, k to superior (DICOM LPS).
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    /// Centre of voxel (0, 0, 0), LPS, mm.
    pub origin_lps_mm: [f64; 3],
    /// Isotropic voxel size, mm.
    pub spacing_mm: f64,
    /// Number of voxels along k, j, i.
    pub shape_kji: [usize; 3],
}

impl Grid {
    /// Number of voxels.
    #[must_use]
    pub fn n_voxels(&self) -> usize {
        self.shape_kji.iter().product()
    }

    /// Centre of voxel (k, j, i), LPS, mm; fractional indices are allowed.
    #[must_use]
    pub fn lps_mm(&self, k: f64, j: f64, i: f64) -> [f64; 3] {
        let [x, y, z] = self.origin_lps_mm;
        [x + i * self.spacing_mm, y + j * self.spacing_mm, z + k * self.spacing_mm]
    }

    /// Volume of one voxel, ml.
    #[must_use]
    pub fn voxel_ml(&self) -> f64 {
        self.spacing_mm * self.spacing_mm * self.spacing_mm / 1000.0
    }
}

/// One normalised channel on the study's grid.
#[derive(Clone, Debug, PartialEq)]
pub struct Volume {
    /// What it is.
    pub role: Role,
    /// The series it came from.
    pub series_instance_uid: Uid,
    /// Normalised intensities, C order k, j, i; length `grid.n_voxels()`.
    pub voxels_kji: Vec<f32>,
}

/// A study ready for inference.
#[derive(Clone, Debug)]
pub struct PreparedStudy {
    /// The grid that all channels share.
    pub grid: Grid,
    /// One entry per input channel of the model, in the manifest's order; `None` where an optional one is missing.
    pub channels: Vec<Option<Volume>>,
    /// What was seen on the way: coverage, gaps, uneven slices, compression.
    pub quality: Vec<QualityNote>,
    /// Which series served as what.
    pub series: Vec<SeriesUse>,
}
