//! Control: what an engine's operators look at while they run (clock, deadline, cancel flag), and what they note down (times per operator).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tract_qconv::Kernel;
use tract_qconv::tract::Watch;

use super::engine::{Cancel, EngineError};
use crate::domain::WorkSteps;

/// Most threads inside a convolution.
const THREADS_MAX: usize = 64;

/// How an engine runs.
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    /// Threads inside a convolution, 1 to 64.
    pub threads: usize,
    /// Time since some fixed moment; never goes back. Fine enough for layers: at least microseconds.
    pub clock: fn() -> Duration,
    /// Which instructions the convolutions use.
    pub kernel: Kernel,
}

impl EngineOptions {
    /// Two threads: half of a four-core box, so that receiving goes on beside; the best kernel of this processor.
    #[must_use]
    pub fn new(clock: fn() -> Duration) -> Self {
        Self { threads: 2, clock, kernel: Kernel::detect() }
    }
}

/// How long one operator took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerTime {
    /// Its name in the network.
    pub name: String,
    /// Median over the runs.
    pub median: Duration,
}

/// Shared by an engine and its operators.
#[derive(Debug)]
pub(crate) struct Control {
    options: EngineOptions,
    cancel: Cancel,
    steps: WorkSteps,
    budget_ms: AtomicU64,
    /// Moment on the clock, us.
    deadline_us: AtomicU64,
    /// Set by the operator that gave up.
    stopped: AtomicBool,
    /// When the operator that runs began, us.
    began_us: AtomicU64,
    /// Filled while a bench runs.
    times: Mutex<Option<Vec<(String, Duration)>>>,
}

impl Control {
    pub(crate) fn new(options: EngineOptions) -> Self {
        Self {
            options: EngineOptions { threads: options.threads.clamp(1, THREADS_MAX), ..options },
            cancel: Cancel::default(),
            steps: WorkSteps::default(),
            budget_ms: AtomicU64::new(u64::MAX),
            deadline_us: AtomicU64::new(u64::MAX),
            stopped: AtomicBool::new(false),
            began_us: AtomicU64::new(0),
            times: Mutex::new(None),
        }
    }

    pub(crate) fn kernel(&self) -> Kernel {
        self.options.kernel
    }

    pub(crate) fn cancel(&self) -> Cancel {
        self.cancel.clone()
    }

    pub(crate) fn steps(&self) -> WorkSteps {
        self.steps.clone()
    }

    pub(crate) fn now(&self) -> Duration {
        (self.options.clock)()
    }

    /// The budget of the next run, from now on; `None` for no bound. Gives the present moment.
    pub(crate) fn set_budget(&self, budget: Option<Duration>) -> Duration {
        let now = self.now();
        let deadline = budget.map_or(u64::MAX, |budget| whole(now.saturating_add(budget).as_micros()));
        self.deadline_us.store(deadline, Ordering::Release);
        self.budget_ms.store(budget.map_or(u64::MAX, |budget| whole(budget.as_millis())), Ordering::Release);
        now
    }

    pub(crate) fn budget_ms(&self) -> u64 {
        self.budget_ms.load(Ordering::Acquire)
    }

    /// Before a run.
    pub(crate) fn begin(&self) {
        self.stopped.store(false, Ordering::Release);
    }

    /// Whether the run gave up for the clock or the cancel flag.
    pub(crate) fn has_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Runs `run` `n` times (at least once): median of the whole and of each operator, in the order in which they ran.
    pub(crate) fn bench(
        &self,
        n: usize,
        run: impl Fn() -> Result<(), EngineError>,
    ) -> Result<(Duration, Vec<LayerTime>), EngineError> {
        let (mut totals, mut layers) = (Vec::new(), Vec::<(String, Vec<Duration>)>::new());
        for _ in 0..n.max(1) {
            *self.times() = Some(Vec::new());
            let start = self.now();
            let result = run();
            totals.push(self.now().saturating_sub(start));
            let times = self.times().take().unwrap_or_default();
            result?;
            for (at, (name, took)) in times.into_iter().enumerate() {
                match layers.get_mut(at) {
                    Some((_, all)) => all.push(took),
                    None => layers.push((name, vec![took])),
                }
            }
        }
        let layers = layers.into_iter().map(|(name, times)| LayerTime { name, median: median(times) }).collect();
        Ok((median(totals), layers))
    }

    fn times(&self) -> MutexGuard<'_, Option<Vec<(String, Duration)>>> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch for Control {
    fn threads(&self) -> usize {
        self.options.threads
    }

    fn begin(&self, _name: &str) -> bool {
        let now_us = whole(self.now().as_micros());
        if self.cancel.is_requested() || now_us > self.deadline_us.load(Ordering::Acquire) {
            self.stopped.store(true, Ordering::Release);
            return false;
        }
        self.began_us.store(now_us, Ordering::Release);
        self.steps.step();
        true
    }

    fn step(&self) {
        self.steps.step();
    }

    fn end(&self, name: &str) {
        let took = self.now().saturating_sub(Duration::from_micros(self.began_us.load(Ordering::Acquire)));
        if let Some(times) = self.times().as_mut() {
            times.push((name.to_owned(), took));
        }
    }
}

fn whole(n: u128) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
