//! Which studies wait for the PACS, and what it is asked when. Closed studies, its answers and the time in -> orders to the worker, studies
//! that go on, notes out. Pure.
//!
//! ```text
//!   closed without a required series ──> asked ──────────────────────────────────────────────┐
//!        │ asked for this cause before,     │ the study is held, for wait_s at most             │
//!        │ no room, too many this hour      ├─ reopened by an image ──> let go: it closes again │
//!        v                                  ├─ images were sent ──────> waits for them a little │
//!   goes on as it is <──────────────────────┼─ nothing to send, refused, wait_s over            │
//!                                           └─ no answer ──> asked again with back-off, for one hour
//! ```
//!
//! No loop: a study is asked for once per cause of its closing, a series that was sent once is not asked for again, and all questions of
//! an hour together are bounded. A study that closes while it is asked for is held, not asked for again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::notes::FetchNote;
use super::plan::Wanted;
use crate::deliver::query_scu::QueryError;
use crate::domain::{Monotonic, Study, Uid};

/// Studies held at once; a further one is not held.
pub(in crate::service) const HELD_MAX: usize = 16;
/// Studies asked for at once, retries included; a further one is not asked for.
const JOBS_MAX: usize = 16;
/// Studies of which it is remembered what was asked; the oldest is forgotten.
const ASKED_MAX: usize = 256;
/// New questions within an hour. GUESS: more than a department's brain studies of a day; it only stops a loop that nobody thought of.
const PER_HOUR_MAX: usize = 60;
const HOUR_MS: u64 = 3_600_000;
/// After images were sent the study waits this long for the first of them: they are stored before the PACS says so.
const ARRIVAL_MS: u64 = 5_000;
/// Back-off after a failure, doubling.
const RETRY_MS_MIN: u64 = 2_000;
const RETRY_MS_MAX: u64 = 300_000;
/// How often a PACS that is not asked anything is looked at.
const WATCH_MS: u64 = 300_000;

/// What the worker is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::service) enum FetchOrder {
    /// Look whether the PACS answers.
    Watch,
    /// Ask for a study and have sent what is not here.
    Fetch {
        /// The study.
        wanted: Wanted,
        /// Series that were sent before.
        tried: BTreeSet<Uid>,
    },
}

/// What the worker did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::service) enum FetchReport {
    /// The answer to [`FetchOrder::Watch`].
    Watched(Result<(), QueryError>),
    /// The answer to [`FetchOrder::Fetch`].
    Fetched(Fetched),
}

/// What came of one question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::service) struct Fetched {
    /// Series that were sent, or failed in a way that a repetition will not mend.
    pub(in crate::service) tried: Vec<Uid>,
    /// Images that the PACS says it sent.
    pub(in crate::service) n_sent: u32,
    /// Images that it could not send.
    pub(in crate::service) n_failed: u32,
    /// Series that are left there: beyond the bound on images, or not to be had without a person.
    pub(in crate::service) n_left: usize,
    /// Something failed that concerns this study or series alone.
    pub(in crate::service) trouble: Option<QueryError>,
    /// It ended early, and may work another time.
    pub(in crate::service) failure: Option<QueryError>,
}

/// What the service has to do, in this order.
#[derive(Clone, Debug)]
pub(in crate::service) enum FetchAction {
    /// Give it to the worker, which has nothing to do.
    Order(FetchOrder),
    /// The study goes on to the pipeline.
    Forward(Box<Study>),
    /// Write it to the journal.
    Noted(FetchNote),
}

/// A study that waits.
#[derive(Clone, Debug)]
pub(in crate::service) struct Held {
    /// The study.
    pub(in crate::service) study: Study,
    /// Since when.
    pub(in crate::service) since: Monotonic,
    until: Monotonic,
}

/// A study that is asked for until there is an answer.
#[derive(Clone, Debug)]
struct Job {
    wanted: Wanted,
    first_at: Monotonic,
    due_at: Monotonic,
    n_failures: u32,
}

/// What was asked for a study before.
#[derive(Clone, Debug, Default)]
struct Asked {
    order: u64,
    causes: BTreeSet<&'static str>,
    tried: BTreeSet<Uid>,
    wait_until: Monotonic,
}

/// Who the worker works for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Work {
    Watch,
    Study(Uid),
    /// It has ended.
    Nobody,
}

/// Why the PACS is of no use just now.
#[derive(Clone, Debug)]
struct Down {
    error: QueryError,
    n_failures: u32,
}

/// The state machine; see the module's diagram.
#[derive(Debug, Default)]
pub(in crate::service) struct Keeper {
    wait_ms: u64,
    fetches: bool,
    now: Monotonic,
    held: BTreeMap<Uid, Held>,
    jobs: BTreeMap<Uid, Job>,
    asked: BTreeMap<Uid, Asked>,
    n_asked: u64,
    recent: VecDeque<Monotonic>,
    in_work: Option<Work>,
    down: Option<Down>,
    watch_at: Monotonic,
}

impl Keeper {
    /// A keeper that holds a study for `wait_ms` at most; with `fetches` false it only watches the PACS.
    pub(in crate::service) fn new(wait_ms: u64, fetches: bool) -> Self {
        Self { wait_ms, fetches, ..Self::default() }
    }

    /// The studies that wait.
    pub(in crate::service) fn held(&self) -> impl Iterator<Item = &Held> {
        self.held.values()
    }

    /// Why the PACS is of no use; `None` while it answers, or is not known not to.
    pub(in crate::service) fn trouble(&self) -> Option<String> {
        self.down.as_ref().map(|down| down.error.to_string())
    }

    /// A study closed. `wanted` says what it lacks; `has_room` whether the box can take more images than come by themselves.
    pub(in crate::service) fn on_closed(
        &mut self,
        study: Study,
        wanted: Option<Wanted>,
        has_room: bool,
        now: Monotonic,
    ) -> Vec<FetchAction> {
        self.now = self.now.max(now);
        let mut actions = Vec::new();
        let uid = study.study_instance_uid().clone();
        self.held.remove(&uid); // this closing replaces it
        let Some(wanted) = wanted.filter(|_| self.fetches) else {
            self.jobs.remove(&uid); // what was missing is here: no repetition, whatever a question under way brings
            actions.push(FetchAction::Forward(Box::new(study)));
            return actions;
        };
        if let Some(job) = self.jobs.get_mut(&uid) {
            job.wanted = wanted; // asked for already: a repetition asks for what is still missing
        } else if let Err(note) = self.ask(&uid, wanted, study.closed_because().as_str(), has_room) {
            actions.extend(note.map(FetchAction::Noted));
            actions.push(FetchAction::Forward(Box::new(study)));
            return actions;
        }
        let until = self.asked.get(&uid).map_or(self.now, |asked| asked.wait_until);
        if until > self.now && self.held.len() < HELD_MAX {
            self.held.insert(uid, Held { study, since: self.now, until });
        } else {
            actions.push(FetchAction::Forward(Box::new(study)));
        }
        self.order(&mut actions);
        actions
    }

    /// Notes a new question, or says why there is none: nothing to say where the same was asked before.
    fn ask(&mut self, uid: &Uid, wanted: Wanted, cause: &'static str, has_room: bool) -> Result<(), Option<FetchNote>> {
        if self.asked.get(uid).is_some_and(|asked| asked.causes.contains(cause)) {
            return Err(None);
        }
        while self.recent.front().is_some_and(|at| self.now.since_ms(*at) >= HOUR_MS) {
            self.recent.pop_front();
        }
        let skipped = |because| Err(Some(FetchNote::Skipped { study_instance_uid: uid.clone(), because }));
        if !has_room {
            return skipped("the box is short of room");
        }
        if self.recent.len() >= PER_HOUR_MAX {
            return skipped("60 studies were asked for within this hour");
        }
        if self.jobs.len() >= JOBS_MAX {
            return skipped("16 studies are being asked for");
        }
        self.recent.push_back(self.now);
        self.n_asked += 1;
        let asked = self.asked.entry(uid.clone()).or_default();
        asked.order = self.n_asked;
        asked.causes.insert(cause);
        asked.wait_until = self.now.plus_ms(self.wait_ms);
        while self.asked.len() > ASKED_MAX {
            let Some(oldest) = self.asked.iter().min_by_key(|(_, asked)| asked.order).map(|(uid, _)| uid.clone()) else { break };
            self.asked.remove(&oldest);
        }
        self.jobs.insert(uid.clone(), Job { wanted, first_at: self.now, due_at: self.now, n_failures: 0 });
        Ok(())
    }

    /// An image reopened a study: it will close again.
    pub(in crate::service) fn on_reopened(&mut self, study_instance_uid: &Uid) {
        self.held.remove(study_instance_uid);
    }

    /// The worker is done.
    pub(in crate::service) fn on_report(&mut self, report: FetchReport, now: Monotonic) -> Vec<FetchAction> {
        self.now = self.now.max(now);
        let mut actions = Vec::new();
        match (self.in_work.take(), report) {
            (_, FetchReport::Watched(Ok(()))) => {
                // That it answers does not show that it sends: a refusal to send stays until something was sent.
                if !self.is_refused() {
                    self.transition_to_up(&mut actions);
                }
            }
            (_, FetchReport::Watched(Err(error))) => self.transition_to_down(error, &mut actions),
            (Some(Work::Study(uid)), FetchReport::Fetched(fetched)) => self.on_fetched(&uid, fetched, &mut actions),
            (Some(Work::Watch | Work::Nobody) | None, FetchReport::Fetched(_)) => {}
        }
        self.watch_at = self.now.plus_ms(self.down.as_ref().map_or(WATCH_MS, |down| backoff_ms(down.n_failures)));
        self.order(&mut actions);
        actions
    }

    fn on_fetched(&mut self, uid: &Uid, fetched: Fetched, actions: &mut Vec<FetchAction>) {
        if let Some(asked) = self.asked.get_mut(uid) {
            asked.tried.extend(fetched.tried.iter().cloned());
        }
        let Some(error) = fetched.failure.clone() else {
            self.jobs.remove(uid);
            actions.push(FetchAction::Noted(FetchNote::fetched(uid, &fetched)));
            // As above: that it answers does not show that it sends.
            if fetched.n_sent > 0 || !self.is_refused() {
                self.transition_to_up(actions);
            }
            if fetched.n_sent == 0 {
                self.forward(uid, actions);
            } else if let Some(held) = self.held.get_mut(uid) {
                held.until = held.until.min(self.now.plus_ms(ARRIVAL_MS));
            }
            return;
        };
        // A study waits only for a PACS that answered until now, and not for a person who has to change its settings.
        if self.down.is_some() || !matches!(error, QueryError::Unreachable { .. }) {
            self.forward(uid, actions);
        }
        if let Some(job) = self.jobs.get_mut(uid) {
            job.n_failures += 1;
            let retry_ms = backoff_ms(job.n_failures);
            job.due_at = self.now.plus_ms(retry_ms);
            let study_instance_uid = uid.clone();
            if job.due_at.since_ms(job.first_at) > HOUR_MS {
                self.jobs.remove(uid);
                actions.push(FetchAction::Noted(FetchNote::GivenUp { study_instance_uid, error: error.to_string() }));
            } else {
                actions.push(FetchAction::Noted(FetchNote::Failed { study_instance_uid, error: error.to_string(), retry_ms }));
            }
        }
        self.transition_to_down(error, actions);
    }

    fn is_refused(&self) -> bool {
        self.down.as_ref().is_some_and(|down| matches!(down.error, QueryError::Refused { .. }))
    }

    fn transition_to_up(&mut self, actions: &mut Vec<FetchAction>) {
        if self.down.take().is_some() {
            actions.push(FetchAction::Noted(FetchNote::PacsRecovered));
        }
    }

    fn transition_to_down(&mut self, error: QueryError, actions: &mut Vec<FetchAction>) {
        let n_failures = self.down.as_ref().map_or(0, |down| down.n_failures).saturating_add(1);
        if self.down.as_ref().is_none_or(|down| down.error != error) {
            actions.push(FetchAction::Noted(FetchNote::PacsFailing { error: error.to_string() }));
        }
        self.down = Some(Down { error, n_failures });
    }

    /// The worker has ended: no order reaches it any more, and what is held goes on in its time.
    pub(in crate::service) fn on_worker_gone(&mut self) -> Vec<FetchAction> {
        let mut actions = Vec::new();
        let reason = "the task that asks it has ended: restart the service".to_owned();
        if self.in_work != Some(Work::Nobody) {
            self.in_work = Some(Work::Nobody);
            self.transition_to_down(QueryError::Unreachable { to: "its address".into(), reason }, &mut actions);
        }
        actions
    }

    /// Time passed.
    pub(in crate::service) fn on_tick(&mut self, now: Monotonic) -> Vec<FetchAction> {
        self.now = self.now.max(now);
        let mut actions = Vec::new();
        let over: Vec<Uid> = self.held.iter().filter(|(_, held)| held.until <= self.now).map(|(uid, _)| uid.clone()).collect();
        for uid in over {
            if self.jobs.contains_key(&uid) {
                let waited_ms = self.held.get(&uid).map_or(0, |held| self.now.since_ms(held.since));
                actions.push(FetchAction::Noted(FetchNote::Overdue { study_instance_uid: uid.clone(), waited_ms }));
            }
            self.forward(&uid, &mut actions);
        }
        self.order(&mut actions);
        actions
    }

    fn forward(&mut self, uid: &Uid, actions: &mut Vec<FetchAction>) {
        if let Some(held) = self.held.remove(uid) {
            actions.push(FetchAction::Forward(Box::new(held.study)));
        }
    }

    /// Gives an idle worker the question that is due first, or has it look at the PACS.
    fn order(&mut self, actions: &mut Vec<FetchAction>) {
        if self.in_work.is_some() {
            return;
        }
        let due = self.jobs.iter().filter(|(_, job)| job.due_at <= self.now).min_by_key(|(_, job)| (job.due_at, job.first_at));
        if let Some((uid, job)) = due {
            let tried = self.asked.get(uid).map(|asked| asked.tried.clone()).unwrap_or_default();
            self.in_work = Some(Work::Study(uid.clone()));
            actions.push(FetchAction::Order(FetchOrder::Fetch { wanted: job.wanted.clone(), tried }));
        } else if self.watch_at <= self.now {
            self.in_work = Some(Work::Watch);
            actions.push(FetchAction::Order(FetchOrder::Watch));
        }
    }
}

fn backoff_ms(n_failures: u32) -> u64 {
    let doublings = n_failures.saturating_sub(1).min(16);
    (RETRY_MS_MIN << doublings).min(RETRY_MS_MAX)
}
