//! One association: PDUs of a connection in -> negotiation, DIMSE, durable instances and their answers out.
//!
//! ```text
//! connection --A-ASSOCIATE-RQ--> decide --reject--> end
//!                                   | accept
//!                                   v
//!                 +---------- between messages <---------------- answer ---------+
//!                 |                 | C-STORE-RQ (N requests: n_services.rs)     |
//!    release, abort, deadline       v                                            |
//!                 |             fragments --batches--> store (blocking threads) -+
//!                 v                 | violation, deadline
//!                end <--------------+   (an unfinished instance leaves nothing behind)
//! ```
//! Memory: one receive buffer, however large the data set is.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dicom_ul::pdu::{Pdu, read_pdu};

use crate::spool::{Committed, IncomingInstance};

use super::command::{Command, DimseStatus, command_pdus, response_to};
use super::connection::Connection;
use super::dimse::{Dimse, DimseEvent, Fragment};
use super::ending::Ending;
use super::events::{ReceiveEvent, ReceiveNotice};
use super::n_services::{Gathered, Reporting};
use super::negotiate::{AcceptedContext, RejectedBecause, decide};
use super::pdu_buffer::{HEADER, PduBuffer, WholePdu};
use super::sop_classes::{VERIFICATION, is_service_class};
use super::store::{Announced, Job, Outcome, Refusal, work};

const A_ASSOCIATE_RQ: u8 = 0x01;
const P_DATA_TF: u8 = 0x04;
const A_RELEASE_RQ: u8 = 0x05;
const A_ABORT: u8 = 0x07;

/// What must be known of a connection even when its task has died.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) opened: AtomicBool,
    pub(super) n_instances: AtomicU64,
}

/// Where the data set under way goes.
pub(super) enum Receiving {
    /// To the spool; `None` until the first batch has opened it.
    Storing(Announced, Option<Box<dyn IncomingInstance>>),
    /// Into memory: that of an N request.
    Gathering(Gathered),
    /// Nowhere: it is read to its end and then answered.
    Refused(Refusal),
}

/// The request under way.
pub(super) struct Message {
    pub(super) context_id: u8,
    pub(super) command: Command,
    pub(super) receiving: Receiving,
}

/// An open association.
pub(super) struct Association {
    pub(super) connection: Connection,
    pub(super) contexts: Vec<AcceptedContext>,
    pub(super) calling: crate::domain::AeTitle,
    pub(super) peer_pdu_length_max: u32,
    pub(super) dimse: Dimse,
    pub(super) message: Option<Message>,
    /// The report of a storage commitment whose response is awaited.
    pub(super) reporting: Option<Reporting>,
    /// Message ID of the latest one.
    pub(super) report_number: u16,
    /// Bytes of data sets since the message began, of any kind of message.
    n_data_bytes: u64,
    /// Fragments of the data set that wait in the buffer.
    waiting: Vec<Range<usize>>,
    tally: Arc<Tally>,
}

/// Runs a connection from its first byte to its last.
pub(super) async fn run(mut connection: Connection, tally: Arc<Tally>) -> Ending {
    match negotiate(&mut connection).await {
        Err(ending) => {
            let (peer, shared) = (connection.peer, Arc::clone(&connection.shared));
            if !matches!(ending, Ending::Rejected(_)) {
                shared.note_failure(peer, &ReceiveEvent::RequestFailed { peer, because: ending.to_string() });
            }
            connection.end(&ending).await;
            ending
        }
        Ok((accepted, reply)) => {
            // Some clients propose every class they know, so one line stands for all that were refused.
            let n_refused = accepted.refused.len();
            if let Some((sop_class, because)) = accepted.refused.into_iter().next() {
                let event = ReceiveEvent::ContextsRefused { id: connection.id, n_refused, sop_class, because };
                connection.shared.note(connection.peer, &event);
            }
            let mut association = Association {
                dimse: Dimse::new(accepted.contexts.iter().map(|context| context.id)),
                contexts: accepted.contexts,
                calling: accepted.calling_ae_title,
                peer_pdu_length_max: accepted.peer_pdu_length_max,
                message: None,
                reporting: None,
                report_number: 0,
                n_data_bytes: 0,
                waiting: Vec::new(),
                tally,
                connection,
            };
            let ending = match association.open(reply).await {
                Ok(()) => association.serve().await.err().unwrap_or(Ending::Released),
                Err(ending) => ending,
            };
            association.discard().await;
            association.hand_over("its association ended before the requester answered").await;
            association.connection.end(&ending).await;
            ending
        }
    }
}

/// Waits for the request, decides on it and finds a place for it.
async fn negotiate(connection: &mut Connection) -> Result<(super::negotiate::Accepted, Pdu), Ending> {
    let pdu = connection.next_pdu().await?;
    match pdu.kind {
        A_ASSOCIATE_RQ => {}
        A_ABORT => return Err(Ending::AbortedByPeer),
        kind => return Err(Ending::UnexpectedPdu(kind)),
    }
    let bytes = connection.buffer.bytes(pdu.all);
    let request = match read_pdu(bytes, u32::try_from(bytes.len()).unwrap_or(0).max(2048), true) {
        Ok(Some(Pdu::AssociationRQ(request))) => request,
        Ok(_) => return Err(Ending::BadRequest("it ends inside an item".to_owned())),
        Err(error) => return Err(Ending::BadRequest(error.to_string())),
    };
    let shared = Arc::clone(&connection.shared);
    let decided = decide(request, connection.caller(), &shared.options).and_then(|accepted| {
        use super::slots::Admission;
        let admission = shared.slots().open(connection.id, accepted.verification_only, connection.now());
        match admission {
            Admission::Granted => Ok(accepted),
            Admission::GrantedInsteadOf(victim) => {
                shared.evict(victim);
                Ok(accepted)
            }
            Admission::Refused => Err(RejectedBecause::LocalLimit),
        }
    });
    match decided {
        Ok(accepted) => {
            let reply = Pdu::AssociationAC(accepted.reply.clone());
            Ok((accepted, reply))
        }
        Err(because) => {
            let sentence = because.sentence(&shared.options);
            let event = ReceiveEvent::AssociationRejected { peer: connection.peer, because: sentence };
            // That the house is full is no failure of this peer.
            if because == RejectedBecause::LocalLimit {
                shared.note(connection.peer, &event);
            } else {
                shared.note_failure(connection.peer, &event);
            }
            Err(Ending::Rejected(because.pdu()))
        }
    }
}

impl Association {
    async fn open(&mut self, reply: Pdu) -> Result<(), Ending> {
        let connection = &mut self.connection;
        let pdu_length_max = connection.shared.options.pdu_length_clamped();
        let buffer = std::mem::replace(&mut connection.buffer, PduBuffer::none());
        connection.buffer = buffer.resized(pdu_length_max);
        let (id, peer, n_contexts) = (connection.id, connection.peer, self.contexts.len());
        let event = ReceiveEvent::AssociationAccepted { id, calling: self.calling.clone(), peer, n_contexts };
        connection.shared.note(peer, &event);
        self.tally.opened.store(true, Ordering::Relaxed);
        connection.shared.tell(ReceiveNotice::AssociationOpened { id, calling: self.calling.clone(), peer }).await;
        connection.send_pdu(&reply).await?;
        let now = connection.now();
        connection.progress.on_open(now);
        if connection.buffer.has_partial() {
            connection.progress.on_next_message(now); // a peer in a hurry
        }
        Ok(())
    }

    /// Takes PDUs until the association ends; the way it ends is the error.
    async fn serve(&mut self) -> Result<(), Ending> {
        loop {
            while let Some(pdu) = self.connection.buffer.next_pdu()? {
                match pdu.kind {
                    P_DATA_TF => self.on_data(&pdu).await?,
                    A_RELEASE_RQ => return Ok(()),
                    A_ABORT => return Err(Ending::AbortedByPeer),
                    kind => return Err(Ending::UnexpectedPdu(kind)),
                }
            }
            self.look_after_report().await;
            if self.waiting.is_empty() {
                self.connection.buffer.compact();
            } else if !self.connection.buffer.has_room() {
                self.write_batch(false).await?;
                self.connection.buffer.compact();
            }
            if !self.dimse.is_inside_message() && !self.connection.buffer.has_partial() {
                let now = self.connection.now();
                if self.connection.progress.on_message_end(now) {
                    self.connection.shared.slots().idle(self.connection.id, now);
                }
            }
            self.connection.read_some().await?;
        }
    }

    async fn on_data(&mut self, pdu: &WholePdu) -> Result<(), Ending> {
        let (mut at, end) = (pdu.all.start + HEADER, pdu.all.end);
        while at < end {
            let (fragment, range) = self.connection.buffer.fragment_at(at, end)?;
            at = range.end;
            let event = self.dimse.on_fragment(fragment, self.connection.buffer.bytes(range.clone()))?;
            if !fragment.is_command {
                self.n_data_bytes += range.len() as u64;
                // A refused data set is read on to its end, but not for ever.
                if self.n_data_bytes > self.connection.shared.options.instance_bytes_max.saturating_mul(2) {
                    return Err(Ending::EndlessData);
                }
            }
            // Storing a batch gives the same buffer back with the same positions, so `at` and `end` stay valid.
            self.on_event(event, fragment, range).await?;
        }
        Ok(())
    }

    async fn on_event(&mut self, event: DimseEvent, fragment: Fragment, range: Range<usize>) -> Result<(), Ending> {
        let context_id = fragment.context_id;
        match event {
            DimseEvent::Incomplete | DimseEvent::Cancel => Ok(()),
            DimseEvent::Echo(command) => {
                self.connection.shared.journal.record(&ReceiveEvent::EchoAnswered { id: self.connection.id });
                self.answer(context_id, &command, DimseStatus::Success, "").await
            }
            DimseEvent::Unrecognised(command) => {
                self.answer(context_id, &command, DimseStatus::UnrecognisedOperation, "not an operation of this box").await
            }
            DimseEvent::StoreWithoutData(command) => {
                self.refuse(context_id, &command, Refusal::new(DimseStatus::CannotUnderstand, "C-STORE without a data set")).await
            }
            DimseEvent::RequestBegins(command) => {
                self.request_begins(context_id, command);
                Ok(())
            }
            DimseEvent::RequestData { is_last } => self.request_data(range, is_last).await,
            DimseEvent::Request(command) => self.on_request(context_id, command, None).await,
            DimseEvent::Answered(command) => {
                self.on_answered(&command).await;
                self.n_data_bytes = 0;
                Ok(())
            }
            DimseEvent::StoreBegins(command) => {
                let receiving = match self.announce(context_id, &command) {
                    Ok(announced) => Receiving::Storing(announced, None),
                    Err(refusal) => Receiving::Refused(refusal),
                };
                self.message = Some(Message { context_id, command, receiving });
                Ok(())
            }
            DimseEvent::StoreData { is_last } => {
                if !range.is_empty() {
                    self.waiting.push(range);
                }
                let bytes_max = self.connection.shared.options.instance_bytes_max;
                if self.n_data_bytes > bytes_max {
                    self.refuse_what_is_coming(crate::spool::SpoolError::TooLarge { bytes_max }.into()).await;
                }
                if is_last { self.finish().await } else { Ok(()) }
            }
        }
    }

    /// What the command announces, if it can be stored at all.
    fn announce(&self, context_id: u8, command: &Command) -> Result<Announced, Refusal> {
        let context = self.contexts.iter().find(|context| context.id == context_id);
        let sop_class_uid = command
            .sop_class_uid
            .clone()
            .ok_or(Refusal::new(DimseStatus::CannotUnderstand, "Affected SOP Class UID is missing or no UID"))?;
        let is_storage = |class: &str| class != VERIFICATION && !is_service_class(class);
        let Some(context) = context.filter(|c| c.abstract_syntax == sop_class_uid.as_str() && is_storage(&c.abstract_syntax))
        else {
            return Err(Refusal::new(DimseStatus::SopClassNotSupported, "SOP class is not that of the presentation context"));
        };
        let sop_instance_uid = command
            .sop_instance_uid
            .clone()
            .ok_or(Refusal::new(DimseStatus::CannotUnderstand, "Affected SOP Instance UID is missing or no UID"))?;
        Ok(Announced {
            sop_class_uid,
            sop_instance_uid,
            transfer_syntax: context.transfer_syntax,
            calling_ae_title: self.calling.clone(),
        })
    }

    /// Hands the waiting fragments to the spool; at the end of the data set also has it checked and made durable.
    async fn write_batch(&mut self, is_last: bool) -> Result<Option<Committed>, Ending> {
        let Some(Message { receiving: Receiving::Storing(announced, incoming), .. }) = &mut self.message else {
            self.waiting.clear();
            return Ok(None);
        };
        let connection = &mut self.connection;
        let began = connection.now();
        let job = Job {
            sink: Arc::clone(&connection.shared.sink),
            announced: announced.clone(),
            incoming: incoming.take(),
            buffer: std::mem::replace(&mut connection.buffer, PduBuffer::none()),
            ranges: std::mem::take(&mut self.waiting),
            finish: is_last.then_some((connection.id, began)),
        };
        let (buffer, waiting, outcome) = tokio::task::spawn_blocking(move || work(job)).await.map_err(|_| Ending::StoreFault)?;
        connection.buffer = buffer;
        self.waiting = waiting;
        let delay_ms = connection.now().since_ms(began);
        connection.progress.on_our_delay(delay_ms);
        match outcome {
            Outcome::Open(opened) => *incoming = Some(opened),
            Outcome::Stored(committed) => return Ok(Some(committed)),
            Outcome::Refused(refusal) => self.refuse_what_is_coming(refusal).await,
        }
        Ok(None)
    }

    /// The rest of this data set is read and dropped.
    async fn refuse_what_is_coming(&mut self, refusal: Refusal) {
        if matches!(&self.message, Some(Message { receiving: Receiving::Storing(..), .. })) {
            self.discard().await;
            if let Some(message) = &mut self.message {
                message.receiving = Receiving::Refused(refusal);
            }
        }
        self.waiting.clear();
    }

    /// Drops an unfinished instance, which deletes its file, off the async threads.
    async fn discard(&mut self) {
        if let Some(Message { receiving: Receiving::Storing(_, incoming), .. }) = &mut self.message
            && let Some(unfinished) = incoming.take()
        {
            let _ = tokio::task::spawn_blocking(move || drop(unfinished)).await;
        }
    }

    /// The data set is complete: store, answer, tell.
    async fn finish(&mut self) -> Result<(), Ending> {
        let committed = self.write_batch(true).await?;
        let Some(Message { context_id, command, receiving }) = self.message.take() else { return Ok(()) };
        match (committed, receiving) {
            (Some(committed), _) => {
                self.tally.n_instances.fetch_add(1, Ordering::Relaxed);
                let answered = self.answer(context_id, &command, DimseStatus::Success, "").await;
                let notice = match committed {
                    Committed::New(stored) => ReceiveNotice::InstanceStored(Box::new(stored)),
                    Committed::Duplicate(stored) => ReceiveNotice::InstanceRepeated(Box::new(stored)),
                    Committed::ConflictKept(evidence) => {
                        let event = ReceiveEvent::InstanceConflicted { id: self.connection.id };
                        self.connection.shared.note(self.connection.peer, &event);
                        ReceiveNotice::InstanceConflict { evidence: Box::new(evidence) }
                    }
                };
                self.connection.shared.tell(notice).await;
                answered
            }
            (None, Receiving::Refused(refusal)) => self.refuse(context_id, &command, refusal).await,
            (None, Receiving::Storing(..) | Receiving::Gathering(_)) => Err(Ending::StoreFault),
        }
    }

    /// Answers with a failure, and says so where people look.
    async fn refuse(&mut self, context_id: u8, command: &Command, refusal: Refusal) -> Result<(), Ending> {
        let Refusal { status, comment, storage } = refusal;
        let (id, peer, shared) = (self.connection.id, self.connection.peer, Arc::clone(&self.connection.shared));
        match &storage {
            Some(error) => shared.note(peer, &ReceiveEvent::StorageFailed { id, error: error.to_string() }),
            None => shared.note(peer, &ReceiveEvent::InstanceRefused { id, status, because: comment.clone() }),
        }
        let answered = self.answer(context_id, command, status, &comment).await;
        if let Some(error) = storage {
            shared.tell(ReceiveNotice::StorageFailed { error }).await;
        }
        answered
    }

    async fn answer(&mut self, context_id: u8, command: &Command, status: DimseStatus, comment: &str) -> Result<(), Ending> {
        let response = response_to(command, status, comment);
        self.send_response(context_id, &response).await
    }

    pub(super) async fn send_response(&mut self, context_id: u8, response: &[u8]) -> Result<(), Ending> {
        self.connection.send(&command_pdus(context_id, response, self.peer_pdu_length_max)).await?;
        self.n_data_bytes = 0;
        // Bytes of the next message may be there already; its time begins now.
        let now = self.connection.now();
        self.connection.progress.on_next_message(now);
        Ok(())
    }
}
