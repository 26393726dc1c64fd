//! The conductor: one task that takes every notice in turn and tells the rooms what happened. Notices in -> actions carried out.
//!
//! It holds the two pure state machines (assemble, signal), so their order of events is the order in which this task sees them. Calls that
//! wait for the disk run inside `block_in_place`; nothing here waits for the model or for a peer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, broadcast, mpsc, watch};
use tokio::task::block_in_place;

use super::events::PipelineEvent;
use super::folder::stored_instance;
use super::status::StatusTeller;
use super::{ServiceEvent, monotonic_now, wall_now};
use crate::assemble::{AssembleAction, AssembleEvent, Assembler};
use crate::board::{BoardNotice, LampHandle};
use crate::config::WebhookConfig;
use crate::deliver::{verdict_json, webhook};
use crate::domain::{DeviceCondition, Lamp, StoredInstance, Study, Uid, Verdict};
use crate::health::ProgressBoard;
use crate::journal::Journal;
use crate::receive::ReceiveNotice;
use crate::signal::{NoticeKind, SignalAction, SignalEvent, Signaller, StudySignal};
use crate::spool::{Notice, Spool, SpoolError, Store, VerdictRecord};
use crate::triage::{VerdictSummary, supersede};
use crate::web::WebCommand;

/// How often time is told to the state machines.
const TICK: Duration = Duration::from_millis(100);
/// Ticks between two looks at the slow things: the store's figures, the outbox, health.
const SLOW_TICKS: u64 = 10;

/// What the conductor listens to.
pub(super) struct Inlets {
    pub(super) receive: mpsc::Receiver<ReceiveNotice>,
    pub(super) assessed: mpsc::Receiver<(Study, Verdict)>,
    pub(super) board: mpsc::Receiver<BoardNotice>,
    pub(super) web: mpsc::Receiver<WebCommand>,
    pub(super) health: watch::Receiver<BTreeSet<DeviceCondition>>,
    pub(super) shutdown: watch::Receiver<bool>,
}

/// What the conductor acts on.
pub(super) struct Conductor {
    pub(super) spool: Spool,
    pub(super) journal: Journal,
    pub(super) assembler: Assembler,
    pub(super) signaller: Signaller,
    pub(super) lamp: LampHandle,
    pub(super) events: broadcast::Sender<ServiceEvent>,
    /// `None` when the model is unusable: studies are kept and wait.
    pub(super) to_pipeline: Option<mpsc::Sender<Study>>,
    pub(super) backlog: VecDeque<Study>,
    pub(super) backlog_max: usize,
    pub(super) in_work: Option<Uid>,
    pub(super) overloaded: Arc<AtomicBool>,
    pub(super) webhooks: Vec<WebhookConfig>,
    pub(super) wake_deliverer: Arc<Notify>,
    pub(super) conditions: BTreeSet<DeviceCondition>,
    pub(super) n_associations: u64,
    pub(super) is_working: bool,
    pub(super) shown: Lamp,
    pub(super) progress: Arc<ProgressBoard>,
    pub(super) teller: StatusTeller,
}

impl Conductor {
    /// Runs until the shutdown signal.
    pub(super) async fn run(mut self, mut inlets: Inlets) {
        let mut ticker = tokio::time::interval(TICK);
        ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut n_ticks = 0_u64;
        loop {
            tokio::select! {
                changed = inlets.shutdown.changed() => {
                    if changed.is_err() || *inlets.shutdown.borrow() {
                        return;
                    }
                }
                Some(notice) = inlets.receive.recv() => self.on_receive(notice),
                Some((study, verdict)) = inlets.assessed.recv() => self.on_assessed(&study, verdict),
                Some(notice) = inlets.board.recv() => self.on_board(notice),
                Some(command) = inlets.web.recv() => self.on_web(command),
                _ = ticker.tick() => {
                    self.lamp.alive();
                    self.progress.beat("conductor", monotonic_now());
                    self.on_assemble(AssembleEvent::Tick);
                    if n_ticks.is_multiple_of(SLOW_TICKS) {
                        let health = inlets.health.borrow_and_update().clone();
                        self.on_slow_tick(&health);
                    }
                    n_ticks += 1;
                }
            }
            self.feed_pipeline();
            self.tell_work();
            let view = (self.signaller.lamp(), self.n_associations, self.backlog.len(), self.in_work.clone());
            self.teller.tell(view);
        }
    }

    fn on_receive(&mut self, notice: ReceiveNotice) {
        match notice {
            ReceiveNotice::InstanceStored(instance) => {
                self.set_condition(DeviceCondition::StorageFailing, false);
                self.on_stored(Arc::new(*instance));
            }
            ReceiveNotice::AssociationOpened { id, calling, peer } => {
                self.n_associations += 1;
                let _ = self.events.send(ServiceEvent::AssociationOpened { id, peer: format!("{calling} at {peer}") });
                self.on_assemble(AssembleEvent::AssociationOpened { id });
            }
            ReceiveNotice::AssociationClosed { id, released, n_instances } => {
                self.n_associations = self.n_associations.saturating_sub(1);
                let _ = self.events.send(ServiceEvent::AssociationClosed { id, released, n_instances });
                self.on_assemble(AssembleEvent::AssociationClosed { id });
            }
            ReceiveNotice::StorageFailed { error } => {
                if let Some(condition) = error.device_condition() {
                    self.set_condition(condition, true);
                }
            }
            ReceiveNotice::InstanceConflict { .. } => {}
        }
    }
}
