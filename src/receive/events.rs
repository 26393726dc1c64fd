//! What receiving reports: `ReceiveNotice` to the service, which acts on it; `ReceiveEvent` to the journal, which people read.

use std::net::{IpAddr, SocketAddr};

use crate::domain::{AeTitle, AvailableInstances, ProcedureStep, StoredInstance};
use crate::journal::{Event, Level};
use crate::spool::SpoolError;

use super::command::DimseStatus;
use super::rates::{Beyond, PutOff};

/// To the service, through a bounded channel that makes the sender wait.
#[derive(Debug)]
pub enum ReceiveNotice {
    /// An instance is durable and was answered with success.
    InstanceStored(Box<StoredInstance>),
    /// The same instance came again and was answered with success; it is stored once.
    InstanceRepeated(Box<StoredInstance>),
    /// The same SOP Instance UID came with other content; kept as evidence beside the first, and takes no part in triage.
    InstanceConflict {
        /// The evidence.
        evidence: Box<StoredInstance>,
    },
    /// A modality created or changed a procedure step; it is durable and was answered with success. The whole step as it is now.
    StepReported(Box<ProcedureStep>),
    /// A peer says which instances it made available. Evidence for the moment: it may come again, and is not kept.
    InstancesAvailable(Box<AvailableInstances>),
    /// An association opened.
    AssociationOpened {
        /// Our number for it, from 1.
        id: u64,
        /// Who calls.
        calling: AeTitle,
        /// From where.
        peer: IpAddr,
    },
    /// An association ended.
    AssociationClosed {
        /// Our number.
        id: u64,
        /// Whether by a release, as it should be; otherwise by an abort, a time-out or a broken connection.
        released: bool,
        /// Instances that it brought durably, repeated ones and conflicts included.
        n_instances: u64,
    },
    /// The spool refused or failed; the peer was answered 0xA700.
    StorageFailed {
        /// Why.
        error: SpoolError,
    },
}

/// To the journal. Addresses, titles and reasons; no names, no UIDs of instances.
#[derive(Debug)]
pub(super) enum ReceiveEvent {
    ListenerStarted { address: SocketAddr, tls: bool },
    ListenerStopped(&'static str),
    ConnectionRefused { error: String },
    ConnectionEvicted { id: u64 },
    AssociationAccepted { id: u64, calling: AeTitle, peer: IpAddr, n_contexts: usize },
    AssociationRejected { peer: IpAddr, because: String },
    ContextsRefused { id: u64, n_refused: usize, sop_class: String, because: &'static str },
    AssociationReleased { id: u64, n_instances: u64 },
    AssociationBroken { id: u64, n_instances: u64, because: String },
    RequestFailed { peer: IpAddr, because: String },
    HandshakeFailed { peer: IpAddr, because: String },
    ConnectionPutOff { peer: IpAddr },
    PeerPutOff { peer: IpAddr, put_off: PutOff },
    PeerHushed { peer: IpAddr, level: Level },
    InstanceRefused { id: u64, status: DimseStatus, because: String },
    InstanceConflicted { id: u64 },
    StorageFailed { id: u64, error: String },
    EchoAnswered { id: u64 },
    RequestRefused { id: u64, operation: &'static str, status: DimseStatus, because: String },
    CommitmentKept { id: u64, n_instances: usize, n_failed: usize },
    CommitmentTold { id: u64 },
    CommitmentPassedOn { id: u64, because: String },
}

impl Event for ReceiveEvent {
    fn room(&self) -> &'static str {
        "receive"
    }

    fn name(&self) -> &'static str {
        match self {
            Self::ListenerStarted { .. } => "ListenerStarted",
            Self::ListenerStopped(_) => "ListenerStopped",
            Self::ConnectionRefused { .. } => "ConnectionRefused",
            Self::ConnectionEvicted { .. } => "ConnectionEvicted",
            Self::AssociationAccepted { .. } => "AssociationAccepted",
            Self::AssociationRejected { .. } => "AssociationRejected",
            Self::ContextsRefused { .. } => "ContextsRefused",
            Self::AssociationReleased { .. } => "AssociationReleased",
            Self::AssociationBroken { .. } => "AssociationBroken",
            Self::RequestFailed { .. } => "RequestFailed",
            Self::HandshakeFailed { .. } => "HandshakeFailed",
            Self::ConnectionPutOff { .. } => "ConnectionPutOff",
            Self::PeerPutOff { .. } => "PeerPutOff",
            Self::PeerHushed { .. } => "PeerHushed",
            Self::InstanceRefused { .. } => "InstanceRefused",
            Self::InstanceConflicted { .. } => "InstanceConflicted",
            Self::StorageFailed { .. } => "StorageFailed",
            Self::EchoAnswered { .. } => "EchoAnswered",
            Self::RequestRefused { .. } => "RequestRefused",
            Self::CommitmentKept { .. } => "CommitmentKept",
            Self::CommitmentTold { .. } => "CommitmentTold",
            Self::CommitmentPassedOn { .. } => "CommitmentPassedOn",
        }
    }

    fn level(&self) -> Level {
        match self {
            // Each of these stands beside a line that says more: how the connection ended, or that the address is put off.
            Self::EchoAnswered { .. } | Self::ConnectionEvicted { .. } | Self::ConnectionPutOff { .. } => Level::Debug,
            Self::PeerHushed { level, .. } => *level,
            Self::ListenerStarted { .. }
            | Self::ListenerStopped(_)
            | Self::AssociationAccepted { .. }
            | Self::AssociationReleased { .. }
            | Self::CommitmentKept { .. }
            | Self::CommitmentTold { .. }
            | Self::CommitmentPassedOn { .. }
            | Self::ContextsRefused { .. } => Level::Info,
            Self::HandshakeFailed { .. }
            | Self::PeerPutOff { .. }
            | Self::AssociationRejected { .. }
            | Self::AssociationBroken { .. }
            | Self::RequestFailed { .. }
            | Self::InstanceRefused { .. }
            | Self::RequestRefused { .. }
            | Self::InstanceConflicted { .. } => Level::Warn,
            Self::ConnectionRefused { .. } | Self::StorageFailed { .. } => Level::Error,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::ListenerStarted { address, tls: false } => format!("Listening for DICOM on {address}."),
            Self::ListenerStarted { address, tls: true } => format!("Listening for DICOM over TLS on {address}."),
            Self::ListenerStopped(because) => format!("The DICOM listener has stopped: {because}."),
            Self::ConnectionRefused { error } => format!("A connection could not be taken: {error}."),
            Self::ConnectionEvicted { id } => format!("Connection {id} was silent and made room for another."),
            Self::AssociationAccepted { id, calling, peer, n_contexts } => {
                format!("Association {id} from {calling} at {peer} opened with {n_contexts} presentation contexts.")
            }
            Self::AssociationRejected { peer, because } => format!("An association from {peer} was rejected: {because}."),
            Self::ContextsRefused { id, n_refused, sop_class, because } => {
                format!("Association {id}: {n_refused} presentation contexts were refused, first {sop_class}: {because}.")
            }
            Self::AssociationReleased { id, n_instances } => format!("Association {id} released after {n_instances} instances."),
            Self::AssociationBroken { id, n_instances, because } => {
                format!("Association {id} ended without a release after {n_instances} instances: {because}.")
            }
            Self::RequestFailed { peer, because } => format!("A connection from {peer} never became an association: {because}."),
            Self::HandshakeFailed { peer, because } => format!("A TLS connection from {peer} was refused: {because}."),
            Self::ConnectionPutOff { peer } => format!("A connection from {peer}, which is put off, was closed."),
            Self::PeerPutOff { peer, put_off } => put_off_text(*peer, put_off),
            Self::PeerHushed { peer, .. } => {
                format!("So many lines about {peer} came in a short time that further ones are only counted, until it pauses.")
            }
            Self::InstanceRefused { id, status, because } => {
                format!("Association {id}: an instance was refused with {:#06X}: {because}.", status.code())
            }
            Self::InstanceConflicted { id } => {
                format!("Association {id}: a SOP Instance UID came again with other content; the first is untouched.")
            }
            Self::StorageFailed { id, error } => format!("Association {id}: an instance was refused with 0xA700: {error}."),
            Self::EchoAnswered { id } => format!("Association {id}: C-ECHO answered."),
            Self::RequestRefused { id, operation, status, because } => {
                format!("Association {id}: {operation} was refused with 0x{:04X}: {because}.", status.code())
            }
            Self::CommitmentKept { id, n_instances, n_failed } => {
                format!(
                    "Association {id}: storage commitment of {n_instances} instances was asked for; {n_failed} are not committed."
                )
            }
            Self::CommitmentTold { id } => {
                format!("Association {id}: the requester has taken the answer of its storage commitment.")
            }
            Self::CommitmentPassedOn { id, because } => {
                format!("Association {id}: {because}; the answer of a storage commitment goes over a new association.")
            }
        }
    }
}

fn put_off_text(peer: IpAddr, put_off: &PutOff) -> String {
    let because = match put_off.beyond {
        Beyond::Connections => "it opened more connections than dicom.connections_per_minute_max",
        Beyond::Failures => "more of its connections failed than dicom.failures_per_minute_max: see the lines about it above",
    };
    let before = match put_off.n_closed_before {
        0 => String::new(),
        n => format!(" The time before, {n} connections were closed."),
    };
    format!("{peer} is put off for {} s: {because}.{before}", put_off.for_ms / 1000)
}

/// An event that is counted under its name, but makes no line.
pub(super) struct Quiet<'a>(pub(super) &'a ReceiveEvent);

impl Event for Quiet<'_> {
    fn room(&self) -> &'static str {
        self.0.room()
    }

    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn level(&self) -> Level {
        Level::Debug
    }

    fn text(&self) -> String {
        self.0.text()
    }
}
