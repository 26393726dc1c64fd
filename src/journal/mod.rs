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

    /// Counts the event, writes it to the log and, from [`Level::Info`] on, keeps it in the ring.
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
        *inner.counts.entry((room, name)).or_default() += 1;
        // Every image is a debug event: in the ring they would push out what a person looks for.
        if event.level() == Level::Debug {
            return;
        }
        inner.recorded += 1;
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

#[cfg(test)]
mod tests {
    use super::*;

    struct Seen(Level, String);

    impl Event for Seen {
        fn room(&self) -> &'static str {
            "test"
        }
        fn name(&self) -> &'static str {
            "ThingSeen"
        }
        fn level(&self) -> Level {
            self.0
        }
        fn text(&self) -> String {
            self.1.clone()
        }
    }

    #[test]
    fn every_event_is_counted_and_the_ring_keeps_the_last_that_matter() {
        let journal = Journal::new(|| WallTime(7));
        for n in 0..RING_MAX + 10 {
            journal.record(&Seen(Level::Info, format!("event {n}")));
            journal.record(&Seen(Level::Debug, "an image".into()));
        }
        let recent = journal.recent();
        assert_eq!((recent.len(), journal.lost()), (RING_MAX, 10));
        assert_eq!(recent.first().map(|entry| (entry.number, entry.text.as_str())), Some((11, "event 10")));
        assert_eq!(journal.counts(), [("test", "ThingSeen", 2 * (RING_MAX as u64 + 10))]);
    }

    #[test]
    fn a_long_sentence_is_cut_at_a_character() {
        let journal = Journal::new(|| WallTime(0));
        journal.record(&Seen(Level::Warn, "ä".repeat(TEXT_MAX)));
        assert_eq!(journal.recent().first().map(|entry| entry.text.len()), Some(TEXT_MAX));
    }
}
