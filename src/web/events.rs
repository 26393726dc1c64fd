//! What the web room reports to the journal.

use crate::journal::{Event, Level};

/// Events of this room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebEvent {
    /// The page is served.
    PageServed {
        /// Address and port.
        at: String,
    },
    /// A request came under a name that is not ours.
    HostRefused {
        /// Who asked.
        peer: String,
    },
    /// A change was asked for by another site's page, or without the header that only our page sends.
    ForeignRequestRefused {
        /// Who asked.
        peer: String,
    },
    /// The store could not be asked.
    QueryFailed {
        /// Why.
        error: String,
    },
    /// An acknowledgement could not be recorded.
    AcknowledgeFailed {
        /// Why.
        error: String,
    },
}

impl Event for WebEvent {
    fn room(&self) -> &'static str {
        "web"
    }

    fn name(&self) -> &'static str {
        match self {
            Self::PageServed { .. } => "PageServed",
            Self::HostRefused { .. } => "HostRefused",
            Self::ForeignRequestRefused { .. } => "ForeignRequestRefused",
            Self::QueryFailed { .. } => "QueryFailed",
            Self::AcknowledgeFailed { .. } => "AcknowledgeFailed",
        }
    }

    fn level(&self) -> Level {
        match self {
            Self::PageServed { .. } => Level::Info,
            Self::HostRefused { .. } | Self::ForeignRequestRefused { .. } => Level::Warn,
            Self::QueryFailed { .. } | Self::AcknowledgeFailed { .. } => Level::Error,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::PageServed { at } => format!("The page is served on http://{at}/."),
            Self::HostRefused { peer } => {
                format!("A request from {peer} came under a name that is not in web.host_names and was refused.")
            }
            Self::ForeignRequestRefused { peer } => format!("A change from {peer} did not come from this page and was refused."),
            Self::QueryFailed { error } => format!("The page could not ask the store: {error}."),
            Self::AcknowledgeFailed { error } => format!("An acknowledgement could not be recorded: {error}."),
        }
    }
}
