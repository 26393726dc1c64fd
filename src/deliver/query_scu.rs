//! A Query/Retrieve client (PS3.4 annex C, Study Root): one PACS and one study in -> its MR series, and series sent to our own receiver.
//!
//! The images of a C-MOVE come over an association of their own, from the PACS to our listener, as any other sender's. Here only questions
//! and counts travel. Every list, wait and whole operation has a bound; at the bound of a list the PACS is told to stop (C-CANCEL).

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::timeout;

use super::association::{Association, AssociationOptions, DataSet, Message};
use super::dimse_scu::{self, IMPLICIT_LE, Request, Response, SubOperations};
use super::query_messages::{self, IDENTIFIER_BYTES_MAX, PacsSeries, STUDY_ROOT_FIND, STUDY_ROOT_MOVE};
use super::transport::{Broken, Offer, Peer};
use crate::domain::{AeTitle, Uid};

/// Responses to one question that are read; the next one brings a C-CANCEL. Studies have some tens of series, series up to a few thousand images.
pub const RESPONSES_MAX: usize = 2_000;
/// Responses that may still be on their way after a C-CANCEL.
const AFTER_CANCEL_MAX: usize = 2_000;
/// A whole list takes at most this many response time-outs.
const LIST_TIMEOUTS_MAX: u32 = 4;
/// One series takes at most this long to be sent, whatever the PACS reports meanwhile.
const MOVE_MAX: Duration = Duration::from_secs(1800);
/// Failed SOP Instance UIDs (0008,0058) that a C-MOVE response may list: 64 KiB would be about 1,000.
const FAILED_LIST_BYTES_MAX: usize = 4 << 20;

/// A PACS and how we call each other.
#[derive(Clone, Debug)]
pub struct Pacs {
    /// `host:port`.
    pub to: String,
    /// Its AE title.
    pub called: AeTitle,
    /// Ours as a client.
    pub calling: AeTitle,
    /// Our receiver's, where it is to send.
    pub destination: AeTitle,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest wait for each answer.
    pub response_timeout: Duration,
}

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// no association, or it broke, or no answer in time
    #[error("the PACS at {to} does not answer: {reason}")]
    Unreachable {
        /// The peer.
        to: String,
        /// Why.
        reason: String,
    },
    /// it does not offer what is asked of it
    #[error("the PACS at {to} does not take {what}: allow query and retrieve for our AE title in the PACS")]
    NotOffered {
        /// The peer.
        to: String,
        /// C-FIND or C-MOVE.
        what: &'static str,
    },
    /// it answered with a failure
    #[error("{meaning} (status 0x{status:04X})")]
    Refused {
        /// The status.
        status: u16,
        /// What it means, with the remedy.
        meaning: String,
    },
}

/// The MR series of a study, as the PACS has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeriesAnswer {
    /// Each once.
    pub series: Vec<PacsSeries>,
    /// Responses that could not be read.
    pub n_unreadable: usize,
    /// The PACS had more than [`RESPONSES_MAX`] and was told to stop.
    pub is_cut: bool,
}

/// How sending one series ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoveReport {
    /// Images that the PACS says it sent, with or without a warning.
    pub n_sent: u32,
    /// Images that it could not send.
    pub n_failed: u32,
    /// Why it is not complete, with the remedy; `None` when it is.
    pub trouble: Option<QueryError>,
    /// It had more images than were asked for, and was told to stop.
    pub is_cut: bool,
}

/// An association with a PACS.
pub struct PacsLink {
    association: Association,
    to: String,
    destination: AeTitle,
    response_timeout: Duration,
    find: u8,
    retrieve: u8,
    message_id: u16,
}

impl Pacs {
    /// Opens an association for questions and retrieval.
    ///
    /// # Errors
    /// [`QueryError`] says why there is none.
    pub async fn open(&self) -> Result<PacsLink, QueryError> {
        let options = AssociationOptions {
            connect_timeout: self.connect_timeout,
            response_timeout: self.response_timeout,
            pdu_length_max: 65_536,
        };
        let peer = Peer { to: &self.to, calling: &self.calling, called: &self.called, options, tls: None };
        let classes = [STUDY_ROOT_FIND, STUDY_ROOT_MOVE, dimse_scu::VERIFICATION];
        let contexts = classes.map(|sop_class| (sop_class.to_owned(), vec![IMPLICIT_LE.to_owned()])).to_vec();
        let not_offered = |what| QueryError::NotOffered { to: self.to.clone(), what };
        let association =
            Association::establish(peer, Offer { contexts, provider_of: None }).await.map_err(|broken| match broken {
                Broken::NoContextAccepted => not_offered("C-FIND"),
                Broken::Failed(reason) => QueryError::Unreachable { to: self.to.clone(), reason },
            })?;
        let (find, retrieve) = (association.context_of(STUDY_ROOT_FIND, None), association.context_of(STUDY_ROOT_MOVE, None));
        let (Some(find), Some(retrieve)) = (find, retrieve) else {
            let what = if find.is_none() { "C-FIND" } else { "C-MOVE" };
            association.release().await;
            return Err(not_offered(what));
        };
        Ok(PacsLink {
            association,
            to: self.to.clone(),
            destination: self.destination.clone(),
            response_timeout: self.response_timeout,
            find,
            retrieve,
            message_id: 0,
        })
    }

    /// Whether the PACS is there and takes questions and retrieval from us. Whether it knows us as a destination only a retrieval tells.
    ///
    /// # Errors
    /// [`QueryError`] says why not.
    pub async fn check(&self) -> Result<(), QueryError> {
        let mut link = self.open().await?;
        // A PACS that takes no C-ECHO has answered by its association.
        let echoed = if link.association.context_of(dimse_scu::VERIFICATION, None).is_some() {
            link.association.echo(1).await.map(|_| ())
        } else {
            Ok(())
        };
        match echoed {
            Ok(()) => {
                link.close().await;
                Ok(())
            }
            Err(reason) => Err(link.broken(reason).await),
        }
    }
}

impl PacsLink {
    /// The MR series of a study. After an error the association is not to be used again, but for [`QueryError::Refused`].
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn find_series(&mut self, study: &Uid) -> Result<SeriesAnswer, QueryError> {
        let mut answer = SeriesAnswer::default();
        let take = |identifier: &[u8]| match query_messages::read_series(identifier) {
            Ok(series) if answer.series.iter().any(|s| s.series_instance_uid == series.series_instance_uid) => {}
            Ok(series) => answer.series.push(series),
            Err(_) => answer.n_unreadable += 1,
        };
        answer.is_cut = self.find(&query_messages::series_query(study), take).await?;
        Ok(answer)
    }

    /// How many images a series has, for a PACS that does not say so with the series; at most [`RESPONSES_MAX`].
    ///
    /// # Errors
    /// As [`Self::find_series`].
    pub async fn count_instances(&mut self, study: &Uid, series: &Uid) -> Result<u32, QueryError> {
        let mut instances = BTreeSet::new();
        let take = |identifier: &[u8]| {
            instances.extend(query_messages::read_instance(identifier).ok());
        };
        self.find(&query_messages::image_query(study, series), take).await?;
        Ok(u32::try_from(instances.len()).unwrap_or(u32::MAX))
    }

    /// Asks and hands each identifier to `take`; whether the list was cut at its bound.
    async fn find(&mut self, identifier: &[u8], take: impl FnMut(&[u8])) -> Result<bool, QueryError> {
        let whole = self.response_timeout.saturating_mul(LIST_TIMEOUTS_MAX);
        let found = timeout(whole, self.find_all(identifier, take)).await;
        found.map_err(|_| self.unreachable("its list did not end in time".to_owned()))?
    }

    async fn find_all(&mut self, identifier: &[u8], mut take: impl FnMut(&[u8])) -> Result<bool, QueryError> {
        let message_id = self.next_message_id();
        let command = query_messages::find_request(message_id);
        let sent = self.association.send_message(self.find, command, identifier).await;
        sent.map_err(|reason| self.unreachable(reason))?;
        let mut n_responses = 0;
        let mut is_cancelled = false;
        loop {
            let received = self.association.receive(message_id, Request::Find, DataSet::Keep(IDENTIFIER_BYTES_MAX)).await;
            let Message { response, data_set } = received.map_err(|reason| self.unreachable(reason))?;
            if !query_messages::is_pending(response.status) {
                // Cut by us: what came is what there is to choose from.
                return if response.status == 0x0000 || is_cancelled { Ok(is_cancelled) } else { Err(refused(&response)) };
            }
            n_responses += 1;
            if let Some(identifier) = data_set.filter(|_| !is_cancelled) {
                take(&identifier);
            }
            if n_responses == RESPONSES_MAX {
                is_cancelled = true;
                let cancelled = self.association.send_command(self.find, query_messages::cancel_request(message_id)).await;
                cancelled.map_err(|reason| self.unreachable(reason))?;
            }
            if n_responses > RESPONSES_MAX + AFTER_CANCEL_MAX {
                return Err(self.unreachable("it goes on answering after it was told to stop".to_owned()));
            }
        }
    }

    /// Has a series sent to our receiver, at most `n_instances_max` images: a PACS that reports more is told to stop.
    ///
    /// # Errors
    /// [`QueryError::Unreachable`]: the association is not to be used again. What the PACS answers, refusals included, is a report.
    pub async fn retrieve_series(&mut self, study: &Uid, series: &Uid, n_instances_max: u32) -> Result<MoveReport, QueryError> {
        let moved = timeout(MOVE_MAX, self.retrieve_all(study, series, n_instances_max)).await;
        moved.map_err(|_| self.unreachable("it did not finish sending in time".to_owned()))?
    }

    async fn retrieve_all(&mut self, study: &Uid, series: &Uid, n_instances_max: u32) -> Result<MoveReport, QueryError> {
        let message_id = self.next_message_id();
        let command = query_messages::move_request(message_id, &self.destination);
        let identifier = query_messages::series_retrieval(study, series);
        let sent = self.association.send_message(self.retrieve, command, &identifier).await;
        sent.map_err(|reason| self.unreachable(reason))?;
        let (mut is_cut, mut n_after_cut) = (false, 0);
        loop {
            let received = self.association.receive(message_id, Request::Move, DataSet::Discard(FAILED_LIST_BYTES_MAX)).await;
            let Message { response, .. } = received.map_err(|reason| self.unreachable(reason))?;
            let count = |n: Option<u16>| u32::from(n.unwrap_or(0));
            let SubOperations { n_remaining, n_completed, n_failed, n_warning } = response.sub_operations;
            let n_sent = count(n_completed) + count(n_warning);
            if !query_messages::is_pending(response.status) {
                let trouble = (response.status != 0x0000).then(|| refused(&response));
                return Ok(MoveReport { n_sent, n_failed: count(n_failed), trouble, is_cut });
            }
            if is_cut {
                n_after_cut += 1;
            } else if n_sent + count(n_failed) + count(n_remaining) > n_instances_max {
                is_cut = true;
                let cancelled = self.association.send_command(self.retrieve, query_messages::cancel_request(message_id)).await;
                cancelled.map_err(|reason| self.unreachable(reason))?;
            }
            if n_after_cut > AFTER_CANCEL_MAX {
                return Err(self.unreachable("it goes on sending after it was told to stop".to_owned()));
            }
        }
    }

    /// Releases the association.
    pub async fn close(self) {
        self.association.release().await;
    }

    /// Ends the association at once: after [`QueryError::Unreachable`].
    pub async fn abort(self) {
        self.association.abort().await;
    }

    async fn broken(self, reason: String) -> QueryError {
        let error = self.unreachable(reason);
        self.abort().await;
        error
    }

    fn unreachable(&self, reason: String) -> QueryError {
        QueryError::Unreachable { to: self.to.clone(), reason }
    }

    fn next_message_id(&mut self) -> u16 {
        self.message_id = if self.message_id == u16::MAX { 1 } else { self.message_id + 1 };
        self.message_id
    }
}

/// The PACS's own comment is left out: it may name the patient, and this text goes to the journal.
fn refused(response: &Response) -> QueryError {
    QueryError::Refused { status: response.status, meaning: query_messages::status_meaning(response.status).to_owned() }
}
