//! The NPU on the command line: `scanside npu-worker` (started by the service, on the socket that is its standard input), and the NPU half of
//! `scanside model verify`: which libraries are meant -> how near their answers are, case by case.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::output::{complain, say};
use super::{NpuChoice, Outcome};
use crate::board::BoardProfile;
use crate::config::Config;
use crate::infer::npu::golden::{self, CheckOptions};
use crate::infer::npu::worker;
use crate::infer::npu::{Launcher as _, TensorRunner};
use crate::infer::{Cancel, ModelPackage, NpuOptions, engine_ort};
use crate::service::npu as service;
use crate::service::uptime;

/// Longest time for one golden case: nobody waits for a study here.
const CASE_MAX: Duration = Duration::from_secs(300);

/// Answers the service until it is gone.
#[must_use]
pub fn worker() -> Outcome {
    let stream = match worker::stream_of_stdin() {
        Ok(stream) => stream,
        Err(error) => {
            complain(format!("npu-worker is started by the service, with a socket as standard input: {error}"));
            return Outcome::BadInput;
        }
    };
    match worker::serve(stream, engine_ort::open, worker::end_by_force) {
        Ok(()) => Outcome::Done,
        Err(error) => {
            complain(format!("npu-worker: {error}"));
            Outcome::Failed
        }
    }
}

/// The NPU that the arguments name, if any.
///
/// # Errors
/// What is wrong with them.
pub(super) fn wanted(choice: &NpuChoice) -> Result<Option<NpuOptions>, String> {
    if let Some(path) = &choice.config {
        let config = Config::load(path).map_err(|error| error.to_string())?;
        let profile = BoardProfile::load(&config.board.profile, config.board.profiles_dir.as_deref());
        return match service::NpuChoice::of(&config, &profile.map_err(|error| error.to_string())?) {
            service::NpuChoice::Use(options) => Ok(Some(options)),
            service::NpuChoice::Off | service::NpuChoice::Missing => Err(format!("{}: names no NPU", path.display())),
        };
    }
    let Some(runtime) = &choice.runtime else { return Ok(None) };
    // The worker runs elsewhere.
    let whole = |path: &Path| {
        let path = path.canonicalize().map_err(|error| format!("{}: {error}", path.display()))?;
        Ok::<_, String>(path.to_string_lossy().into_owned())
    };
    let options = choice.options.iter().map(|option| {
        let pair = option.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
        pair.ok_or_else(|| format!("--option {option:?} is not KEY=VALUE"))
    });
    Ok(Some(NpuOptions {
        runtime_library: whole(runtime)?,
        provider_library: choice.provider_library.as_deref().map(whole).transpose()?,
        provider: choice.provider.clone(),
        options: options.collect::<Result<_, _>>()?,
    }))
}

/// Every golden case through a worker, told case by case.
pub(super) fn verify(package: &ModelPackage, options: &NpuOptions) -> Result<(), String> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    let mut launcher =
        service::launcher(options, package, threads, Arc::new(|line| complain(format!("npu-worker says: {line}"))))?;
    let cancel = Cancel::default();
    let start = uptime();
    let mut runner = launcher.launch(&cancel).map_err(|fault| format!("{}: {fault}", options.provider))?;
    let (ready, loaded) = (runner.ready().clone(), uptime().saturating_sub(start));
    say(format!(
        "  {} on {}, ONNX Runtime {}, ready after {} ms",
        ready.engine(),
        ready.device,
        ready.runtime,
        loaded.as_millis()
    ));
    let check = CheckOptions { budget: CASE_MAX, clock: uptime, cancel: &cancel };
    let judge = service::judge(package.spec.clone());
    let cases = golden::check(package, runner.as_mut() as &mut dyn TensorRunner, judge.as_ref(), &check)
        .map_err(|fault| format!("{}: {fault}", ready.engine()))?;
    for case in cases {
        let d = case.difference;
        say(format!(
            "  {}: {} ms, {:.2} % of the values differ, {:.3} % by more than the tolerance's steps, at most {} steps; verdict {}",
            case.name,
            case.took.as_millis(),
            d.fraction_differing * 100.0,
            d.fraction_beyond * 100.0,
            d.steps_max,
            case.verdict
        ));
    }
    Ok(())
}
