//! Verdicts and acknowledgements: records in -> rows, each call one transaction.
//!
//! Urgency as a rank: 3 critical, 2 suspicious, 1 indeterminate, 0 not flagged. A study's open rank is the greater of its most urgent
//! flagged verdict ever (never lowered, DESIGN.md rule 5) and its latest verdict; an indeterminate verdict that a later one resolves
//! does not stay open. A provisional verdict covers no instance, so that the study stays pending until its final one; it raises the ranks when
//! it flags and changes nothing in them otherwise. An acknowledgement remembers the open rank; only a higher one asks again.

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::error::SpoolError;
use super::events::SpoolEvent;
use super::index::{accession_kept, count_at, from_column, to_column};
use super::schema::sql;
use super::types::{Notice, VerdictRecord};
use crate::domain::{Uid, Urgency, VerdictKind, WallTime};

/// Characters of a name that are kept with an acknowledgement.
const BY_CHARS_MAX: usize = 128;

/// The rank of a verdict. Flagged without an urgency counts as suspicious.
pub(super) const fn rank(kind: VerdictKind, urgency: Option<Urgency>) -> i64 {
    match (kind, urgency) {
        (VerdictKind::Flagged, Some(Urgency::Critical)) => 3,
        (VerdictKind::Flagged, Some(Urgency::Suspicious) | None) => 2,
        (VerdictKind::Indeterminate, _) => 1,
        (VerdictKind::NotFlagged, _) => 0,
    }
}

/// The urgency of a rank.
pub(super) const fn urgency_of_rank(rank: i64) -> Option<Urgency> {
    match rank {
        3 => Some(Urgency::Critical),
        2 => Some(Urgency::Suspicious),
        _ => None,
    }
}

/// Keeps the verdict and queues its notices; returns its number and what to report.
pub(super) fn record(
    connection: &mut Connection,
    verdict: &VerdictRecord,
    notices: &[Notice],
    now: WallTime,
) -> Result<(u64, Vec<SpoolEvent>), SpoolError> {
    let doing = "keeping a verdict";
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql(doing))?;
    let (study_id, supersedes) = study_of(&transaction, verdict)?;
    let n_instances = to_column(u64::try_from(verdict.n_instances).unwrap_or(u64::MAX));
    let urgency = verdict.urgency.map(Urgency::as_str);
    let score = verdict.score.filter(|score| score.is_finite());
    transaction
        .prepare_cached(
            "INSERT INTO verdicts (study_id, supersedes, kind, urgency, score, n_instances, decided_at, json) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )
        .and_then(|mut insert| {
            let kind = verdict.kind.as_str();
            insert.execute((study_id, supersedes, kind, urgency, score, n_instances, verdict.decided_at.0, &verdict.json))
        })
        .map_err(sql(doing))?;
    let number = transaction.last_insert_rowid();
    let rank = rank(verdict.kind, verdict.urgency);
    let (n_covered, keeps_open) = if verdict.provisional { (0, 1_i64) } else { (n_instances, 0) };
    let rank = if verdict.provisional && verdict.kind != VerdictKind::Flagged { 0 } else { rank };
    let standing = if verdict.kind == VerdictKind::Flagged { rank } else { 0 };
    transaction
        .prepare_cached(
            "UPDATE studies SET verdict_number = ?2, n_covered = min(?3, n_instances), standing_rank = max(standing_rank, ?4), \
             open_rank = max(standing_rank, ?4, ?5, open_rank * ?7), accession_number = coalesce(accession_number, ?6) WHERE id = ?1",
        )
        .and_then(|mut update| {
            let accession = accession_kept(verdict.accession_number.as_deref());
            update.execute((study_id, number, n_covered, standing, rank, accession, keeps_open))
        })
        .map_err(sql(doing))?;
    let number_out = from_column(number);
    let kind = verdict.kind.as_str();
    let mut events = vec![SpoolEvent::VerdictRecorded { number: number_out, kind, supersedes: supersedes.map(from_column) }];
    for notice in notices {
        let queued = transaction
            .prepare_cached(
                "INSERT INTO outbox (study_id, verdict_number, channel, idempotency_key, body, attempts, created_at, next_attempt_at) \
                 VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6, ?6) ON CONFLICT (idempotency_key) DO NOTHING",
            )
            .and_then(|mut insert| {
                insert.execute((study_id, number, &notice.channel, &notice.idempotency_key, &notice.body, now.0))
            })
            .map_err(sql(doing))?;
        if queued > 0 {
            events.push(SpoolEvent::NoticeQueued { verdict_number: number_out, channel: notice.channel.clone() });
        }
    }
    transaction.commit().map_err(sql(doing))?;
    Ok((number_out, events))
}

/// The study's row, made when it is not there (a verdict on a folder's study), and its latest verdict.
fn study_of(connection: &Connection, verdict: &VerdictRecord) -> Result<(i64, Option<i64>), SpoolError> {
    let doing = "finding the study of a verdict";
    connection
        .prepare_cached(
            "INSERT INTO studies (study_instance_uid, received_at, last_received_at, last_number, n_instances, n_conflicts, n_covered, \
             standing_rank, open_rank, acknowledged_rank) VALUES (?1, ?2, ?2, 0, 0, 0, 0, 0, 0, 0) \
             ON CONFLICT (study_instance_uid) DO NOTHING",
        )
        .and_then(|mut insert| insert.execute((verdict.study_instance_uid.as_str(), verdict.decided_at.0)))
        .map_err(sql(doing))?;
    connection
        .prepare_cached("SELECT id, verdict_number FROM studies WHERE study_instance_uid = ?1")
        .and_then(|mut find| find.query_row([verdict.study_instance_uid.as_str()], |row| Ok((row.get(0)?, row.get(1)?))))
        .map_err(sql(doing))
}

/// Records that `by` has taken note; the number of the latest verdict covered, or `None` when nothing was open.
pub(super) fn acknowledge(connection: &mut Connection, study: &Uid, by: &str, at: WallTime) -> Result<Option<u64>, SpoolError> {
    let doing = "keeping an acknowledgement";
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql(doing))?;
    let open = transaction
        .prepare_cached(
            "SELECT id, verdict_number FROM studies \
             WHERE study_instance_uid = ?1 AND open_rank > acknowledged_rank AND verdict_number IS NOT NULL",
        )
        .and_then(|mut find| find.query_row([study.as_str()], |row| Ok((row.get::<_, i64>(0)?, count_at(row, 1)?))).optional())
        .map_err(sql(doing))?;
    let Some((study_id, verdict_number)) = open else { return Ok(None) };
    let by: String = by.chars().take(BY_CHARS_MAX).collect();
    transaction
        .prepare_cached(
            "INSERT INTO acknowledgements (study_id, verdict_number, acknowledged_by, acknowledged_at) VALUES (?1, ?2, ?3, ?4)",
        )
        .and_then(|mut insert| insert.execute((study_id, to_column(verdict_number), &by, at.0)))
        .map_err(sql(doing))?;
    transaction
        .prepare_cached("UPDATE studies SET acknowledged_rank = open_rank WHERE id = ?1")
        .and_then(|mut update| update.execute([study_id]))
        .map_err(sql(doing))?;
    transaction.commit().map_err(sql(doing))?;
    Ok(Some(verdict_number))
}
