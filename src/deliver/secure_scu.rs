//! A service class user's association over TLS: a proposal in -> PDUs out and in, within deadlines and bounds. Serves `scanside send`.
//!
//! dicom-ul's own TLS client would bring a second set of rustls features; its PDU codec is used. Source: PS3.8 section 9.3, PS3.15 section B.12.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dicom_ul::pdu::{
    AbortRQSource, AssociationRQ, Pdu, PresentationContextProposed, PresentationContextResultReason, RequestorRoles,
    UserVariableItem, read_pdu, write_pdu,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::transport::{Offer, Peer};

/// A PEM file has a few KiB.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// PDU header: type, reserved, length (PS3.8 section 9.3.1).
const HEADER: usize = 6;
/// A PDU length of 0 means no limit (PS3.8 section D.1); then this is ours.
const UNLIMITED: u32 = 1024 * 1024;

/// Why there is no TLS, with the remedy where one is likely.
fn no_tls(error: &std::io::Error) -> String {
    use rustls::{CertificateError as Certificate, Error};
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    let remedy = match inner {
        Some(Error::InvalidCertificate(Certificate::UnknownIssuer)) => {
            "give --tls-ca the authority that signed the peer's certificate"
        }
        Some(Error::InvalidCertificate(Certificate::NotValidForName | Certificate::NotValidForNameContext { .. })) => {
            "its certificate is for another name: send to a name that it holds, or renew it with this one"
        }
        Some(Error::InvalidCertificate(Certificate::Other(_))) => {
            "a certificate that is its own authority is not taken: make one for the peer with basicConstraints=CA:FALSE"
        }
        Some(Error::InvalidMessage(_)) => "is TLS spoken on that port?",
        Some(Error::AlertReceived(_)) => "the peer refused us: it may ask for --tls-cert and --tls-key that it trusts",
        _ => return format!("no TLS: {error}"),
    };
    format!("no TLS: {error}: {remedy}")
}

/// Whom we trust and who we are.
#[derive(Clone, Debug)]
pub struct TlsClient(Arc<ClientConfig>);

impl TlsClient {
    /// Trusts the authorities in `ca_file`, and shows the certificate of `identity` (certificate file, key file) when asked. PEM files.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn load(ca_file: &Path, identity: Option<(&Path, &Path)>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca_file)? {
            roots.add(certificate).map_err(|error| format!("{}: {error}", ca_file.display()))?;
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some((certificate_file, key_file)) => {
                let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", key_file.display());
                let key = PrivateKeyDer::from_pem_slice(&read(key_file)?).map_err(|error| wrong(&error))?;
                builder.with_client_auth_cert(certificates(certificate_file)?, key).map_err(|error| wrong(&error))?
            }
        };
        Ok(Self(Arc::new(config)))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    match found {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(format!("{}: holds no certificate", path.display())),
        Err(error) => Err(format!("{}: is no PEM file: {error}", path.display())),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes));
    read.map(|_| bytes).map_err(|error| format!("{}: cannot be read: {error}", path.display()))
}

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
        let to = peer.to;
        let host = to.rsplit_once(':').map_or(to, |(host, _)| host).trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned()).map_err(|_| NotOpened::Failed(format!("{host:?} is no host name")))?;
        let connecting = async {
            let stream = TcpStream::connect(to).await.map_err(|error| format!("no connection: {error}"))?;
            stream.set_nodelay(true).map_err(|error| format!("no connection: {error}"))?;
            TlsConnector::from(Arc::clone(&tls.0)).connect(name, stream).await.map_err(|error| no_tls(&error))
        };
        let stream = timeout(peer.options.connect_timeout, connecting).await;
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
