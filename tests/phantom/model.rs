//! A model of six outputs for tests/signs.rs and tests/contrast_from_pixels.rs: a grid in -> what its manifest would say.

use scanside::domain::*;

/// 16 steps of a logit are one.
pub(crate) const QUANTISATION: Quantisation = Quantisation { scale: 0.0625, zero_point: 0 };
pub(crate) fn identity() -> ModelIdentity {
    ModelIdentity {
        name: "test".into(),
        version: "1".into(),
        sha256: "0".repeat(64),
        engine: "tract".into(),
        precision: "int8".into(),
    }
}

/// Limits of the signs.
pub(crate) fn limits() -> SignLimits {
    SignLimits {
        midline_shift_mm_min: 5.0,
        midline_shift_source: "test".into(),
        ventricle_index_min: 0.37,
        ventricle_index_source: "test".into(),
    }
}

/// A model of six outputs for that grid.
pub(crate) fn model(grid: &Grid) -> ModelSpec {
    let outputs = ["enhancing_lesion", "abnormality", "brain", "right_hemisphere", "ventricle", "normal_enhancement"];
    ModelSpec {
        identity: identity(),
        spacing_mm: grid.spacing_mm,
        shape_kji: grid.shape_kji,
        channels: vec![InputChannel { role: Role::T1Post, required: true }],
        input_quantisation: QUANTISATION,
        output_quantisation: QUANTISATION,
        output_channels: outputs.map(str::to_owned).to_vec(),
        normalisation: Normalisation {
            background_mode_fraction: 0.1,
            foreground_fraction: 0.1,
            foreground_percentile: 99.0,
            clip_percentiles: [0.5, 99.5],
            clip_z: [-4.0, 6.0],
            background_value: -4.0,
            missing_channel_value: 0.0,
        },
        operating_points: vec![OperatingPoint {
            inputs: vec![Role::T1Post],
            voxel_threshold: 0.5,
            brain_threshold: 0.5,
            brain_margin_voxels: 1,
            component_ml_min: 0.2,
            threshold: 0.8,
            sensitivity: 0.9,
            specificity: 0.95,
            source: "test".into(),
        }],
        brain_ml_min: 500.0,
        brain_ml_max: 3000.0,
        brain_mean_height_mm_min: 40.0,
        slice_spacing_mm_max: 7.0,
        critical_total_ml_min: 20.0,
        critical_diameter_mm_min: 60.0,
        critical_source: "test".into(),
        signs: Some(limits()),
        contrast: Some(ContrastLimits { voxel_threshold: 0.5, seen_ml_min: 10.0, absent_ml_max: 2.0, source: "test".into() }),
        noise_z_max: None,
    }
}
