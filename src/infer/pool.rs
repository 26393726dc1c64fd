//! Inference pool: prepared studies -> findings, one at a time on one dedicated thread, with a bounded queue and a deadline per study.
//!
//! ```text
//!   submit ──(queue full: Busy)──> queue ──> worker: engine.run ──> Pending::wait
//!                                              │ past its budget: cancelled, Deadline
//!                                              │ does not even come back: stuck, every later study is refused until it does
//!                                              └ panics: Panicked, the worker goes on with the next study
//! ```

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::domain::{Findings, PreparedStudy};

use super::engine::{Cancel, Engine, EngineError};

/// Bounds of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolOptions {
    /// Studies that may wait behind the one that runs. At the bound, `submit` answers `Busy` and the caller keeps the study.
    pub queue_max: usize,
    /// Time for one study.
    pub budget: Duration,
    /// Time beyond the budget in which a cancelled run must come back; after it the worker counts as stuck.
    pub grace: Duration,
}

impl Default for PoolOptions {
    fn default() -> Self {
        // GUESS: 20 times what the first model needs on two x86-64 cores; to be measured on the boards.
        Self { queue_max: 2, budget: Duration::from_secs(30), grace: Duration::from_secs(5) }
    }
}

#[allow(clippy::large_enum_variant)] // one at a time, and short-lived
enum Progress {
    Started,
    Done(Result<Findings, EngineError>),
}

struct Job {
    number: u64,
    study: PreparedStudy,
    // Two messages at most are ever sent, so that the worker never waits for a listener.
    progress: SyncSender<Progress>,
}

/// What submitters, waiters and the worker share.
#[derive(Debug, Default)]
struct State {
    submitted: u64,
    unfinished: usize,
    running: Option<u64>,
    stuck: bool,
}

/// The state and the engine's flag. Both change under one lock, so that a waiter who gives up can never cancel the next study.
#[derive(Clone)]
struct Shared {
    state: Arc<Mutex<State>>,
    cancel: Cancel,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn started(&self, number: u64) {
        let mut state = self.lock();
        state.running = Some(number);
        self.cancel.clear();
    }

    fn finished(&self) {
        let mut state = self.lock();
        state.running = None;
        state.unfinished = state.unfinished.saturating_sub(1);
        state.stuck = false;
    }

    fn cancel_if_running(&self, number: u64) {
        let state = self.lock();
        if state.running == Some(number) {
            self.cancel.request();
        }
    }

    fn stuck_if_running(&self, number: u64) {
        let mut state = self.lock();
        state.stuck |= state.running == Some(number);
    }
}

/// A handle to the worker; clones share it. The worker ends when the last handle is gone.
#[derive(Clone)]
pub struct InferencePool {
    jobs: SyncSender<Job>,
    options: PoolOptions,
    shared: Shared,
}

/// A study on its way through the pool.
#[must_use = "the findings come out of `wait`"]
pub struct Pending {
    number: u64,
    progress: Receiver<Progress>,
    options: PoolOptions,
    shared: Shared,
}

impl InferencePool {
    /// Starts the worker.
    ///
    /// # Errors
    /// [`EngineError::Failed`] when the system refuses a thread.
    pub fn start(engine: Box<dyn Engine>, options: PoolOptions) -> Result<Self, EngineError> {
        let (jobs, queue) = mpsc::sync_channel(options.queue_max);
        let shared = Shared { state: Arc::default(), cancel: engine.cancel() };
        let worker = Worker { engine, budget: options.budget, shared: shared.clone() };
        thread::Builder::new()
            .name("infer".to_owned())
            .spawn(move || worker.work(&queue))
            .map_err(|e| EngineError::Failed(format!("the system refuses a thread: {e}")))?;
        Ok(Self { jobs, options, shared })
    }

    /// Hands a study to the worker; never blocks.
    ///
    /// # Errors
    /// [`EngineError::Busy`] when the queue is full, [`EngineError::Stuck`] while an earlier run is past its deadline.
    pub fn submit(&self, study: PreparedStudy) -> Result<Pending, EngineError> {
        let (progress, receiver) = mpsc::sync_channel(2);
        let mut state = self.shared.lock();
        if state.stuck {
            return Err(EngineError::Stuck);
        }
        let number = state.submitted + 1;
        self.jobs.try_send(Job { number, study, progress }).map_err(|e| match e {
            TrySendError::Full(_) => EngineError::Busy { waiting: self.options.queue_max },
            TrySendError::Disconnected(_) => EngineError::Stuck,
        })?;
        state.submitted = number;
        state.unfinished += 1;
        drop(state);
        Ok(Pending { number, progress: receiver, options: self.options, shared: self.shared.clone() })
    }

    /// `submit` and `wait` in one; blocks.
    ///
    /// # Errors
    /// As [`Self::submit`] and [`Pending::wait`].
    pub fn run(&self, study: PreparedStudy) -> Result<Findings, EngineError> {
        self.submit(study)?.wait()
    }

    /// Whether a run is past its deadline and has not come back (`DeviceCondition::InferenceStuck`). It clears itself when the run returns.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.shared.lock().stuck
    }

    /// Studies waiting or running.
    #[must_use]
    pub fn n_unfinished(&self) -> usize {
        self.shared.lock().unfinished
    }
}

impl Pending {
    /// Waits for the findings; blocks, at most for the budgets of the studies ahead and its own, each with its grace.
    ///
    /// # Errors
    /// What the engine reports; [`EngineError::Deadline`] past the budget; [`EngineError::Stuck`] when the study never started.
    pub fn wait(self) -> Result<Findings, EngineError> {
        let PoolOptions { queue_max, budget, grace } = self.options;
        let studies_ahead = u32::try_from(queue_max).unwrap_or(u32::MAX).saturating_add(1);
        let deadline = EngineError::Deadline { budget_ms: u64::try_from(budget.as_millis()).unwrap_or(u64::MAX) };
        match self.progress.recv_timeout((budget + grace).saturating_mul(studies_ahead)) {
            Ok(Progress::Started) => {}
            Ok(Progress::Done(result)) => return result,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Err(EngineError::Stuck),
        }
        match self.progress.recv_timeout(budget) {
            Ok(Progress::Done(result)) => return result,
            Ok(Progress::Started) | Err(RecvTimeoutError::Timeout) => self.shared.cancel_if_running(self.number),
            Err(RecvTimeoutError::Disconnected) => return Err(EngineError::Stuck),
        }
        // A result that still arrives is as good as any: only waiting for it was bounded.
        match self.progress.recv_timeout(grace) {
            Ok(Progress::Done(result)) => result,
            Ok(Progress::Started) => Err(deadline),
            Err(_) => {
                self.shared.stuck_if_running(self.number);
                Err(deadline)
            }
        }
    }
}

struct Worker {
    engine: Box<dyn Engine>,
    budget: Duration,
    shared: Shared,
}

impl Worker {
    fn work(mut self, queue: &Receiver<Job>) {
        while let Ok(job) = queue.recv() {
            self.shared.started(job.number);
            let listening = job.progress.try_send(Progress::Started).is_ok();
            let result =
                if listening { self.run(&job.study) } else { Err(EngineError::Failed("nobody waits for this study".to_owned())) };
            self.shared.finished();
            // A listener that has left takes no result; its study is answered for already.
            job.progress.try_send(Progress::Done(result)).ok();
        }
    }

    fn run(&mut self, study: &PreparedStudy) -> Result<Findings, EngineError> {
        // The engine keeps nothing between runs but its read-only network, so that a run that unwinds leaves nothing broken behind.
        catch_unwind(AssertUnwindSafe(|| self.engine.run(study, self.budget)))
            .unwrap_or_else(|panic| Err(EngineError::Panicked(words(panic.as_ref()))))
    }
}

/// The words of a panic, bounded.
pub(crate) fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").chars().take(200).collect()
}
