//! Eviction: the oldest study that nobody needs any more -> its rows deleted, its files named for removal.
//!
//! Only a whole study goes, and only when its latest verdict has seen every instance and every notice about it is delivered (DESIGN.md
//! rule 1). Oldest by number of its last instance: the order of arrival, whatever the box's clock did. Verdicts, deliveries and
//! acknowledgements stay. A study with instances that were committed to a peer (PS3.4 annex J) stays for the time of
//! `commitment_hold_ms`. Rows go first: a crash in between leaves files without rows, which the next start sweeps.

use std::path::PathBuf;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::budget::BLOCK_BYTES;
use super::error::SpoolError;
use super::index::{count_at, to_column, uid_at};
use super::layout::Layout;
use super::schema::sql;
use crate::domain::{Uid, WallTime};

/// A study that nobody needs any more, as a condition on `studies s`; `?1` is the time since when a commitment holds a study.
macro_rules! evictable {
    () => {
        "s.n_instances > 0 AND s.verdict_number IS NOT NULL AND s.n_covered >= s.n_instances \
         AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.study_id = s.id AND o.delivered_at IS NULL) \
         AND NOT EXISTS (SELECT 1 FROM commitment_holds h WHERE h.study_id = s.id AND h.committed_at > ?1)"
    };
}

/// An evicted study.
pub(super) struct Evicted {
    /// Which.
    pub(super) study_instance_uid: Uid,
    instances: Vec<(u64, u64)>,
    conflicts: Vec<(u64, u64)>,
}

impl Evicted {
    /// How many instances it had.
    pub(super) fn n_instances(&self) -> u64 {
        u64::try_from(self.instances.len()).unwrap_or(u64::MAX)
    }

    /// Its files with their sizes, bytes.
    pub(super) fn files<'a>(&'a self, layout: &'a Layout) -> impl Iterator<Item = (PathBuf, u64)> + 'a {
        let instances = self.instances.iter().map(|&(number, n_bytes)| (layout.instance(number), n_bytes));
        instances.chain(self.conflicts.iter().map(|&(number, n_bytes)| (layout.conflict(number), n_bytes)))
    }
}

/// Takes the oldest evictable study out of the index; `None` when there is none.
/// `held_since`: studies committed after it are held.
pub(super) fn oldest(writer: &mut Connection, now: WallTime, held_since: WallTime) -> Result<Option<Evicted>, SpoolError> {
    let doing = "evicting a study";
    let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql(doing))?;
    let found = transaction
        .prepare_cached(concat!(
            "SELECT s.id, s.study_instance_uid FROM studies s WHERE ",
            evictable!(),
            " ORDER BY s.last_number LIMIT 1"
        ))
        .and_then(|mut find| find.query_row([held_since.0], |row| Ok((row.get::<_, i64>(0)?, uid_at(row, 1)?))).optional())
        .map_err(sql(doing))?;
    let Some((study_id, study_instance_uid)) = found else { return Ok(None) };
    let files = |statement: &str| -> rusqlite::Result<Vec<(u64, u64)>> {
        let mut find = transaction.prepare_cached(statement)?;
        let rows = find.query_map([study_id], |row| Ok((count_at(row, 0)?, count_at(row, 1)?)))?;
        rows.collect()
    };
    let instances = files("SELECT number, n_bytes FROM instances WHERE study_id = ?1 ORDER BY number").map_err(sql(doing))?;
    let conflicts = files("SELECT number, n_bytes FROM conflicts WHERE study_id = ?1 ORDER BY number").map_err(sql(doing))?;
    for statement in [
        "DELETE FROM conflicts WHERE study_id = ?1",
        "DELETE FROM instances WHERE study_id = ?1",
        "DELETE FROM commitment_holds WHERE study_id = ?1",
    ] {
        transaction.prepare_cached(statement).and_then(|mut run| run.execute([study_id])).map_err(sql(doing))?;
    }
    transaction
        .prepare_cached("UPDATE studies SET n_instances = 0, n_conflicts = 0, n_covered = 0, evicted_at = ?2 WHERE id = ?1")
        .and_then(|mut run| run.execute((study_id, now.0)))
        .map_err(sql(doing))?;
    transaction.commit().map_err(sql(doing))?;
    Ok(Some(Evicted { study_instance_uid, instances, conflicts }))
}

/// What eviction could free at most, whole blocks; `held_since` as in [`oldest`].
pub(super) fn evictable_bytes(reader: &Connection, held_since: WallTime) -> Result<u64, SpoolError> {
    reader
        .prepare_cached(concat!(
            "SELECT coalesce(sum((i.n_bytes + ?2 - 1) / ?2 * ?2), 0) FROM instances i JOIN studies s ON s.id = i.study_id WHERE ",
            evictable!()
        ))
        .and_then(|mut find| find.query_row((held_since.0, to_column(BLOCK_BYTES)), |row| count_at(row, 0)))
        .map_err(sql("adding up what may be evicted"))
}
