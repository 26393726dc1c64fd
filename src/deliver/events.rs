//! What deliver reports to the journal. No address of a receiver beyond a channel's name, no body, no patient data.

use crate::domain::AeTitle;
use crate::journal::{Event, Level};

/// Events of this room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeliverEvent {
    /// A notice reached its receiver.
    NoticeDelivered {
        /// Channel.
        channel: String,
        /// Number in the outbox.
        id: u64,
        /// Failed attempts before.
        attempts: u32,
    },
    /// An attempt failed; it will be tried again.
    NoticeFailed {
        /// Channel.
        channel: String,
        /// Number in the outbox.
        id: u64,
        /// What went wrong.
        error: String,
        /// Until the next attempt, ms.
        retry_ms: u64,
    },
    /// A notice waits for a channel that the configuration does not have.
    NoticeOrphaned {
        /// Channel.
        channel: String,
    },
    /// The outbox could not be read or written.
    OutboxFailing {
        /// Why.
        error: String,
    },
    /// Notices have waited longer than the limit, or a channel cannot be used for longer than that.
    AlertsUndelivered {
        /// A sentence for each.
        detail: String,
    },
    /// All notices are delivered again, or younger than the limit, and every channel can be used or could be lately.
    AlertsRecovered,
    /// A broker has let us in, and acknowledged what we published.
    BrokerConnected {
        /// Channel.
        channel: String,
    },
    /// There is no connection to a broker, or no longer, or for another reason than before.
    BrokerLost {
        /// Channel.
        channel: String,
        /// Why, with the remedy where one is likely.
        reason: String,
    },
    /// A broker does not take the status of this box.
    BrokerStatusRefused {
        /// Channel.
        channel: String,
        /// Why, with the remedy where one is likely.
        reason: String,
    },
    /// The requester has taken the answer of its storage commitment.
    CommitmentDelivered {
        /// Number in the table.
        id: u64,
        /// Who asked.
        requester: AeTitle,
        /// Tries, this one included.
        attempts: u32,
    },
    /// A try failed; there will be another.
    CommitmentFailed {
        /// Number in the table.
        id: u64,
        /// Who asked.
        requester: AeTitle,
        /// What went wrong.
        error: String,
        /// Until the next try, ms.
        retry_ms: u64,
    },
    /// The answer of a storage commitment is not told any more.
    CommitmentGivenUp {
        /// Number in the table.
        id: u64,
        /// Who asked.
        requester: AeTitle,
        /// What went wrong last.
        error: String,
    },
}

impl Event for DeliverEvent {
    fn room(&self) -> &'static str {
        "deliver"
    }

    fn name(&self) -> &'static str {
        match self {
            Self::NoticeDelivered { .. } => "NoticeDelivered",
            Self::NoticeFailed { .. } => "NoticeFailed",
            Self::NoticeOrphaned { .. } => "NoticeOrphaned",
            Self::OutboxFailing { .. } => "OutboxFailing",
            Self::AlertsUndelivered { .. } => "AlertsUndelivered",
            Self::AlertsRecovered => "AlertsRecovered",
            Self::BrokerConnected { .. } => "BrokerConnected",
            Self::BrokerLost { .. } => "BrokerLost",
            Self::BrokerStatusRefused { .. } => "BrokerStatusRefused",
            Self::CommitmentDelivered { .. } => "CommitmentDelivered",
            Self::CommitmentFailed { .. } => "CommitmentFailed",
            Self::CommitmentGivenUp { .. } => "CommitmentGivenUp",
        }
    }

    fn level(&self) -> Level {
        match self {
            Self::NoticeDelivered { .. }
            | Self::AlertsRecovered
            | Self::BrokerConnected { .. }
            | Self::CommitmentDelivered { .. } => Level::Info,
            Self::NoticeFailed { .. }
            | Self::NoticeOrphaned { .. }
            | Self::BrokerLost { .. }
            | Self::BrokerStatusRefused { .. }
            | Self::CommitmentFailed { .. } => Level::Warn,
            Self::OutboxFailing { .. } | Self::AlertsUndelivered { .. } | Self::CommitmentGivenUp { .. } => Level::Error,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::NoticeDelivered { channel, id, attempts: 0 } => format!("Alert {id} delivered to {channel}."),
            Self::NoticeDelivered { channel, id, attempts } => {
                format!("Alert {id} delivered to {channel} after {attempts} failed attempts.")
            }
            Self::NoticeFailed { channel, id, error, retry_ms } => {
                format!(
                    "Alert {id} to {channel} failed: {error}; next attempt in {:.1} s.",
                    f64::from(u32::try_from(*retry_ms).unwrap_or(u32::MAX)) / 1000.0
                )
            }
            Self::NoticeOrphaned { channel } => {
                format!(
                    "Alerts wait for {channel}, which is not in the configuration: put it back, they are kept until delivered."
                )
            }
            Self::OutboxFailing { error } => format!("The outbox cannot be read or written: {error}."),
            Self::AlertsUndelivered { detail } => format!("Alerts do not arrive: {detail}"),
            Self::AlertsRecovered => "Alerts are delivered again.".to_owned(),
            Self::BrokerConnected { channel } => format!("The broker of {channel} has let us in: alerts can be delivered."),
            Self::BrokerLost { channel, reason } => {
                let stop = if reason.ends_with('?') { "" } else { "." };
                format!("No connection to the broker of {channel}: {reason}{stop}")
            }
            Self::BrokerStatusRefused { channel, reason } => {
                format!("The broker of {channel} does not take the status of this box: {reason}.")
            }
            Self::CommitmentDelivered { id, requester, attempts } => {
                format!("Storage commitment {id} was told to {requester}, which has taken it at try {attempts}.")
            }
            Self::CommitmentFailed { id, requester, error, retry_ms } => {
                format!("Storage commitment {id} could not be told to {requester}: {error}; next try in {} s.", retry_ms / 1000)
            }
            Self::CommitmentGivenUp { id, requester, error } => {
                format!("Storage commitment {id} of {requester} is given up after three days: {error}; its images stay held.")
            }
        }
    }
}
