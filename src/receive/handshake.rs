//! The TLS handshake of one connection: a socket in -> a TLS stream and the client's certificate, or a sentence with the remedy, out.

use std::io::ErrorKind;
use std::sync::Arc;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::domain::CertificateSha256;
use crate::secure::fingerprint;

/// A connection whose handshake is done, and who proved to be at its other end.
pub(super) type Secured = (Box<TlsStream<TcpStream>>, Option<CertificateSha256>);

/// Shakes hands.
///
/// # Errors
/// Why not, as a sentence without a capital and a full stop. rustls has sent its alert by then.
pub(super) async fn shake(config: Arc<ServerConfig>, stream: TcpStream) -> Result<Secured, String> {
    // The client's second flight may come in several small writes; see `Connection::read_some`.
    let _ = stream.set_quickack(true);
    let stream = TlsAcceptor::from(config).accept(stream).await.map_err(|error| sentence(&error))?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).map(|first| fingerprint(first));
    Ok((Box::new(stream), certificate))
}

/// What went wrong, and what helps.
fn sentence(error: &std::io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(error) => of_rustls(error),
        None if error.kind() == ErrorKind::UnexpectedEof => {
            "it closed the connection in the middle of the TLS handshake".to_owned()
        }
        None => format!("the connection broke in the middle of the TLS handshake ({})", error.kind()),
    }
}

#[allow(clippy::wildcard_enum_match_arm)] // rustls's errors are open enums; the rest is said in its own words
fn of_rustls(error: &Error) -> String {
    let known = match error {
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "it does not speak TLS: turn TLS on in the sender, or let it send to the plain port"
        }
        Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::SupportedVersionsExtensionRequired,
        )
        | Error::InvalidMessage(InvalidMessage::UnknownProtocolVersion) => {
            "it offers neither TLS 1.2 nor 1.3: update the sender, older versions are not safe (RFC 8996)"
        }
        Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon | PeerIncompatible::NoKxGroupsInCommon) => {
            "it offers no cipher suite with forward secrecy and authenticated encryption: allow ECDHE with AES-GCM in the sender"
        }
        Error::PeerIncompatible(
            PeerIncompatible::NoSignatureSchemesInCommon | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon,
        ) => {
            "it and this box have no signature algorithm in common: use a certificate with an ECDSA P-256 or an RSA key of 2048 bits or more"
        }
        Error::NoCertificatesPresented => "it showed no certificate: install a client certificate in the sender",
        Error::InvalidCertificate(error) => return of_certificate(error),
        Error::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::UnsupportedCertificate,
        ) => "it does not trust the certificate of this box: install the authority that signed it in the sender",
        Error::AlertReceived(alert) => return format!("it ended the TLS handshake with the alert {alert:?}"),
        error => return format!("the TLS handshake failed: {error}"),
    };
    known.to_owned()
}

#[allow(clippy::wildcard_enum_match_arm)] // as above
fn of_certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer => {
            "no authority in dicom.tls.client_ca_file, within its time, signed its certificate: give it another certificate, or add the \
             authority"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has ended: renew it in the sender, and check the clock of this box"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate has not begun: check the clock of this box"
        }
        CertificateError::ApplicationVerificationFailure => {
            "its certificate is none of those in dicom.tls.client_certificates_sha256 or [[dicom.peer]]: add its fingerprint"
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "its certificate is not for TLS clients: it needs the extended key usage clientAuth"
        }
        CertificateError::BadSignature => "the signature on its certificate is wrong",
        error => return format!("its certificate cannot be taken: {error}"),
    }
    .to_owned()
}
