//! What the handles, the arriving instances and the committer share, and how the store is opened and room is made.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, TransactionBehavior};

use super::budget::{Budget, in_blocks};
use super::disk::Disk;
use super::error::{FullBecause, SpoolError};
use super::events::SpoolEvent;
use super::layout::Layout;
use super::schema::{self, sql};
use super::types::SpoolOptions;
use super::{evict, index, queries};
use crate::domain::{Uid, WallTime};
use crate::journal::Journal;

/// Evicted studies that are remembered until [`super::Store::take_evicted`] fetches them.
const EVICTED_MAX: usize = 1024;

/// The state of an open store.
pub(super) struct Shared {
    pub(super) layout: Layout,
    pub(super) disk: Box<dyn Disk>,
    pub(super) options: SpoolOptions,
    pub(super) budget: Budget,
    pub(super) clock: fn() -> WallTime,
    journal: Journal,
    writer: Mutex<Connection>,
    reader: Mutex<Connection>,
    number_next: AtomicU64,
    evicted: Mutex<VecDeque<Uid>>,
    full: AtomicBool,
    failing: AtomicBool,
    /// Released after everything else is closed: fields are dropped in order.
    _lock: File,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere cannot leave these half changed: the database rolls back, the queue is a list.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Opens the state folder: locks it, opens the index, removes what was never answered, counts what is there.
    pub(super) fn open(
        dir: &Path,
        options: SpoolOptions,
        journal: Journal,
        clock: fn() -> WallTime,
        disk: Box<dyn Disk>,
    ) -> Result<Self, SpoolError> {
        let (layout, lock) = Layout::open(dir, disk.as_ref())?;
        let (mut writer, reader) = schema::open(&layout.index())?;
        // The index file's own directory entry.
        disk.sync_dir(layout.root()).map_err(SpoolError::failing("making the index durable"))?;
        let files = index::files(&writer)?;
        let (files, events) = reconcile(&layout, disk.as_ref(), &mut writer, files)?;
        events.iter().for_each(|event| journal.record(event));
        let (n_instances, n_studies) = queries::counts(&writer)?;
        let bytes = files.bytes();
        journal.record(&SpoolEvent::StoreOpened { n_instances, n_studies, bytes });
        Ok(Self {
            budget: Budget::new(options, layout.root().to_owned(), bytes),
            layout,
            disk,
            options,
            clock,
            journal,
            writer: Mutex::new(writer),
            reader: Mutex::new(reader),
            number_next: AtomicU64::new(files.number_max + 1),
            evicted: Mutex::new(VecDeque::new()),
            full: AtomicBool::new(false),
            failing: AtomicBool::new(false),
            _lock: lock,
        })
    }

    /// The connection that writes.
    pub(super) fn writer(&self) -> MutexGuard<'_, Connection> {
        locked(&self.writer)
    }

    /// The connection that reads: never waits for a commit.
    pub(super) fn reader(&self) -> MutexGuard<'_, Connection> {
        locked(&self.reader)
    }

    /// A running number that no other file has.
    pub(super) fn number(&self) -> u64 {
        self.number_next.fetch_add(1, Ordering::Relaxed)
    }

    /// Studies that were committed after this moment are held back from eviction.
    pub(super) fn held_since(&self) -> WallTime {
        WallTime((self.clock)().0.saturating_sub(self.options.commitment_hold_ms))
    }

    /// Reports to the journal.
    pub(super) fn record(&self, event: &SpoolEvent) {
        self.journal.record(event);
    }

    /// (full, failing) as of the last attempts.
    pub(super) fn health(&self) -> (bool, bool) {
        (self.full.load(Ordering::Relaxed), self.failing.load(Ordering::Relaxed))
    }

    /// Remembers and reports that something failed, once until it works again.
    pub(super) fn note_error(&self, error: &SpoolError) {
        match error {
            SpoolError::Full { .. } => {
                if !self.full.swap(true, Ordering::Relaxed) {
                    self.record(&SpoolEvent::StoreFull { error: error.clone() });
                }
            }
            SpoolError::Failing { .. } | SpoolError::Damaged { .. } => {
                if !self.failing.swap(true, Ordering::Relaxed) {
                    self.record(&SpoolEvent::StoreFailed { error: error.clone() });
                }
            }
            SpoolError::TooLarge { .. }
            | SpoolError::TooManyConflicts { .. }
            | SpoolError::InUse { .. }
            | SpoolError::SchemaNewer { .. } => {}
        }
    }

    /// A commit went through: writing works.
    pub(super) fn note_success(&self) {
        if self.failing.swap(false, Ordering::Relaxed) {
            self.record(&SpoolEvent::StoreRecovered);
        }
    }

    /// Passes a result on, remembering an error.
    pub(super) fn noted<T>(&self, result: Result<T, SpoolError>) -> Result<T, SpoolError> {
        result.inspect_err(|error| self.note_error(error))
    }

    /// Reserves `wanted` bytes, or `least` when there is no more, evicting what may be evicted; returns what was granted.
    pub(super) fn reserve(&self, wanted: u64, least: u64) -> Result<u64, SpoolError> {
        let granted = match self.budget.try_reserve(self.disk.as_ref(), wanted)? {
            Ok(()) => wanted,
            Err(_) => {
                self.make_room(least)?;
                least
            }
        };
        if self.full.swap(false, Ordering::Relaxed) {
            self.record(&SpoolEvent::StoreRoomMade);
        }
        Ok(granted)
    }

    /// Evicts studies until `n_bytes` can be reserved, and reserves them.
    fn make_room(&self, n_bytes: u64) -> Result<(), SpoolError> {
        let disk = self.disk.as_ref();
        let because: FullBecause = match self.budget.try_reserve(disk, n_bytes)? {
            Ok(()) => return Ok(()),
            Err(because) => because,
        };
        if because == FullBecause::Budget && n_bytes > self.options.bytes_max {
            // No eviction could ever make that much room: leave the studies alone.
            return Err(SpoolError::Full { because });
        }
        // Held throughout: of several callers that need room, each sees what the one before it has freed.
        let mut writer = self.writer();
        loop {
            let because = match self.budget.try_reserve(disk, n_bytes)? {
                Ok(()) => return Ok(()),
                Err(because) => because,
            };
            let Some(gone) = evict::oldest(&mut writer, (self.clock)(), self.held_since())? else {
                return Err(SpoolError::Full { because });
            };
            let mut n_bytes_freed = 0;
            for (path, n_bytes) in gone.files(&self.layout) {
                if self.remove(&path) {
                    self.budget.removed(in_blocks(n_bytes));
                    n_bytes_freed += n_bytes;
                }
            }
            self.record(&SpoolEvent::StudyEvicted { n_instances: gone.n_instances(), n_bytes: n_bytes_freed });
            let mut evicted = locked(&self.evicted);
            if evicted.len() >= EVICTED_MAX {
                evicted.pop_front();
            }
            evicted.push_back(gone.study_instance_uid);
        }
    }

    /// Removes a file that the index does not know; what cannot be removed is swept at the next start. Returns whether it is gone.
    pub(super) fn remove(&self, path: &Path) -> bool {
        match self.disk.remove(path) {
            Ok(()) => true,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
            Err(error) => {
                // The error names the cause (`Read-only file system`), not the path.
                self.record(&SpoolEvent::FileLeft { reason: error.to_string() });
                false
            }
        }
    }

    /// See [`super::Store::take_evicted`].
    pub(super) fn take_evicted(&self) -> Vec<Uid> {
        locked(&self.evicted).drain(..).collect()
    }
}

/// Brings files and rows together after a crash. The index decides: a file without a row was never answered and goes; a row without a
/// file is a loss, said aloud.
fn reconcile(
    layout: &Layout,
    disk: &dyn Disk,
    writer: &mut Connection,
    files: index::Files,
) -> Result<(index::Files, Vec<SpoolEvent>), SpoolError> {
    let doing = "removing unanswered instances of an earlier run";
    let mut events = Vec::new();
    let (on_disk, beside) = layout.stored_numbers().map_err(SpoolError::failing("listing the instance files"))?;
    let (on_disk, beside): (HashSet<u64>, HashSet<u64>) = (on_disk.into_iter().collect(), beside.into_iter().collect());
    let lost = |rows: &[(u64, u64)], there: &HashSet<u64>| -> HashSet<u64> {
        rows.iter().map(|&(number, _)| number).filter(|number| !there.contains(number)).collect()
    };
    let (lost_instances, lost_conflicts) = (lost(&files.instances, &on_disk), lost(&files.conflicts, &beside));
    let n_lost = lost_instances.len() + lost_conflicts.len();
    let files = if n_lost > 0 {
        let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql(doing))?;
        index::forget(&transaction, &lost_instances, &lost_conflicts)?;
        transaction.commit().map_err(sql(doing))?;
        events.push(SpoolEvent::InstancesLost { n: u64::try_from(n_lost).unwrap_or(u64::MAX) });
        let number_max = files.number_max;
        let left = index::files(writer)?;
        index::Files { number_max: left.number_max.max(number_max), ..left }
    } else {
        files
    };
    let n_incoming = layout.sweep_incoming(disk).map_err(SpoolError::failing(doing))?;
    let (rows, rows_beside): (HashSet<u64>, HashSet<u64>) =
        (files.instances.iter().map(|row| row.0).collect(), files.conflicts.iter().map(|row| row.0).collect());
    let mut n_orphans = 0;
    let orphans = on_disk.difference(&rows).map(|&number| layout.instance(number));
    for path in orphans.chain(beside.difference(&rows_beside).map(|&number| layout.conflict(number))) {
        disk.remove(&path).map_err(SpoolError::failing(doing))?;
        n_orphans += 1;
    }
    if n_incoming + n_orphans > 0 {
        events.push(SpoolEvent::IncomingSwept { n_incoming, n_orphans });
    }
    Ok((files, events))
}
