//! Fetching: a study that closed without a series which the model needs -> one question to the PACS, what is not here sent to our receiver.
//!
//! | File | In -> out |
//! | --- | --- |
//! | `keeper.rs` (pure) | closed studies, answers, time -> orders, studies that go on |
//! | `plan.rs` (pure) | what is here, what the PACS has -> series to be sent |
//! | `worker.rs` | orders -> C-FIND and C-MOVE, one PACS association at a time |
//! | `notes.rs` | what happened -> journal |
//!
//! The images come by the ordinary way, over an association of the PACS with our receiver, and reopen the study. Here it is only held back
//! from the pipeline meanwhile, `pacs.wait_s` at most, so that "indeterminate: no T1 after contrast agent" does not alarm people for
//! nothing. Off without `[pacs]`.

mod keeper;
#[cfg(test)]
mod keeper_tests;
mod notes;
mod plan;
mod worker;

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};

use super::conductor::Conductor;
use super::monotonic_now;
use crate::config::Config;
use crate::deliver::query_scu::Pacs;
use crate::domain::{DeviceCondition, InputChannel, Study, Uid};

pub(super) use keeper::{FetchAction, FetchOrder, FetchReport, Held, Keeper};
use plan::Wanted;

/// Bound of conductor -> worker and back: one order at a time.
const ORDERS_MAX: usize = 1;
/// A PACS on the hospital's network takes a connection at once or not at all.
const CONNECT_TIMEOUT_S_MAX: u64 = 10;
/// As `AssembleOptions::slices_min`.
const SLICES_MIN: usize = 10;

/// The conductor's side of fetching.
pub(super) struct FetchDesk {
    keeper: Keeper,
    orders: mpsc::Sender<FetchOrder>,
    worker: JoinHandle<()>,
    roles: Vec<InputChannel>,
    instances_per_study_max: usize,
}

impl FetchDesk {
    /// The studies that wait for the PACS.
    pub(super) fn held(&self) -> impl Iterator<Item = &Held> {
        self.keeper.held()
    }

    /// Ends the worker.
    pub(super) fn abort_handle(&self) -> AbortHandle {
        self.worker.abort_handle()
    }
}

/// Starts the worker where the configuration names a PACS; else everything comes back empty, and the channel stays silent.
pub(super) fn start(
    config: &Config,
    roles: &[InputChannel],
    shutdown: watch::Receiver<bool>,
) -> (Option<FetchDesk>, mpsc::Receiver<FetchReport>) {
    let (reports, fetched) = mpsc::channel(ORDERS_MAX);
    let Some(pacs) = &config.pacs else { return (None, fetched) };
    let peer = Pacs {
        to: pacs.address.as_str().to_owned(),
        called: pacs.ae_title.clone(),
        calling: pacs.calling_ae_title.clone().unwrap_or_else(|| config.dicom.ae_title.clone()),
        destination: config.dicom.ae_title.clone(),
        connect_timeout: Duration::from_secs(pacs.timeout_s.min(CONNECT_TIMEOUT_S_MAX)),
        response_timeout: Duration::from_secs(pacs.timeout_s),
    };
    let (orders, inbox) = mpsc::channel(ORDERS_MAX);
    let worker = tokio::spawn(worker::run(peer, inbox, reports, shutdown));
    let keeper = Keeper::new(pacs.wait_s * 1000, pacs.fetch_missing_series);
    let instances_per_study_max = config.assemble.instances_per_study_max;
    (Some(FetchDesk { keeper, orders, worker, roles: roles.to_vec(), instances_per_study_max }), fetched)
}

impl Conductor {
    /// A closed study goes to the backlog, or is held until the PACS has sent what it lacks.
    pub(super) fn fetch_or_forward(&mut self, study: Study) {
        let has_room = self.has_room_to_fetch();
        let Some(desk) = &mut self.fetch else { return self.put_in_backlog(study) };
        let wanted = Wanted::of(&study, &desk.roles, SLICES_MIN, desk.instances_per_study_max);
        let actions = desk.keeper.on_closed(study, wanted, has_room, monotonic_now());
        self.act_on_fetch(actions);
    }

    /// An image reopened a study: what was held of it is replaced by its next closing.
    pub(super) fn on_fetch_reopened(&mut self, study_instance_uid: &Uid) {
        if let Some(desk) = &mut self.fetch {
            desk.keeper.on_reopened(study_instance_uid);
        }
    }

    /// The worker has an answer.
    pub(super) fn on_fetched(&mut self, report: FetchReport) {
        let Some(desk) = &mut self.fetch else { return };
        let actions = desk.keeper.on_report(report, monotonic_now());
        self.act_on_fetch(actions);
    }

    /// Time passed.
    pub(super) fn on_fetch_tick(&mut self) {
        let Some(desk) = &mut self.fetch else { return };
        let mut actions = desk.keeper.on_tick(monotonic_now());
        if desk.worker.is_finished() {
            actions.extend(desk.keeper.on_worker_gone());
        }
        self.act_on_fetch(actions);
    }

    fn act_on_fetch(&mut self, actions: Vec<FetchAction>) {
        for action in actions {
            match action {
                // One order at a time fits its channel; that the worker is gone is seen at the next tick.
                FetchAction::Order(order) => {
                    if let Some(desk) = &self.fetch {
                        let _ = desk.orders.try_send(order);
                    }
                }
                FetchAction::Forward(study) => self.put_in_backlog(*study),
                FetchAction::Noted(note) => self.journal.record(&note),
            }
        }
        let trouble = self.fetch.as_ref().and_then(|desk| desk.keeper.trouble());
        self.set_condition(DeviceCondition::PacsUnreachable, trouble.is_some());
        self.teller.set_detail(DeviceCondition::PacsUnreachable, trouble);
    }

    /// Fetched images must not take the place of those that the scanner sends.
    fn has_room_to_fetch(&self) -> bool {
        let short = [DeviceCondition::DiskNearlyFull, DeviceCondition::DiskFull, DeviceCondition::StorageFailing];
        !self.is_overloaded() && !self.vitals.conditions().iter().any(|condition| short.contains(condition))
    }
}
