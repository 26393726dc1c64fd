//! `scanside model bench`: a model package in -> the stage table of this box and the layer table of the network; the first is kept for the page.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::Outcome;
use super::model::for_each;
use super::output::{complain, say};
use super::serve::state_dir;
use crate::domain::speed::SpeedTable;
use crate::infer::{LayerTime, ModelPackage, TractEngine};
use crate::service::pipeline::engine_options;
use crate::service::speed;
use crate::service::stage_bench::{BenchOptions, measure};

/// Most runs of one measurement.
const RUNS_MAX: usize = 1000;
/// Most threads inside a stage.
const THREADS_MAX: usize = 64;

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct BenchRequest {
    /// How many runs.
    pub n_runs: usize,
    /// Threads inside a stage.
    pub threads: Option<usize>,
    /// A study on disk.
    pub study: Option<PathBuf>,
    /// JSON instead of text.
    pub json: bool,
}

/// The network on some threads: median of a run, and of each layer.
type Network = (usize, Duration, Vec<LayerTime>);

/// Runs the command.
#[must_use]
pub fn run(models: Option<&Path>, request: &BenchRequest) -> Outcome {
    let cores = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    let n_threads = request.threads.unwrap_or(cores).clamp(1, THREADS_MAX);
    let n_runs = request.n_runs.clamp(1, RUNS_MAX);
    for_each(models, |package| {
        let options = BenchOptions { n_runs, n_threads, study: request.study.clone(), work_dir: state_dir() };
        let table = measure(package, &options)?;
        let network = network(package, n_runs, n_threads)?;
        if request.json {
            say(json!({ "speed": speed::to_json(&table), "network": network.iter().map(network_json).collect::<Vec<_>>() })
                .to_string());
        } else {
            show_stages(&table);
            network.iter().for_each(|network| show_layers(&package.spec.identity.name, n_runs, network));
        }
        speed::store(&state_dir(), &table)
            .map_err(|error| format!("the table cannot be kept in {}: {error}", state_dir().display()))?;
        if !request.json {
            complain(format!(
                "the stage table is kept in {}; the page of a box with this state folder shows it",
                state_dir().display()
            ));
        }
        Ok(())
    })
}

fn network(package: &ModelPackage, n_runs: usize, n_threads: usize) -> Result<Vec<Network>, String> {
    let mut counts = vec![1, n_threads];
    counts.dedup();
    let bench = |threads: usize| {
        let mut engine =
            engine_options(threads).and_then(|options| TractEngine::new(package, options)).map_err(|error| error.to_string())?;
        let (total, layers) = engine.bench(package, n_runs).map_err(|error| error.to_string())?;
        Ok((threads, total, layers))
    };
    counts.into_iter().map(bench).collect()
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn network_json((threads, total, layers): &Network) -> Value {
    let layers: Vec<Value> = layers.iter().map(|layer| json!({ "name": layer.name, "ms": ms(layer.median) })).collect();
    json!({ "threads": threads, "median_ms": ms(*total), "layers": layers })
}

fn mib(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "-".to_owned(), |bytes| format!("{} MiB", bytes >> 20))
}

fn show_stages(table: &SpeedTable) {
    say(format!(
        "{}: {} instances, {} MiB, {} thread(s), median of {} run(s)",
        table.model,
        table.n_instances,
        table.n_bytes >> 20,
        table.n_threads,
        table.n_runs
    ));
    say(format!("  {:<13} {:>9} {:>9} {:>7} {:>9}", "stage", "ms", "CPU ms", "share", "peak"));
    for stage in &table.stages {
        let share = format!("{:.1} %", table.share_percent(stage));
        say(format!(
            "  {:<13} {:>9.1} {:>9.1} {share:>7} {:>9}",
            stage.stage,
            stage.wall_ms,
            stage.cpu_ms,
            mib(stage.peak_bytes)
        ));
    }
    let cpu_ms: f64 = table.stages.iter().map(|stage| stage.cpu_ms).sum();
    say(format!("  {:<13} {:>9.1} {cpu_ms:>9.1} {:>7} {:>9}", "all", table.total_ms(), "", mib(table.peak_bytes())));
}

fn show_layers(name: &str, n_runs: usize, (threads, total, layers): &Network) {
    say(format!("{name}, network alone, {threads} thread(s), median of {n_runs} runs: {:.1} ms", ms(*total)));
    for layer in layers {
        say(format!("  {:8.2} ms  {}", ms(layer.median), layer.name));
    }
}
