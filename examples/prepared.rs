//! Prepares studies again and again, for profiles and comparisons: folders in -> one line of JSON per study with the hash of its prepared
//! volumes, and the time of each run.
//!
//! `cargo run --release --example prepared -- [--runs N] [--threads N] [--synthetic DIR] PATH...`. Two programs that print the same hashes prepare alike,
//! bit for bit; a refused study is hashed by its reasons and notes. `--synthetic DIR` first writes a study of 310 instances there.

use std::path::PathBuf;
use std::time::Instant;

use scanside::domain::{ModelSpec, PreparedStudy, Study, verdict::Refusal};
use scanside::infer::ModelPackage;
use scanside::prepare::{PrepareLimits, prepare};
use scanside::service::folder::read_studies;
use scanside::service::stage_bench::bench_plan;
use scanside::synth::write_study;
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

fn median(mut ms: Vec<f64>) -> f64 {
    ms.sort_by(f64::total_cmp);
    ms.get(ms.len() / 2).copied().unwrap_or(0.0)
}

/// Processor time of all threads, ms.
fn cpu_ms() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    std::time::Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0)).as_secs_f64()
        * 1000.0
}

fn run(study: &Study, model: &ModelSpec, n_runs: usize, limits: &PrepareLimits) {
    let (mut ms, mut cpu) = (Vec::new(), Vec::new());
    let mut hashed = String::new();
    for _ in 0..n_runs {
        let (begin, cpu_begin) = (Instant::now(), cpu_ms());
        let outcome = prepare(study, model, limits);
        ms.push(begin.elapsed().as_secs_f64() * 1000.0);
        cpu.push(cpu_ms() - cpu_begin);
        hashed = hash(&outcome);
    }
    let uid = study.study_instance_uid();
    println!(
        r#"{{"study":"{uid}","n_instances":{},"sha256":"{hashed}","median_ms":{:.1},"median_cpu_ms":{:.1}}}"#,
        study.n_instances(),
        median(ms),
        median(cpu)
    );
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (mut n_runs, mut paths, mut limits) = (1_usize, Vec::new(), PrepareLimits::default());
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--runs" => n_runs = args.next().ok_or("--runs N")?.parse()?,
            "--threads" => limits.n_threads = args.next().ok_or("--threads N")?.parse()?,
            "--synthetic" => {
                let dir = PathBuf::from(args.next().ok_or("--synthetic DIR")?);
                write_study(&bench_plan(), &dir)?;
                paths.push(dir);
            }
            _ => paths.push(PathBuf::from(arg)),
        }
    }
    let package = ModelPackage::load(std::path::Path::new("models/cns-mri"))?;
    for path in paths {
        let Ok(report) = read_studies(std::slice::from_ref(&path)) else { continue };
        report.studies.iter().for_each(|study| run(study, &package.spec, n_runs.max(1), &limits));
    }
    Ok(())
}
