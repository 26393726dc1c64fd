//! Which clients the TLS listener takes: a certificate, authorities, pins and the clock in -> taken, or refused with rustls's reason.
//!
//! | Authorities | Pins | A client must show |
//! | --- | --- | --- |
//! | no | no | nothing |
//! | yes | no | a certificate that an authority signed, for clients (RFC 5280 section 4.2.1.12), within its time |
//! | no | yes | one of the pinned certificates, within its time: it may be self-signed |
//! | yes | yes | both |
//!
//! The proof that it has the key is the handshake's signature, which is checked in every case.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use crate::domain::{CertificateSha256, WallTime};

use super::certificates::{Standing, fingerprint, validity_of};

/// What vouches for a client.
#[derive(Debug)]
pub(super) enum Authorities {
    /// No authority is asked.
    NotAsked,
    /// One of them must have signed.
    Asked(Arc<dyn ClientCertVerifier>),
    /// One of them would have to have signed, but the time of each is over or has not begun.
    NoneValid,
}

/// The check of a client's certificate.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    pub(super) authorities: Authorities,
    /// Empty: no certificate in particular.
    pub(super) pins: Vec<CertificateSha256>,
    /// Whether a client without a certificate is refused.
    pub(super) mandatory: bool,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        match &self.authorities {
            Authorities::Asked(authorities) => authorities.root_hint_subjects(),
            Authorities::NotAsked | Authorities::NoneValid => &[],
        }
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        // Compared before anything in it is read.
        if !self.pins.is_empty() && !self.pins.contains(&fingerprint(end_entity)) {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        match &self.authorities {
            Authorities::Asked(authorities) => authorities.verify_client_cert(end_entity, intermediates, now),
            Authorities::NoneValid => Err(CertificateError::UnknownIssuer.into()),
            Authorities::NotAsked => {
                let now = WallTime(i64::try_from(now.as_secs()).unwrap_or(i64::MAX).saturating_mul(1000));
                match validity_of(end_entity).ok_or(CertificateError::BadEncoding)?.judge(now) {
                    Standing::Valid | Standing::Ending(_) => Ok(ClientCertVerified::assertion()),
                    Standing::Over => Err(CertificateError::Expired.into()),
                    Standing::NotBegun => Err(CertificateError::NotValidYet.into()),
                }
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
