//! A client association: peer and proposal in -> messages sent, whole responses received, each within its bounds and deadlines.
//!
//! What every service class user here needs (C-STORE, C-ECHO, C-FIND, C-MOVE): connect, negotiate, send a command with a small data set,
//! take one whole message after the other however the peer cuts it into PDUs (PS3.8 section 9.3.5, annex E), release or abort.

use std::collections::VecDeque;
use std::time::Duration;

use dicom_ul::pdu::{PDataValue, PDataValueType, Pdu};
use tokio::time::{Instant, timeout, timeout_at};

use super::dimse_scu::{self, COMMAND_BYTES_MAX, Request, Response};
use super::transport::{self, Broken, Offer, Peer, Transport};

/// PDV header within a P-DATA-TF PDU: item length, context identifier, control header (PS3.8 section 9.3.5.1).
const PDV_HEADER_BYTES: u32 = 6;
/// Largest fragment that we send, whatever more the peer allows.
const FRAGMENT_BYTES_MAX: u32 = 128 * 1024;
/// Fragments that one PDU may bring; more is no sensible peer (each takes 6 bytes at least, a PDU at most 1 MiB).
const VALUES_MAX: usize = 4096;

/// Bounds of an association.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AssociationOptions {
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest wait for each answer, and for each write to be taken.
    pub response_timeout: Duration,
    /// Longest PDU that we accept, bytes.
    pub pdu_length_max: u32,
}

/// One whole response.
#[derive(Debug)]
pub(super) struct Message {
    /// Its command set.
    pub(super) response: Response,
    /// Its data set, where it has one and `receive` was told to keep it.
    pub(super) data_set: Option<Vec<u8>>,
}

/// What to do with the data set of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DataSet {
    /// There must be none.
    Refuse,
    /// Keep up to so many bytes; a longer one ends the association.
    Keep(usize),
    /// Read past up to so many bytes; a longer one ends the association.
    Discard(usize),
}

/// An open association.
pub(super) struct Association {
    inner: Transport,
    /// Accepted contexts: number, abstract syntax, transfer syntax.
    contexts: Vec<(u8, String, String)>,
    /// Fragments of the PDU in hand that belong to what comes next.
    values: VecDeque<PDataValue>,
    response_timeout: Duration,
}

impl Association {
    /// Connects to `peer` and negotiates `offer`.
    pub(super) async fn establish(peer: Peer<'_>, offer: Offer) -> Result<Self, Broken> {
        let inner = transport::open(peer, offer).await?;
        let contexts = inner.contexts();
        Ok(Self { inner, contexts, values: VecDeque::new(), response_timeout: peer.options.response_timeout })
    }

    /// The accepted context of an abstract syntax and, where one is named, of that transfer syntax.
    pub(super) fn context_of(&self, abstract_syntax: &str, transfer_syntax: Option<&str>) -> Option<u8> {
        let fits = |(_, class, syntax): &&(u8, String, String)| {
            class == abstract_syntax && transfer_syntax.is_none_or(|wanted| syntax == wanted)
        };
        self.contexts.iter().find(fits).map(|(id, _, _)| *id)
    }

    /// Whether the peer said that we may not be the provider of `abstract_syntax`.
    pub(super) fn is_refused_as_provider(&self, abstract_syntax: &str) -> bool {
        self.inner.is_refused_as_provider(abstract_syntax)
    }

    /// Bytes of a data set that fit into one PDU to this peer.
    pub(super) fn fragment_bytes_max(&self) -> u32 {
        self.inner.peer_pdu_length_max().saturating_sub(PDV_HEADER_BYTES).clamp(1024, FRAGMENT_BYTES_MAX)
    }

    /// Sends a command set.
    pub(super) async fn send_command(&mut self, context_id: u8, command: Vec<u8>) -> Result<(), String> {
        self.send_value(context_id, PDataValueType::Command, true, command).await
    }

    /// Sends a fragment of a data set.
    pub(super) async fn send_data(&mut self, context_id: u8, is_last: bool, data: Vec<u8>) -> Result<(), String> {
        self.send_value(context_id, PDataValueType::Data, is_last, data).await
    }

    /// Sends a command set and a small data set, in as many fragments as the peer asks for.
    pub(super) async fn send_message(&mut self, context_id: u8, command: Vec<u8>, data_set: &[u8]) -> Result<(), String> {
        self.send_command(context_id, command).await?;
        let fragment = usize::try_from(self.fragment_bytes_max()).unwrap_or(1024);
        let n_fragments = data_set.len().div_ceil(fragment);
        for (idx, data) in data_set.chunks(fragment).enumerate() {
            self.send_data(context_id, idx + 1 == n_fragments, data.to_vec()).await?;
        }
        Ok(())
    }

    async fn send_value(
        &mut self,
        presentation_context_id: u8,
        value_type: PDataValueType,
        is_last: bool,
        data: Vec<u8>,
    ) -> Result<(), String> {
        let value = PDataValue { presentation_context_id, value_type, is_last, data };
        self.inner.send(&Pdu::PData { data: vec![value] }).await
    }

    /// The next whole response to `request` with that message id, within the response time-out, however slowly it drips.
    pub(super) async fn receive(&mut self, message_id: u16, request: Request, data_set: DataSet) -> Result<Message, String> {
        let deadline = Instant::now() + self.response_timeout;
        let mut command = Vec::new();
        loop {
            let value = self.next_value(deadline).await?;
            if value.value_type != PDataValueType::Command {
                return Err("a data set came where a response was due".to_owned());
            }
            command.extend_from_slice(&value.data);
            if command.len() > COMMAND_BYTES_MAX {
                return Err("the response is longer than 64 KiB".to_owned());
            }
            if value.is_last {
                break;
            }
        }
        let response = dimse_scu::parse_response(&command, message_id, request)?;
        let data_set = if response.has_data_set { self.receive_data_set(data_set, deadline).await? } else { None };
        Ok(Message { response, data_set })
    }

    async fn receive_data_set(&mut self, wish: DataSet, deadline: Instant) -> Result<Option<Vec<u8>>, String> {
        let (keep, bytes_max) = match wish {
            DataSet::Refuse => return Err("the response carries a data set".to_owned()),
            DataSet::Keep(bytes_max) => (true, bytes_max),
            DataSet::Discard(bytes_max) => (false, bytes_max),
        };
        let (mut kept, mut n_bytes) = (Vec::new(), 0_usize);
        loop {
            let value = self.next_value(deadline).await?;
            if value.value_type != PDataValueType::Data {
                return Err("a command came before the response's data set was whole".to_owned());
            }
            n_bytes = n_bytes.saturating_add(value.data.len());
            if n_bytes > bytes_max {
                return Err(format!("the data set of the response is longer than {} KiB", bytes_max / 1024));
            }
            if keep {
                kept.extend_from_slice(&value.data);
            }
            if value.is_last {
                return Ok(keep.then_some(kept));
            }
        }
    }

    async fn next_value(&mut self, deadline: Instant) -> Result<PDataValue, String> {
        loop {
            if let Some(value) = self.values.pop_front() {
                return Ok(value);
            }
            let received = timeout_at(deadline, self.inner.receive()).await;
            match received.map_err(|_| "no answer in time".to_owned())?? {
                Pdu::PData { data } if data.len() > VALUES_MAX => return Err(format!("a PDU in {} fragments", data.len())),
                Pdu::PData { data } => self.values.extend(data),
                Pdu::AbortRQ { .. } => return Err("the peer aborted the association".to_owned()),
                Pdu::ReleaseRQ => return Err("the peer asked for release before it answered".to_owned()),
                other => return Err(format!("unexpected {}", other.short_description())),
            }
        }
    }

    /// C-ECHO on an accepted context of Verification: the status of the answer.
    pub(super) async fn echo(&mut self, message_id: u16) -> Result<u16, String> {
        let context_id = self.context_of(dimse_scu::VERIFICATION, None).ok_or("the peer does not take C-ECHO")?;
        self.send_command(context_id, dimse_scu::echo_request(message_id)).await?;
        Ok(self.receive(message_id, Request::Echo, DataSet::Refuse).await?.response.status)
    }

    /// Asks for release and waits for the answer; a peer that fumbles it changes nothing of what was answered before.
    pub(super) async fn release(self) {
        let _ = timeout(self.response_timeout, self.inner.release()).await;
    }

    /// Ends the association at once.
    pub(super) async fn abort(self) {
        let _ = timeout(self.response_timeout, self.inner.abort()).await;
    }
}
