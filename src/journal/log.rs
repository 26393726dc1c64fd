//! Where log lines go: a level in -> journald when systemd started this process, else lines on stderr.
//!
//! Under systemd every line is one record of the journal with
//!
//! | Field | Holds |
//! | --- | --- |
//! | `SYSLOG_IDENTIFIER` | `scanside`: `journalctl -t scanside` |
//! | `MESSAGE` | the event's sentence |
//! | `SCANSIDE_ROOM`, `SCANSIDE_EVENT` | room and event name: `journalctl SCANSIDE_EVENT=AssociationRejected` |
//! | `PRIORITY` | error 3, warn 4, info 6, debug and trace 7 (tracing-journald's own table would make info a notice) |
//!
//! Log lines never go to stdout: that belongs to `--json` (DESIGN.md section 4). No patient data is in them because no event holds any.

use std::os::unix::fs::MetadataExt as _;

use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// The journal's identifier.
pub const IDENTIFIER: &str = "scanside";
/// Prefix of our own fields in the journal; an underscore follows.
pub const FIELD_PREFIX: &str = "SCANSIDE";
/// Level without a wish: our own information, the libraries' warnings.
pub const DEFAULT_LEVEL: &str = "warn,scanside=info";

/// Where the lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// The system's journal.
    Journald,
    /// Lines on stderr.
    Stderr,
    /// Lines on stderr, although systemd started this process: the journal could not be reached.
    StderrInstead {
        /// Why.
        cause: String,
    },
}

/// Why logging could not be set up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// the level is not one
    #[error(
        "the log level {level:?} is not valid ({cause}): use error, warn, info, debug or trace, or a list such as \"warn,scanside=debug\""
    )]
    BadLevel {
        /// What was asked for.
        level: String,
        /// Why.
        cause: String,
    },
    /// logging was set up before
    #[error("logging is already set up in this process")]
    AlreadySet,
}

/// Sets logging up for this process. `RUST_LOG` wins over `level` (the configuration's), which wins over [`DEFAULT_LEVEL`].
///
/// # Errors
/// [`LogError`] names the level, or says that this was called twice.
pub fn init(level: Option<&str>) -> Result<LogTarget, LogError> {
    let wish = std::env::var("RUST_LOG").ok().filter(|text| !text.trim().is_empty());
    let filter = parse_level(wish.as_deref().or(level).unwrap_or(DEFAULT_LEVEL))?;
    let registry = tracing_subscriber::registry().with(filter);
    let (layer, cause) = match under_systemd().then(journald).transpose() {
        Ok(layer) => (layer, None),
        Err(error) => (None, Some(error.to_string())),
    };
    if let Some(layer) = layer {
        registry.with(layer).try_init().map_err(|_| LogError::AlreadySet)?;
        return Ok(LogTarget::Journald);
    }
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colour).with_target(false);
    registry.with(lines).try_init().map_err(|_| LogError::AlreadySet)?;
    Ok(cause.map_or(LogTarget::Stderr, |cause| LogTarget::StderrInstead { cause }))
}

/// A level or a list of levels by target, as tracing-subscriber's filter reads it. `off` is refused: a failure must be visible.
fn parse_level(level: &str) -> Result<EnvFilter, LogError> {
    let bad = |cause: String| LogError::BadLevel { level: level.chars().take(200).collect(), cause };
    if level.len() > 1000 {
        return Err(bad("it is longer than 1000 characters".to_owned()));
    }
    // The filter's own parser takes any word for the name of a target; a bare word must be a level.
    for part in level.split(',').map(str::trim) {
        let word = part.rsplit_once('=').map_or(part, |(_, word)| word);
        if !["error", "warn", "info", "debug", "trace"].contains(&word.to_ascii_lowercase().as_str()) {
            return Err(bad(format!("{word:?} is no level")));
        }
    }
    EnvFilter::builder().parse(level).map_err(|error| bad(error.to_string()))
}

fn journald() -> std::io::Result<tracing_journald::Layer> {
    let priorities = PriorityMappings {
        info: Priority::Informational,
        debug: Priority::Debug,
        trace: Priority::Debug,
        ..PriorityMappings::new()
    };
    Ok(tracing_journald::layer()?
        .with_field_prefix(Some(FIELD_PREFIX.to_owned()))
        .with_syslog_identifier(IDENTIFIER.to_owned())
        .with_priority_mappings(priorities))
}

/// systemd.exec(5): `JOURNAL_STREAM` holds device and inode of the journal's stream; a process whose stderr is another file (a shell
/// that a service started) inherits the variable but must not use it.
fn under_systemd() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    std::fs::metadata("/proc/self/fd/2").is_ok_and(|stderr| is_stream(&stream, stderr.dev(), stderr.ino()))
}

fn is_stream(journal_stream: &str, device: u64, inode: u64) -> bool {
    journal_stream.split_once(':').is_some_and(|(d, i)| d.parse() == Ok(device) && i.parse() == Ok(inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_stderr_that_is_the_journals_stream_counts_as_systemd() {
        assert!(is_stream("8:1234", 8, 1234));
        assert!(!is_stream("8:1234", 8, 1235));
        for junk in ["", "8", "8:", "a:b", "8:1234:5"] {
            assert!(!is_stream(junk, 8, 1234), "{junk:?}");
        }
    }

    #[test]
    fn a_wrong_level_is_refused_with_the_valid_ones() {
        for good in [DEFAULT_LEVEL, "debug", "warn,scanside=trace,scanside::receive=debug", "INFO"] {
            assert!(parse_level(good).is_ok(), "{good:?}");
        }
        for bad in ["", "loud", "scanside=loud", "off", "warn,,info"] {
            let error = parse_level(bad).expect_err(bad).to_string();
            assert!(error.contains("error, warn, info, debug or trace"), "{error}");
        }
    }

    #[test]
    fn logging_is_set_up_once_and_a_second_time_is_an_error_not_a_panic() {
        // Other tests of this process do not set logging up, so the first call wins.
        assert!(init(Some("warn")).is_ok());
        assert_eq!(init(None), Err(LogError::AlreadySet));
    }
}
