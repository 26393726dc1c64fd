//! NPU: configuration and board profile in -> which libraries to use; the engine with the worker behind it; what happened to it for the journal.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::events::NpuReport;
use super::{uptime, wall_now};
use crate::board::BoardProfile;
use crate::config::{Config, EngineChoice};
use crate::domain::{ClosedBecause, ModelSpec, TimingMs, Uid, Verdict};
use crate::infer::npu::golden::Judge;
use crate::infer::npu::protocol::{Setup, Shapes};
use crate::infer::npu::standing::BENCH_MIN;
use crate::infer::npu::worker_handle::{Say, WorkerCommand, WorkerLauncher};
use crate::infer::{Engine, EngineError, FallbackEngine, FallbackOptions, ModelPackage, NpuOptions, NpuWatch};
use crate::journal::Journal;
use crate::triage::{Assessed, TriageInput, decide};

/// Longest wait for a worker to be ready. GUESS: a provider compiles this network for its device in seconds; ten times that.
const READY_MAX: Duration = Duration::from_secs(120);
/// How often an idle worker is looked after.
const PERIOD: Duration = Duration::from_secs(1);

/// Which engine is to serve.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NpuChoice {
    /// The processor.
    #[default]
    Off,
    /// The NPU with these libraries, the processor behind it.
    Use(NpuOptions),
    /// An NPU is asked for and nobody says which; the processor serves, and the box is degraded.
    Missing,
}

impl NpuChoice {
    /// What configuration and board say; the configuration's table wins as a whole.
    #[must_use]
    pub fn of(config: &Config, profile: &BoardProfile) -> Self {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let options = |runtime: &Path, plug_in: Option<&Path>, provider: &str, options: &BTreeMap<String, String>| NpuOptions {
            runtime_library: text(runtime),
            provider_library: plug_in.map(text),
            provider: provider.to_owned(),
            options: options.clone().into_iter().collect(),
        };
        let site = config.infer.npu.as_ref();
        let site = site.map(|n| options(&n.runtime_library, n.provider_library.as_deref(), &n.provider, &n.options));
        let board =
            || profile.npu.as_ref().map(|n| options(&n.runtime_library, n.provider_library.as_deref(), &n.provider, &n.options));
        let named = site.or_else(board);
        match (config.infer.engine, named) {
            (EngineChoice::Cpu, _) | (EngineChoice::Auto, None) => Self::Off,
            (EngineChoice::Auto | EngineChoice::Npu, Some(options)) => Self::Use(options),
            (EngineChoice::Npu, None) => Self::Missing,
        }
    }
}

/// The engine that serves: the processor's, or one with the NPU before it.
///
/// # Errors
/// [`EngineError::Failed`] when the system refuses a thread. A missing library, twin or device is no error: it is told and probed again.
pub(super) fn engine(
    choice: &NpuChoice,
    cpu: Box<dyn Engine>,
    package: &Arc<ModelPackage>,
    (threads, infer_budget): (usize, Duration),
    journal: &Journal,
) -> Result<(Box<dyn Engine>, NpuWatch), EngineError> {
    let unusable = |cause: String| {
        journal.record(&NpuReport::Unusable { cause: cause.clone() });
        NpuWatch::lost(cause)
    };
    let options = match choice {
        NpuChoice::Off => return Ok((cpu, NpuWatch::default())),
        NpuChoice::Missing => {
            let cause = "infer.engine is \"npu\", and neither [infer.npu] nor the board profile names its libraries";
            return Ok((cpu, unusable(cause.to_owned())));
        }
        NpuChoice::Use(options) => options,
    };
    let say = {
        let journal = journal.clone();
        Arc::new(move |line| journal.record(&NpuReport::Printed { line }))
    };
    let launcher = match launcher(options, package, threads, say) {
        Ok(launcher) => launcher,
        Err(cause) => return Ok((cpu, unusable(cause))),
    };
    let options = FallbackOptions {
        launcher: Box::new(launcher),
        judge: judge(package.spec.clone()),
        report: {
            let journal = journal.clone();
            Arc::new(move |event| journal.record(&NpuReport::Happened(event)))
        },
        clock: uptime,
        golden_budget: infer_budget / 2,
        bench_min: BENCH_MIN,
        period: PERIOD,
    };
    let (engine, watch) = FallbackEngine::start(cpu, Arc::clone(package), options)?;
    Ok((Box::new(engine), watch))
}

/// What starts workers for a package.
///
/// # Errors
/// What is wrong with the package's twin, in words.
pub fn launcher(options: &NpuOptions, package: &ModelPackage, threads: usize, say: Say) -> Result<WorkerLauncher, String> {
    let network = package.twin_network().map_err(|fault| fault.to_string())?;
    let shapes = Shapes::of(&package.spec).ok_or("the model's tensors are beyond the worker's bounds")?;
    let setup = Setup {
        runtime_library: options.runtime_library.clone(),
        provider_library: options.provider_library.clone(),
        provider: options.provider.clone(),
        options: options.options.clone(),
        threads: u32::try_from(threads.clamp(1, 64)).unwrap_or(1),
        shapes,
        network,
    };
    Ok(WorkerLauncher {
        command: WorkerCommand::own(),
        setup,
        clock: uptime,
        ready_max: READY_MAX,
        say,
        not_gone: Arc::default(),
    })
}

/// Compares verdicts: what flags, how urgently, and why.
#[must_use]
pub fn judge(spec: ModelSpec) -> Arc<Judge> {
    Arc::new(move |study, findings| {
        let Ok(study_instance_uid) = Uid::try_new("2.25.1") else { return String::new() };
        let assessed = Assessed {
            findings: findings.clone(),
            channels: study.channels.clone(),
            quality: study.quality.clone(),
            series: study.series.clone(),
        };
        in_words(&decide(TriageInput {
            study_instance_uid,
            accession_number: None,
            closed_because: ClosedBecause::AllFilesRead,
            outcome: Ok(assessed),
            model: &spec,
            decided_at: wall_now(),
            timing: TimingMs::default(),
        }))
    })
}

fn in_words(verdict: &Verdict) -> String {
    let urgency = verdict.urgency.map_or("", |urgency| urgency.as_str());
    let mut codes: Vec<_> = verdict.reasons.iter().map(|reason| reason.code.as_str()).collect();
    codes.dedup();
    format!("{} {urgency} ({})", verdict.kind.as_str(), codes.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(config: &str, board: Option<&str>) -> NpuChoice {
        let config = Config::parse(config).expect("a configuration");
        let limits = "[limits]\ntemperature_warn_c = 80.0\nmemory_available_bytes_min = 268435456\nmemory_process_bytes_max = 1073741824\n";
        let text = format!("name = \"mine\"\ndriver = \"sim\"\n{limits}{}", board.unwrap_or_default());
        NpuChoice::of(&config, &BoardProfile::parse("mine", &text).expect("a profile"))
    }

    fn used(choice: &NpuChoice) -> &str {
        match choice {
            NpuChoice::Use(options) => &options.provider,
            NpuChoice::Off => "off",
            NpuChoice::Missing => "missing",
        }
    }

    #[test]
    fn the_configuration_wins_over_the_board_and_the_processor_needs_no_word() {
        let board = Some("[npu]\nruntime_library = \"/a.so\"\nprovider = \"VSINPU\"\n");
        let site = "[infer.npu]\nruntime_library = \"/b.so\"\nprovider = \"QNN\"\n";
        let engine = |name: &str| format!("[infer]\nengine = \"{name}\"\n");
        assert_eq!(used(&choice("", None)), "off");
        assert_eq!(used(&choice("", board)), "VSINPU");
        assert_eq!(used(&choice(site, board)), "QNN");
        assert_eq!(used(&choice(site, None)), "QNN");
        assert_eq!(used(&choice(&(engine("cpu") + site), board)), "off");
        assert_eq!(used(&choice(&engine("npu"), None)), "missing");
        assert_eq!(used(&choice(&engine("npu"), board)), "VSINPU");
    }
}
