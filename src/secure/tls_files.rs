//! Certificate and key files: paths in -> certificates and keys out, or what is wrong with the file and the remedy.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::domain::CertificateSha256;

use super::certificates::{Validity, validity_of};

/// A chain, a key and some authorities have a few KiB; a hospital's bundle of authorities has some hundred.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Certificates in one file.
const CERTIFICATES_MAX: usize = 256;
/// Mode bits that a key file must not have: anything for others, writing for the group.
const KEY_MODE_REFUSED: u32 = 0o027;

/// Where the certificates lie, and which clients are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Our certificate, then those between it and its authority (PEM).
    pub certificate_file: PathBuf,
    /// Its private key (PEM).
    pub key_file: PathBuf,
    /// Authorities of clients (PEM).
    pub client_ca_file: Option<PathBuf>,
    /// Certificates of clients that are taken; empty: any that passes the authorities.
    pub client_pins: Vec<CertificateSha256>,
    /// Whether a client without a certificate is refused.
    pub client_required: bool,
}

impl TlsFiles {
    /// A certificate and its key, for a listener that asks clients for none.
    #[must_use]
    pub fn own(certificate_file: PathBuf, key_file: PathBuf) -> Self {
        Self { certificate_file, key_file, client_ca_file: None, client_pins: Vec::new(), client_required: false }
    }
}

/// Why files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// a file cannot be read
    #[error("{}: cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// a file holds something else
    #[error("{}: {reason}", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the remedy.
        reason: String,
    },
}

/// The certificates of a file, and when each holds.
pub(super) fn certificates(path: &Path) -> Result<(Vec<CertificateDer<'static>>, Vec<Validity>), TlsError> {
    let unfit = |reason: String| TlsError::Unfit { path: path.to_owned(), reason };
    let bytes = read(path, |_| Ok(()))?;
    let (mut certificates, mut validities) = (Vec::new(), Vec::new());
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        let certificate = certificate.map_err(|error| unfit(format!("is no PEM file: {error}")))?;
        let number = certificates.len() + 1;
        if number > CERTIFICATES_MAX {
            return Err(unfit(format!("holds more than {CERTIFICATES_MAX} certificates")));
        }
        validities.push(validity_of(&certificate).ok_or_else(|| unfit(format!("certificate {number} of it cannot be read")))?);
        certificates.push(certificate);
    }
    if certificates.is_empty() {
        return Err(unfit("holds no certificate: it must begin with -----BEGIN CERTIFICATE-----".to_owned()));
    }
    Ok((certificates, validities))
}

/// The private key of a file that only its owner can read.
pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let unfit = |reason: String| TlsError::Unfit { path: path.to_owned(), reason };
    let bytes = read(path, |mode| match mode & KEY_MODE_REFUSED {
        0 => Ok(()),
        _ => Err(format!(
            "the key can be read or changed by others (mode {:03o}): chmod 600 it, owned by the service's user",
            mode & 0o777
        )),
    })?;
    if bytes.windows(9).any(|window| window == b"ENCRYPTED") {
        return Err(unfit(
            "the key has a passphrase, which nobody could type at the start: openssl pkey -in FILE -out NEW".to_owned(),
        ));
    }
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| unfit(format!("holds no private key: {error}")))
}

/// Reads a file whose mode `check` has passed; the mode is that of the opened file, not of the name.
fn read(path: &Path, check: impl Fn(u32) -> Result<(), String>) -> Result<Vec<u8>, TlsError> {
    let unreadable = |source| TlsError::Unreadable { path: path.to_owned(), source };
    let unfit = |reason: String| TlsError::Unfit { path: path.to_owned(), reason };
    // A pipe under this name would make opening wait for ever.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(unfit("is no file".to_owned()));
    }
    let file = File::open(path).map_err(unreadable)?;
    check(file.metadata().map_err(unreadable)?.mode()).map_err(unfit)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(unfit(format!("is longer than {} KiB", FILE_BYTES_MAX / 1024)));
    }
    Ok(bytes)
}
