//! Looks after what waits: the outbox and the channels in -> how deliveries stand, for the lamp and the page, every two seconds.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::age::WaitingAge;
use super::events::DeliverEvent;
use super::outbox::{BACKOFF_MS_MAX, Channel, asked_to_stop, blocking};
use crate::domain::WallTime;
use crate::journal::Journal;
use crate::spool::Store;

/// The outbox's age is looked at this often.
const HEALTH_POLL: Duration = Duration::from_secs(2);
/// Orphans that one look takes up.
const FETCH_MAX: usize = 16;

/// How the outbox stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeliveryHealth {
    /// Whether a notice has waited longer than the limit, a channel cannot be used for longer than that, or the outbox cannot be read: the
    /// condition `AlertsUndelivered`.
    pub undelivered: bool,
    /// Notices that wait.
    pub n_waiting: u64,
    /// Age of the oldest, seconds.
    pub oldest_s: Option<u64>,
    /// A sentence about what is wrong.
    pub detail: Option<String>,
    /// Deliveries since the start: changes when a page should be drawn anew.
    pub n_delivered: u64,
}

/// Looks after the age of what waits, the channels, and notices for channels that nobody serves.
pub(super) struct Watcher {
    pub(super) store: Arc<dyn Store>,
    pub(super) channels: Vec<Arc<dyn Channel>>,
    pub(super) journal: Journal,
    pub(super) clock: fn() -> WallTime,
    pub(super) undelivered_s_max: u64,
    pub(super) health: Arc<watch::Sender<DeliveryHealth>>,
}

impl Watcher {
    pub(super) async fn run(self, mut shutdown: watch::Receiver<bool>) {
        let (mut was_bad, mut waiting) = (false, WaitingAge::default());
        let mut orphans: Vec<String> = Vec::new();
        loop {
            let mut bad = false;
            match self.look(&mut waiting).await {
                Ok(health) => {
                    bad = health.undelivered;
                    if bad && !was_bad {
                        let detail = health.detail.clone().unwrap_or_default();
                        self.journal.record(&DeliverEvent::AlertsUndelivered { detail });
                    } else if was_bad && !bad {
                        self.journal.record(&DeliverEvent::AlertsRecovered);
                    }
                    self.publish(health);
                    self.look_for_orphans(&mut orphans).await;
                }
                Err(error) => {
                    self.journal.record(&DeliverEvent::OutboxFailing { error: error.clone() });
                    self.publish(DeliveryHealth { undelivered: true, detail: Some(error), ..DeliveryHealth::default() });
                }
            }
            was_bad = bad;
            tokio::select! {
                () = asked_to_stop(&mut shutdown) => return,
                () = tokio::time::sleep(HEALTH_POLL) => {}
            }
        }
    }

    fn publish(&self, health: DeliveryHealth) {
        self.health.send_if_modified(|old| {
            let new = DeliveryHealth { n_delivered: old.n_delivered, ..health };
            let changed = *old != new;
            *old = new;
            changed
        });
    }

    async fn look(&self, waiting: &mut WaitingAge) -> Result<DeliveryHealth, String> {
        let stats = blocking(&self.store, |store| store.outbox_stats()).await?;
        let oldest_s = waiting.seconds(stats.oldest_waiting_at, (self.clock)(), tokio::time::Instant::now());
        let mut sentences = Vec::new();
        if let Some(age_s) = oldest_s.filter(|age_s| *age_s > self.undelivered_s_max) {
            let cause = stats.last_error.as_deref().map(|error| format!(" Last error: {error}.")).unwrap_or_default();
            sentences.push(format!("{} alert(s) wait, the oldest for {age_s} s.{cause}", stats.n_waiting));
        }
        // Nothing need wait yet: the next alert would.
        for channel in &self.channels {
            if let Some(trouble) = channel.trouble().filter(|trouble| trouble.for_s > self.undelivered_s_max) {
                // In whole minutes, so that the sentence does not change at each look.
                let since = match trouble.for_s / 60 {
                    0 => "less than a minute".to_owned(),
                    minutes => format!("{minutes} min"),
                };
                sentences.push(format!("{} has had no connection for {since}: {}.", channel.name(), trouble.reason));
            }
        }
        let (undelivered, detail) = (!sentences.is_empty(), (!sentences.is_empty()).then(|| sentences.join(" ")));
        Ok(DeliveryHealth { undelivered, n_waiting: stats.n_waiting, oldest_s, detail, n_delivered: 0 })
    }

    /// A notice whose channel left the configuration is not dropped: it waits, ages, and is named once per start.
    async fn look_for_orphans(&self, known: &mut Vec<String>) {
        let now = (self.clock)();
        let Ok(due) = blocking(&self.store, move |store| store.outbox_due(now, FETCH_MAX)).await else { return };
        for entry in due.into_iter().filter(|entry| !self.channels.iter().any(|channel| channel.name() == entry.channel)) {
            if !known.contains(&entry.channel) {
                known.push(entry.channel.clone());
                self.journal.record(&DeliverEvent::NoticeOrphaned { channel: entry.channel.clone() });
            }
            let retry_at = WallTime(now.0.saturating_add(i64::try_from(BACKOFF_MS_MAX).unwrap_or(i64::MAX)));
            let text = format!("{} is not in the configuration", entry.channel);
            // Not recorded now, it is met again at the next look.
            let _ = blocking(&self.store, move |store| store.outbox_failed(entry.id, &text, retry_at)).await;
        }
    }
}
