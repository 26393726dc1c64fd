//! What all connections share: options, store, channels, the table of places, the rates. Connections in -> places, and lines in the journal, out.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc};

use crate::domain::Monotonic;
use crate::journal::{Event as _, Journal, Level};
use crate::spool::InstanceSink;

use super::events::{Quiet, ReceiveEvent, ReceiveNotice};
use super::options::ReceiveOptions;
use super::rates::{Arrival, Line, PutOff, Rates};
use super::slots::Slots;

/// What all connections share.
pub(super) struct Shared {
    pub(super) options: Arc<ReceiveOptions>,
    pub(super) sink: Arc<dyn InstanceSink>,
    pub(super) events: mpsc::Sender<ReceiveNotice>,
    pub(super) journal: Journal,
    pub(super) clock: fn() -> Monotonic,
    /// Bytes of N data sets in memory, of all associations (`n_services.rs`).
    pub(super) data_set_bytes: Arc<AtomicUsize>,
    slots: Mutex<Slots>,
    rates: Mutex<Rates>,
    evictions: Mutex<BTreeMap<u64, Arc<Notify>>>,
}

impl Shared {
    pub(super) fn new(
        options: Arc<ReceiveOptions>,
        sink: Arc<dyn InstanceSink>,
        events: mpsc::Sender<ReceiveNotice>,
        journal: Journal,
        clock: fn() -> Monotonic,
    ) -> Self {
        let slots = Mutex::new(Slots::new(options.associations_max, options.associations_per_peer_max));
        let rates = Rates::new(options.connections_per_minute_max, options.failures_per_minute_max, options.loopback_rated);
        Self {
            options,
            sink,
            events,
            journal,
            clock,
            data_set_bytes: Arc::default(),
            slots,
            rates: Mutex::new(rates),
            evictions: Mutex::default(),
        }
    }

    /// The table of connections. A panic while it was locked left it whole: each change is one assignment.
    pub(super) fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a new connection is taken; one of an address that is put off is only counted.
    pub(super) fn takes(&self, peer: IpAddr) -> bool {
        match self.rates().on_connection(peer, (self.clock)()) {
            Arrival::Taken => true,
            Arrival::Closed(begun) => {
                self.journal.record(&ReceiveEvent::ConnectionPutOff { peer });
                self.tell_put_off(peer, begun);
                false
            }
        }
    }

    /// Writes a line about an address. Whoever makes many of them is heard for a while, then only counted.
    pub(super) fn note(&self, peer: IpAddr, event: &ReceiveEvent) {
        let line = self.rates().on_line(peer, event.level() >= Level::Warn, (self.clock)());
        match line {
            Line::Written => self.journal.record(event),
            Line::Counted => self.journal.record(&Quiet(event)),
            Line::Last => {
                self.journal.record(event);
                self.journal.record(&ReceiveEvent::PeerHushed { peer, level: event.level() });
            }
        }
    }

    /// Writes a line about a connection that was rejected or never became an association, and counts it against the peer.
    pub(super) fn note_failure(&self, peer: IpAddr, event: &ReceiveEvent) {
        self.note(peer, event);
        let begun = self.rates().on_failure(peer, (self.clock)());
        self.tell_put_off(peer, begun);
    }

    fn tell_put_off(&self, peer: IpAddr, begun: Option<PutOff>) {
        if let Some(put_off) = begun {
            self.journal.record(&ReceiveEvent::PeerPutOff { peer, put_off });
        }
    }

    /// The rates. As with the slots, each change is whole.
    fn rates(&self) -> MutexGuard<'_, Rates> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a new connection into the table; gives what tells it to go.
    pub(super) fn enter(&self, id: u64, peer: IpAddr) -> Arc<Notify> {
        let told = Arc::new(Notify::new());
        self.evictions.lock().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::clone(&told));
        let victim = self.slots().connect(id, peer, (self.clock)());
        victim.into_iter().for_each(|victim| self.evict(victim));
        told
    }

    /// Tells a connection to go.
    pub(super) fn evict(&self, id: u64) {
        self.journal.record(&ReceiveEvent::ConnectionEvicted { id });
        if let Some(told) = self.evictions.lock().unwrap_or_else(PoisonError::into_inner).get(&id) {
            told.notify_one();
        }
    }

    /// Forgets a connection.
    pub(super) fn leave(&self, id: u64) {
        self.slots().close(id);
        self.evictions.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// Tells the service; waits while its channel is full. When the service is gone nobody needs to be told: what is durable is found
    /// again at the next start.
    pub(super) async fn tell(&self, notice: ReceiveNotice) {
        let _ = self.events.send(notice).await;
    }
}
