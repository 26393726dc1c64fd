//! Fallback engine: a study -> findings by the NPU where it may serve, else by the processor; a fault of the NPU costs the NPU, never a study.
//!
//! A study never waits for a probe: starting a worker and checking it against the golden cases happens on a thread of its own, which leaves the
//! runner in a slot when it has passed. A study takes it out, and puts it back when all went well. After a fault the worker is killed, the study
//! is run on the processor at once, within what is left of its budget, and the NPU is benched ([`super::standing`]).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::domain::{Doing, Findings, ModelSpec, PreparedStudy, WorkSteps};

use super::golden::{self, CaseReport, CheckOptions, Judge};
use super::protocol::Ready;
use super::standing::Machine;
use super::{Launcher, NpuFault, TensorRunner};
use crate::infer::engine::{Cancel, Engine, EngineError};
use crate::infer::package::ModelPackage;
use crate::infer::{pool, tensors};

/// The NPU gets at most this share of a study's budget, so that the processor has time for the whole study behind it.
const BUDGET_SHARE: u32 = 2;
/// Beyond its deadline: killing the worker, and reading its answer into findings.
const NPU_END_MAX: Duration = Duration::from_secs(2);
/// A run may take this many times the slowest golden case, and a second: more is a hang.
const SLOWER_MAX: u32 = 4;

/// Arithmetic of the QDQ twin as it stands in verdicts: its integers are the model's, between them the provider computes as it likes.
const PRECISION: &str = "int8-qdq";

/// What happened to the NPU, for the journal.
#[derive(Clone, Debug, PartialEq)]
pub enum NpuEvent {
    /// It passed every golden case and serves from now on.
    Admitted {
        /// What it says it is.
        ready: Ready,
        /// How near its answers are.
        cases: Vec<CaseReport>,
        /// Whether it had been lost before.
        again: bool,
    },
    /// A probe failed.
    Refused {
        /// Why.
        cause: String,
        /// When it is probed again, s from now.
        bench_s: u64,
    },
    /// It failed while it served.
    Benched {
        /// Why.
        cause: String,
        /// When it is probed again, s from now.
        bench_s: u64,
    },
}

/// Who is told.
pub type Report = Arc<dyn Fn(NpuEvent) + Send + Sync>;

/// How the engine runs.
pub struct FallbackOptions {
    /// Starts workers.
    pub launcher: Box<dyn Launcher>,
    /// Compares verdicts.
    pub judge: Arc<Judge>,
    /// Who is told what happens.
    pub report: Report,
    /// Time since some fixed moment; never goes back.
    pub clock: fn() -> Duration,
    /// Longest time for one golden case.
    pub golden_budget: Duration,
    /// First bench.
    pub bench_min: Duration,
    /// How often it is looked whether an idle worker still lives, and whether a bench is over.
    pub period: Duration,
}

/// The NPU as the page shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NpuStatus {
    /// The engine that serves, such as `ort/QNN`; `None` while the processor does.
    pub engine: Option<String>,
    /// Why the NPU does not serve although it should (`DeviceCondition::NpuLost`); stays until it is admitted again.
    pub lost: Option<String>,
}

/// Tells the NPU's status; clones share it.
#[derive(Clone, Default)]
pub struct NpuWatch(Arc<Mutex<NpuStatus>>);

impl NpuWatch {
    /// An NPU that cannot even be probed, for a cause that only a change of the configuration ends.
    #[must_use]
    pub fn lost(cause: String) -> Self {
        Self(Arc::new(Mutex::new(NpuStatus { engine: None, lost: Some(cause) })))
    }

    /// The status just now.
    #[must_use]
    pub fn status(&self) -> NpuStatus {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn tell(&self, status: NpuStatus) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }
}

/// What studies and the probing thread share.
struct Inner {
    machine: Machine,
    /// There while the NPU serves and no study has it.
    runner: Option<Box<dyn TensorRunner>>,
    /// Longest run that is no hang.
    run_max: Duration,
}

#[derive(Clone)]
struct Shared {
    inner: Arc<(Mutex<Inner>, Condvar)>,
    watch: NpuWatch,
    report: Report,
    clock: fn() -> Duration,
    /// Ends the probing thread and whatever it waits for.
    stop: Cancel,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The NPU failed: bench it and say so. The runner is gone before the lock is taken.
    fn failed(&self, fault: &NpuFault, serving: bool) {
        let cause = fault.to_string();
        let bench_s = self.lock().machine.on_failed((self.clock)(), cause.clone()).as_secs();
        self.watch.tell(NpuStatus { engine: None, lost: Some(cause.clone()) });
        (self.report)(if serving { NpuEvent::Benched { cause, bench_s } } else { NpuEvent::Refused { cause, bench_s } });
    }
}

/// NPU with the processor behind it.
pub struct FallbackEngine {
    cpu: Box<dyn Engine>,
    spec: ModelSpec,
    shared: Shared,
}

impl FallbackEngine {
    /// Begins: the processor serves at once, the NPU when it has passed its probe.
    ///
    /// # Errors
    /// [`EngineError::Failed`] when the system refuses a thread.
    pub fn start(
        cpu: Box<dyn Engine>,
        package: Arc<ModelPackage>,
        options: FallbackOptions,
    ) -> Result<(Self, NpuWatch), EngineError> {
        let inner = Inner { machine: Machine::new(options.bench_min), runner: None, run_max: Duration::ZERO };
        let shared = Shared {
            inner: Arc::new((Mutex::new(inner), Condvar::new())),
            watch: NpuWatch::default(),
            report: options.report,
            clock: options.clock,
            stop: Cancel::default(),
        };
        let (spec, watch) = (package.spec.clone(), shared.watch.clone());
        let mut prober = Prober {
            launcher: options.launcher,
            judge: options.judge,
            package,
            golden_budget: options.golden_budget,
            period: options.period,
            shared: shared.clone(),
        };
        thread::Builder::new()
            .name("npu-probe".to_owned())
            .spawn(move || prober.work())
            .map_err(|e| EngineError::Failed(format!("the system refuses a thread: {e}")))?;
        Ok((Self { cpu, spec, shared }, watch))
    }

    /// Findings by the NPU; `None` when it does not serve or has just failed.
    fn run_on_npu(&mut self, study: &PreparedStudy, budget: Duration) -> Option<Findings> {
        let (mut runner, run_max) = {
            let mut inner = self.shared.lock();
            if !inner.machine.may_serve() {
                return None;
            }
            (inner.runner.take()?, inner.run_max)
        };
        // A study that is not on the model's grid is refused by the processor's engine, in its words.
        let Ok((input, inputs)) = tensors::quantise(study, &self.spec) else {
            self.shared.lock().runner = Some(runner);
            return None;
        };
        let (start, cancel) = ((self.shared.clock)(), self.cpu.cancel());
        let run_max = run_max.min(budget / BUDGET_SHARE);
        // The NPU says nothing before it has finished. A hang is its own deadline's business, so long the study counts as moving.
        let still_ms_max = u64::try_from((run_max + NPU_END_MAX).as_millis()).unwrap_or(u64::MAX);
        self.cpu.steps().begin_for(Doing::InferringOnNpu, still_ms_max);
        let attempt = catch_unwind(AssertUnwindSafe(|| {
            let output = runner.run(&input, run_max, &cancel)?;
            let took = (self.shared.clock)().saturating_sub(start);
            let infer_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            tensors::findings(&output, study.grid.clone(), inputs, infer_ms, &self.spec)
                .map_err(|error| NpuFault::Nonsense(error.to_string()))
        }));
        match attempt.unwrap_or_else(|panic| Err(NpuFault::Panicked(pool::words(panic.as_ref())))) {
            Ok(mut findings) => {
                findings.model.engine = runner.ready().engine();
                findings.model.precision = PRECISION.to_owned();
                self.shared.lock().runner = Some(runner);
                Some(findings)
            }
            Err(fault) => {
                drop(runner); // killed before the processor begins
                self.shared.failed(&fault, true);
                None
            }
        }
    }
}

impl Engine for FallbackEngine {
    fn run(&mut self, study: &PreparedStudy, budget: Duration) -> Result<Findings, EngineError> {
        let start = (self.shared.clock)();
        if let Some(findings) = self.run_on_npu(study, budget) {
            return Ok(findings);
        }
        let spent = (self.shared.clock)().saturating_sub(start);
        self.cpu.steps().begin(Doing::Inferring);
        self.cpu.run(study, budget.saturating_sub(spent))
    }

    fn cancel(&self) -> Cancel {
        self.cpu.cancel()
    }

    fn steps(&self) -> WorkSteps {
        self.cpu.steps()
    }
}

impl Drop for FallbackEngine {
    fn drop(&mut self) {
        self.shared.stop.request();
        self.shared.lock().runner = None;
        self.shared.inner.1.notify_all();
    }
}

/// The thread that starts workers, checks them, and looks after an idle one.
struct Prober {
    launcher: Box<dyn Launcher>,
    judge: Arc<Judge>,
    package: Arc<ModelPackage>,
    golden_budget: Duration,
    period: Duration,
    shared: Shared,
}

impl Prober {
    fn work(&mut self) {
        let mut due = true;
        while !self.shared.stop.is_requested() {
            if due {
                self.probe();
            }
            self.look_after_idle_worker();
            let inner = self.shared.lock();
            let (mut inner, _) = self.shared.inner.1.wait_timeout(inner, self.period).unwrap_or_else(PoisonError::into_inner);
            due = inner.machine.begin_probe_if_due((self.shared.clock)());
        }
    }

    fn probe(&mut self) {
        let again = self.shared.watch.status().lost.is_some();
        let attempt = catch_unwind(AssertUnwindSafe(|| self.attempt()));
        match attempt.unwrap_or_else(|panic| Err(NpuFault::Panicked(pool::words(panic.as_ref())))) {
            Ok((runner, cases)) => {
                let ready = runner.ready().clone();
                let slowest = cases.iter().map(|case| case.took).max().unwrap_or_default();
                let mut inner = self.shared.lock();
                if self.shared.stop.is_requested() {
                    return; // the engine is gone, and the runner goes with this thread
                }
                inner.machine.on_admitted((self.shared.clock)());
                inner.run_max = Duration::from_secs(1).saturating_add(slowest.saturating_mul(SLOWER_MAX));
                inner.runner = Some(runner);
                drop(inner);
                self.shared.watch.tell(NpuStatus { engine: Some(ready.engine()), lost: None });
                (self.shared.report)(NpuEvent::Admitted { ready, cases, again });
            }
            Err(_) if self.shared.stop.is_requested() => {}
            Err(fault) => self.shared.failed(&fault, false),
        }
    }

    fn attempt(&mut self) -> Result<(Box<dyn TensorRunner>, Vec<CaseReport>), NpuFault> {
        let stop = self.shared.stop.clone();
        let mut runner = self.launcher.launch(&stop)?;
        let options = CheckOptions { budget: self.golden_budget, clock: self.shared.clock, cancel: &stop };
        let cases = golden::check(&self.package, runner.as_mut(), self.judge.as_ref(), &options)?;
        Ok((runner, cases))
    }

    /// A worker that dies between two studies is noticed now, not by the next study.
    fn look_after_idle_worker(&self) {
        let mut inner = self.shared.lock();
        let dead = inner.runner.as_mut().and_then(|runner| runner.check().err());
        if let Some(fault) = dead {
            let runner = inner.runner.take();
            drop(inner);
            drop(runner);
            self.shared.failed(&fault, true);
        }
    }
}
