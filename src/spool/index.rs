//! Instances in the index: rows in and out. Every statement is a constant; what peers sent travels as a bound value.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension, Row};

use super::budget::in_blocks;
use super::error::SpoolError;
use super::layout::Layout;
use super::schema::sql;
use super::types::StoredInstanceRecord;
use crate::domain::{Uid, WallTime};

/// Different contents of one SOP Instance UID that are kept as evidence beside the first.
pub(super) const CONFLICTS_PER_UID_MAX: u64 = 4;
/// Characters of an Accession Number that are kept (SH allows 16, PS3.5 table 6.2-1).
const ACCESSION_CHARS_MAX: usize = 64;

/// A count or number for a column; columns hold signed 64-bit integers.
pub(super) fn to_column(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// A count or number from a column.
pub(super) fn from_column(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

/// Column `idx` as a count or number.
pub(super) fn count_at(row: &Row<'_>, idx: usize) -> rusqlite::Result<u64> {
    row.get(idx).map(from_column)
}

/// Column `idx` as a UID.
pub(super) fn uid_at(row: &Row<'_>, idx: usize) -> rusqlite::Result<Uid> {
    let text: String = row.get(idx)?;
    Uid::try_new(&text)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(idx, rusqlite::types::Type::Text, Box::new(error)))
}

/// Cuts an Accession Number to what is kept.
pub(super) fn accession_kept(accession_number: Option<&str>) -> Option<String> {
    accession_number.map(|text| text.chars().take(ACCESSION_CHARS_MAX).collect())
}

/// What is stored under a SOP Instance UID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// Number of the first instance with this UID.
    pub(super) number: u64,
    /// The study that it belongs to.
    pub(super) study_id: i64,
    /// Hash of its data set.
    pub(super) sha256: [u8; 32],
    /// Size of its file, bytes.
    pub(super) n_bytes: u64,
    /// When it came.
    pub(super) received_at: WallTime,
    /// The conflicts kept beside it.
    pub(super) conflicts: Vec<KnownConflict>,
}

/// A kept conflict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KnownConflict {
    /// Its number.
    pub(super) number: u64,
    /// Hash of its data set.
    pub(super) sha256: [u8; 32],
    /// Size of its file, bytes.
    pub(super) n_bytes: u64,
    /// When it came.
    pub(super) received_at: WallTime,
}

/// What is stored under the UID, if anything.
pub(super) fn known(connection: &Connection, sop_instance_uid: &Uid) -> Result<Option<Known>, SpoolError> {
    let doing = "looking an instance up";
    let mut find = connection
        .prepare_cached("SELECT number, study_id, sha256, n_bytes, received_at FROM instances WHERE sop_instance_uid = ?1")
        .map_err(sql(doing))?;
    let found = find
        .query_row([sop_instance_uid.as_str()], |row| {
            Ok(Known {
                number: count_at(row, 0)?,
                study_id: row.get(1)?,
                sha256: row.get(2)?,
                n_bytes: count_at(row, 3)?,
                received_at: WallTime(row.get(4)?),
                conflicts: Vec::new(),
            })
        })
        .optional()
        .map_err(sql(doing))?;
    let Some(mut known) = found else { return Ok(None) };
    let mut beside = connection
        .prepare_cached("SELECT number, sha256, n_bytes, received_at FROM conflicts WHERE instance_number = ?1 ORDER BY number")
        .map_err(sql(doing))?;
    let rows = beside
        .query_map([to_column(known.number)], |row| {
            let (number, sha256, n_bytes) = (count_at(row, 0)?, row.get(1)?, count_at(row, 2)?);
            Ok(KnownConflict { number, sha256, n_bytes, received_at: WallTime(row.get(3)?) })
        })
        .map_err(sql(doing))?;
    known.conflicts = rows.collect::<Result<_, _>>().map_err(sql(doing))?;
    Ok(Some(known))
}

/// A row to be added.
pub(super) struct NewRow<'a> {
    /// Running number, also the file's name.
    pub(super) number: u64,
    /// Study Instance UID.
    pub(super) study_instance_uid: &'a Uid,
    /// SOP Instance UID.
    pub(super) sop_instance_uid: &'a Uid,
    /// Accession Number.
    pub(super) accession_number: Option<&'a str>,
    /// Size of the file, bytes.
    pub(super) n_bytes: u64,
    /// Hash of the data set.
    pub(super) sha256: [u8; 32],
    /// When it came.
    pub(super) received_at: WallTime,
}

/// Adds an instance, and its study when it is the first.
pub(super) fn insert_instance(connection: &Connection, row: &NewRow<'_>) -> Result<(), SpoolError> {
    let doing = "adding an instance to the index";
    let mut study = connection
        .prepare_cached(
            "INSERT INTO studies (study_instance_uid, accession_number, received_at, last_received_at, last_number, n_instances, \
             n_conflicts, n_covered, standing_rank, open_rank, acknowledged_rank) VALUES (?1, ?2, ?3, ?3, ?4, 1, 0, 0, 0, 0, 0) \
             ON CONFLICT (study_instance_uid) DO UPDATE SET accession_number = coalesce(accession_number, excluded.accession_number), \
             last_received_at = excluded.last_received_at, last_number = max(last_number, excluded.last_number), \
             n_instances = n_instances + 1 RETURNING id",
        )
        .map_err(sql(doing))?;
    let accession = accession_kept(row.accession_number);
    let values = (row.study_instance_uid.as_str(), accession, row.received_at.0, to_column(row.number));
    let study_id: i64 = study.query_row(values, |found| found.get(0)).map_err(sql(doing))?;
    let mut instance = connection
        .prepare_cached(
            "INSERT INTO instances (number, study_id, sop_instance_uid, n_bytes, sha256, received_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )
        .map_err(sql(doing))?;
    let n_bytes = to_column(row.n_bytes);
    let values = (to_column(row.number), study_id, row.sop_instance_uid.as_str(), n_bytes, row.sha256, row.received_at.0);
    instance.execute(values).map_err(sql(doing))?;
    Ok(())
}

/// Adds a conflict beside the instance `first`.
pub(super) fn insert_conflict(connection: &Connection, row: &NewRow<'_>, first: &Known) -> Result<(), SpoolError> {
    let doing = "adding a conflict to the index";
    let mut conflict = connection
        .prepare_cached(
            "INSERT INTO conflicts (number, instance_number, study_id, n_bytes, sha256, received_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )
        .map_err(sql(doing))?;
    let (number, n_bytes) = (to_column(row.number), to_column(row.n_bytes));
    let values = (number, to_column(first.number), first.study_id, n_bytes, row.sha256, row.received_at.0);
    conflict.execute(values).map_err(sql(doing))?;
    let mut study =
        connection.prepare_cached("UPDATE studies SET n_conflicts = n_conflicts + 1 WHERE id = ?1").map_err(sql(doing))?;
    study.execute([first.study_id]).map_err(sql(doing))?;
    Ok(())
}

/// What is stored under the UID, as a record.
pub(super) fn record(
    connection: &Connection,
    layout: &Layout,
    sop_instance_uid: &Uid,
) -> Result<Option<StoredInstanceRecord>, SpoolError> {
    connection
        .prepare_cached(
            "SELECT i.number, i.sop_instance_uid, s.study_instance_uid, i.n_bytes, i.sha256, i.received_at \
             FROM instances i JOIN studies s ON s.id = i.study_id WHERE i.sop_instance_uid = ?1",
        )
        .and_then(|mut find| find.query_row([sop_instance_uid.as_str()], |row| record_at(row, layout)).optional())
        .map_err(sql("looking an instance up"))
}

/// See [`super::Store::pending`].
pub(super) fn pending(connection: &Connection, layout: &Layout) -> Result<Vec<StoredInstanceRecord>, SpoolError> {
    let doing = "listing pending instances";
    let mut find = connection
        .prepare_cached(
            "SELECT i.number, i.sop_instance_uid, s.study_instance_uid, i.n_bytes, i.sha256, i.received_at \
             FROM studies s JOIN instances i ON i.study_id = s.id \
             WHERE s.n_instances > 0 AND (s.verdict_number IS NULL OR s.n_covered < s.n_instances) ORDER BY s.id, i.number",
        )
        .map_err(sql(doing))?;
    let rows = find.query_map([], |row| record_at(row, layout)).map_err(sql(doing))?;
    rows.collect::<Result<_, _>>().map_err(sql(doing))
}

/// An instance from the columns number, SOP Instance UID, Study Instance UID, bytes, digest, time.
pub(super) fn record_at(row: &Row<'_>, layout: &Layout) -> rusqlite::Result<StoredInstanceRecord> {
    Ok(StoredInstanceRecord {
        path: layout.instance(count_at(row, 0)?),
        sop_instance_uid: uid_at(row, 1)?,
        study_instance_uid: uid_at(row, 2)?,
        n_bytes: count_at(row, 3)?,
        sha256: row.get(4)?,
        received_at: WallTime(row.get(5)?),
    })
}

/// Every file that the index knows: (number, size) of instances and of conflicts, and the highest number ever given out.
pub(super) struct Files {
    /// Instances.
    pub(super) instances: Vec<(u64, u64)>,
    /// Conflicts.
    pub(super) conflicts: Vec<(u64, u64)>,
    /// Highest number.
    pub(super) number_max: u64,
}

impl Files {
    /// What they take on disk, whole blocks.
    pub(super) fn bytes(&self) -> u64 {
        self.instances.iter().chain(&self.conflicts).map(|&(_, n_bytes)| in_blocks(n_bytes)).sum()
    }
}

/// Every file that the index knows.
pub(super) fn files(connection: &Connection) -> Result<Files, SpoolError> {
    let doing = "listing the files of the index";
    let all = |statement: &str| -> rusqlite::Result<Vec<(u64, u64)>> {
        let mut find = connection.prepare(statement)?;
        let rows = find.query_map([], |row| Ok((count_at(row, 0)?, count_at(row, 1)?)))?;
        rows.collect()
    };
    let instances = all("SELECT number, n_bytes FROM instances").map_err(sql(doing))?;
    let conflicts = all("SELECT number, n_bytes FROM conflicts").map_err(sql(doing))?;
    let sequence: Option<i64> = connection
        .query_row("SELECT seq FROM sqlite_sequence WHERE name = 'instances'", [], |row| row.get(0))
        .optional()
        .map_err(sql(doing))?;
    let used = instances.iter().chain(&conflicts).map(|&(number, _)| number).max().unwrap_or(0);
    Ok(Files { instances, conflicts, number_max: used.max(sequence.map_or(0, from_column)) })
}

/// Forgets rows whose files are gone. One transaction is the caller's.
pub(super) fn forget(connection: &Connection, instances: &HashSet<u64>, conflicts: &HashSet<u64>) -> Result<(), SpoolError> {
    let doing = "forgetting lost files";
    let count_down =
        "UPDATE studies SET n_conflicts = n_conflicts - 1 WHERE id = (SELECT study_id FROM conflicts WHERE number = ?1)";
    for &number in conflicts {
        connection.execute(count_down, [to_column(number)]).map_err(sql(doing))?;
        connection.execute("DELETE FROM conflicts WHERE number = ?1", [to_column(number)]).map_err(sql(doing))?;
    }
    for &number in instances {
        // Evidence beside a lost instance loses its meaning; its files are orphans from here on and are swept.
        let beside = "UPDATE studies SET n_instances = n_instances - 1, n_covered = min(n_covered, n_instances - 1), n_conflicts = \
                      n_conflicts - (SELECT count(*) FROM conflicts WHERE instance_number = ?1) \
                      WHERE id = (SELECT study_id FROM instances WHERE number = ?1)";
        connection.execute(beside, [to_column(number)]).map_err(sql(doing))?;
        connection.execute("DELETE FROM conflicts WHERE instance_number = ?1", [to_column(number)]).map_err(sql(doing))?;
        connection.execute("DELETE FROM instances WHERE number = ?1", [to_column(number)]).map_err(sql(doing))?;
    }
    Ok(())
}
