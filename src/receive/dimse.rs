//! DIMSE as a pure state machine: message fragments of one association in -> events out. No IO, no clock.
//!
//! ```text
//!             command fragment             last command fragment, no data set
//!          +------------------+          +----------------------------------------> Echo / Unrecognised / StoreWithoutData
//!          v                  |          |
//!   [ Command: gathering ] ---+----------+---- last command fragment, data set follows ----> [ Data ]   (StoreBegins)
//!          ^                                                                                   |  ^
//!          |                                                                                   |  | data fragment (StoreData)
//!          +---------------------------- last data fragment (StoreEnds / Unrecognised) --------+--+
//! ```
//! Anything else is a [`Violation`]: the association is aborted, since the peer and we no longer agree on what comes next.
//! Source: PS3.7 section 6.3 and 9.1.1, PS3.8 annex E.

use super::command::{C_CANCEL_RQ, C_ECHO_RQ, C_STORE_RQ, Command, CommandError, RESPONSE, parse_command};

/// Longest command set, bytes; real ones have a few hundred.
pub const COMMAND_BYTES_MAX: usize = 64 * 1024;

/// One presentation data value's head; its bytes travel beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Presentation context.
    pub context_id: u8,
    /// Command (true) or data set (false).
    pub is_command: bool,
    /// Whether it is the last of its command or data set.
    pub is_last: bool,
}

/// What a fragment means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DimseEvent {
    /// More is to come.
    Incomplete,
    /// C-ECHO-RQ: answer it.
    Echo(Command),
    /// C-STORE-RQ: its data set follows.
    StoreBegins(Command),
    /// This fragment's bytes belong to the data set; `is_last` says whether it is now complete.
    StoreData {
        /// Whether the data set is complete.
        is_last: bool,
    },
    /// C-STORE-RQ without a data set.
    StoreWithoutData(Command),
    /// A complete request for an operation that is not offered here: answer 0x0211.
    Unrecognised(Command),
    /// C-CANCEL-RQ: there is nothing to cancel and nothing to answer.
    Cancel,
}

/// What the peer did against the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// a fragment came on a presentation context that was not accepted
    #[error("a fragment came on presentation context {0}, which was not accepted")]
    UnknownContext(u8),
    /// a message changed its presentation context half-way
    #[error("a message changed its presentation context half-way")]
    ContextChanged,
    /// data came where a command was due
    #[error("data came where a command was due")]
    DataBeforeCommand,
    /// a command came inside a data set
    #[error("a command came inside a data set")]
    CommandInsideData,
    /// the command set is longer than the bound
    #[error("the command set is longer than {COMMAND_BYTES_MAX} bytes")]
    CommandTooLong,
    /// the command set cannot be read
    #[error("{0}")]
    Command(#[from] CommandError),
    /// a response came though nothing had been asked
    #[error("a response came though nothing had been asked")]
    ResponseUnasked,
}

#[derive(Debug)]
enum State {
    Command { context_id: Option<u8> },
    Data { context_id: u8, unrecognised: Option<Command> },
}

/// The state machine of one association.
#[derive(Debug)]
pub struct Dimse {
    state: State,
    command: Vec<u8>,
    accepted: [bool; 256],
}

impl Dimse {
    /// A machine for an association with these accepted presentation contexts.
    #[must_use]
    pub fn new(accepted: impl IntoIterator<Item = u8>) -> Self {
        let mut flags = [false; 256];
        for id in accepted {
            flags[usize::from(id)] = true;
        }
        Self { state: State::Command { context_id: None }, command: Vec::new(), accepted: flags }
    }

    /// Whether a message has begun and is not complete.
    #[must_use]
    pub fn is_inside_message(&self) -> bool {
        !matches!(self.state, State::Command { context_id: None })
    }

    /// Takes one fragment.
    ///
    /// # Errors
    /// [`Violation`]: abort the association.
    pub fn on_fragment(&mut self, fragment: Fragment, bytes: &[u8]) -> Result<DimseEvent, Violation> {
        if !self.accepted[usize::from(fragment.context_id)] {
            return Err(Violation::UnknownContext(fragment.context_id));
        }
        match (&mut self.state, fragment.is_command) {
            (State::Command { context_id }, true) => {
                if context_id.replace(fragment.context_id).is_some_and(|id| id != fragment.context_id) {
                    return Err(Violation::ContextChanged);
                }
                if self.command.len() + bytes.len() > COMMAND_BYTES_MAX {
                    return Err(Violation::CommandTooLong);
                }
                self.command.extend_from_slice(bytes);
                if fragment.is_last { self.on_command(fragment.context_id) } else { Ok(DimseEvent::Incomplete) }
            }
            (State::Command { .. }, false) => Err(Violation::DataBeforeCommand),
            (State::Data { .. }, true) => Err(Violation::CommandInsideData),
            (State::Data { context_id, .. }, false) if *context_id != fragment.context_id => Err(Violation::ContextChanged),
            (State::Data { unrecognised, .. }, false) => {
                let is_store = unrecognised.is_none();
                let event = match unrecognised.take_if(|_| fragment.is_last) {
                    Some(command) => DimseEvent::Unrecognised(command),
                    None if is_store => DimseEvent::StoreData { is_last: fragment.is_last },
                    None => DimseEvent::Incomplete,
                };
                if fragment.is_last {
                    self.state = State::Command { context_id: None };
                }
                Ok(event)
            }
        }
    }

    fn on_command(&mut self, context_id: u8) -> Result<DimseEvent, Violation> {
        let command = parse_command(&self.command)?;
        self.command.clear();
        self.command.shrink_to(1024);
        self.state = State::Command { context_id: None };
        if command.field & RESPONSE != 0 {
            return Err(Violation::ResponseUnasked);
        }
        match (command.field, command.has_data_set) {
            (C_STORE_RQ, true) => {
                self.state = State::Data { context_id, unrecognised: None };
                Ok(DimseEvent::StoreBegins(command))
            }
            (C_STORE_RQ, false) => Ok(DimseEvent::StoreWithoutData(command)),
            (C_ECHO_RQ, false) => Ok(DimseEvent::Echo(command)),
            (C_CANCEL_RQ, false) => Ok(DimseEvent::Cancel),
            (_, false) => Ok(DimseEvent::Unrecognised(command)),
            (_, true) => {
                self.state = State::Data { context_id, unrecognised: Some(command) };
                Ok(DimseEvent::Incomplete)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn element(set: &mut Vec<u8>, number: u16, value: &[u8]) {
        set.extend_from_slice(&[0, 0]);
        set.extend_from_slice(&number.to_le_bytes());
        set.extend_from_slice(&u32::try_from(value.len()).expect("short").to_le_bytes());
        set.extend_from_slice(value);
    }

    fn command(field: u16, data_set_type: u16) -> Vec<u8> {
        let mut set = Vec::new();
        element(&mut set, 0x0100, &field.to_le_bytes());
        element(&mut set, 0x0110, &9_u16.to_le_bytes());
        element(&mut set, 0x0800, &data_set_type.to_le_bytes());
        set
    }

    const COMMAND: Fragment = Fragment { context_id: 1, is_command: true, is_last: false };
    const LAST_COMMAND: Fragment = Fragment { context_id: 1, is_command: true, is_last: true };
    const DATA: Fragment = Fragment { context_id: 1, is_command: false, is_last: false };
    const LAST_DATA: Fragment = Fragment { context_id: 1, is_command: false, is_last: true };

    #[test]
    fn store_in_fragments_begins_carries_and_ends() {
        let mut dimse = Dimse::new([1]);
        let set = command(C_STORE_RQ, 0);
        let (head, tail) = set.split_at(13);
        assert_eq!(dimse.on_fragment(COMMAND, head), Ok(DimseEvent::Incomplete));
        assert!(dimse.is_inside_message());
        assert!(matches!(dimse.on_fragment(LAST_COMMAND, tail), Ok(DimseEvent::StoreBegins(c)) if c.message_id == 9));
        assert_eq!(dimse.on_fragment(DATA, &[1, 2]), Ok(DimseEvent::StoreData { is_last: false }));
        assert_eq!(dimse.on_fragment(LAST_DATA, &[]), Ok(DimseEvent::StoreData { is_last: true }));
        assert!(!dimse.is_inside_message());
        assert!(matches!(dimse.on_fragment(LAST_COMMAND, &command(C_ECHO_RQ, 0x0101)), Ok(DimseEvent::Echo(_))));
    }

    #[test]
    fn unknown_operation_is_answered_after_its_data_set() {
        let mut dimse = Dimse::new([1]);
        assert!(matches!(dimse.on_fragment(LAST_COMMAND, &command(0x0020, 0)), Ok(DimseEvent::Incomplete)));
        assert_eq!(dimse.on_fragment(DATA, &[0; 10]), Ok(DimseEvent::Incomplete));
        assert!(matches!(dimse.on_fragment(LAST_DATA, &[]), Ok(DimseEvent::Unrecognised(c)) if c.field == 0x0020));
        assert!(matches!(dimse.on_fragment(LAST_COMMAND, &command(0x0020, 0x0101)), Ok(DimseEvent::Unrecognised(_))));
        assert!(matches!(dimse.on_fragment(LAST_COMMAND, &command(C_STORE_RQ, 0x0101)), Ok(DimseEvent::StoreWithoutData(_))));
    }

    #[test]
    fn breaches_of_the_protocol_are_named() {
        let fresh = || Dimse::new([1, 3]);
        assert_eq!(fresh().on_fragment(DATA, &[]), Err(Violation::DataBeforeCommand));
        let other = Fragment { context_id: 5, ..LAST_COMMAND };
        assert_eq!(fresh().on_fragment(other, &[]), Err(Violation::UnknownContext(5)));
        assert_eq!(fresh().on_fragment(LAST_COMMAND, &command(0x8030, 0x0101)), Err(Violation::ResponseUnasked));
        let mut dimse = fresh();
        dimse.on_fragment(LAST_COMMAND, &command(C_STORE_RQ, 0)).unwrap();
        assert_eq!(dimse.on_fragment(COMMAND, &[]), Err(Violation::CommandInsideData));
        assert_eq!(dimse.on_fragment(Fragment { context_id: 3, ..DATA }, &[]), Err(Violation::ContextChanged));
    }

    #[test]
    fn endless_command_stops_at_its_bound() {
        let mut dimse = Dimse::new([1]);
        for _ in 0..COMMAND_BYTES_MAX / 1024 {
            assert_eq!(dimse.on_fragment(COMMAND, &[0; 1024]), Ok(DimseEvent::Incomplete));
        }
        assert_eq!(dimse.on_fragment(COMMAND, &[0]), Err(Violation::CommandTooLong));
    }

    proptest! {
        #[test]
        fn any_sequence_of_fragments_is_an_event_or_a_violation(
            fragments in prop::collection::vec((0..4_u8, any::<bool>(), any::<bool>(), prop::collection::vec(any::<u8>(), 0..40), any::<bool>()), 0..30)
        ) {
            let mut dimse = Dimse::new([1, 3]);
            let store = command(C_STORE_RQ, 0);
            for (context_id, is_command, is_last, bytes, real) in fragments {
                let bytes = if real { &store } else { &bytes };
                if dimse.on_fragment(Fragment { context_id, is_command, is_last }, bytes).is_err() {
                    break;
                }
            }
        }
    }
}
