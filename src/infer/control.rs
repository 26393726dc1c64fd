//! Control: what an engine's operators look at while they run (clock, deadline, cancel flag), and what they note down (times per operator).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::engine::{Cancel, EngineError};

/// Most threads inside a convolution.
const THREADS_MAX: usize = 64;

/// How an engine runs.
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    /// Threads inside a convolution, 1 to 64.
    pub threads: usize,
    /// Time since some fixed moment; never goes back. Fine enough for layers: at least microseconds.
    pub clock: fn() -> Duration,
}

impl EngineOptions {
    /// Two threads: half of a four-core box, so that receiving goes on beside.
    #[must_use]
    pub fn new(clock: fn() -> Duration) -> Self {
        Self { threads: 2, clock }
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
pub(crate) struct Control {
    options: EngineOptions,
    cancel: Cancel,
    budget_ms: AtomicU64,
    /// Moment on the clock, us.
    deadline_us: AtomicU64,
    /// Set by the operator that gave up.
    stopped: AtomicBool,
    /// Filled while a bench runs.
    times: Mutex<Option<Vec<(String, Duration)>>>,
}

impl Control {
    pub(crate) fn new(options: EngineOptions) -> Self {
        Self {
            options: EngineOptions { threads: options.threads.clamp(1, THREADS_MAX), ..options },
            cancel: Cancel::default(),
            budget_ms: AtomicU64::new(u64::MAX),
            deadline_us: AtomicU64::new(u64::MAX),
            stopped: AtomicBool::new(false),
            times: Mutex::new(None),
        }
    }

    pub(crate) fn threads(&self) -> usize {
        self.options.threads
    }

    pub(crate) fn cancel(&self) -> Cancel {
        self.cancel.clone()
    }

    pub(crate) fn now(&self) -> Duration {
        (self.options.clock)()
    }

    /// The budget of the next run, from now on; `None` for no bound. Gives the present moment.
    pub(crate) fn set_budget(&self, budget: Option<Duration>) -> Duration {
        let whole = |n: u128| u64::try_from(n).unwrap_or(u64::MAX);
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

    /// Runs one operator and notes its time; `None` when it is too late to run it.
    pub(crate) fn step<T>(&self, name: &str, run: impl FnOnce() -> T) -> Option<T> {
        let start = self.now();
        if self.cancel.is_requested() || start.as_micros() > u128::from(self.deadline_us.load(Ordering::Acquire)) {
            self.stopped.store(true, Ordering::Release);
            return None;
        }
        let value = run();
        let took = self.now().saturating_sub(start);
        if let Some(times) = self.times().as_mut() {
            times.push((name.to_owned(), took));
        }
        Some(value)
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

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
