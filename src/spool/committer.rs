//! Group commit: every instance that waits at this moment -> one round of directory syncs and one index transaction -> an answer each.
//!
//! The order is what makes "acknowledged means durable" true (DESIGN.md rule 1): file synced (by the caller), moved to its final name,
//! directory synced, index row committed and synced, answered. After a crash at any point the index decides; see `shared::reconcile`.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender};

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
pub(super) const GROUP_MAX: usize = 128;

/// An instance whose bytes are synced and that waits for its name and its row.
pub(super) struct Job {
    /// Its running number.
    pub(super) number: u64,
    /// The instance; `path` is the one in `incoming/`.
    pub(super) instance: StoredInstance,
}

/// Where the caller waits.
pub(super) type Reply = SyncSender<Result<Committed, SpoolError>>;

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

/// Runs until every sender is gone.
pub(super) fn run(shared: &Shared, jobs: &Receiver<(Job, Reply)>) {
    let mut committer = Committer { shared, dirs_ready: HashSet::new() };
    let mut waiting: VecDeque<(Job, Reply)> = VecDeque::new();
    loop {
        if waiting.is_empty() {
            let Ok(first) = jobs.recv() else { return };
            waiting.push_back(first);
        }
        while waiting.len() < GROUP_MAX {
            let Ok(next) = jobs.try_recv() else { break };
            waiting.push_back(next);
        }
        // Of several with the same SOP Instance UID only the first is in this round: the others then meet its row.
        let mut uids = HashSet::new();
        let (mut group, mut replies, mut later) = (Vec::new(), Vec::new(), VecDeque::new());
        for (job, reply) in waiting.drain(..) {
            if uids.insert(job.instance.header.sop_instance_uid.clone()) {
                group.push(job);
                replies.push(reply);
            } else {
                later.push_back((job, reply));
            }
        }
        waiting = later;
        for (answer, reply) in committer.commit(group).into_iter().zip(replies) {
            // A caller that is gone has no peer to answer; the instance is stored all the same.
            let _ = reply.send(answer);
        }
    }
}

struct Committer<'a> {
    shared: &'a Shared,
    /// Directories of `instances/` whose own entry is durable.
    dirs_ready: HashSet<PathBuf>,
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
