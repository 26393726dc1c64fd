//! `scanside model list|verify`: the installed model packages and their golden outputs.

use std::fs;
use std::path::{Path, PathBuf};

use super::output::{complain, say};
use super::{NpuChoice, Outcome, npu};
use crate::infer::{ModelPackage, TractEngine};
use crate::service::pipeline::{engine_options, find_models_dir};

/// Folders that hold a manifest.
fn packages(models: Option<&Path>) -> Result<Vec<PathBuf>, Outcome> {
    let Some(dir) = models.map(Path::to_path_buf).or_else(find_models_dir) else {
        complain("no model package found: name the folder with --models");
        return Err(Outcome::BadInput);
    };
    let entries = fs::read_dir(&dir).map_err(|error| {
        complain(format!("cannot read {}: {error}", dir.display()));
        Outcome::BadInput
    })?;
    let mut found: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(|p| p.join("manifest.toml").is_file()).collect();
    found.sort();
    if found.is_empty() {
        complain(format!("{} holds no model package", dir.display()));
        return Err(Outcome::BadInput);
    }
    Ok(found)
}

/// Runs `action` on every package; one failure makes the whole command fail.
pub(super) fn for_each(models: Option<&Path>, action: impl Fn(&ModelPackage) -> Result<(), String>) -> Outcome {
    let dirs = match packages(models) {
        Ok(dirs) => dirs,
        Err(outcome) => return outcome,
    };
    let mut outcome = Outcome::Done;
    for dir in dirs {
        let result = ModelPackage::load(&dir).map_err(|error| error.to_string()).and_then(|package| action(&package));
        if let Err(message) = result {
            complain(format!("{}: {message}", dir.display()));
            outcome = Outcome::Failed;
        }
    }
    outcome
}

/// Name, version, hash and operating points.
#[must_use]
pub fn list(models: Option<&Path>) -> Outcome {
    for_each(models, |package| {
        let (spec, id) = (&package.spec, &package.spec.identity);
        say(format!("{} {} ({}, sha256 {})", id.name, id.version, id.precision, id.sha256));
        let [k, j, i] = spec.shape_kji;
        say(format!("  grid {k} x {j} x {i} at {} mm", spec.spacing_mm));
        for channel in &spec.channels {
            say(format!("  input {}{}", channel.role, if channel.required { " (required)" } else { "" }));
        }
        for point in &spec.operating_points {
            let inputs: Vec<_> = point.inputs.iter().map(|role| role.as_str()).collect();
            say(format!(
                "  with {}: threshold {:.3}, sensitivity {:.3}, specificity {:.3} ({})",
                inputs.join(" + "),
                point.threshold,
                point.sensitivity,
                point.specificity,
                point.source
            ));
        }
        Ok(())
    })
}

/// Hashes and golden outputs, and those of the NPU that is asked for.
#[must_use]
pub fn verify(models: Option<&Path>, choice: &NpuChoice) -> Outcome {
    let wanted = match npu::wanted(choice) {
        Ok(wanted) => wanted,
        Err(message) => {
            complain(message);
            return Outcome::BadInput;
        }
    };
    for_each(models, |package| {
        let mut engine =
            engine_options(1).and_then(|options| TractEngine::new(package, options)).map_err(|error| error.to_string())?;
        engine.self_test(package).map_err(|error| error.to_string())?;
        let id = &package.spec.identity;
        say(format!("{} {}: hash and golden outputs agree (kernel {})", id.name, id.version, engine.kernel()));
        wanted.as_ref().map_or(Ok(()), |options| npu::verify(package, options))
    })
}
