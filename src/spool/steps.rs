//! Performed procedure steps in the index: a step or a change in -> a durable row; rows -> steps out. UIDs and states only.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, OptionalExtension, Params, Transaction, TransactionBehavior};

use super::error::SpoolError;
use super::index::{from_column, to_column, uid_at};
use super::schema::sql;
use super::services::{STEPS_BYTES_MAX, STEPS_LISTED_MAX, STEPS_MAX, StepChange, StepChanged, StepCreated};
use crate::domain::{ProcedureStep, ReferencedSeries, StepStatus, Uid, WallTime};

/// One line per series: UIDs hold digits and dots alone, so spaces and line ends can part them.
fn to_text(series: &ReferencedSeries) -> String {
    let mut text = String::new();
    for (uid, instances) in series {
        text.push_str(uid.as_str());
        for instance in instances {
            text.push(' ');
            text.push_str(instance.as_str());
        }
        text.push('\n');
    }
    text
}

fn from_text(text: &str) -> ReferencedSeries {
    let mut series: ReferencedSeries = BTreeMap::new();
    for line in text.lines() {
        let mut uids = line.split(' ').filter_map(|uid| Uid::try_new(uid).ok());
        if let Some(first) = uids.next() {
            series.insert(first, uids.collect());
        }
    }
    series
}

/// See [`super::ServiceStore::create_step`].
pub(super) fn create(writer: &mut Connection, step: &ProcedureStep, now: WallTime) -> Result<StepCreated, SpoolError> {
    let doing = "keeping a procedure step";
    let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql(doing))?;
    let n_added = transaction
        .prepare_cached(
            "INSERT INTO procedure_steps (sop_instance_uid, status, series, created_at, changed_at) VALUES (?1, ?2, ?3, ?4, ?4) \
             ON CONFLICT (sop_instance_uid) DO NOTHING",
        )
        .and_then(|mut insert| {
            insert.execute((step.sop_instance_uid.as_str(), step.status.as_str(), to_text(&step.series), now.0))
        })
        .map_err(sql(doing))?;
    if n_added == 0 {
        return Ok(StepCreated::Duplicate);
    }
    let id = transaction.last_insert_rowid();
    for study in &step.study_instance_uids {
        transaction
            .prepare_cached("INSERT INTO procedure_step_studies (step_id, study_instance_uid) VALUES (?1, ?2)")
            .and_then(|mut insert| insert.execute((id, study.as_str())))
            .map_err(sql(doing))?;
    }
    let n_dropped = drop_oldest(&transaction, id).map_err(sql(doing))?;
    transaction.commit().map_err(sql(doing))?;
    Ok(StepCreated::Kept { n_dropped })
}

/// Drops the oldest steps beyond the bounds, finished ones first and `kept` never; says how many.
fn drop_oldest(transaction: &Transaction<'_>, kept: i64) -> rusqlite::Result<u64> {
    let mut n_dropped = 0;
    loop {
        let (n, n_bytes): (i64, i64) = transaction
            .prepare_cached("SELECT count(*), coalesce(sum(octet_length(series)), 0) FROM procedure_steps")?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        if from_column(n) <= STEPS_MAX && from_column(n_bytes) <= STEPS_BYTES_MAX {
            return Ok(n_dropped);
        }
        let oldest = transaction
            .prepare_cached("SELECT id FROM procedure_steps WHERE id <> ?1 ORDER BY status = 'IN PROGRESS', id LIMIT 1")?
            .query_row([kept], |row| row.get::<_, i64>(0))
            .optional()?;
        let Some(oldest) = oldest else { return Ok(n_dropped) };
        transaction.prepare_cached("DELETE FROM procedure_step_studies WHERE step_id = ?1")?.execute([oldest])?;
        transaction.prepare_cached("DELETE FROM procedure_steps WHERE id = ?1")?.execute([oldest])?;
        n_dropped += 1;
    }
}

/// See [`super::ServiceStore::change_step`].
/// Also says how many of the oldest steps were dropped for it.
pub(super) fn change(writer: &mut Connection, change: &StepChange, now: WallTime) -> Result<(StepChanged, u64), SpoolError> {
    let doing = "changing a procedure step";
    let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql(doing))?;
    let found = transaction
        .prepare_cached("SELECT id, status FROM procedure_steps WHERE sop_instance_uid = ?1")
        .and_then(|mut find| {
            find.query_row([change.sop_instance_uid.as_str()], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))
                .optional()
        })
        .map_err(sql(doing))?;
    let Some((id, status)) = found else { return Ok((StepChanged::Unknown, 0)) };
    if StepStatus::by_term(&status) != Some(StepStatus::InProgress) {
        return Ok((StepChanged::Final, 0));
    }
    transaction
        .prepare_cached(
            "UPDATE procedure_steps SET status = coalesce(?2, status), series = coalesce(?3, series), changed_at = ?4 WHERE id = ?1",
        )
        .and_then(|mut update| {
            let (status, series) = (change.status.map(StepStatus::as_str), change.series.as_ref().map(to_text));
            update.execute((id, status, series, now.0))
        })
        .map_err(sql(doing))?;
    let n_dropped = drop_oldest(&transaction, id).map_err(sql(doing))?;
    let mut steps = read(&transaction, "SELECT id, sop_instance_uid, status, series FROM procedure_steps WHERE id = ?1", [id])?;
    let Some(step) = steps.pop() else { return Ok((StepChanged::Unknown, 0)) };
    transaction.commit().map_err(sql(doing))?;
    Ok((StepChanged::Kept(step), n_dropped))
}

/// See [`super::ServiceStore::pending_steps`].
pub(super) fn pending(connection: &Connection) -> Result<Vec<ProcedureStep>, SpoolError> {
    // The latest, then put into order of creation.
    let statement = "SELECT id, sop_instance_uid, status, series FROM procedure_steps p WHERE EXISTS \
                     (SELECT 1 FROM procedure_step_studies t LEFT JOIN studies s ON s.study_instance_uid = t.study_instance_uid \
                     WHERE t.step_id = p.id AND (s.id IS NULL OR s.verdict_number IS NULL OR s.n_covered < s.n_instances)) \
                     ORDER BY id DESC LIMIT ?1";
    let mut steps = read(connection, statement, [listed_max()])?;
    steps.reverse();
    Ok(steps)
}

/// See [`super::ServiceStore::steps_of_study`].
pub(super) fn of_study(connection: &Connection, study_instance_uid: &Uid) -> Result<Vec<ProcedureStep>, SpoolError> {
    let statement = "SELECT id, sop_instance_uid, status, series FROM procedure_steps p JOIN procedure_step_studies t \
                     ON t.step_id = p.id WHERE t.study_instance_uid = ?2 ORDER BY id DESC LIMIT ?1";
    let mut steps = read(connection, statement, (listed_max(), study_instance_uid.as_str()))?;
    steps.reverse();
    Ok(steps)
}

fn listed_max() -> i64 {
    to_column(u64::try_from(STEPS_LISTED_MAX).unwrap_or(u64::MAX))
}

fn read(connection: &Connection, statement: &str, params: impl Params) -> Result<Vec<ProcedureStep>, SpoolError> {
    let doing = "reading procedure steps";
    let mut find = connection.prepare_cached(statement).map_err(sql(doing))?;
    let mut studies = connection
        .prepare_cached("SELECT study_instance_uid FROM procedure_step_studies WHERE step_id = ?1")
        .map_err(sql(doing))?;
    let mut rows = find.query(params).map_err(sql(doing))?;
    let mut steps = Vec::new();
    while let Some(row) = rows.next().map_err(sql(doing))? {
        let mut step = || {
            let id: i64 = row.get(0)?;
            let (status, series): (String, String) = (row.get(2)?, row.get(3)?);
            let of = studies.query_map([id], |row| uid_at(row, 0))?.collect::<rusqlite::Result<BTreeSet<Uid>>>()?;
            Ok(ProcedureStep {
                sop_instance_uid: uid_at(row, 1)?,
                status: StepStatus::by_term(&status).unwrap_or(StepStatus::InProgress),
                study_instance_uids: of,
                series: from_text(&series),
            })
        };
        steps.push(step().map_err(sql(doing))?);
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_list_of_series_comes_back_as_it_was(
            series in prop::collection::btree_map("[1-9]{1,5}(\\.[0-9]{1,9}){0,4}", prop::collection::btree_set("[1-9](\\.[0-9]{1,9}){0,5}", 0..20), 0..8)
        ) {
            let uid = |text: &String| Uid::try_new(text).expect("a UID");
            let series: ReferencedSeries = series.iter().map(|(k, v)| (uid(k), v.iter().map(uid).collect())).collect();
            prop_assert_eq!(from_text(&to_text(&series)), series);
        }
    }
}
