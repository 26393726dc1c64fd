//! Whether a peer is fast enough, as a pure state: bytes and pauses in -> how long we may wait, or that it was too slow, out.
//!
//! Time-outs for single reads do not stop a peer that sends one byte a second. So the request has an absolute deadline, a pause between
//! messages has one, and inside a message every window of [`WINDOW_MS`] must bring [`WINDOW_BYTES_MIN`] or complete the message.

use crate::domain::Monotonic;

use super::options::ReceiveOptions;

/// Window inside a message, ms.
pub(super) const WINDOW_MS: u64 = 30_000;
/// Least bytes in a window: 2 KiB/s, below any link that an image could sensibly be sent over.
pub(super) const WINDOW_BYTES_MIN: u64 = WINDOW_MS / 1000 * 2048;
/// A message that is under way when the association's time is up may go on for so long, ms.
const OVERTIME_MS: u64 = 600_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Request(Monotonic),
    Idle(Monotonic),
    Message { window_since: Monotonic, n_bytes: u64 },
}

/// Which deadline has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Late {
    #[error("no association request came in time")]
    Request,
    #[error("the TLS handshake was not done in time: the peer went silent, or is slower than dicom.request_timeout_s")]
    Handshake,
    #[error("no message came for too long")]
    Idle,
    #[error("a message came too slowly")]
    Message,
    #[error("it had been open for longer than dicom.association_s_max")]
    Association,
}

/// The state of one connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    phase: Phase,
    opened_at: Monotonic,
}

impl Progress {
    /// A fresh connection.
    pub(super) fn new(now: Monotonic) -> Self {
        Self { phase: Phase::Request(now), opened_at: now }
    }

    /// The association is open.
    pub(super) fn on_open(&mut self, now: Monotonic) {
        *self = Self { phase: Phase::Idle(now), opened_at: now };
    }

    /// Bytes came. `true` when they begin a message.
    pub(super) fn on_bytes(&mut self, n: usize, now: Monotonic) -> bool {
        match &mut self.phase {
            Phase::Request(_) => false,
            Phase::Message { n_bytes, .. } => {
                *n_bytes += n as u64;
                false
            }
            Phase::Idle(_) => {
                self.phase = Phase::Message { window_since: now, n_bytes: n as u64 };
                true
            }
        }
    }

    /// No message is under way. `true` when one was.
    pub(super) fn on_message_end(&mut self, now: Monotonic) -> bool {
        let was = matches!(self.phase, Phase::Message { .. });
        if was {
            self.phase = Phase::Idle(now);
        }
        was
    }

    /// A message is complete, but bytes of the next are there already.
    pub(super) fn on_next_message(&mut self, now: Monotonic) {
        self.phase = Phase::Message { window_since: now, n_bytes: 0 };
    }

    /// It was we who kept the peer waiting, for `ms`.
    pub(super) fn on_our_delay(&mut self, ms: u64) {
        if let Phase::Message { window_since, .. } = &mut self.phase {
            *window_since = window_since.plus_ms(ms);
        }
    }

    /// Whether no message is under way.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle(_))
    }

    /// How long the next read may take, ms, above zero.
    pub(super) fn wait_ms(&mut self, now: Monotonic, options: &ReceiveOptions) -> Result<u64, Late> {
        let life = self.opened_at.plus_ms(u64::from(options.association_s_max) * 1000);
        let (deadline, late) = match &mut self.phase {
            Phase::Request(since) => (since.plus_ms(u64::from(options.association_request_timeout_s) * 1000), Late::Request),
            Phase::Idle(_) if now >= life => return Err(Late::Association),
            Phase::Idle(since) => (since.plus_ms(u64::from(options.idle_timeout_s) * 1000).min(life), Late::Idle),
            Phase::Message { .. } if now >= life.plus_ms(OVERTIME_MS) => return Err(Late::Association),
            Phase::Message { window_since, n_bytes } => {
                if now.since_ms(*window_since) >= WINDOW_MS && *n_bytes >= WINDOW_BYTES_MIN {
                    (*window_since, *n_bytes) = (now, 0);
                }
                (window_since.plus_ms(WINDOW_MS), Late::Message)
            }
        };
        match deadline.since_ms(now) {
            0 => Err(late),
            ms => Ok(ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dripper_is_late_after_one_window_whatever_it_sends() {
        let options = ReceiveOptions::default();
        let mut progress = Progress::new(Monotonic(0));
        assert_eq!(progress.wait_ms(Monotonic(29_000), &options), Ok(1000));
        assert_eq!(progress.wait_ms(Monotonic(30_000), &options), Err(Late::Request));
        progress.on_open(Monotonic(1000));
        let mut now = Monotonic(1000);
        let mut waited = 0;
        while progress.wait_ms(now, &options).is_ok() {
            progress.on_bytes(1, now);
            now = now.plus_ms(1000);
            waited += 1;
            assert!(waited < 100, "one byte a second must not hold a slot");
        }
        assert_eq!(progress.wait_ms(now, &options), Err(Late::Message));
    }

    #[test]
    fn fast_burst_earns_no_credit_for_the_next_window() {
        let options = ReceiveOptions::default();
        let mut progress = Progress::new(Monotonic(0));
        progress.on_open(Monotonic(0));
        assert!(progress.on_bytes(100_000_000, Monotonic(0)));
        assert!(progress.wait_ms(Monotonic(30_000), &options).is_ok(), "the first window was filled");
        assert_eq!(progress.wait_ms(Monotonic(60_000), &options), Err(Late::Message), "the second was not");
    }

    #[test]
    fn our_own_delay_is_not_held_against_the_peer() {
        let options = ReceiveOptions::default();
        let mut progress = Progress::new(Monotonic(0));
        progress.on_open(Monotonic(0));
        progress.on_bytes(10, Monotonic(0));
        progress.on_our_delay(40_000);
        assert!(progress.wait_ms(Monotonic(45_000), &options).is_ok());
    }

    #[test]
    fn association_ends_at_a_pause_when_its_time_is_up() {
        let options = ReceiveOptions { association_s_max: 100, ..ReceiveOptions::default() };
        let mut progress = Progress::new(Monotonic(0));
        progress.on_open(Monotonic(0));
        progress.on_bytes(10, Monotonic(90_000));
        assert!(progress.wait_ms(Monotonic(101_000), &options).is_ok(), "a message may end");
        assert!(progress.on_message_end(Monotonic(102_000)));
        assert_eq!(progress.wait_ms(Monotonic(102_000), &options), Err(Late::Association));
    }
}
