//! What a model package says about itself (`models/<name>/manifest.toml`, schema `scanside.model/1`), as plain data.

use super::Role;

/// Identity of a model as it stands in verdicts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelIdentity {
    /// Name, such as `cns-mri`.
    pub name: String,
    /// Version, such as `0.1.0`.
    pub version: String,
    /// SHA-256 of the ONNX file, lower-case hex.
    pub sha256: String,
    /// The engine that ran it, such as `tract`.
    pub engine: String,
    /// Arithmetic, such as `int8`.
    pub precision: String,
}

/// One input channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputChannel {
    /// The series role that feeds it.
    pub role: Role,
    /// Whether the model can run without it.
    pub required: bool,
}

/// Affine quantisation: `value = (q - zero_point) * scale`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantisation {
    /// Step.
    pub scale: f32,
    /// The integer that stands for zero.
    pub zero_point: i8,
}

impl Quantisation {
    /// The value that an integer stands for, in single precision.
    #[must_use]
    pub fn to_real(self, q: i8) -> f32 {
        (f32::from(q) - f32::from(self.zero_point)) * self.scale
    }

    /// `saturate(round_half_even(value / scale) + zero_point)` in single precision, as ONNX `QuantizeLinear` and `quantised_input` in `models/train`.
    #[must_use]
    pub fn to_int8(self, value: f32) -> i8 {
        let steps = (value / self.scale).round_ties_even() + f32::from(self.zero_point);
        #[allow(clippy::cast_possible_truncation)] // clamped
        let byte = steps.clamp(-128.0, 127.0) as i8;
        byte
    }
}

/// Intensity normalisation, method `foreground-z/1` (see `models/train` for the reference in Python).
#[derive(Clone, Debug, PartialEq)]
pub struct Normalisation {
    /// A stored value that fills more than this fraction of the acquired volume is background (stripped or zero-filled data).
    pub background_mode_fraction: f64,
    /// Foreground lies above this fraction of the way from the minimum to the percentile below.
    pub foreground_fraction: f64,
    /// That percentile, 0 to 100.
    pub foreground_percentile: f64,
    /// Foreground values are clipped to these percentiles before mean and standard deviation are taken.
    pub clip_percentiles: [f64; 2],
    /// Normalised values are clipped to this range.
    pub clip_z: [f32; 2],
    /// What background voxels become.
    pub background_value: f32,
    /// What every voxel of a missing channel becomes.
    pub missing_channel_value: f32,
}

/// Where the model's scores become a decision, for one set of inputs.
#[derive(Clone, Debug, PartialEq)]
pub struct OperatingPoint {
    /// The inputs that were there.
    pub inputs: Vec<Role>,
    /// Score of a voxel to belong to a component.
    pub voxel_threshold: f32,
    /// Brain score of a voxel to lie inside the brain mask.
    pub brain_threshold: f32,
    /// The brain mask is grown by this many voxels.
    pub brain_margin_voxels: u32,
    /// Smaller components are ignored, ml.
    pub component_ml_min: f64,
    /// A component of this mean score or more flags the study.
    pub threshold: f64,
    /// Sensitivity at that point.
    pub sensitivity: f64,
    /// Specificity at that point.
    pub specificity: f64,
    /// Where the two figures come from.
    pub source: String,
}

/// From which measures on a flagged study is critical (manifest table `signs`).
#[derive(Clone, Debug, PartialEq)]
pub struct SignLimits {
    /// Midline shift, mm.
    pub midline_shift_mm_min: f64,
    /// Where that threshold comes from.
    pub midline_shift_source: String,
    /// Width of the frontal horns over the brain's width (Evans index, measured on the grid).
    pub ventricle_index_min: f64,
    /// Where that threshold comes from.
    pub ventricle_index_source: String,
}

/// What the pixels must show of contrast agent (manifest table `contrast`).
#[derive(Clone, Debug, PartialEq)]
pub struct ContrastLimits {
    /// Score of a voxel to count as normal enhancement.
    pub voxel_threshold: f32,
    /// At least this much normal enhancement: contrast agent was given, whatever the tags say, ml.
    pub seen_ml_min: f64,
    /// At most this much: no contrast agent is seen, whatever the tags say, ml.
    pub absent_ml_max: f64,
    /// Where the two limits come from.
    pub source: String,
}

/// Everything that prepare, infer and triage need to know of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// Who it is.
    pub identity: ModelIdentity,
    /// Voxel size of its grid, mm.
    pub spacing_mm: f64,
    /// Voxels of its grid along k, j, i.
    pub shape_kji: [usize; 3],
    /// Input channels in order.
    pub channels: Vec<InputChannel>,
    /// Quantisation of the int8 input tensor.
    pub input_quantisation: Quantisation,
    /// Quantisation of the int8 output tensor (logits).
    pub output_quantisation: Quantisation,
    /// Names of the output channels in order: `enhancing_lesion`, `abnormality`, `brain`, and then none or all of `right_hemisphere`,
    /// `ventricle`, `normal_enhancement`.
    pub output_channels: Vec<String>,
    /// How intensities are normalised.
    pub normalisation: Normalisation,
    /// Decision thresholds per set of inputs.
    pub operating_points: Vec<OperatingPoint>,
    /// Less predicted brain than this is no brain, ml.
    pub brain_ml_min: f64,
    /// More predicted brain than this is no brain, ml.
    pub brain_ml_max: f64,
    /// A predicted brain whose volume divided by the area of its bounding box seen from above is less than this has parts missing, mm.
    pub brain_mean_height_mm_min: f64,
    /// Wider slice spacing than this is outside the domain, mm.
    pub slice_spacing_mm_max: f64,
    /// Total enhancing volume from which a flagged study is critical, ml.
    pub critical_total_ml_min: f64,
    /// Largest diameter from which a flagged study is critical, mm.
    pub critical_diameter_mm_min: f64,
    /// Where the two critical thresholds come from.
    pub critical_source: String,
    /// Signs that make a flagged study critical; `Some` exactly when the model has all six outputs.
    pub signs: Option<SignLimits>,
    /// Contrast agent as the pixels show it; `Some` exactly when the model has all six outputs.
    pub contrast: Option<ContrastLimits>,
    /// Largest noise of the T1 channel that the model knows, in normalised units (`triage::noise`); `None`: not limited.
    pub noise_z_max: Option<f64>,
}

impl ModelSpec {
    /// The operating point for exactly these inputs, in any order.
    #[must_use]
    pub fn operating_point(&self, inputs: &[Role]) -> Option<&OperatingPoint> {
        let sorted = |roles: &[Role]| {
            let mut roles = roles.to_vec();
            roles.sort_unstable();
            roles
        };
        let wanted = sorted(inputs);
        self.operating_points.iter().find(|point| sorted(&point.inputs) == wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantisation_rounds_half_to_even_saturates_and_comes_back() {
        let quantisation = Quantisation { scale: 0.5, zero_point: -26 };
        let bytes = [0.0, 0.25, 0.75, -0.25, 1e9, -1e9].map(|v| quantisation.to_int8(v));
        assert_eq!(bytes, [-26, -26, -24, -26, 127, -128]);
        for byte in i8::MIN..=i8::MAX {
            assert_eq!(quantisation.to_int8(quantisation.to_real(byte)), byte);
        }
    }
}
