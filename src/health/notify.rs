//! The edge to systemd: ready, status, watchdog. The decision whether to feed is [`feed_due`], which is pure.
//!
//! Outside systemd (no `NOTIFY_SOCKET`) everything here does nothing and succeeds.

use std::io;
use std::time::Duration;

use sd_notify::NotifyState;

use super::progress::{ProgressBoard, Stalled};
use crate::domain::Monotonic;

/// What to do with the watchdog now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Feeding {
    /// Everything moves and it is time: feed it.
    Feed,
    /// Not yet time.
    Wait,
    /// Something stands still: let it starve. systemd will end and restart the service.
    Withhold(Vec<Stalled>),
}

/// Decides at `now`, `last_fed` being the last time; `watchdog_ms` is systemd's limit (`WatchdogSec=`). It is fed four times as
/// often as needed: sd_watchdog_enabled(3) asks for at least twice, and a loaded box may be late.
#[must_use]
pub fn feed_due(board: &ProgressBoard, watchdog_ms: u64, last_fed: Option<Monotonic>, now: Monotonic) -> Feeding {
    let stalled = board.stalled(now);
    if !stalled.is_empty() {
        return Feeding::Withhold(stalled);
    }
    match last_fed {
        Some(last_fed) if now.since_ms(last_fed) < watchdog_ms / 4 => Feeding::Wait,
        Some(_) | None => Feeding::Feed,
    }
}

/// Tells systemd; keeps when the watchdog was fed.
#[derive(Debug, Default)]
pub struct Notifier {
    watchdog_ms: Option<u64>,
    last_fed: Option<Monotonic>,
}

impl Notifier {
    /// Reads from the environment whether systemd watches this process.
    #[must_use]
    pub fn from_env() -> Self {
        let watchdog_ms =
            sd_notify::watchdog_enabled().map(|limit: Duration| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
        Self { watchdog_ms, last_fed: None }
    }

    /// systemd's limit, ms; `None` without a watchdog.
    #[must_use]
    pub const fn watchdog_ms(&self) -> Option<u64> {
        self.watchdog_ms
    }

    /// The listeners are bound and the model is checked.
    ///
    /// # Errors
    /// The socket's error.
    pub fn ready(&self, status: &str) -> io::Result<()> {
        sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(&one_line(status))])
    }

    /// One line for `systemctl status`.
    ///
    /// # Errors
    /// The socket's error.
    pub fn status(&self, status: &str) -> io::Result<()> {
        sd_notify::notify(&[NotifyState::Status(&one_line(status))])
    }

    /// The service is ending on purpose.
    ///
    /// # Errors
    /// The socket's error.
    pub fn stopping(&self) -> io::Result<()> {
        sd_notify::notify(&[NotifyState::Stopping])
    }

    /// Feeds the watchdog if it is time and everything on `board` moves; returns what stands still. To be called about once a second.
    /// The result is the same without systemd, so that the page can tell there too.
    ///
    /// # Errors
    /// The socket's error.
    pub fn watch(&mut self, board: &ProgressBoard, now: Monotonic) -> io::Result<Vec<Stalled>> {
        match feed_due(board, self.watchdog_ms.unwrap_or(u64::MAX), self.last_fed, now) {
            Feeding::Feed => {
                if self.watchdog_ms.is_some() {
                    sd_notify::notify(&[NotifyState::Watchdog])?;
                }
                self.last_fed = Some(now);
                Ok(Vec::new())
            }
            Feeding::Wait => Ok(Vec::new()),
            Feeding::Withhold(stalled) => Ok(stalled),
        }
    }
}

/// A line end would begin a new assignment in systemd's protocol.
fn one_line(status: &str) -> String {
    status.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_fed_in_time_and_only_while_everything_moves() {
        let board = ProgressBoard::default();
        let task = board.add("task", 1000, Monotonic(0)).expect("room");
        assert_eq!(feed_due(&board, 10_000, None, Monotonic(0)), Feeding::Feed);
        assert_eq!(feed_due(&board, 10_000, Some(Monotonic(0)), Monotonic(900)), Feeding::Wait);
        task.beat(Monotonic(2400));
        assert_eq!(feed_due(&board, 10_000, Some(Monotonic(0)), Monotonic(2500)), Feeding::Feed);
        let stalled = Stalled { name: "task", age_ms: 1100, age_ms_max: 1000 };
        assert_eq!(feed_due(&board, 10_000, Some(Monotonic(0)), Monotonic(3500)), Feeding::Withhold(vec![stalled]));
        task.beat(Monotonic(3600));
        assert_eq!(
            feed_due(&board, 10_000, Some(Monotonic(0)), Monotonic(3600)),
            Feeding::Feed,
            "it may recover before systemd acts"
        );
    }

    #[test]
    fn without_systemd_nothing_is_sent_but_stalls_are_still_told() {
        let mut notifier = Notifier::default();
        let board = ProgressBoard::default();
        let _task = board.add("task", 10, Monotonic(0)).expect("room");
        assert_eq!(notifier.watch(&board, Monotonic(5)).expect("nothing to fail"), []);
        assert_eq!(notifier.watch(&board, Monotonic(50)).expect("nothing to fail").len(), 1);
    }

    #[test]
    fn a_status_stays_one_line() {
        assert_eq!(one_line("ready\nWATCHDOG=trigger"), "ready WATCHDOG=trigger");
    }
}
