//! The index: how the database is opened and what its tables hold. A path in -> a writing and a reading connection out.
//!
//! WAL with `synchronous=FULL`: each commit is on disk when it returns. With `NORMAL`, power cuts lost up to 640 committed rows each.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::error::{FullBecause, SpoolError};

/// Step `n` brings schema `n` to `n + 1`; `user_version` holds how many were taken. Steps are only ever appended.
const MIGRATIONS: [&str; 2] = [include_str!("schema_1.sql"), include_str!("schema_2.sql")];

/// A reader may find the database locked for moments (checkpoint, recovery): wait so long.
const BUSY_MS: u64 = 5_000;
/// Prepared statements that each connection keeps.
const STATEMENTS_MAX: usize = 64;

/// Turns a database error into ours; `doing` says what was tried.
pub(super) fn sql(doing: &'static str) -> impl FnOnce(rusqlite::Error) -> SpoolError {
    move |error| match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => SpoolError::Full { because: FullBecause::FreeSpace },
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => SpoolError::Damaged { reason: error.to_string() },
        _ => SpoolError::failing(doing)(error),
    }
}

/// Opens the index at `path`, making or migrating it as needed: (writer, reader).
///
/// # Errors
/// [`SpoolError::SchemaNewer`], [`SpoolError::Damaged`], [`SpoolError::Full`] or [`SpoolError::Failing`].
pub(super) fn open(path: &Path) -> Result<(Connection, Connection), SpoolError> {
    let doing = "opening the index";
    // Made here, because SQLite would make it readable by others; its -wal and -shm files inherit the mode.
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map_err(SpoolError::failing(doing))?;
    let mut writer = connect(path)?;
    let mode: String = writer.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).map_err(sql(doing))?;
    if mode != "wal" {
        return Err(SpoolError::failing(doing)("the file system of the state folder cannot hold a write-ahead log"));
    }
    writer.pragma_update(None, "synchronous", "FULL").map_err(sql(doing))?;
    writer.pragma_update(None, "foreign_keys", true).map_err(sql(doing))?;
    let verdict: String = writer.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(sql(doing))?;
    if verdict != "ok" {
        return Err(SpoolError::Damaged { reason: verdict });
    }
    migrate(&mut writer)?;
    let reader = connect(path)?;
    reader.pragma_update(None, "query_only", true).map_err(sql(doing))?;
    Ok((writer, reader))
}

fn connect(path: &Path) -> Result<Connection, SpoolError> {
    let doing = "opening the index";
    // No URI parsing: the path is a path.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(sql(doing))?;
    connection.busy_timeout(Duration::from_millis(BUSY_MS)).map_err(sql(doing))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    connection.pragma_update(None, "trusted_schema", false).map_err(sql(doing))?;
    Ok(connection)
}

fn migrate(writer: &mut Connection) -> Result<(), SpoolError> {
    let doing = "migrating the index";
    let found: i64 = writer.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(sql(doing))?;
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let taken = match usize::try_from(found) {
        Ok(taken) if found <= known => taken,
        Ok(_) => return Err(SpoolError::SchemaNewer { found, known }),
        Err(_) => return Err(SpoolError::Damaged { reason: format!("schema {found}") }),
    };
    for (step, version) in MIGRATIONS.iter().zip(1_i64..).skip(taken) {
        let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql(doing))?;
        transaction.execute_batch(step).map_err(sql(doing))?;
        transaction.pragma_update(None, "user_version", version).map_err(sql(doing))?;
        transaction.commit().map_err(sql(doing))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_of_a_newer_scanside_is_refused_and_left_as_it_was() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("index.sqlite3");
        drop(open(&path).expect("first"));
        let raw = Connection::open(&path).expect("raw");
        raw.pragma_update(None, "user_version", 99).expect("set");
        drop(raw);
        let before = std::fs::read(&path).expect("read");
        assert_eq!(open(&path).err(), Some(SpoolError::SchemaNewer { found: 99, known: 2 }));
        assert_eq!(std::fs::read(&path).expect("read"), before);
    }

    #[test]
    fn a_file_that_is_no_database_is_named_damaged_with_a_remedy() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("index.sqlite3");
        std::fs::write(&path, "not a database at all, but long enough to have a header ".repeat(40)).expect("write");
        let error = open(&path).expect_err("refused");
        assert!(matches!(error, SpoolError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("move the state folder away"));
    }

    #[test]
    fn commits_are_synced_and_the_reader_cannot_write() {
        let dir = tempfile::tempdir().expect("folder");
        let (writer, reader) = open(&dir.path().join("index.sqlite3")).expect("opens");
        let level: i64 = writer.query_row("PRAGMA synchronous", [], |row| row.get(0)).expect("level");
        assert_eq!(level, 2, "FULL");
        assert!(reader.execute("INSERT INTO meta (key, value) VALUES ('a', 'b')", []).is_err());
    }
}
