//! Prepares studies again and again, for profiles and comparisons: folders in -> one line of JSON per study with the hash of its prepared
//! volumes, and the time of each run.
//!
//! `cargo run --release --example prepared -- [--runs N] [--synthetic DIR] PATH...`. Two programs that print the same hashes prepare alike,
//! bit for bit; a refused study is hashed by its reasons and notes. `--synthetic DIR` first writes a study of 310 instances there.

use std::path::PathBuf;
use std::time::Instant;

use scanside::domain::{ModelSpec, PreparedStudy, Study, verdict::Refusal};
use scanside::infer::ModelPackage;
use scanside::prepare::{PrepareLimits, prepare};
use scanside::service::folder::read_studies;
use scanside::synth::study::{Plane, SeriesPlan, StudyPlan, demo_plans, write_study};
use sha2::{Digest, Sha256};

/// Hash over everything that preparing gives.
fn hash(outcome: &Result<PreparedStudy, Refusal>) -> String {
    let mut hasher = Sha256::new();
    match outcome {
        Ok(prepared) => {
            hasher.update(format!("{:?}{:?}{:?}", prepared.grid, prepared.quality, prepared.series));
            for channel in &prepared.channels {
                let Some(volume) = channel else { continue };
                hasher.update(format!("{:?}{:?}", volume.role, volume.series_instance_uid));
                volume.voxels_kji.iter().for_each(|v| hasher.update(v.to_bits().to_le_bytes()));
            }
        }
        Err(refusal) => hasher.update(format!("{refusal:?}")),
    }
    hasher.finalize().iter().take(12).map(|byte| format!("{byte:02x}")).collect()
}

/// A study of 1 mm: 176 sagittal and 134 axial instances.
fn synthetic() -> StudyPlan {
    let [mut plan, _] = demo_plans();
    plan.name = "prepared-310".into();
    let [t1, flair] = [plan.series[0], plan.series[1]];
    plan.series = vec![
        SeriesPlan { pixel_mm: 1.0, slice_mm: 1.0, ..t1 },
        SeriesPlan { plane: Plane::Axial, pixel_mm: 1.0, slice_mm: 1.31, ..flair },
    ];
    plan
}

fn run(study: &Study, model: &ModelSpec, n_runs: usize) {
    let mut ms = Vec::new();
    let mut hashed = String::new();
    for _ in 0..n_runs {
        let begin = Instant::now();
        let outcome = prepare(study, model, &PrepareLimits::default());
        ms.push(begin.elapsed().as_secs_f64() * 1000.0);
        hashed = hash(&outcome);
    }
    ms.sort_by(f64::total_cmp);
    let uid = study.study_instance_uid();
    println!(
        r#"{{"study":"{uid}","n_instances":{},"sha256":"{hashed}","median_ms":{:.1}}}"#,
        study.n_instances(),
        ms[ms.len() / 2]
    );
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (mut n_runs, mut paths) = (1_usize, Vec::new());
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--runs" => n_runs = args.next().ok_or("--runs N")?.parse()?,
            "--synthetic" => {
                let dir = PathBuf::from(args.next().ok_or("--synthetic DIR")?);
                write_study(&synthetic(), &dir)?;
                paths.push(dir);
            }
            _ => paths.push(PathBuf::from(arg)),
        }
    }
    let package = ModelPackage::load(std::path::Path::new("models/cns-mri"))?;
    for path in paths {
        let Ok(report) = read_studies(std::slice::from_ref(&path)) else { continue };
        report.studies.iter().for_each(|study| run(study, &package.spec, n_runs.max(1)));
    }
    Ok(())
}
