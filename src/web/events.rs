//! What the web room reports to the journal.

use crate::journal::{Event, Level};

/// Events of this room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebEvent {
    /// The page is served.
    PageServed {
        /// Its address.
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
    /// A TLS handshake failed, most often a browser that does not trust the certificate yet.
    HandshakeFailed {
        /// Who asked.
        peer: String,
        /// Why.
        error: String,
    },
    /// Somebody logged in with the claim code.
    LoggedIn {
        /// From where.
        peer: String,
    },
    /// A wrong claim code.
    LoginFailed {
        /// From where.
        peer: String,
        /// The pause that it brings, seconds.
        pause_s: u64,
    },
    /// Nobody can log in.
    LoginClosed {
        /// Why.
        error: String,
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
            Self::HandshakeFailed { .. } => "HandshakeFailed",
            Self::LoggedIn { .. } => "LoggedIn",
            Self::LoginFailed { .. } => "LoginFailed",
            Self::LoginClosed { .. } => "LoginClosed",
            Self::QueryFailed { .. } => "QueryFailed",
            Self::AcknowledgeFailed { .. } => "AcknowledgeFailed",
        }
    }

    fn level(&self) -> Level {
        match self {
            Self::HandshakeFailed { .. } => Level::Debug,
            Self::PageServed { .. } | Self::LoggedIn { .. } => Level::Info,
            Self::HostRefused { .. }
            | Self::ForeignRequestRefused { .. }
            | Self::LoginFailed { .. }
            | Self::LoginClosed { .. } => Level::Warn,
            Self::QueryFailed { .. } | Self::AcknowledgeFailed { .. } => Level::Error,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::PageServed { at } => format!("The page is served on {at}."),
            Self::HostRefused { peer } => {
                format!("A request from {peer} came under a name that is not in web.host_names and was refused.")
            }
            Self::ForeignRequestRefused { peer } => format!("A change from {peer} did not come from this page and was refused."),
            Self::HandshakeFailed { peer, error } => format!("A TLS connection of {peer} to the page failed: {error}."),
            Self::LoggedIn { peer } => format!("Somebody at {peer} logged in with the claim code."),
            Self::LoginFailed { peer, pause_s: 0 } => format!("A wrong claim code came from {peer}."),
            Self::LoginFailed { peer, pause_s } => {
                format!("A wrong claim code came from {peer}, which must wait {pause_s} s before it may try again.")
            }
            Self::LoginClosed { error } => format!("Nobody can log in to the page: {error}."),
            Self::QueryFailed { error } => format!("The page could not ask the store: {error}."),
            Self::AcknowledgeFailed { error } => format!("An acknowledgement could not be recorded: {error}."),
        }
    }
}
