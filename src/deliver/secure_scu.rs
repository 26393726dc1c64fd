//! A service class user's association over TLS: a proposal in -> PDUs out and in, within deadlines and bounds. Serves `scanside send`.
//!
//! dicom-ul's own TLS client would bring a second set of rustls features; its PDU codec is used. Source: PS3.8 section 9.3, PS3.15 section B.12.

use std::time::Duration;

use dicom_ul::pdu::{
    AbortRQSource, AssociationRQ, Pdu, PresentationContextProposed, PresentationContextResultReason, RequestorRoles,
    UserVariableItem, read_pdu, write_pdu,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::tls_client::TlsClient;
use super::transport::{Offer, Peer};

/// PDU header: type, reserved, length (PS3.8 section 9.3.1).
const HEADER: usize = 6;
/// A PDU length of 0 means no limit (PS3.8 section D.1); then this is ours.
const UNLIMITED: u32 = 1024 * 1024;

/// Why there is no association.
#[derive(Debug)]
pub(super) enum NotOpened {
    NoContextAccepted,
    Rejected(String),
    Failed(String),
}

/// An open association.
pub(super) struct SecureAssociation {
    stream: TlsStream<TcpStream>,
    response_timeout: Duration,
    pdu_length_max: u32,
    peer_pdu_length_max: u32,
    contexts: Vec<(u8, String, String)>,
    user_variables: Vec<UserVariableItem>,
}

impl SecureAssociation {
    /// Connects to the peer (`HOST:PORT`), whose certificate must be for HOST, and proposes.
    pub(super) async fn open(peer: Peer<'_>, tls: &TlsClient, offer: &Offer) -> Result<Self, NotOpened> {
        let stream = timeout(peer.options.connect_timeout, tls.connect(peer.to)).await;
        let stream = stream.map_err(|_| NotOpened::Failed("no connection in time".to_owned()))?.map_err(NotOpened::Failed)?;
        let mut association = Self {
            stream,
            response_timeout: peer.options.response_timeout,
            pdu_length_max: peer.options.pdu_length_max,
            peer_pdu_length_max: UNLIMITED,
            contexts: Vec::new(),
            user_variables: Vec::new(),
        };
        association.propose(peer, offer).await?;
        Ok(association)
    }

    async fn propose(&mut self, peer: Peer<'_>, offer: &Offer) -> Result<(), NotOpened> {
        let contexts: Vec<PresentationContextProposed> = (1..=u8::MAX)
            .step_by(2)
            .zip(&offer.contexts)
            .map(|(id, (abstract_syntax, transfer_syntaxes))| PresentationContextProposed {
                id,
                abstract_syntax: abstract_syntax.clone(),
                transfer_syntaxes: transfer_syntaxes.clone(),
            })
            .collect();
        let mut user_variables = vec![
            UserVariableItem::MaxLength(peer.options.pdu_length_max),
            UserVariableItem::ImplementationClassUID(dicom_ul::IMPLEMENTATION_CLASS_UID.to_owned()),
            UserVariableItem::ImplementationVersionName(dicom_ul::IMPLEMENTATION_VERSION_NAME.to_owned()),
        ];
        if let Some(class) = offer.provider_of {
            let roles = RequestorRoles { scu: false, scp: true };
            user_variables.push(UserVariableItem::ScuScpRoleSelectionSubItem(class.to_owned(), roles));
        }
        let request = Pdu::AssociationRQ(AssociationRQ {
            protocol_version: 1,
            calling_ae_title: peer.calling.as_str().to_owned(),
            called_ae_title: peer.called.as_str().to_owned(),
            application_context_name: "1.2.840.10008.3.1.1.1".to_owned(),
            presentation_contexts: contexts.clone(),
            user_variables,
        });
        self.send(&request).await.map_err(NotOpened::Failed)?;
        let accepted = match self.receive().await.map_err(NotOpened::Failed)? {
            Pdu::AssociationAC(accepted) => accepted,
            Pdu::AssociationRJ(rejection) => return Err(NotOpened::Rejected(rejection.source.to_string())),
            Pdu::AbortRQ { .. } => return Err(NotOpened::Failed("the peer aborted".to_owned())),
            other => return Err(NotOpened::Failed(format!("unexpected {}", other.short_description()))),
        };
        for item in &accepted.user_variables {
            if let UserVariableItem::MaxLength(length) = item {
                self.peer_pdu_length_max = if *length == 0 { UNLIMITED } else { *length };
            }
        }
        self.user_variables = accepted.user_variables;
        for result in
            accepted.presentation_contexts.into_iter().filter(|r| r.reason == PresentationContextResultReason::Acceptance)
        {
            if let Some(proposed) = contexts.iter().find(|proposed| proposed.id == result.id) {
                let syntax = result.transfer_syntax.trim_end_matches(['\0', ' ']).to_owned();
                self.contexts.push((result.id, proposed.abstract_syntax.clone(), syntax));
            }
        }
        if self.contexts.is_empty() {
            self.abort().await;
            return Err(NotOpened::NoContextAccepted);
        }
        Ok(())
    }

    /// Accepted contexts: number, abstract syntax, transfer syntax.
    pub(super) fn contexts(&self) -> &[(u8, String, String)] {
        &self.contexts
    }

    /// What the peer said beside its contexts.
    pub(super) fn user_variables(&self) -> &[UserVariableItem] {
        &self.user_variables
    }

    /// Longest PDU that the peer takes, bytes after its header.
    pub(super) fn peer_pdu_length_max(&self) -> u32 {
        self.peer_pdu_length_max
    }

    /// Sends a PDU.
    pub(super) async fn send(&mut self, pdu: &Pdu) -> Result<(), String> {
        let mut bytes = Vec::new();
        write_pdu(&mut bytes, pdu).map_err(|error| error.to_string())?;
        let sending = async {
            self.stream.write_all(&bytes).await?;
            self.stream.flush().await
        };
        match timeout(self.response_timeout, sending).await {
            Ok(sent) => sent.map_err(|error| error.to_string()),
            Err(_) => Err("the peer does not read".to_owned()),
        }
    }

    /// The next PDU.
    pub(super) async fn receive(&mut self) -> Result<Pdu, String> {
        let receiving = async {
            let mut bytes = vec![0; HEADER];
            self.stream.read_exact(&mut bytes).await.map_err(|error| error.to_string())?;
            let [_, _, a, b, c, d] = bytes[..] else { return Err("cut".to_owned()) };
            let length = u32::from_be_bytes([a, b, c, d]);
            if length > self.pdu_length_max {
                return Err(format!("a PDU of {length} bytes, where {} are allowed", self.pdu_length_max));
            }
            bytes.resize(HEADER + usize::try_from(length).unwrap_or(0), 0);
            self.stream.read_exact(&mut bytes[HEADER..]).await.map_err(|error| error.to_string())?;
            match read_pdu(&bytes[..], self.pdu_length_max.max(4096), true) {
                Ok(Some(pdu)) => Ok(pdu),
                Ok(None) => Err("a PDU that ends inside an item".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        };
        timeout(self.response_timeout, receiving).await.map_err(|_| "no answer in time".to_owned())?
    }

    /// Ends in order.
    pub(super) async fn release(mut self) {
        if self.send(&Pdu::ReleaseRQ).await.is_ok() {
            // Whatever the peer answers, every file has its status by now.
            let _ = self.receive().await;
        }
        let _ = timeout(self.response_timeout, self.stream.shutdown()).await;
    }

    /// Ends at once.
    pub(super) async fn abort(&mut self) {
        let _ = self.send(&Pdu::AbortRQ { source: AbortRQSource::ServiceUser }).await;
    }
}
