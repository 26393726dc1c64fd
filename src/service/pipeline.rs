//! From a closed study to its verdict: `Study` in -> `Verdict` out. The same path serves the network and `scanside triage`.
//!
//! prepare -> infer -> triage, for a study without a tagged series after contrast agent perhaps several times (`untagged.rs`), prepare and infer
//! behind a boundary: a panic or a budget overrun there costs one study, which becomes `indeterminate` with its reason, and never the service.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{budget, untagged, uptime};
use crate::domain::{ModelIdentity, ModelSpec, PreparedStudy, Reason, ReasonCode, Refusal, Study, TimingMs, Verdict, WallTime};
use crate::infer::{Engine, EngineError, EngineOptions, InferencePool, ModelPackage, PackageError, PoolOptions, TractEngine};
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
    memory_bytes_max: u64,
}

impl Pipeline {
    /// Loads the package, builds the engine and runs the golden cases: a model that does not reproduce them never serves.
    ///
    /// # Errors
    /// [`PipelineError`] names the file or the case.
    pub fn load(options: &PipelineOptions) -> Result<Self, PipelineError> {
        let package = ModelPackage::load(&options.model_dir)?;
        let mut engine = TractEngine::new(&package, EngineOptions { threads: options.n_threads, clock: uptime })?;
        engine.self_test(&package)?;
        let pipeline = Self::with_engine(package.spec, Box::new(engine), Duration::from_secs(options.infer_budget_s))?;
        Ok(pipeline.with_memory(options.memory_bytes_max))
    }

    /// A pipeline around an engine that is ready.
    ///
    /// # Errors
    /// [`PipelineError::Engine`] when its worker cannot start.
    pub fn with_engine(spec: ModelSpec, engine: Box<dyn Engine>, infer_budget: Duration) -> Result<Self, PipelineError> {
        let pool = InferencePool::start(engine, PoolOptions { budget: infer_budget, ..PoolOptions::default() })?;
        Ok(Self { spec, pool, memory_bytes_max: budget::STUDY_BYTES_DEFAULT })
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
        decide(TriageInput {
            study_instance_uid: study.study_instance_uid().clone(),
            accession_number: study.accession_number().map(str::to_owned),
            closed_because: study.closed_because(),
            outcome,
            model: &self.spec,
            decided_at,
            timing,
        })
    }

    /// Prepares and infers once; the time is added to `timing`.
    pub(super) fn attempt(&self, study: &Study, timing: &mut TimingMs) -> Result<Assessed, Refusal> {
        let begin = Instant::now();
        let elapsed_ms = Arc::new(move || ms_since(begin));
        let limits = PrepareLimits { elapsed_ms, memory_bytes_max: self.memory_bytes_max, ..PrepareLimits::default() };
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
        let answer = self.pool.run(prepared);
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
