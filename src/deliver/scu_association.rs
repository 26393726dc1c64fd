//! An association of a service class user, plain or over TLS: a peer and a proposal in -> PDUs out and in, or a sentence, out.

use dicom_ul::association::client::{AsyncClientAssociation, ClientAssociationOptions};
use dicom_ul::pdu::Pdu;
use tokio::net::TcpStream;

use super::secure_scu::{NotOpened, Proposal, SecureAssociation, TlsClient};
use super::store_scu::StoreOptions;
use crate::domain::AeTitle;

/// One peer and how we call each other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer<'a> {
    pub(super) to: &'a str,
    pub(super) calling: &'a AeTitle,
    pub(super) called: &'a AeTitle,
    pub(super) options: &'a StoreOptions,
    pub(super) tls: Option<&'a TlsClient>,
}

/// Why an association ended early, and whether the peer can be talked to at all.
pub(super) enum Broken {
    NoContextAccepted,
    Failed(String),
}

/// An association, plain or over TLS.
pub(super) enum Association {
    Plain(Box<AsyncClientAssociation<TcpStream>>),
    Secure(Box<SecureAssociation>),
}

impl Association {
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

    pub(super) fn peer_pdu_length_max(&self) -> u32 {
        match self {
            Self::Plain(plain) => plain.acceptor_max_pdu_length(),
            Self::Secure(secure) => secure.peer_pdu_length_max(),
        }
    }

    pub(super) async fn send(&mut self, pdu: &Pdu) -> Result<(), String> {
        let sent = match self {
            Self::Plain(plain) => plain.send(pdu).await.map_err(|error| error.to_string()),
            Self::Secure(secure) => secure.send(pdu).await,
        };
        sent.map_err(|error| format!("sending failed: {error}"))
    }

    pub(super) async fn receive(&mut self) -> Result<Pdu, String> {
        match self {
            Self::Plain(plain) => plain.receive().await.map_err(|error| match error {
                dicom_ul::association::Error::Timeout { .. } => "no answer in time".to_owned(),
                error => format!("no answer: {error}"),
            }),
            Self::Secure(secure) => secure.receive().await.map_err(|error| format!("no answer: {error}")),
        }
    }

    /// Everything has its answer by now; a peer that fumbles the release changes nothing.
    pub(super) async fn release(self) {
        match self {
            Self::Plain(plain) => {
                let _ = plain.release().await;
            }
            Self::Secure(secure) => secure.release().await,
        }
    }

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

/// Opens an association that proposes `contexts`: abstract syntax and transfer syntaxes.
pub(super) async fn establish(peer: Peer<'_>, contexts: Vec<(String, Vec<String>)>) -> Result<Association, Broken> {
    use dicom_ul::association::Error;
    let rejected = |by: String| {
        Broken::Failed(format!(
            "rejected, {by} (we called {:?} as {:?}; check both AE titles and our address on the peer)",
            peer.called.as_str(),
            peer.calling.as_str()
        ))
    };
    if let Some(tls) = peer.tls {
        let proposal = Proposal {
            calling: peer.calling.as_str().to_owned(),
            called: peer.called.as_str().to_owned(),
            contexts,
            pdu_length_max: peer.options.pdu_length_max,
            connect_timeout: peer.options.connect_timeout,
            response_timeout: peer.options.response_timeout,
        };
        let opened = SecureAssociation::open(peer.to, tls, &proposal).await;
        return opened.map(|association| Association::Secure(Box::new(association))).map_err(|not| match not {
            NotOpened::NoContextAccepted => Broken::NoContextAccepted,
            NotOpened::Rejected(by) => rejected(by),
            NotOpened::Failed(reason) => Broken::Failed(reason),
        });
    }
    let mut proposal = base_options(peer);
    for (abstract_syntax, transfer_syntaxes) in contexts {
        proposal = proposal.with_presentation_context(abstract_syntax, transfer_syntaxes);
    }
    let opened = proposal.establish_async(peer.to).await;
    opened.map(|association| Association::Plain(Box::new(association))).map_err(|error| match error {
        Error::NoAcceptedPresentationContexts { .. } => Broken::NoContextAccepted,
        Error::Rejected { association_rj, .. } => rejected(association_rj.source.to_string()),
        Error::Connect { source, .. } | Error::ToAddress { source, .. } => Broken::Failed(format!("no connection: {source}")),
        Error::Timeout { .. } => Broken::Failed("no answer in time".to_owned()),
        other => Broken::Failed(other.to_string()),
    })
}
