//! What carries an association that we open, plain or over TLS: a peer and an offer in -> PDUs out and in, or a sentence, out.

use dicom_ul::association::client::{AsyncClientAssociation, ClientAssociationOptions};
use dicom_ul::pdu::{Pdu, UserVariableItem};
use tokio::net::TcpStream;

use super::association::AssociationOptions;
use super::secure_scu::{NotOpened, SecureAssociation};
use super::tls_client::TlsClient;
use crate::domain::AeTitle;

/// One peer and how we call each other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer<'a> {
    /// `host:port`.
    pub(super) to: &'a str,
    /// Our AE title.
    pub(super) calling: &'a AeTitle,
    /// The peer's.
    pub(super) called: &'a AeTitle,
    /// Bounds.
    pub(super) options: AssociationOptions,
    /// Over TLS, and whom we trust.
    pub(super) tls: Option<&'a TlsClient>,
}

/// What an association proposes.
#[derive(Clone, Debug, Default)]
pub(super) struct Offer {
    /// Abstract syntax and transfer syntaxes of each context; at most 128.
    pub(super) contexts: Vec<(String, Vec<String>)>,
    /// An abstract syntax of which we are the provider (SCP) although we open the association (PS3.7 section D.3.3.4).
    pub(super) provider_of: Option<&'static str>,
}

/// Why there is no association, and whether the peer can be talked to at all.
#[derive(Debug)]
pub(super) enum Broken {
    /// It answers, and takes nothing of what was proposed.
    NoContextAccepted,
    /// It cannot be reached, or says no.
    Failed(String),
}

/// The carrier of an open association.
pub(super) enum Transport {
    Plain(Box<AsyncClientAssociation<TcpStream>>),
    Secure(Box<SecureAssociation>),
}

impl Transport {
    /// Accepted contexts: number, abstract syntax, transfer syntax.
    pub(super) fn contexts(&self) -> Vec<(u8, String, String)> {
        match self {
            Self::Plain(plain) => {
                let syntax = |text: &str| text.trim_end_matches(['\0', ' ']).to_owned();
                plain
                    .presentation_contexts()
                    .iter()
                    .map(|c| (c.id, c.abstract_syntax.clone(), syntax(&c.transfer_syntax)))
                    .collect()
            }
            Self::Secure(secure) => secure.contexts().to_vec(),
        }
    }

    /// Whether the peer said that we may not be the provider of `abstract_syntax`. One that says nothing is taken at its acceptance.
    pub(super) fn is_refused_as_provider(&self, abstract_syntax: &str) -> bool {
        let items = match self {
            Self::Plain(plain) => plain.user_variables(),
            Self::Secure(secure) => secure.user_variables(),
        };
        items.iter().any(|item| {
            matches!(item, UserVariableItem::ScuScpRoleSelectionSubItem(class, roles)
                if class.trim_end_matches(['\0', ' ']) == abstract_syntax && !roles.scp)
        })
    }

    /// Longest PDU that the peer takes, bytes after its header.
    pub(super) fn peer_pdu_length_max(&self) -> u32 {
        match self {
            Self::Plain(plain) => plain.acceptor_max_pdu_length(),
            Self::Secure(secure) => secure.peer_pdu_length_max(),
        }
    }

    /// Sends a PDU.
    pub(super) async fn send(&mut self, pdu: &Pdu) -> Result<(), String> {
        let sent = match self {
            Self::Plain(plain) => plain.send(pdu).await.map_err(|error| error.to_string()),
            Self::Secure(secure) => secure.send(pdu).await,
        };
        sent.map_err(|error| format!("sending failed: {error}"))
    }

    /// The next PDU.
    pub(super) async fn receive(&mut self) -> Result<Pdu, String> {
        match self {
            Self::Plain(plain) => plain.receive().await.map_err(|error| match error {
                dicom_ul::association::Error::Timeout { .. } => "no answer in time".to_owned(),
                error => format!("no answer: {error}"),
            }),
            Self::Secure(secure) => secure.receive().await.map_err(|error| format!("no answer: {error}")),
        }
    }

    /// Asks for release and waits for the answer.
    pub(super) async fn release(self) {
        match self {
            Self::Plain(plain) => {
                let _ = plain.release().await;
            }
            Self::Secure(secure) => secure.release().await,
        }
    }

    /// Ends it at once.
    pub(super) async fn abort(self) {
        match self {
            Self::Plain(plain) => {
                let _ = plain.abort().await;
            }
            Self::Secure(mut secure) => secure.abort().await,
        }
    }
}

fn base_options(peer: Peer<'_>) -> ClientAssociationOptions<'static> {
    ClientAssociationOptions::new()
        .calling_ae_title(peer.calling.as_str().to_owned())
        .called_ae_title(peer.called.as_str().to_owned())
        .max_pdu_length(peer.options.pdu_length_max)
        .strict(true)
        .connection_timeout(peer.options.connect_timeout)
        .read_timeout(peer.options.response_timeout)
        .write_timeout(peer.options.response_timeout)
}

/// Opens an association that proposes `offer`.
pub(super) async fn open(peer: Peer<'_>, offer: Offer) -> Result<Transport, Broken> {
    use dicom_ul::association::Error;
    let rejected = |by: String| {
        Broken::Failed(format!(
            "rejected, {by} (we called {:?} as {:?}; check both AE titles and our address on the peer)",
            peer.called.as_str(),
            peer.calling.as_str()
        ))
    };
    if let Some(tls) = peer.tls {
        let opened = SecureAssociation::open(peer, tls, &offer).await;
        return opened.map(|association| Transport::Secure(Box::new(association))).map_err(|not| match not {
            NotOpened::NoContextAccepted => Broken::NoContextAccepted,
            NotOpened::Rejected(by) => rejected(by),
            NotOpened::Failed(reason) => Broken::Failed(reason),
        });
    }
    let mut proposal = base_options(peer);
    for (abstract_syntax, transfer_syntaxes) in offer.contexts {
        proposal = proposal.with_presentation_context(abstract_syntax, transfer_syntaxes);
    }
    if let Some(class) = offer.provider_of {
        proposal = proposal.with_role_selection(class, false, true);
    }
    let opened = proposal.establish_async(peer.to).await;
    opened.map(|association| Transport::Plain(Box::new(association))).map_err(|error| match error {
        Error::NoAcceptedPresentationContexts { .. } => Broken::NoContextAccepted,
        Error::Rejected { association_rj, .. } => rejected(association_rj.source.to_string()),
        Error::Connect { source, .. } | Error::ToAddress { source, .. } => Broken::Failed(format!("no connection: {source}")),
        Error::Timeout { .. } => Broken::Failed("no answer in time".to_owned()),
        other => Broken::Failed(other.to_string()),
    })
}
