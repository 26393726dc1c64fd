//! Storage commitments in the index: a request with its answer in -> a durable row that waits for its requester, and studies held back.
//!
//! ```text
//! waiting --delivered--> done (the list is dropped, the row kept as a record)
//!    |  ^ \--given up--> done
//!    +--+ failed: attempts + 1, next attempt later
//! ```

use std::fmt::Write as _;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::RETRY_AHEAD_MS_MAX;
use super::error::SpoolError;
use super::index::{count_at, from_column, to_column, uid_at};
use super::schema::sql;
use super::services::{
    COMMITMENTS_BYTES_MAX, COMMITMENTS_DONE_MAX, COMMITMENTS_PER_REQUESTER_MAX, COMMITMENTS_WAITING_MAX, CommitmentStats,
    WaitingCommitment,
};
use crate::domain::{AeTitle, Commitment, CommitmentFailure, CommitmentItem, SopReference, Uid, WallTime};

/// Characters of an error that are kept.
const ERROR_CHARS_MAX: usize = 512;

/// One line per instance: UIDs hold digits and dots alone.
fn to_text(items: &[CommitmentItem]) -> String {
    let mut text = String::with_capacity(items.len() * 100);
    for CommitmentItem { reference, failure } in items {
        let code = failure.map_or(0, CommitmentFailure::code);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} {} {code}", reference.sop_class_uid, reference.sop_instance_uid);
    }
    text
}

/// A line that cannot be read is a failure of the instance that it names, or nothing.
fn from_text(text: &str) -> Vec<CommitmentItem> {
    let item = |line: &str| {
        let mut parts = line.split(' ');
        let sop_class_uid = Uid::try_new(parts.next()?).ok()?;
        let sop_instance_uid = Uid::try_new(parts.next()?).ok()?;
        let failure = match parts.next().and_then(|code| code.parse().ok()) {
            Some(0) => None,
            Some(code) => Some(CommitmentFailure::by_code(code).unwrap_or(CommitmentFailure::Processing)),
            None => Some(CommitmentFailure::Processing),
        };
        Some(CommitmentItem { reference: SopReference { sop_class_uid, sop_instance_uid }, failure })
    };
    text.lines().filter_map(item).collect()
}

/// See [`super::ServiceStore::keep_commitment`].
pub(super) fn keep(
    writer: &mut Connection,
    commitment: &mut Commitment,
    now: WallTime,
    due_at: WallTime,
) -> Result<Option<u64>, SpoolError> {
    let doing = "keeping a storage commitment";
    let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql(doing))?;
    let requester = commitment.requester.as_str().to_owned();
    let (n_waiting, n_bytes, n_own) = transaction
        .prepare_cached(
            "SELECT count(*), coalesce(sum(octet_length(items)), 0), coalesce(sum(requester = ?1), 0) FROM commitments \
             WHERE delivered_at IS NULL AND given_up_at IS NULL AND NOT (requester = ?1 AND transaction_uid = ?2)",
        )
        .and_then(|mut count| {
            count.query_row((&requester, commitment.transaction_uid.as_str()), |row| {
                Ok((count_at(row, 0)?, count_at(row, 1)?, count_at(row, 2)?))
            })
        })
        .map_err(sql(doing))?;
    {
        // Under the writer's lock nothing can be evicted: what is here now is held from here on.
        let mut find =
            transaction.prepare_cached("SELECT study_id FROM instances WHERE sop_instance_uid = ?1").map_err(sql(doing))?;
        let mut hold = transaction
            .prepare_cached(
                "INSERT INTO commitment_holds (study_id, committed_at) VALUES (?1, ?2) \
                 ON CONFLICT (study_id) DO UPDATE SET committed_at = max(committed_at, ?2)",
            )
            .map_err(sql(doing))?;
        let mut held = std::collections::BTreeSet::new();
        for item in commitment.items.iter_mut().filter(|item| item.failure.is_none()) {
            let uid = item.reference.sop_instance_uid.as_str();
            match find.query_row([uid], |row| row.get::<_, i64>(0)).optional().map_err(sql(doing))? {
                Some(study_id) if held.insert(study_id) => {
                    hold.execute((study_id, now.0)).map_err(sql(doing))?;
                }
                Some(_) => {}
                None => item.failure = Some(CommitmentFailure::NoSuchInstance),
            }
        }
    }
    let items = to_text(&commitment.items);
    let n_items_bytes = u64::try_from(items.len()).unwrap_or(u64::MAX);
    let too_many = n_waiting >= COMMITMENTS_WAITING_MAX || n_own >= COMMITMENTS_PER_REQUESTER_MAX;
    if too_many || n_bytes.saturating_add(n_items_bytes) > COMMITMENTS_BYTES_MAX {
        return Ok(None); // rolled back, the holds included
    }
    let count = |n: usize| to_column(u64::try_from(n).unwrap_or(u64::MAX));
    let id: i64 = transaction
        .prepare_cached(
            "INSERT INTO commitments (transaction_uid, requester, items, n_instances, n_failed, attempts, requested_at, \
             next_attempt_at) VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6, ?7) ON CONFLICT (requester, transaction_uid) DO UPDATE SET \
             items = ?3, n_instances = ?4, n_failed = ?5, attempts = 0, requested_at = ?6, next_attempt_at = ?7, last_error = NULL, \
             delivered_at = NULL, given_up_at = NULL RETURNING id",
        )
        .and_then(|mut insert| {
            let (n_instances, n_failed) = (count(commitment.items.len()), count(commitment.n_failed()));
            let transaction_uid = commitment.transaction_uid.as_str();
            insert.query_row((transaction_uid, &requester, &items, n_instances, n_failed, now.0, due_at.0), |row| row.get(0))
        })
        .map_err(sql(doing))?;
    transaction.commit().map_err(sql(doing))?;
    Ok(Some(from_column(id)))
}

/// See [`super::ServiceStore::commitments_due`].
pub(super) fn due(connection: &Connection, now: WallTime, limit: usize) -> Result<Vec<WaitingCommitment>, SpoolError> {
    let doing = "reading storage commitments";
    let mut find = connection
        .prepare_cached(
            "SELECT id, transaction_uid, requester, items, attempts, requested_at FROM commitments \
             WHERE delivered_at IS NULL AND given_up_at IS NULL AND (next_attempt_at <= ?1 OR next_attempt_at > ?2) \
             ORDER BY next_attempt_at, id LIMIT ?3",
        )
        .map_err(sql(doing))?;
    let limit = to_column(u64::try_from(limit).unwrap_or(u64::MAX));
    // A time that lies further ahead than any retry means that the box's clock has been set back.
    let rows = find
        .query_map((now.0, now.0.saturating_add(RETRY_AHEAD_MS_MAX), limit), |row| {
            let requester: String = row.get(2)?;
            let requester = AeTitle::try_new(&requester)
                .map_err(|error| rusqlite::Error::FromSqlConversionFailure(2, rusqlite::types::Type::Text, Box::new(error)))?;
            let items = from_text(&row.get::<_, Option<String>>(3)?.unwrap_or_default());
            Ok(WaitingCommitment {
                id: count_at(row, 0)?,
                commitment: Commitment { transaction_uid: uid_at(row, 1)?, requester, items },
                attempts: row.get(4)?,
                requested_at: WallTime(row.get(5)?),
            })
        })
        .map_err(sql(doing))?;
    rows.collect::<Result<_, _>>().map_err(sql(doing))
}

/// See [`super::ServiceStore::commitment_failed`]; `now` bounds how far ahead the next attempt may lie.
pub(super) fn failed(
    connection: &Connection,
    id: u64,
    error: &str,
    next_attempt_at: WallTime,
    now: WallTime,
) -> Result<(), SpoolError> {
    let next = next_attempt_at.0.min(now.0.saturating_add(RETRY_AHEAD_MS_MAX));
    let error: String = error.chars().take(ERROR_CHARS_MAX).collect();
    connection
        .prepare_cached(
            "UPDATE commitments SET attempts = min(attempts + 1, 1000000000), last_error = ?2, next_attempt_at = ?3 \
             WHERE id = ?1 AND delivered_at IS NULL AND given_up_at IS NULL",
        )
        .and_then(|mut update| update.execute((to_column(id), error, next)))
        .map_err(sql("keeping a failed commitment report"))?;
    Ok(())
}

/// How a commitment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finish {
    /// The requester has taken it.
    Delivered,
    /// It is not tried any more.
    GivenUp,
}

/// Ends a commitment and drops the oldest records beyond their bound.
pub(super) fn finish(writer: &mut Connection, id: u64, how: Finish, at: WallTime) -> Result<(), SpoolError> {
    let doing = "finishing a storage commitment";
    let statement = match how {
        Finish::Delivered => {
            "UPDATE commitments SET delivered_at = ?2, items = NULL \
             WHERE id = ?1 AND delivered_at IS NULL AND given_up_at IS NULL"
        }
        Finish::GivenUp => {
            "UPDATE commitments SET given_up_at = ?2, items = NULL \
             WHERE id = ?1 AND delivered_at IS NULL AND given_up_at IS NULL"
        }
    };
    let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql(doing))?;
    transaction.prepare_cached(statement).and_then(|mut run| run.execute((to_column(id), at.0))).map_err(sql(doing))?;
    transaction
        .prepare_cached(
            "DELETE FROM commitments WHERE id IN (SELECT id FROM commitments \
             WHERE delivered_at IS NOT NULL OR given_up_at IS NOT NULL ORDER BY id DESC LIMIT -1 OFFSET ?1)",
        )
        .and_then(|mut run| run.execute([to_column(COMMITMENTS_DONE_MAX)]))
        .map_err(sql(doing))?;
    transaction.commit().map_err(sql(doing))
}

/// See [`super::ServiceStore::commitment_stats`].
pub(super) fn stats(connection: &Connection, since: WallTime) -> Result<CommitmentStats, SpoolError> {
    let doing = "counting storage commitments";
    connection
        .prepare_cached(
            "SELECT count(*), min(requested_at), (SELECT count(*) FROM commitments WHERE given_up_at >= ?1), \
             (SELECT last_error FROM commitments WHERE delivered_at IS NULL AND given_up_at IS NULL AND last_error IS NOT NULL \
             ORDER BY next_attempt_at DESC LIMIT 1) FROM commitments WHERE delivered_at IS NULL AND given_up_at IS NULL",
        )
        .and_then(|mut find| {
            find.query_row([since.0], |row| {
                Ok(CommitmentStats {
                    n_waiting: count_at(row, 0)?,
                    oldest_waiting_at: row.get::<_, Option<i64>>(1)?.map(WallTime),
                    n_given_up: count_at(row, 2)?,
                    last_error: row.get(3)?,
                })
            })
        })
        .map_err(sql(doing))
}
