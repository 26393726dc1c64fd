//! How a connection ends: the cause in -> what is sent to the peer, and what people read, out.
//! Source: PS3.8 section 9.3.8 and table 9-26 (A-ABORT sources and reasons).

use dicom_ul::pdu::{AbortRQServiceProviderReason, AbortRQSource, AssociationRJ, Pdu};

use super::dimse::Violation;
use super::pdu_buffer::PduError;
use super::progress::Late;

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ending {
    #[error("released")]
    Released,
    #[error("rejected")]
    Rejected(AssociationRJ),
    #[error("the peer aborted it")]
    AbortedByPeer,
    #[error("the peer closed the connection")]
    ClosedByPeer,
    #[error("{0}")]
    Handshake(String),
    #[error("the connection broke ({0})")]
    Broken(std::io::ErrorKind),
    #[error("{0}")]
    Late(#[from] Late),
    #[error("it was idle and made room for another")]
    Evicted,
    #[error("scanside is stopping")]
    Stopping,
    #[error("{0}")]
    Pdu(#[from] PduError),
    #[error("{0}")]
    Violation(#[from] Violation),
    #[error("a PDU of type {0:#04x} came where it has no place")]
    UnexpectedPdu(u8),
    #[error("the association request cannot be read ({0})")]
    BadRequest(String),
    #[error("a data set never ended")]
    EndlessData,
    #[error("an instance could not be stored because of a fault in scanside")]
    StoreFault,
}

impl Ending {
    /// The last PDU to send, if any.
    pub(super) fn last_pdu(&self) -> Option<Pdu> {
        use AbortRQServiceProviderReason as Reason;
        let reason = match self {
            Self::Released => return Some(Pdu::ReleaseRP),
            Self::Rejected(rejection) => return Some(Pdu::AssociationRJ(rejection.clone())),
            Self::AbortedByPeer | Self::ClosedByPeer | Self::Handshake(_) | Self::Broken(_) => return None,
            Self::Late(_) | Self::Evicted | Self::Stopping | Self::EndlessData | Self::StoreFault => Reason::ReasonNotSpecified,
            Self::Pdu(PduError::UnknownType(_)) => Reason::UnrecognizedPdu,
            Self::UnexpectedPdu(_) => Reason::UnexpectedPdu,
            Self::Pdu(_) | Self::Violation(_) | Self::BadRequest(_) => Reason::InvalidPduParameter,
        };
        Some(Pdu::AbortRQ { source: AbortRQSource::ServiceProvider(reason) })
    }
}

impl From<std::io::Error> for Ending {
    fn from(error: std::io::Error) -> Self {
        Self::Broken(error.kind())
    }
}
