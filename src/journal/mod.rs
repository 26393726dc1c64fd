//! Journal: what happened, in one place. Events in -> counts, a bounded ring for the page, and lines in the log.
//!
//! Each room has one event enum that implements [`Event`]. Nothing here ever holds patient data (DESIGN.md rule 6):
//! an event's text may name addresses, AE titles, sizes, reasons and our own study numbers, no names and no UIDs of patients' objects beyond the study's.

pub mod log;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::domain::WallTime;

/// How much an event matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For developers.
    Debug,
    /// Ordinary work.
    Info,
    /// Something was refused or will be tried again.
    Warn,
    /// Something failed.
    Error,
}

impl Level {
    /// Stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// What a room reports: a `NounVerbed` name, a level, and a sentence.
pub trait Event {
    /// The room: `receive`, `spool` ...
    fn room(&self) -> &'static str;
    /// Stable name of the variant, such as `AssociationRejected`.
    fn name(&self) -> &'static str;
    /// How much it matters.
    fn level(&self) -> Level;
    /// One sentence without patient data.
    fn text(&self) -> String;
}

/// One line of the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Running number, from 1; a gap means that the ring overwrote lines before they were read.
    pub number: u64,
    /// When.
    pub at: WallTime,
    /// Room.
    pub room: &'static str,
    /// Event name.
    pub name: &'static str,
    /// Level.
    pub level: Level,
    /// Sentence, at most [`TEXT_MAX`] bytes.
    pub text: String,
}

/// Lines that the ring holds; the oldest is overwritten and counted as lost for readers that had not seen it.
pub const RING_MAX: usize = 256;
/// Longest sentence in the ring, bytes; the rest is cut.
pub const TEXT_MAX: usize = 512;

struct Inner {
    ring: heapless::HistoryBuf<Entry, RING_MAX>,
    counts: BTreeMap<(&'static str, &'static str), u64>,
    recorded: u64,
    clock: fn() -> WallTime,
}

/// A handle to the journal; clones share it.
#[derive(Clone)]
pub struct Journal(Arc<Mutex<Inner>>);

impl Journal {
    /// An empty journal that stamps lines by `clock`.
    #[must_use]
    pub fn new(clock: fn() -> WallTime) -> Self {
        Self(Arc::new(Mutex::new(Inner { ring: heapless::HistoryBuf::new(), counts: BTreeMap::new(), recorded: 0, clock })))
    }

    /// Counts the event, keeps it in the ring and writes it to the log.
    pub fn record(&self, event: &impl Event) {
        let mut text = event.text();
        if text.len() > TEXT_MAX {
            let end = (0..=TEXT_MAX).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
            text.truncate(end);
        }
        let (room, name) = (event.room(), event.name());
        match event.level() {
            Level::Debug => tracing::debug!(room, event = name, "{text}"),
            Level::Info => tracing::info!(room, event = name, "{text}"),
            Level::Warn => tracing::warn!(room, event = name, "{text}"),
            Level::Error => tracing::error!(room, event = name, "{text}"),
        }
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.recorded += 1;
        *inner.counts.entry((room, name)).or_default() += 1;
        let entry = Entry { number: inner.recorded, at: (inner.clock)(), room, name, level: event.level(), text };
        inner.ring.write(entry);
    }

    /// The ring, oldest first.
    #[must_use]
    pub fn recent(&self) -> Vec<Entry> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.ring.oldest_ordered().cloned().collect()
    }

    /// How often each event happened since the start: (room, name, count).
    #[must_use]
    pub fn counts(&self) -> Vec<(&'static str, &'static str, u64)> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.counts.iter().map(|(&(room, name), &count)| (room, name, count)).collect()
    }

    /// Lines that the ring has overwritten.
    #[must_use]
    pub fn lost(&self) -> u64 {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.recorded.saturating_sub(u64::try_from(inner.ring.len()).unwrap_or(u64::MAX))
    }
}
