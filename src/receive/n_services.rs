//! The DIMSE-N services of one association: data set fragments gathered in memory -> answered, told to the service; and the report of a
//! storage commitment sent on the same association, its response awaited.
//!
//! ```text
//! N-ACTION answered --> association free? --yes--> N-EVENT-REPORT sent --response 0000--> delivered
//!                             | no                        | other response, no response in time, association over
//!                             v                           v
//!                             +--- handed over: due at once on a new association (deliver/event_report.rs)
//! ```
//! Source: PS3.7 section 10.1, PS3.4 section J.3.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::domain::{Commitment, Monotonic, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE, WallTime};
use crate::spool::{ServiceStore, SpoolError};

use super::association::{Association, Message, Receiving};
use super::command::{Command, DimseStatus, N_CREATE_RQ, command_pdus, data_pdus, event_report_request, response_with};
use super::element_reader::Encoding;
use super::ending::Ending;
use super::events::{ReceiveEvent, ReceiveNotice};
use super::services::{
    Answer, DATA_SET_BYTES_MAX, DATA_SETS_BYTES_MAX, Operation, Outcome, Request, fresh_uid, operation_of, perform,
};
use super::sop_classes::IMPLICIT_LITTLE_ENDIAN;
use super::store::Refusal;

/// A response to our report may take so long, ms; then it is told on a new association. A peer that sends nothing at all is ended by the
/// idle time-out, which has the same effect.
const REPORT_ANSWER_MS: u64 = 30_000;
/// After a report that the peer answered with a failure, the next attempt waits so long, ms.
const REFUSED_WAIT_MS: i64 = 60_000;

/// A data set in memory, counted among those of all associations while it lives.
pub(super) struct Gathered {
    bytes: Vec<u8>,
    account: Arc<AtomicUsize>,
}

impl Gathered {
    pub(super) fn new(account: &Arc<AtomicUsize>) -> Self {
        Self { bytes: Vec::new(), account: Arc::clone(account) }
    }

    /// Appends bytes; `false` at a bound.
    fn extend(&mut self, more: &[u8]) -> bool {
        if self.bytes.len() + more.len() > DATA_SET_BYTES_MAX {
            return false;
        }
        if self.account.fetch_add(more.len(), Ordering::Relaxed) + more.len() > DATA_SETS_BYTES_MAX {
            self.account.fetch_sub(more.len(), Ordering::Relaxed);
            return false;
        }
        self.bytes.extend_from_slice(more);
        true
    }
}

impl Drop for Gathered {
    fn drop(&mut self) {
        self.account.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

/// A report whose response is awaited.
pub(super) struct Reporting {
    /// Number of the commitment in the store.
    id: u64,
    since: Monotonic,
}

impl Association {
    /// The data set of an N request is coming.
    pub(super) fn request_begins(&mut self, context_id: u8, command: Command) {
        let gathered = Gathered::new(&self.connection.shared.data_set_bytes);
        self.message = Some(Message { context_id, command, receiving: Receiving::Gathering(gathered) });
    }

    /// A fragment of it is here.
    pub(super) async fn request_data(&mut self, range: Range<usize>, is_last: bool) -> Result<(), Ending> {
        if let Some(Message { receiving, .. }) = &mut self.message
            && let Receiving::Gathering(gathered) = receiving
            && !gathered.extend(self.connection.buffer.bytes(range))
        {
            let comment = "the data set is longer than 4 MiB, or too many of them come at once";
            *receiving = Receiving::Refused(Refusal::new(DimseStatus::ResourceLimitation, comment));
        }
        if !is_last {
            return Ok(());
        }
        match self.message.take() {
            Some(Message { context_id, command, receiving: Receiving::Gathering(data) }) => {
                self.on_request(context_id, command, Some(data)).await
            }
            Some(Message { context_id, command, receiving: Receiving::Refused(refusal) }) => {
                self.answer_request(context_id, &command, "an N request", &Answer::refused(refusal.status, refusal.comment)).await
            }
            _ => Ok(()),
        }
    }

    /// A whole N request: carry it out, answer, tell.
    pub(super) async fn on_request(
        &mut self,
        context_id: u8,
        mut command: Command,
        data: Option<Gathered>,
    ) -> Result<(), Ending> {
        let context = self.contexts.iter().find(|context| context.id == context_id);
        let (class, syntax) = context.map_or(("", IMPLICIT_LITTLE_ENDIAN), |c| (c.abstract_syntax.as_str(), c.transfer_syntax));
        let encoding = if syntax == IMPLICIT_LITTLE_ENDIAN { Encoding::IMPLICIT } else { Encoding::EXPLICIT };
        let operation = match operation_of(class, &command) {
            Ok(operation) => operation,
            Err(answer) => return self.answer_request(context_id, &command, "an N request", &answer).await,
        };
        if command.field == N_CREATE_RQ && command.sop_instance_uid.is_none() {
            // PS3.7 section 10.1.5.1.4: then the performer makes one, and says so in its answer.
            command.sop_instance_uid = fresh_uid();
        }
        let (Some(sop_instance_uid), Some(store)) = (command.sop_instance_uid.clone(), self.connection.shared.sink.services())
        else {
            let answer = Answer::refused(DimseStatus::ProcessingFailure, "this store keeps images alone");
            return self.answer_request(context_id, &command, operation.name(), &answer).await;
        };
        let request =
            Request { store: Arc::clone(&store), operation, sop_instance_uid, encoding, requester: self.calling.clone() };
        let began = self.connection.now();
        let data = data.unwrap_or_else(|| Gathered::new(&self.connection.shared.data_set_bytes));
        let work = move || perform(&request, &data.bytes);
        let outcome = tokio::task::spawn_blocking(work).await.map_err(|_| Ending::StoreFault)?;
        let delay_ms = self.connection.now().since_ms(began);
        self.connection.progress.on_our_delay(delay_ms);
        self.conclude(context_id, &command, operation, outcome, &store).await
    }

    async fn conclude(
        &mut self,
        context_id: u8,
        command: &Command,
        operation: Operation,
        outcome: Outcome,
        store: &Arc<dyn ServiceStore>,
    ) -> Result<(), Ending> {
        let Outcome { refused, notice, commitment, storage } = outcome;
        let answer = refused.unwrap_or_else(Answer::success);
        let shared = Arc::clone(&self.connection.shared);
        if let Some(error) = &storage {
            shared.note(self.connection.peer, &ReceiveEvent::StorageFailed { id: self.connection.id, error: error.to_string() });
        }
        let answered = self.answer_request(context_id, command, operation.name(), &answer).await;
        if let Some(notice) = notice {
            shared.tell(notice).await;
        }
        if let Some(error) = storage {
            shared.tell(ReceiveNotice::StorageFailed { error }).await;
        }
        let Some((id, commitment)) = commitment else { return answered };
        let (n_instances, n_failed) = (commitment.items.len(), commitment.n_failed());
        shared.note(self.connection.peer, &ReceiveEvent::CommitmentKept { id: self.connection.id, n_instances, n_failed });
        if answered.is_err() {
            self.pass_on(store, id, "the association broke", 0).await;
            return answered;
        }
        self.report(context_id, id, &commitment, store).await
    }

    /// Tells a commitment on this association if it is free, else has it told on a new one.
    async fn report(
        &mut self,
        context_id: u8,
        id: u64,
        commitment: &Commitment,
        store: &Arc<dyn ServiceStore>,
    ) -> Result<(), Ending> {
        let message_id = self.report_number.wrapping_add(1).max(1);
        if self.connection.buffer.has_partial() || !self.dimse.expect(message_id) {
            self.pass_on(store, id, "its association was busy", 0).await;
            return Ok(());
        }
        self.report_number = message_id;
        let context = self.contexts.iter().find(|context| context.id == context_id);
        let explicit = context.is_some_and(|context| context.transfer_syntax != IMPLICIT_LITTLE_ENDIAN);
        let event_type = commitment.event_type();
        let command = event_report_request(message_id, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE, event_type);
        let length_max = self.peer_pdu_length_max;
        let mut pdus = command_pdus(context_id, &command, length_max);
        pdus.extend_from_slice(&data_pdus(context_id, &commitment.event_data_set(explicit), length_max));
        self.reporting = Some(Reporting { id, since: self.connection.now() });
        self.connection.send(&pdus).await
    }

    /// The peer has answered our report.
    pub(super) async fn on_answered(&mut self, command: &Command) {
        // Too late: it has been handed over already, and the requester will see it twice.
        let Some(Reporting { id, .. }) = self.reporting.take() else { return };
        let Some(store) = self.connection.shared.sink.services() else { return };
        if command.status == Some(0) {
            let at = store.now();
            if keep(move || store.commitment_delivered(id, at)).await {
                self.connection.shared.note(self.connection.peer, &ReceiveEvent::CommitmentTold { id: self.connection.id });
            }
        } else {
            let because = format!("the requester answered 0x{:04X}", command.status.unwrap_or(0));
            self.pass_on(&store, id, &because, REFUSED_WAIT_MS).await;
        }
    }

    /// Looks after a report that is not answered in time.
    pub(super) async fn look_after_report(&mut self) {
        let now = self.connection.now();
        if self.reporting.as_ref().is_some_and(|reporting| now.since_ms(reporting.since) > REPORT_ANSWER_MS) {
            self.hand_over("the requester did not answer the report in time").await;
        }
    }

    /// A report that is under way is told on a new association instead.
    pub(super) async fn hand_over(&mut self, because: &str) {
        if let Some(Reporting { id, .. }) = self.reporting.take()
            && let Some(store) = self.connection.shared.sink.services()
        {
            self.pass_on(&store, id, because, 0).await;
        }
    }

    async fn pass_on(&mut self, store: &Arc<dyn ServiceStore>, id: u64, because: &str, wait_ms: i64) {
        let event = ReceiveEvent::CommitmentPassedOn { id: self.connection.id, because: because.to_owned() };
        self.connection.shared.note(self.connection.peer, &event);
        let (store, because) = (Arc::clone(store), because.to_owned());
        let at = WallTime(store.now().0.saturating_add(wait_ms));
        // Not kept, it is due in a few minutes all the same.
        keep(move || store.commitment_failed(id, &because, at)).await;
    }

    async fn answer_request(
        &mut self,
        context_id: u8,
        command: &Command,
        operation: &'static str,
        answer: &Answer,
    ) -> Result<(), Ending> {
        if answer.status != DimseStatus::Success {
            let (id, status, because) = (self.connection.id, answer.status, answer.comment.clone());
            self.connection.shared.note(self.connection.peer, &ReceiveEvent::RequestRefused { id, operation, status, because });
        }
        let response = response_with(command, answer.status, &answer.particulars());
        self.send_response(context_id, &response).await
    }
}

/// Runs a call of the store on a blocking thread; whether it went well. The store reports its own failures.
async fn keep(call: impl FnOnce() -> Result<(), SpoolError> + Send + 'static) -> bool {
    matches!(tokio::task::spawn_blocking(call).await, Ok(Ok(())))
}
