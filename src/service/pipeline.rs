//! From a closed study to its verdict: `Study` in -> `Verdict` out. The same path serves the network and `scanside triage`.
//!
//! prepare -> infer -> triage, for a study without a tagged series after contrast agent perhaps several times (`untagged.rs`), prepare and infer
//! behind a boundary: a panic or a budget overrun there costs one study, which becomes `indeterminate` with its reason, and never the service.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::events::ServiceReport;
use super::npu::{self, NpuChoice};
use super::{budget, untagged, uptime, wall_now};
use crate::domain::{
    Doing, ModelIdentity, ModelSpec, PreparedStudy, Reason, ReasonCode, Refusal, Study, TimingMs, Verdict, WallTime, WorkSteps,
};
use crate::infer::{
    Engine, EngineError, EngineOptions, InferencePool, Kernel, ModelPackage, NpuWatch, PackageError, PoolOptions, TractEngine,
};
use crate::journal::Journal;
use crate::prepare::{PrepareLimits, prepare};
use crate::triage::{Assessed, TriageInput, decide};

/// What the pipeline may use.
#[derive(Clone, Debug)]
pub struct PipelineOptions {
    /// Folder of the model package.
    pub model_dir: PathBuf,
    /// Threads inside the network.
    pub n_threads: usize,
    /// Time budget of one inference, s.
    pub infer_budget_s: u64,
    /// Memory that one study may take, bytes (`budget.rs`).
    pub memory_bytes_max: u64,
}

/// Why there is no pipeline.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// the model package is not usable
    #[error("the model package is not usable: {0}")]
    Package(#[from] PackageError),
    /// the engine cannot run the model
    #[error("the engine cannot run the model: {0}")]
    Engine(#[from] EngineError),
}

/// A model that passed its self-test, and the worker that runs it.
pub struct Pipeline {
    spec: ModelSpec,
    pool: InferencePool,
    npu: NpuWatch,
    memory_bytes_max: u64,
    steps: WorkSteps,
}

impl Pipeline {
    /// Loads the package, builds the engine and runs the golden cases: a model that does not reproduce them never serves.
    ///
    /// # Errors
    /// [`PipelineError`] names the file or the case.
    pub fn load(options: &PipelineOptions) -> Result<Self, PipelineError> {
        Self::load_with_npu(options, &NpuChoice::Off, &Journal::new(wall_now))
    }

    /// As [`Self::load`], with an NPU before the processor; it serves from the moment when it has passed its own check.
    ///
    /// # Errors
    /// As [`Self::load`]: an unusable NPU is no error, and is told by [`Self::npu`] and the journal.
    pub fn load_with_npu(options: &PipelineOptions, choice: &NpuChoice, journal: &Journal) -> Result<Self, PipelineError> {
        let package = Arc::new(ModelPackage::load(&options.model_dir)?);
        let (cpu, refused) = TractEngine::verified(&package, engine_options(options.n_threads)?)?;
        for (kernel, error) in refused {
            journal.record(&ServiceReport::KernelRefused { kernel: kernel.as_str(), error: error.to_string() });
        }
        let budget = Duration::from_secs(options.infer_budget_s);
        let (engine, npu) = npu::engine(choice, Box::new(cpu), &package, (options.n_threads, budget), journal)?;
        let pipeline = Self::with_engine(package.spec.clone(), engine, budget)?.with_memory(options.memory_bytes_max);
        Ok(Self { npu, ..pipeline })
    }

    /// A pipeline around an engine that is ready.
    ///
    /// # Errors
    /// [`PipelineError::Engine`] when its worker cannot start.
    pub fn with_engine(spec: ModelSpec, engine: Box<dyn Engine>, infer_budget: Duration) -> Result<Self, PipelineError> {
        let steps = engine.steps();
        let pool = InferencePool::start(engine, PoolOptions { budget: infer_budget, ..PoolOptions::default() })?;
        Ok(Self { spec, pool, npu: NpuWatch::default(), memory_bytes_max: budget::STUDY_BYTES_DEFAULT, steps })
    }

    /// The same with another bound on the memory that one study may take, bytes.
    #[must_use]
    pub fn with_memory(self, memory_bytes_max: u64) -> Self {
        Self { memory_bytes_max, ..self }
    }

    /// How many times the network may run for one study, each time within its budget.
    #[must_use]
    pub fn n_runs_max(&self) -> u64 {
        if self.spec.contrast.is_some() { untagged::SERIES_MAX as u64 } else { 1 }
    }

    /// What the model says about itself.
    #[must_use]
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// How the NPU does, if there is one.
    #[must_use]
    pub fn npu(&self) -> &NpuWatch {
        &self.npu
    }

    /// Where the steps of the study in work are counted.
    #[must_use]
    pub fn steps(&self) -> WorkSteps {
        self.steps.clone()
    }

    /// Whether a job ran past its budget and its worker has not come back.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.pool.is_stuck()
    }

    /// Assesses one study. Never fails: what goes wrong becomes an `indeterminate` verdict with its reason.
    #[must_use]
    pub fn assess(&self, study: &Study, decided_at: WallTime) -> Verdict {
        let begin = Instant::now();
        let mut timing = TimingMs::default();
        let outcome = self.attempt(study, &mut timing);
        let outcome = outcome.or_else(|refusal| {
            let look = AssertUnwindSafe(|| untagged::look_at_pixels(self, study, refusal, &mut timing));
            catch_unwind(look).unwrap_or_else(|_| Err(internal_fault("contrast from pixels")))
        });
        timing.total = ms_since(begin);
        self.steps.begin(Doing::Deciding);
        let ran_on = outcome.as_ref().ok().map(|assessed| assessed.findings.model.clone());
        let mut verdict = decide(TriageInput {
            study_instance_uid: study.study_instance_uid().clone(),
            accession_number: study.accession_number().map(str::to_owned),
            closed_because: study.closed_because(),
            outcome,
            model: &self.spec,
            decided_at,
            timing,
        });
        // The engine that really ran: the NPU, or the processor behind it.
        verdict.model = ran_on.or(verdict.model);
        verdict.quality.extend_from_slice(study.notes());
        self.steps.begin(Doing::Resting);
        verdict
    }

    /// Prepares and infers once; the time is added to `timing`.
    pub(super) fn attempt(&self, study: &Study, timing: &mut TimingMs) -> Result<Assessed, Refusal> {
        let begin = Instant::now();
        self.steps.begin(Doing::Preparing);
        // The time is asked for once per slice and at each attempt of a registration: each is a step.
        let (slices, changes) = (self.steps.clone(), self.steps.clone());
        let elapsed_ms = Arc::new(move || {
            slices.step();
            ms_since(begin)
        });
        let on_step = Arc::new(move |_| changes.step());
        let limits = PrepareLimits { elapsed_ms, on_step, memory_bytes_max: self.memory_bytes_max, ..PrepareLimits::default() };
        let prepared = catch_unwind(AssertUnwindSafe(|| prepare(study, &self.spec, &limits)))
            .unwrap_or_else(|_| Err(internal_fault("prepare")));
        timing.prepare += ms_since(begin);
        self.infer(prepared?, timing)
    }

    fn infer(&self, prepared: PreparedStudy, timing: &mut TimingMs) -> Result<Assessed, Refusal> {
        let begin = Instant::now();
        let (quality, series) = (prepared.quality.clone(), prepared.series.clone());
        if let Err(reason) = budget::check_network(&prepared, self.memory_bytes_max) {
            return Err(Refusal { reasons: vec![reason], quality, series });
        }
        let channels = prepared.channels.clone();
        self.steps.begin(Doing::Inferring);
        let answer = self.pool.run(prepared);
        self.steps.begin(Doing::Deciding);
        timing.infer += ms_since(begin);
        match answer {
            Ok(findings) => Ok(Assessed { findings, channels, quality, series }),
            Err(error) => Err(error.into_refusal(quality, series)),
        }
    }

    /// Name, version and hash of the model.
    #[must_use]
    pub fn identity(&self) -> &ModelIdentity {
        &self.spec.identity
    }
}

/// The verdict on `study` when a provisional look at exactly the same instances gave `ahead`: the answer, with the closing's own facts.
#[must_use]
pub fn made_final(ahead: Verdict, study: &Study, decided_at: WallTime) -> Verdict {
    let mut verdict = ahead;
    verdict.closed_because = study.closed_because();
    verdict.provisional = study.is_provisional();
    verdict.accession_number = study.accession_number().map(str::to_owned);
    verdict.decided_at = decided_at;
    verdict.quality.extend_from_slice(study.notes());
    verdict
}

/// The environment variable that names the kernel of the convolutions; for tests that compare kernels, and for a processor whose best one is faulty.
const KERNEL_VARIABLE: &str = "SCANSIDE_KERNEL";

/// Options of an engine with this many threads, on the kernel that the environment names, else the best one.
///
/// # Errors
/// [`EngineError::Failed`] when this processor does not have the kernel.
pub fn engine_options(threads: usize) -> Result<EngineOptions, EngineError> {
    let options = EngineOptions { threads, ..EngineOptions::new(uptime) };
    let Ok(name) = std::env::var(KERNEL_VARIABLE) else { return Ok(options) };
    let available: Vec<_> = Kernel::ALL.iter().filter(|kernel| kernel.is_available()).map(|kernel| kernel.as_str()).collect();
    let kernel = Kernel::by_name(&name).filter(|kernel| kernel.is_available());
    let unknown = || {
        EngineError::Failed(format!(
            "{KERNEL_VARIABLE} is {name:?}, and this processor has {}: name one of these, or none",
            available.join(", ")
        ))
    };
    Ok(EngineOptions { kernel: kernel.ok_or_else(unknown)?, ..options })
}

fn internal_fault(stage: &str) -> Refusal {
    let text = format!("The stage '{stage}' failed on this study; the images are kept. Report it with the log of this time.");
    Refusal { reasons: vec![Reason::new(ReasonCode::InternalFault, text)], ..Refusal::default() }
}

fn ms_since(begin: Instant) -> u64 {
    u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Where model packages lie when the configuration does not say: beside the working folder, beside the program (a build tree or an
/// installation), or in the system's place.
#[must_use]
pub fn find_models_dir() -> Option<PathBuf> {
    let mut places = vec![PathBuf::from("models")];
    if let Ok(program) = std::env::current_exe() {
        for parent in program.ancestors().skip(1).take(4) {
            places.push(parent.join("models"));
            places.push(parent.join("share/scanside/models"));
        }
    }
    places.push(PathBuf::from("/usr/share/scanside/models"));
    places.into_iter().find(|place| holds_a_model(place))
}

fn holds_a_model(place: &Path) -> bool {
    place.join("cns-mri/manifest.toml").is_file()
}
