//! The task that empties the durable outbox: due notices in -> deliveries out, each tried until it has arrived.
//!
//! ```text
//!   waiting --due--> tried --2xx--> delivered (recorded; the entry is done)
//!      ^               |
//!      +--- back-off --+  receiver in trouble: the whole channel pauses; message refused: this message alone
//! ```
//!
//! One worker per channel, so that a slow or dead channel never delays another. Within a channel the oldest notice goes first.
//! Back-off doubles from 1 s to 5 min with a spread of a fifth, derived from the notice's number: no two boxes or notices keep step,
//! and the same history gives the same times. A new notice cuts a pause short: it may be urgent, and the receiver may be back. A channel that
//! knows when its receiver is back says so, and what waits is tried at once.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::events::DeliverEvent;
use super::outbox_watch::{DeliveryHealth, Watcher};
use super::webhook::{DeliveryError, Webhook};
use crate::domain::WallTime;
use crate::journal::Journal;
use crate::spool::{OutboxEntry, SpoolError, Store};

/// First back-off, ms.
const BACKOFF_MS_MIN: u64 = 1_000;
/// Longest back-off, ms: five minutes.
pub const BACKOFF_MS_MAX: u64 = 300_000;
/// Notices that a worker fetches at once; each is a few KiB.
const FETCH_MAX: usize = 16;
/// A worker looks at the outbox this often even when nobody wakes it.
const IDLE_POLL: Duration = Duration::from_secs(5);
/// At shutdown a delivery in flight gets this long; the idempotency key makes a repetition harmless.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(3);

/// A delivery in flight.
pub type DeliveryFuture<'a> = Pin<Box<dyn Future<Output = Result<(), DeliveryError>> + Send + 'a>>;

/// What keeps a channel open.
pub type UpkeepFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Why a channel cannot be used now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelTrouble {
    /// For how long, seconds.
    pub for_s: u64,
    /// A sentence.
    pub reason: String,
}

/// A way out of the box. One that connects for each delivery has the first two functions only; one that holds a connection has all.
pub trait Channel: Send + Sync {
    /// Name in the outbox, such as `webhook:0`.
    fn name(&self) -> &str;
    /// Tries once to deliver; must end by itself within a bounded time.
    fn deliver<'a>(&'a self, entry: &'a OutboxEntry, now: WallTime) -> DeliveryFuture<'a>;
    /// What keeps the connection until `shutdown` is true. Asked for once, at the start.
    fn upkeep(&self, _shutdown: watch::Receiver<bool>) -> Option<UpkeepFuture> {
        None
    }
    /// Changes each time the connection is there again: what waits is tried at once then.
    fn reopened(&self) -> Option<watch::Receiver<u64>> {
        None
    }
    /// Why there is no connection, if there is none: the next alert would not arrive.
    fn trouble(&self) -> Option<ChannelTrouble> {
        None
    }
}

impl Channel for Webhook {
    fn name(&self) -> &str {
        Self::name(self)
    }

    fn deliver<'a>(&'a self, entry: &'a OutboxEntry, now: WallTime) -> DeliveryFuture<'a> {
        Box::pin(self.post(&entry.body, &entry.idempotency_key, now))
    }
}

/// Wakes the workers; clones share it.
#[derive(Clone, Debug)]
pub struct DeliverWaker(Arc<watch::Sender<u64>>);

impl DeliverWaker {
    /// Says that a notice was queued.
    pub fn wake(&self) {
        self.0.send_modify(|n| *n = n.wrapping_add(1));
    }
}

/// The task, before it runs.
pub struct Deliverer {
    store: Arc<dyn Store>,
    channels: Vec<Arc<dyn Channel>>,
    journal: Journal,
    clock: fn() -> WallTime,
    undelivered_s_max: u64,
    wake: Arc<watch::Sender<u64>>,
    health: Arc<watch::Sender<DeliveryHealth>>,
}

impl Deliverer {
    /// Delivers from `store` over `channels`. A notice that waits longer than `undelivered_s_max` makes the health bad.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        channels: Vec<Arc<dyn Channel>>,
        journal: Journal,
        clock: fn() -> WallTime,
        undelivered_s_max: u64,
    ) -> Self {
        let wake = Arc::new(watch::Sender::new(0));
        let health = Arc::new(watch::Sender::new(DeliveryHealth::default()));
        Self { store, channels, journal, clock, undelivered_s_max, wake, health }
    }

    /// A handle that wakes the workers.
    #[must_use]
    pub fn waker(&self) -> DeliverWaker {
        DeliverWaker(Arc::clone(&self.wake))
    }

    /// How the outbox stands, every two seconds.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<DeliveryHealth> {
        self.health.subscribe()
    }

    /// Runs until `shutdown` becomes true (or its sender is gone); what is not delivered stays in the outbox.
    pub async fn run(self, shutdown: watch::Receiver<bool>) {
        let mut workers = JoinSet::new();
        for channel in &self.channels {
            if let Some(upkeep) = channel.upkeep(shutdown.clone()) {
                workers.spawn(upkeep);
            }
            let worker = Worker {
                store: Arc::clone(&self.store),
                channel: Arc::clone(channel),
                reopened: channel.reopened(),
                all_are_due: false,
                journal: self.journal.clone(),
                clock: self.clock,
                wake: self.wake.subscribe(),
                health: Arc::clone(&self.health),
                n_failures: 0,
            };
            workers.spawn(worker.run(shutdown.clone()));
        }
        let watcher = Watcher {
            store: self.store,
            channels: self.channels,
            journal: self.journal,
            clock: self.clock,
            undelivered_s_max: self.undelivered_s_max,
            health: self.health,
        };
        workers.spawn(watcher.run(shutdown));
        while workers.join_next().await.is_some() {}
    }
}

/// Ends when `seen` changes; never where there is nothing to see.
async fn changed_or_never(seen: &mut Option<watch::Receiver<u64>>) {
    if let Some(seen) = seen
        && seen.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// Ends when shutdown is asked for.
pub(super) async fn asked_to_stop(shutdown: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, and with it whoever could ask.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

/// Runs a call of the store, which waits for the disk, on a blocking thread.
pub(super) async fn blocking<S: Send + Sync + ?Sized + 'static, T: Send + 'static>(
    store: &Arc<S>,
    call: impl FnOnce(&S) -> Result<T, SpoolError> + Send + 'static,
) -> Result<T, String> {
    let store = Arc::clone(store);
    match tokio::task::spawn_blocking(move || call(store.as_ref())).await {
        Ok(outcome) => outcome.map_err(|error| error.to_string()),
        Err(error) => Err(format!("the store's thread ended: {error}")),
    }
}

/// What one round over the due notices came to.
enum Round {
    /// Nothing is due.
    Idle,
    /// Something was tried; look again at once.
    Again,
    /// The receiver is in trouble: wait this long.
    Pause(u64),
    /// Shutdown.
    Stop,
}

struct Worker {
    store: Arc<dyn Store>,
    channel: Arc<dyn Channel>,
    reopened: Option<watch::Receiver<u64>>,
    /// Whether the next round tries everything that waits, whenever its next attempt would be.
    all_are_due: bool,
    journal: Journal,
    clock: fn() -> WallTime,
    wake: watch::Receiver<u64>,
    health: Arc<watch::Sender<DeliveryHealth>>,
    n_failures: u32,
}

impl Worker {
    async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        loop {
            let pause = match self.round(&mut shutdown).await {
                Round::Stop => return,
                Round::Again => continue,
                Round::Idle => IDLE_POLL,
                Round::Pause(ms) => Duration::from_millis(ms),
            };
            // Even when woken all the time, a receiver in trouble is asked once a second at most.
            let at_least = pause.min(Duration::from_millis(if self.n_failures > 0 { BACKOFF_MS_MIN } else { 0 }));
            tokio::select! {
                () = asked_to_stop(&mut shutdown) => return,
                () = async {
                    tokio::time::sleep(at_least).await;
                    tokio::select! {
                        () = tokio::time::sleep(pause.saturating_sub(at_least)) => {}
                        // The sender lives as long as the deliverer's waker; without one the poll remains.
                        changed = self.wake.changed() => if changed.is_err() { tokio::time::sleep(pause).await },
                        () = changed_or_never(&mut self.reopened) => self.all_are_due = true,
                    }
                } => {}
            }
        }
    }

    async fn round(&mut self, shutdown: &mut watch::Receiver<bool>) -> Round {
        let name = self.channel.name().to_owned();
        let due_by = if std::mem::take(&mut self.all_are_due) { WallTime(i64::MAX) } else { (self.clock)() };
        let mut due = match blocking(&self.store, move |store| store.outbox_due_on(&name, due_by, FETCH_MAX)).await {
            Ok(due) => due,
            Err(error) => return self.store_failing(error),
        };
        due.sort_by_key(|entry| entry.id);
        if due.is_empty() {
            return Round::Idle;
        }
        for entry in due {
            match self.attempt(&entry, shutdown).await {
                Round::Again => {}
                other => return other,
            }
        }
        Round::Again
    }

    async fn attempt(&mut self, entry: &OutboxEntry, shutdown: &mut watch::Receiver<bool>) -> Round {
        let now = (self.clock)();
        let channel = Arc::clone(&self.channel);
        let mut delivery = channel.deliver(entry, now);
        let outcome = tokio::select! {
            outcome = &mut delivery => outcome,
            () = asked_to_stop(shutdown) => match timeout(SHUTDOWN_GRACE, delivery).await {
                Ok(outcome) => outcome,
                Err(_) => return Round::Stop,
            },
        };
        let (id, at) = (entry.id, (self.clock)());
        let error = match outcome {
            Ok(()) => {
                self.n_failures = 0;
                return match blocking(&self.store, move |store| store.outbox_delivered(id, at)).await {
                    Ok(()) => {
                        self.health.send_modify(|health| health.n_delivered += 1);
                        let (channel, attempts) = (entry.channel.clone(), entry.attempts);
                        self.journal.record(&DeliverEvent::NoticeDelivered { channel, id, attempts });
                        Round::Again
                    }
                    // It will be sent once more; the receiver recognises it by its key.
                    Err(error) => self.store_failing(error),
                };
            }
            Err(error) => error,
        };
        let channel_trouble = matches!(error, DeliveryError::Channel(_));
        self.n_failures = if channel_trouble { self.n_failures.saturating_add(1) } else { 0 };
        let wait_ms = backoff_ms(id, if channel_trouble { self.n_failures.max(1) } else { entry.attempts.saturating_add(1) });
        let next_attempt_at = WallTime(at.0.saturating_add(i64::try_from(wait_ms).unwrap_or(i64::MAX)));
        let text = error.to_string();
        self.journal.record(&DeliverEvent::NoticeFailed {
            channel: entry.channel.clone(),
            id,
            error: text.clone(),
            retry_ms: wait_ms,
        });
        if let Err(error) = blocking(&self.store, move |store| store.outbox_failed(id, &text, next_attempt_at)).await {
            return self.store_failing(error);
        }
        if channel_trouble { Round::Pause(wait_ms) } else { Round::Again }
    }

    fn store_failing(&mut self, error: String) -> Round {
        self.journal.record(&DeliverEvent::OutboxFailing { error });
        self.n_failures = self.n_failures.saturating_add(1);
        Round::Pause(backoff_ms(0, self.n_failures))
    }
}

/// Wait before attempt `n_failures + 1`, ms: 1 s doubled each time up to 5 min, less a spread of up to a fifth that depends on `id`.
#[must_use]
pub fn backoff_ms(id: u64, n_failures: u32) -> u64 {
    let exponent = n_failures.saturating_sub(1).min(20);
    let full = (BACKOFF_MS_MIN << exponent).min(BACKOFF_MS_MAX);
    // SplitMix64's finaliser (Steele, Lea, Flood 2014): neighbouring numbers spread evenly.
    let mut hash = id.wrapping_add(u64::from(n_failures)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    hash ^= hash >> 31;
    full - hash % (full / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn back_off_grows_to_five_minutes_and_never_beyond(id: u64, n_failures in 0u32..10_000) {
            let wait = backoff_ms(id, n_failures);
            prop_assert!((BACKOFF_MS_MIN * 4 / 5..=BACKOFF_MS_MAX).contains(&wait));
            prop_assert!(n_failures < 10 || wait >= BACKOFF_MS_MAX * 4 / 5);
            prop_assert_eq!(wait, backoff_ms(id, n_failures));
        }
    }

    #[test]
    fn notices_do_not_keep_step() {
        let waits: std::collections::BTreeSet<u64> = (0..100).map(|id| backoff_ms(id, 8)).collect();
        assert!(waits.len() > 90, "only {} different waits", waits.len());
    }
}
