//! Whom we trust when we call over TLS, and who we are: PEM files in -> a TLS connection to a named peer, or a sentence with the remedy, out.
//!
//! Source: RFC 8446, 5246, 9525 (names of servers); PS3.15 section B.12 for DICOM.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A PEM file has a few KiB.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// What the site calls the two things that a remedy may name.
#[derive(Clone, Copy, Debug)]
struct Wording {
    /// Where the authority is set.
    authority: &'static str,
    /// Where our certificate and key are set.
    identity: &'static str,
}

/// Whom we trust and who we are.
#[derive(Clone, Debug)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    wording: Wording,
}

impl TlsClient {
    /// Trusts the authorities in `ca_file`, and shows the certificate of `identity` (certificate file, key file) when asked. PEM files. Remedies name
    /// the options of `scanside send`.
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
        let wording = Wording { authority: "--tls-ca", identity: "--tls-cert and --tls-key" };
        Ok(Self { config: Arc::new(config), wording })
    }

    /// The same for a broker: remedies name the keys of its block in the configuration.
    ///
    /// # Errors
    /// As [`TlsClient::load`].
    pub fn load_for_broker(ca_file: &Path, identity: Option<(&Path, &Path)>) -> Result<Self, String> {
        let wording = Wording { authority: "ca_file", identity: "certificate_file and key_file" };
        Ok(Self { wording, ..Self::load(ca_file, identity)? })
    }

    /// Calls `to` (`HOST:PORT`), whose certificate must be for HOST.
    pub(super) async fn connect(&self, to: &str) -> Result<TlsStream<TcpStream>, String> {
        let host = to.rsplit_once(':').map_or(to, |(host, _)| host).trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned()).map_err(|_| format!("{host:?} is no host name"))?;
        let stream = TcpStream::connect(to).await.map_err(|error| format!("no connection: {error}"))?;
        stream.set_nodelay(true).map_err(|error| format!("no connection: {error}"))?;
        let connecting = TlsConnector::from(Arc::clone(&self.config)).connect(name, stream);
        connecting.await.map_err(|error| self.no_tls(&error))
    }

    /// What a fault of an open connection means: with TLS 1.3 a peer refuses our certificate only after it let us in.
    pub(super) fn refused(&self, error: &std::io::Error) -> Option<String> {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        matches!(inner, Some(rustls::Error::AlertReceived(_))).then(|| self.no_tls(error))
    }

    /// Why there is no TLS, with the remedy where one is likely.
    fn no_tls(&self, error: &std::io::Error) -> String {
        use rustls::{CertificateError as Certificate, Error};
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        let remedy = match inner {
            Some(Error::InvalidCertificate(Certificate::UnknownIssuer)) => {
                format!("give {} the authority that signed the peer's certificate", self.wording.authority)
            }
            Some(Error::InvalidCertificate(Certificate::NotValidForName | Certificate::NotValidForNameContext { .. })) => {
                "its certificate is for another name: call it by a name that it holds, or renew it with this one".to_owned()
            }
            Some(Error::InvalidCertificate(Certificate::Other(_))) => {
                "a certificate that is its own authority is not taken: make one for the peer with basicConstraints=CA:FALSE"
                    .to_owned()
            }
            Some(Error::InvalidCertificate(Certificate::Expired | Certificate::ExpiredContext { .. })) => {
                "renew the peer's certificate, or set the clock of this box".to_owned()
            }
            Some(Error::InvalidMessage(_)) => "is TLS spoken on that port?".to_owned(),
            Some(Error::AlertReceived(_)) => {
                format!("the peer refused us: it may ask for {} that it trusts", self.wording.identity)
            }
            _ => return format!("no TLS: {error}"),
        };
        format!("no TLS: {error}: {remedy}")
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
