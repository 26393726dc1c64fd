//! What is told to the journal about certificates: days and reasons.

use crate::journal::{Event, Level};

#[derive(Debug)]
pub(super) enum SecureEvent {
    CertificateLoaded { serves: &'static str, until: String },
    CertificateRefused { serves: &'static str, error: String, serves_on: bool },
}

impl Event for SecureEvent {
    fn room(&self) -> &'static str {
        "secure"
    }

    fn name(&self) -> &'static str {
        match self {
            Self::CertificateLoaded { .. } => "CertificateLoaded",
            Self::CertificateRefused { .. } => "CertificateRefused",
        }
    }

    fn level(&self) -> Level {
        match self {
            Self::CertificateLoaded { .. } => Level::Info,
            Self::CertificateRefused { serves_on: true, .. } => Level::Warn,
            Self::CertificateRefused { serves_on: false, .. } => Level::Error,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::CertificateLoaded { serves, until } => {
                format!("The certificate for {serves} was loaded; it holds until {until}.")
            }
            Self::CertificateRefused { serves, error, serves_on: true } => {
                format!("The new certificate files cannot be used, the ones before still serve {serves}: {error}.")
            }
            Self::CertificateRefused { serves, error, serves_on: false } => {
                format!("There is no certificate for {serves}, and every connection is refused: {error}.")
            }
        }
    }
}
