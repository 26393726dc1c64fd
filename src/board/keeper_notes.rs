//! What the lamp keeper notes: turns of the lamp's life, presses, failures -> lines for the log.

use scanside_lamp::{LifeNote, TestEnd};

/// What the keeper reports to its own process, for the log and for systemd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeeperNote {
    /// The loop turns: feed the watchdog.
    Alive,
    /// The life of the lamp took a turn.
    Life(LifeNote),
    /// Lamps or button cannot be used.
    Failing(String),
    /// They work again.
    Recovered,
    /// The button was pressed; whether a live service or a test will hear of it.
    Pressed(bool),
    /// The button was held for a factory reset; the file's name, or why it could not be made.
    ResetAsked(Result<(), String>),
    /// A connection was closed because it did not keep to the protocol.
    PeerRefused(&'static str),
    /// The socket takes no connections any more.
    SocketFailed(String),
}

/// A line for the log.
#[must_use]
pub fn in_words(note: &KeeperNote) -> Option<String> {
    let text = match note {
        KeeperNote::Alive => return None,
        KeeperNote::Life(note) => life_in_words(*note),
        KeeperNote::Failing(text) => format!("the board fails: {text}"),
        KeeperNote::Recovered => "the board works again".to_owned(),
        KeeperNote::Pressed(true) => "the button was pressed".to_owned(),
        KeeperNote::Pressed(false) => "the button was pressed, but no live service hears it".to_owned(),
        KeeperNote::ResetAsked(Ok(())) => "the button was held for 10 s: a factory reset is asked for".to_owned(),
        KeeperNote::ResetAsked(Err(error)) => format!("the button was held for 10 s, but the reset cannot be asked for: {error}"),
        KeeperNote::PeerRefused(why) => format!("a connection was closed: {why}"),
        KeeperNote::SocketFailed(error) => format!("the socket takes no connection: {error}"),
    };
    Some(text)
}

fn life_in_words(note: LifeNote) -> String {
    match note {
        LifeNote::ServiceLive { silent_ms: None } => "the service lives".to_owned(),
        LifeNote::ServiceLive { silent_ms: Some(ms) } => format!("the service lives again, {ms} ms after its last word"),
        LifeNote::ServiceSilent => "the service is silent: the lamp shows fault".to_owned(),
        LifeNote::ServiceLost => "the service has gone without a goodbye: the lamp shows fault".to_owned(),
        LifeNote::ServiceStopped => "the service has stopped: the lamp is dark".to_owned(),
        LifeNote::StartTooLong => "the service has not come up in time: the lamp shows fault".to_owned(),
        LifeNote::Sound(false) => "the service says that it does not move: the lamp shows fault".to_owned(),
        LifeNote::Sound(true) => "the service moves again".to_owned(),
        LifeNote::TestBegan => "a board test begins".to_owned(),
        LifeNote::TestRefused => "a board test is refused: the lamp is needed".to_owned(),
        LifeNote::TestOver(TestEnd::Done) => "the board test is over".to_owned(),
        LifeNote::TestOver(TestEnd::TimeOver) => "the board test took too long and is over".to_owned(),
        LifeNote::TestOver(TestEnd::Needed) => "the board test is over: the lamp is needed".to_owned(),
    }
}
