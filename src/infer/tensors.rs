//! Tensors: a prepared study -> the network's int8 input, and its int8 output -> findings by output channel name.

use crate::domain::{AnatomyMaps, Findings, Grid, ModelSpec, PreparedStudy, Role, ScoreMap};

use super::engine::EngineError;

/// The input tensor `[channels, k, j, i]` and the roles that are in it. A missing optional channel is filled as the manifest says.
pub(crate) fn quantise(study: &PreparedStudy, spec: &ModelSpec) -> Result<(Vec<i8>, Vec<Role>), EngineError> {
    if study.grid.shape_kji != spec.shape_kji {
        let text = format!("the study's grid is {:?} voxels and the model's {:?}", study.grid.shape_kji, spec.shape_kji);
        return Err(EngineError::WrongShape(text));
    }
    if study.channels.len() != spec.channels.len() {
        let text = format!("the study has {} channels and the model takes {}", study.channels.len(), spec.channels.len());
        return Err(EngineError::WrongShape(text));
    }
    let n_voxels = study.grid.n_voxels();
    let mut input = Vec::with_capacity(n_voxels * spec.channels.len());
    let mut inputs = Vec::new();
    for (wanted, volume) in spec.channels.iter().zip(&study.channels) {
        let Some(volume) = volume else {
            if wanted.required {
                return Err(EngineError::WrongShape(format!("the required channel {} is missing", wanted.role)));
            }
            let filler = spec.input_quantisation.to_int8(spec.normalisation.missing_channel_value);
            input.extend(std::iter::repeat_n(filler, n_voxels));
            continue;
        };
        if volume.role != wanted.role || volume.voxels_kji.len() != n_voxels {
            let text = format!(
                "{} with {} voxels stands where {} with {n_voxels} belongs",
                volume.role,
                volume.voxels_kji.len(),
                wanted.role
            );
            return Err(EngineError::WrongShape(text));
        }
        if volume.voxels_kji.iter().any(|v| !v.is_finite()) {
            return Err(EngineError::Failed(format!("channel {} holds values that are no numbers", wanted.role)));
        }
        input.extend(volume.voxels_kji.iter().map(|&v| spec.input_quantisation.to_int8(v)));
        inputs.push(wanted.role);
    }
    Ok((input, inputs))
}

/// Splits the output tensor `[channels, k, j, i]` by the channel names of the manifest.
pub(crate) fn findings(
    output: &[i8],
    grid: Grid,
    inputs: Vec<Role>,
    infer_ms: u64,
    spec: &ModelSpec,
) -> Result<Findings, EngineError> {
    let n_voxels = grid.n_voxels();
    let map = |name: &str| {
        let at = spec.output_channels.iter().position(|channel| channel == name);
        let logits = at.and_then(|at| output.get(at * n_voxels..(at + 1) * n_voxels));
        let logits = logits.ok_or_else(|| EngineError::WrongShape(format!("the network's output has no channel {name}")))?;
        Ok(ScoreMap::new(logits.to_vec(), spec.output_quantisation))
    };
    let anatomy = if spec.output_channels.len() > 3 {
        Some(AnatomyMaps {
            right_hemisphere: map("right_hemisphere")?,
            ventricle: map("ventricle")?,
            normal_enhancement: map("normal_enhancement")?,
        })
    } else {
        None
    };
    Ok(Findings {
        enhancing_lesion: map("enhancing_lesion")?,
        abnormality: map("abnormality")?,
        brain: map("brain")?,
        anatomy,
        grid,
        inputs,
        model: spec.identity.clone(),
        infer_ms,
    })
}
