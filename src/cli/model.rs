//! `scanside model list|verify|bench`: the installed model packages, their golden outputs, their speed on this box.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::output::{complain, say};
use super::{NpuChoice, Outcome, npu};
use crate::infer::{EngineOptions, ModelPackage, TractEngine};
use crate::service::pipeline::find_models_dir;
use crate::service::uptime;

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
fn for_each(models: Option<&Path>, action: impl Fn(&ModelPackage) -> Result<(), String>) -> Outcome {
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
        let mut engine = TractEngine::new(package, EngineOptions { threads: 1, ..EngineOptions::new(uptime) })
            .map_err(|error| error.to_string())?;
        engine.self_test(package).map_err(|error| error.to_string())?;
        let id = &package.spec.identity;
        say(format!("{} {}: hash and golden outputs agree", id.name, id.version));
        wanted.as_ref().map_or(Ok(()), |options| npu::verify(package, options))
    })
}

/// Speed on this box.
#[must_use]
pub fn bench(models: Option<&Path>, n_runs: usize) -> Outcome {
    for_each(models, |package| {
        let n_threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
        for threads in [1, n_threads] {
            let mut engine = TractEngine::new(package, EngineOptions { threads, ..EngineOptions::new(uptime) })
                .map_err(|error| error.to_string())?;
            let (total, layers) = engine.bench(package, n_runs.clamp(1, 1000)).map_err(|error| error.to_string())?;
            let ms = |time: Duration| time.as_secs_f64() * 1000.0;
            say(format!("{}, {threads} thread(s), median of {n_runs} runs: {:.1} ms", package.spec.identity.name, ms(total)));
            for layer in layers {
                say(format!("  {:8.2} ms  {}", ms(layer.median), layer.name));
            }
            if n_threads == 1 {
                break;
            }
        }
        Ok(())
    })
}
