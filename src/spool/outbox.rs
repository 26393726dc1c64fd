//! The outbox: notices that must reach somebody. Due entries out; "delivered" or "failed, try again then" in.
//!
//! ```text
//! waiting --delivered--> delivered (kept, body dropped)
//!    |  ^
//!    +--+ failed: attempts + 1, next attempt later; for ever, and flagged stale after NOTICE_STALE_MS
//! ```

use rusqlite::Connection;

use super::error::SpoolError;
use super::index::{count_at, to_column, uid_at};
use super::schema::sql;
use super::types::{OutboxEntry, OutboxStats};
use super::{NOTICE_STALE_MS, RETRY_AHEAD_MS_MAX};
use crate::domain::WallTime;

/// Characters of an error that are kept.
const ERROR_CHARS_MAX: usize = 512;

/// See [`super::Store::outbox_due`].
/// `channel`: of that one alone, or of all.
pub(super) fn due(
    connection: &Connection,
    channel: Option<&str>,
    now: WallTime,
    limit: usize,
) -> Result<Vec<OutboxEntry>, SpoolError> {
    let doing = "reading the outbox";
    let mut find = connection
        .prepare_cached(
            "SELECT o.id, s.study_instance_uid, o.verdict_number, o.channel, o.idempotency_key, o.body, o.attempts, o.created_at, \
             o.next_attempt_at, o.last_error FROM outbox o JOIN studies s ON s.id = o.study_id \
             WHERE o.delivered_at IS NULL AND (o.next_attempt_at <= ?1 OR o.next_attempt_at > ?2) \
             AND (?4 IS NULL OR o.channel = ?4) ORDER BY o.next_attempt_at, o.id LIMIT ?3",
        )
        .map_err(sql(doing))?;
    let limit = to_column(u64::try_from(limit).unwrap_or(u64::MAX));
    let rows = find
        .query_map((now.0, now.0.saturating_add(RETRY_AHEAD_MS_MAX), limit, channel), |row| {
            Ok(OutboxEntry {
                id: count_at(row, 0)?,
                study_instance_uid: uid_at(row, 1)?,
                verdict_number: count_at(row, 2)?,
                channel: row.get(3)?,
                idempotency_key: row.get(4)?,
                body: row.get(5)?,
                attempts: row.get(6)?,
                created_at: WallTime(row.get(7)?),
                next_attempt_at: WallTime(row.get(8)?),
                last_error: row.get(9)?,
            })
        })
        .map_err(sql(doing))?;
    rows.collect::<Result<_, _>>().map_err(sql(doing))
}

/// See [`super::Store::outbox_delivered`].
pub(super) fn delivered(connection: &Connection, id: u64, at: WallTime) -> Result<(), SpoolError> {
    connection
        .prepare_cached("UPDATE outbox SET delivered_at = ?2, body = NULL WHERE id = ?1 AND delivered_at IS NULL")
        .and_then(|mut update| update.execute((to_column(id), at.0)))
        .map_err(sql("keeping a delivery"))?;
    Ok(())
}

/// See [`super::Store::outbox_failed`]; `now` bounds how far ahead the next attempt may lie.
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
            "UPDATE outbox SET attempts = min(attempts + 1, 1000000000), last_error = ?2, next_attempt_at = ?3 \
             WHERE id = ?1 AND delivered_at IS NULL",
        )
        .and_then(|mut update| update.execute((to_column(id), error, next)))
        .map_err(sql("keeping a failed delivery"))?;
    Ok(())
}

/// See [`super::Store::outbox_stats`].
pub(super) fn stats(connection: &Connection, now: WallTime) -> Result<OutboxStats, SpoolError> {
    let doing = "counting the outbox";
    let mut stats = connection
        .prepare_cached(
            "SELECT count(*), coalesce(sum(attempts > 0), 0), coalesce(sum(created_at < ?1), 0), min(created_at), \
             (SELECT count(*) FROM outbox) FROM outbox WHERE delivered_at IS NULL",
        )
        .and_then(|mut find| {
            find.query_row([now.0.saturating_sub(NOTICE_STALE_MS)], |row| {
                let n_waiting = count_at(row, 0)?;
                Ok(OutboxStats {
                    n_waiting,
                    n_failing: count_at(row, 1)?,
                    n_stale: count_at(row, 2)?,
                    n_delivered: count_at(row, 4)?.saturating_sub(n_waiting),
                    oldest_waiting_at: row.get::<_, Option<i64>>(3)?.map(WallTime),
                    last_error: None,
                })
            })
        })
        .map_err(sql(doing))?;
    if stats.n_failing > 0 {
        stats.last_error = connection
            .prepare_cached(
                "SELECT last_error FROM outbox WHERE delivered_at IS NULL AND attempts > 0 ORDER BY next_attempt_at DESC, id DESC LIMIT 1",
            )
            .and_then(|mut find| find.query_row([], |row| row.get(0)))
            .map_err(sql(doing))?;
    }
    Ok(stats)
}
