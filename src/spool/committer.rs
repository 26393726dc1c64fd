//! Group commit: every instance that waits at this moment -> one round of directory syncs and one index transaction -> an answer each.
//!
//! The order is what makes "acknowledged means durable" true (DESIGN.md rule 1): file synced (by the caller), moved to its final name,
//! directory synced, index row committed and synced, answered. After a crash at any point the index decides; see `shared::reconcile`.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, TransactionBehavior};

use super::budget::in_blocks;
use super::disk::make_dir;
use super::error::SpoolError;
use super::index::{self, CONFLICTS_PER_UID_MAX, Known, NewRow};
use super::layout::Layout;
use super::schema::sql;
use super::shared::Shared;
use super::types::Committed;
use crate::domain::StoredInstance;

/// Instances committed together at most. More wait for the next round; their callers wait too, so nothing piles up.
const GROUP_MAX: usize = 128;

/// An instance whose bytes are synced and that waits for its name and its row.
pub(super) struct Job {
    /// Its running number.
    pub(super) number: u64,
    /// The instance; `path` is the one in `incoming/`.
    pub(super) instance: StoredInstance,
}

impl Job {
    /// The answer when exactly this content is stored already, first or as a kept conflict.
    pub(super) fn repetition_of(&self, known: &Known, layout: &Layout) -> Option<Committed> {
        let at = |path: PathBuf, n_bytes, received_at| StoredInstance { path, n_bytes, received_at, ..self.instance.clone() };
        if known.sha256 == self.instance.sha256 {
            return Some(Committed::Duplicate(at(layout.instance(known.number), known.n_bytes, known.received_at)));
        }
        let same = known.conflicts.iter().find(|conflict| conflict.sha256 == self.instance.sha256)?;
        Some(Committed::ConflictKept(at(layout.conflict(same.number), same.n_bytes, same.received_at)))
    }
}

/// What becomes of a job.
#[allow(clippy::large_enum_variant)] // one per instance, moved once
enum Decision {
    /// The first with its UID.
    New,
    /// Evidence beside the first.
    Conflict(Known),
    /// Answered; its file goes.
    Answered(Result<Committed, SpoolError>),
}

/// Where committing instances meet. Whoever comes while no round is under way leads one, in its own thread, for all that wait: a sender
/// that is alone pays for no switch between threads, and those that come meanwhile make up the next round.
#[derive(Default)]
pub(super) struct Rounds {
    state: Mutex<State>,
    over: Condvar,
}

#[derive(Default)]
struct State {
    /// In order of arrival. Each has its thread waiting, so there are never more than blocking threads.
    waiting: VecDeque<(u64, Job)>,
    answers: HashMap<u64, Result<Committed, SpoolError>>,
    ticket_next: u64,
    /// Directories of `instances/` whose own entry is durable; away while a round is under way.
    dirs_ready: Option<HashSet<PathBuf>>,
    is_led: bool,
}

impl State {
    /// The next round: of several with the same SOP Instance UID only the first, the others then meet its row.
    fn group(&mut self) -> (Vec<u64>, Vec<Job>) {
        let mut uids = HashSet::new();
        let (mut tickets, mut group, mut later) = (Vec::new(), Vec::new(), VecDeque::new());
        for (ticket, job) in self.waiting.drain(..) {
            if group.len() < GROUP_MAX && uids.insert(job.instance.header.sop_instance_uid.clone()) {
                tickets.push(ticket);
                group.push(job);
            } else {
                later.push_back((ticket, job));
            }
        }
        self.waiting = later;
        (tickets, group)
    }
}

impl Rounds {
    /// Commits a synced instance, together with others that wait; returns when its row is durable.
    pub(super) fn commit(&self, shared: &Shared, job: Job) -> Result<Committed, SpoolError> {
        let mut state = self.locked();
        let ticket = state.ticket_next;
        state.ticket_next += 1;
        state.waiting.push_back((ticket, job));
        loop {
            if let Some(answer) = state.answers.remove(&ticket) {
                return answer;
            }
            if state.is_led {
                state = self.over.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.is_led = true;
            let (tickets, group) = state.group();
            let mut round =
                Round { rounds: self, tickets, dirs_ready: state.dirs_ready.take().unwrap_or_default(), answers: Vec::new() };
            drop(state);
            round.answers = Committer { shared, dirs_ready: &mut round.dirs_ready }.commit(group);
            drop(round);
            state = self.locked();
        }
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        // Nothing under this lock panics; a round does its work outside.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A round under way. However it ends, also by a panic, everyone in it is answered and the next may lead.
struct Round<'a> {
    rounds: &'a Rounds,
    tickets: Vec<u64>,
    dirs_ready: HashSet<PathBuf>,
    answers: Vec<Result<Committed, SpoolError>>,
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        let mut state = self.rounds.locked();
        let mut answers = self.answers.drain(..);
        for &ticket in &self.tickets {
            let broken = || Err(SpoolError::failing("committing an instance")("its round broke off"));
            state.answers.insert(ticket, answers.next().unwrap_or_else(broken));
        }
        state.dirs_ready = Some(std::mem::take(&mut self.dirs_ready));
        state.is_led = false;
        drop(state);
        self.rounds.over.notify_all();
    }
}

struct Committer<'a> {
    shared: &'a Shared,
    dirs_ready: &'a mut HashSet<PathBuf>,
}

impl Committer<'_> {
    /// Commits jobs with distinct SOP Instance UIDs; answers in the same order.
    fn commit(&mut self, mut jobs: Vec<Job>) -> Vec<Result<Committed, SpoolError>> {
        let mut writer = self.shared.writer();
        let mut decisions: Vec<Decision> = jobs.iter().map(|job| self.decide(&writer, job)).collect();
        let mut dirs = BTreeSet::new();
        for (job, decision) in jobs.iter_mut().zip(&mut decisions) {
            if let Err(error) = self.move_to_place(job, decision, &mut dirs) {
                *decision = Decision::Answered(Err(error));
            }
        }
        let rows = self.sync(&dirs).and_then(|()| insert_rows(&mut writer, &jobs, &decisions));
        drop(writer);
        if rows.is_ok() && !dirs.is_empty() {
            self.shared.note_success();
        }
        let answer = |(job, decision): (Job, Decision)| self.answer(job, decision, &rows);
        jobs.into_iter().zip(decisions).map(answer).collect()
    }

    fn decide(&self, writer: &Connection, job: &Job) -> Decision {
        let known = match index::known(writer, &job.instance.header.sop_instance_uid) {
            Ok(Some(known)) => known,
            Ok(None) => return Decision::New,
            Err(error) => return Decision::Answered(Err(error)),
        };
        if let Some(repeated) = job.repetition_of(&known, &self.shared.layout) {
            return Decision::Answered(Ok(repeated));
        }
        let n_kept = u64::try_from(known.conflicts.len()).unwrap_or(u64::MAX);
        if n_kept >= CONFLICTS_PER_UID_MAX {
            return Decision::Answered(Err(SpoolError::TooManyConflicts { n_max: CONFLICTS_PER_UID_MAX }));
        }
        Decision::Conflict(known)
    }

    /// Gives the file its final name and notes the directory that must be synced.
    fn move_to_place(&mut self, job: &mut Job, decision: &Decision, dirs: &mut BTreeSet<PathBuf>) -> Result<(), SpoolError> {
        let layout = &self.shared.layout;
        let (dir, to) = match decision {
            Decision::New => (layout.instance_dir(job.number), layout.instance(job.number)),
            Decision::Conflict(_) => (layout.conflicts_dir(), layout.conflict(job.number)),
            Decision::Answered(_) => return Ok(()),
        };
        self.make_ready(&dir)?;
        self.shared.disk.rename(&job.instance.path, &to).map_err(SpoolError::failing("giving an instance its name"))?;
        job.instance.path = to;
        dirs.insert(dir);
        Ok(())
    }

    /// Makes a directory of `instances/` with a durable entry.
    fn make_ready(&mut self, dir: &Path) -> Result<(), SpoolError> {
        if self.dirs_ready.contains(dir) || dir == self.shared.layout.conflicts_dir() {
            return Ok(());
        }
        make_dir(dir).map_err(SpoolError::failing("making a directory for instances"))?;
        // Synced although it may have been there: an earlier run may have died before it could.
        let parent = self.shared.layout.instances_dir();
        self.shared.disk.sync_dir(&parent).map_err(SpoolError::failing("making a directory durable"))?;
        self.dirs_ready.insert(dir.to_owned());
        Ok(())
    }

    fn sync(&self, dirs: &BTreeSet<PathBuf>) -> Result<(), SpoolError> {
        dirs.iter().try_for_each(|dir| self.shared.disk.sync_dir(dir)).map_err(SpoolError::failing("making a name durable"))
    }

    /// The answer of one job, given what became of the round's rows. A file without a row is removed.
    fn answer(&self, job: Job, decision: Decision, rows: &Result<(), SpoolError>) -> Result<Committed, SpoolError> {
        let (path, bytes) = (job.instance.path.clone(), in_blocks(job.instance.n_bytes));
        let answer = match (decision, rows) {
            (Decision::New, Ok(())) => return Ok(Committed::New(job.instance)),
            (Decision::Conflict(_), Ok(())) => return Ok(Committed::ConflictKept(job.instance)),
            (Decision::New | Decision::Conflict(_), Err(error)) => Err(error.clone()),
            (Decision::Answered(answer), _) => answer,
        };
        if self.shared.remove(&path) {
            self.shared.budget.removed(bytes);
        }
        answer
    }
}

/// Adds all rows in one transaction.
fn insert_rows(writer: &mut Connection, jobs: &[Job], decisions: &[Decision]) -> Result<(), SpoolError> {
    let doing = "committing instances to the index";
    if decisions.iter().all(|decision| matches!(decision, Decision::Answered(_))) {
        return Ok(());
    }
    let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql(doing))?;
    for (job, decision) in jobs.iter().zip(decisions) {
        let header = &job.instance.header;
        let row = NewRow {
            number: job.number,
            study_instance_uid: &header.study_instance_uid,
            sop_instance_uid: &header.sop_instance_uid,
            accession_number: header.accession_number.as_deref(),
            n_bytes: job.instance.n_bytes,
            sha256: job.instance.sha256,
            received_at: job.instance.received_at,
        };
        match decision {
            Decision::New => index::insert_instance(&transaction, &row)?,
            Decision::Conflict(first) => index::insert_conflict(&transaction, &row, first)?,
            Decision::Answered(_) => {}
        }
    }
    transaction.commit().map_err(sql(doing))
}
