//! Read-only questions: study lists and details for the page, answered from the index alone.

use rusqlite::{Connection, OptionalExtension, Row};

use super::error::SpoolError;
use super::index::{count_at, from_column, record_at, to_column, uid_at};
use super::layout::Layout;
use super::schema::sql;
use super::types::{Acknowledgement, Delivery, StoredInstanceRecord, StoredVerdict, StudyDetail, StudyState, StudySummary};
use super::verdicts::urgency_of_rank;
use super::{DETAIL_ROWS_MAX, NOTICE_STALE_MS, STUDIES_LISTED_MAX};
use crate::domain::{Uid, Urgency, VerdictKind, WallTime};

/// Whether the verdict's JSON in this column says that it is provisional. The text between the quotes cannot stand inside another value: there its
/// quotes would be escaped.
macro_rules! is_provisional {
    ($json:literal) => {
        concat!("instr(", $json, ", '\"provisional\":true') > 0")
    };
}

/// The columns of a summary; `summary_at` reads them by position.
macro_rules! select_summary {
    ($rest:literal) => {
        concat!(
            "SELECT s.study_instance_uid, s.accession_number, s.n_instances, s.n_conflicts, s.n_covered, s.evicted_at, ",
            "s.verdict_number, v.kind, v.urgency, v.score, v.decided_at, s.received_at, s.last_received_at, s.standing_rank, ",
            "s.open_rank > s.acknowledged_rank, a.acknowledged_by, a.acknowledged_at, ",
            "(SELECT count(*) FROM outbox o WHERE o.study_id = s.id AND o.delivered_at IS NULL), s.id, ",
            "coalesce(",
            is_provisional!("v.json"),
            ", 0) ",
            "FROM studies s LEFT JOIN verdicts v ON v.number = s.verdict_number LEFT JOIN acknowledgements a ON a.id = ",
            "(SELECT max(id) FROM acknowledgements WHERE study_id = s.id) ",
            $rest
        )
    };
}

/// The verdict kind with this name.
fn kind_named(name: &str) -> Option<VerdictKind> {
    [VerdictKind::Flagged, VerdictKind::NotFlagged, VerdictKind::Indeterminate].into_iter().find(|kind| kind.as_str() == name)
}

/// The urgency with this name.
fn urgency_named(name: &str) -> Option<Urgency> {
    [Urgency::Suspicious, Urgency::Critical].into_iter().find(|urgency| urgency.as_str() == name)
}

fn kind_at(row: &Row<'_>, idx: usize) -> rusqlite::Result<Option<VerdictKind>> {
    Ok(row.get::<_, Option<String>>(idx)?.as_deref().and_then(kind_named))
}

fn urgency_at(row: &Row<'_>, idx: usize) -> rusqlite::Result<Option<Urgency>> {
    Ok(row.get::<_, Option<String>>(idx)?.as_deref().and_then(urgency_named))
}

fn time_at(row: &Row<'_>, idx: usize) -> rusqlite::Result<Option<WallTime>> {
    Ok(row.get::<_, Option<i64>>(idx)?.map(WallTime))
}

/// A summary and the study's row id.
fn summary_at(row: &Row<'_>) -> rusqlite::Result<(StudySummary, i64)> {
    let (n_instances, n_covered) = (count_at(row, 2)?, count_at(row, 4)?);
    let (verdict_number, evicted_at): (Option<i64>, _) = (row.get(6)?, time_at(row, 5)?);
    let state = match (verdict_number, evicted_at) {
        (Some(_), Some(_)) if n_instances == 0 => StudyState::Evicted,
        (Some(_), _) if n_covered >= n_instances => StudyState::Concluded,
        _ => StudyState::Pending,
    };
    let summary = StudySummary {
        study_instance_uid: uid_at(row, 0)?,
        accession_number: row.get(1)?,
        n_instances,
        n_conflicts: count_at(row, 3)?,
        state,
        verdict: kind_at(row, 7)?,
        urgency: urgency_at(row, 8)?,
        standing_urgency: urgency_of_rank(row.get(13)?),
        score: row.get(9)?,
        provisional: row.get(19)?,
        verdict_number: verdict_number.map(from_column),
        decided_at: time_at(row, 10)?,
        received_at: WallTime(row.get(11)?),
        last_received_at: WallTime(row.get(12)?),
        evicted_at,
        needs_acknowledgement: row.get(14)?,
        acknowledged_by: row.get(15)?,
        acknowledged_at: time_at(row, 16)?,
        n_notices_waiting: count_at(row, 17)?,
    };
    Ok((summary, row.get(18)?))
}

/// See [`super::Store::studies`].
pub(super) fn studies(connection: &Connection, limit: usize) -> Result<Vec<StudySummary>, SpoolError> {
    let doing = "listing studies";
    let limit = to_column(u64::try_from(limit.min(STUDIES_LISTED_MAX)).unwrap_or(0));
    let mut find = connection
        .prepare_cached(select_summary!("ORDER BY s.last_number DESC, s.last_received_at DESC, s.id DESC LIMIT ?1"))
        .map_err(sql(doing))?;
    let rows = find.query_map([limit], |row| summary_at(row).map(|(summary, _)| summary)).map_err(sql(doing))?;
    rows.collect::<Result<_, _>>().map_err(sql(doing))
}

/// See [`super::Store::unacknowledged`].
pub(super) fn unacknowledged(connection: &Connection) -> Result<Vec<StudySummary>, SpoolError> {
    let doing = "listing unacknowledged studies";
    let mut find = connection
        .prepare_cached(select_summary!("WHERE s.open_rank > s.acknowledged_rank ORDER BY s.open_rank DESC, v.number LIMIT ?1"))
        .map_err(sql(doing))?;
    let limit = to_column(u64::try_from(STUDIES_LISTED_MAX).unwrap_or(0));
    let rows = find.query_map([limit], |row| summary_at(row).map(|(summary, _)| summary)).map_err(sql(doing))?;
    rows.collect::<Result<_, _>>().map_err(sql(doing))
}

/// See [`super::Store::study`].
pub(super) fn study(connection: &Connection, uid: &Uid, now: WallTime) -> Result<Option<StudyDetail>, SpoolError> {
    let doing = "reading a study";
    // One transaction: the summary and its lists are of the same moment.
    let transaction = connection.unchecked_transaction().map_err(sql(doing))?;
    let found = transaction
        .prepare_cached(select_summary!("WHERE s.study_instance_uid = ?1"))
        .and_then(|mut find| find.query_row([uid.as_str()], summary_at).optional())
        .map_err(sql(doing))?;
    let Some((summary, study_id)) = found else { return Ok(None) };
    let detail = StudyDetail {
        summary,
        verdicts: verdicts(&transaction, study_id).map_err(sql(doing))?,
        deliveries: deliveries(&transaction, study_id, now).map_err(sql(doing))?,
        acknowledgements: acknowledgements(&transaction, study_id).map_err(sql(doing))?,
    };
    Ok(Some(detail))
}

fn rows_max() -> i64 {
    i64::try_from(DETAIL_ROWS_MAX).unwrap_or(i64::MAX)
}

fn verdicts(connection: &Connection, study_id: i64) -> rusqlite::Result<Vec<StoredVerdict>> {
    let mut find = connection.prepare_cached(concat!(
        "SELECT number, supersedes, kind, urgency, score, n_instances, decided_at, json, ",
        is_provisional!("json"),
        " FROM verdicts WHERE study_id = ?1 ORDER BY number DESC LIMIT ?2",
    ))?;
    let rows = find.query_map((study_id, rows_max()), |row| {
        let unknown = || rusqlite::Error::InvalidColumnType(2, "kind".to_owned(), rusqlite::types::Type::Text);
        Ok(StoredVerdict {
            number: count_at(row, 0)?,
            supersedes: row.get::<_, Option<i64>>(1)?.map(from_column),
            kind: kind_at(row, 2)?.ok_or_else(unknown)?,
            urgency: urgency_at(row, 3)?,
            score: row.get(4)?,
            n_instances: count_at(row, 5)?,
            decided_at: WallTime(row.get(6)?),
            json: row.get(7)?,
            provisional: row.get(8)?,
        })
    })?;
    rows.collect()
}

fn deliveries(connection: &Connection, study_id: i64, now: WallTime) -> rusqlite::Result<Vec<Delivery>> {
    let mut find = connection.prepare_cached(
        "SELECT verdict_number, channel, attempts, created_at, delivered_at, last_error FROM outbox \
         WHERE study_id = ?1 ORDER BY id DESC LIMIT ?2",
    )?;
    let rows = find.query_map((study_id, rows_max()), |row| {
        let (created_at, delivered_at) = (WallTime(row.get(3)?), time_at(row, 4)?);
        Ok(Delivery {
            verdict_number: count_at(row, 0)?,
            channel: row.get(1)?,
            attempts: row.get(2)?,
            created_at,
            delivered_at,
            last_error: row.get(5)?,
            stale: delivered_at.is_none() && now.0.saturating_sub(created_at.0) > NOTICE_STALE_MS,
        })
    })?;
    rows.collect()
}

fn acknowledgements(connection: &Connection, study_id: i64) -> rusqlite::Result<Vec<Acknowledgement>> {
    let mut find = connection.prepare_cached(
        "SELECT acknowledged_by, acknowledged_at, verdict_number FROM acknowledgements WHERE study_id = ?1 ORDER BY id DESC LIMIT ?2",
    )?;
    let rows = find.query_map((study_id, rows_max()), |row| {
        Ok(Acknowledgement { by: row.get(0)?, at: WallTime(row.get(1)?), verdict_number: count_at(row, 2)? })
    })?;
    rows.collect()
}

/// See [`super::Store::instances_of`].
pub(super) fn instances_of(
    connection: &Connection,
    layout: &Layout,
    study: &Uid,
    limit: usize,
) -> Result<Vec<StoredInstanceRecord>, SpoolError> {
    let doing = "listing the instances of a study";
    let limit = to_column(u64::try_from(limit).unwrap_or(u64::MAX));
    let mut find = connection
        .prepare_cached(
            "SELECT i.number, i.sop_instance_uid, s.study_instance_uid, i.n_bytes, i.sha256, i.received_at \
             FROM studies s JOIN instances i ON i.study_id = s.id WHERE s.study_instance_uid = ?1 ORDER BY i.number LIMIT ?2",
        )
        .map_err(sql(doing))?;
    let rows = find.query_map((study.as_str(), limit), |row| record_at(row, layout)).map_err(sql(doing))?;
    rows.collect::<Result<_, _>>().map_err(sql(doing))
}

/// Instances in the store and studies known.
pub(super) fn counts(connection: &Connection) -> Result<(u64, u64), SpoolError> {
    connection
        .prepare_cached("SELECT coalesce(sum(n_instances), 0), count(*) FROM studies")
        .and_then(|mut find| find.query_row([], |row| Ok((count_at(row, 0)?, count_at(row, 1)?))))
        .map_err(sql("counting what is stored"))
}
