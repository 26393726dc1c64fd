//! DIMSE as a pure state machine: message fragments of one association in -> events out. No IO, no clock.
//!
//! ```text
//!             command fragment             last command fragment, no data set
//!          +------------------+          +----------------------------> Echo / Unrecognised / StoreWithoutData / Request / Answered
//!          v                  |          |
//!   [ Command: gathering ] ---+----------+---- last command fragment, data set follows ----> [ Data ]   (StoreBegins, RequestBegins)
//!          ^                                                                                   |  ^
//!          |                                                                                   |  | data fragment (StoreData, RequestData)
//!          +---------------- last data fragment (the same / Unrecognised / Answered) ----------+--+
//! ```
//! A response is expected only while an N-EVENT-REPORT of ours is outstanding ([`Dimse::expect`]); requests may come in between.
//! Anything else is a [`Violation`]: the association is aborted, since the peer and we no longer agree on what comes next.
//! Source: PS3.7 section 6.3 and 9.1.1, PS3.8 annex E.

use super::command::{
    C_CANCEL_RQ, C_ECHO_RQ, C_STORE_RQ, Command, CommandError, N_ACTION_RQ, N_CREATE_RQ, N_EVENT_REPORT_RQ, N_SET_RQ, RESPONSE,
    parse_command,
};

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
    /// N-CREATE-RQ, N-SET-RQ or N-ACTION-RQ: its data set follows.
    RequestBegins(Command),
    /// This fragment's bytes belong to that data set.
    RequestData {
        /// Whether the data set is complete.
        is_last: bool,
    },
    /// N-CREATE-RQ, N-SET-RQ or N-ACTION-RQ without a data set.
    Request(Command),
    /// The response to our N-EVENT-REPORT is complete; a data set in it was passed over.
    Answered(Command),
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
    Data { context_id: u8, carried: Carried },
}

/// What a data set belongs to.
#[derive(Debug)]
enum Carried {
    Store,
    Request,
    Unrecognised(Command),
    Response(Command),
}

/// The state machine of one association.
#[derive(Debug)]
pub struct Dimse {
    state: State,
    command: Vec<u8>,
    accepted: [bool; 256],
    /// Message ID of our request that is outstanding.
    expected: Option<u16>,
}

impl Dimse {
    /// A machine for an association with these accepted presentation contexts.
    #[must_use]
    pub fn new(accepted: impl IntoIterator<Item = u8>) -> Self {
        let mut flags = [false; 256];
        for id in accepted {
            flags[usize::from(id)] = true;
        }
        Self { state: State::Command { context_id: None }, command: Vec::new(), accepted: flags, expected: None }
    }

    /// We send an N-EVENT-REPORT-RQ with this message ID: one at a time. `false` when one is outstanding already.
    #[must_use]
    pub fn expect(&mut self, message_id: u16) -> bool {
        let is_free = self.expected.is_none();
        if is_free {
            self.expected = Some(message_id);
        }
        is_free
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
            (State::Data { carried, .. }, false) if !fragment.is_last => Ok(match carried {
                Carried::Store => DimseEvent::StoreData { is_last: false },
                Carried::Request => DimseEvent::RequestData { is_last: false },
                Carried::Unrecognised(_) | Carried::Response(_) => DimseEvent::Incomplete,
            }),
            (state @ State::Data { .. }, false) => match std::mem::replace(state, State::Command { context_id: None }) {
                State::Data { carried: Carried::Store, .. } => Ok(DimseEvent::StoreData { is_last: true }),
                State::Data { carried: Carried::Request, .. } => Ok(DimseEvent::RequestData { is_last: true }),
                State::Data { carried: Carried::Unrecognised(command), .. } => Ok(DimseEvent::Unrecognised(command)),
                State::Data { carried: Carried::Response(command), .. } => Ok(DimseEvent::Answered(command)),
                State::Command { .. } => Err(Violation::DataBeforeCommand),
            },
        }
    }

    fn on_command(&mut self, context_id: u8) -> Result<DimseEvent, Violation> {
        let command = parse_command(&self.command)?;
        self.command.clear();
        self.command.shrink_to(1024);
        self.state = State::Command { context_id: None };
        if command.field & RESPONSE != 0 {
            if command.field != N_EVENT_REPORT_RQ | RESPONSE || self.expected != Some(command.answers) {
                return Err(Violation::ResponseUnasked);
            }
            self.expected = None;
            return Ok(if command.has_data_set {
                self.state = State::Data { context_id, carried: Carried::Response(command) };
                DimseEvent::Incomplete
            } else {
                DimseEvent::Answered(command)
            });
        }
        let (carried, event) = match (command.field, command.has_data_set) {
            (C_STORE_RQ, true) => (Carried::Store, DimseEvent::StoreBegins(command)),
            (N_CREATE_RQ | N_SET_RQ | N_ACTION_RQ, true) => (Carried::Request, DimseEvent::RequestBegins(command)),
            (_, true) => (Carried::Unrecognised(command), DimseEvent::Incomplete),
            (C_STORE_RQ, false) => return Ok(DimseEvent::StoreWithoutData(command)),
            (N_CREATE_RQ | N_SET_RQ | N_ACTION_RQ, false) => return Ok(DimseEvent::Request(command)),
            (C_ECHO_RQ, false) => return Ok(DimseEvent::Echo(command)),
            (C_CANCEL_RQ, false) => return Ok(DimseEvent::Cancel),
            (_, false) => return Ok(DimseEvent::Unrecognised(command)),
        };
        self.state = State::Data { context_id, carried };
        Ok(event)
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

    fn response(field: u16, answers: u16, data_set_type: u16) -> Vec<u8> {
        let mut set = Vec::new();
        element(&mut set, 0x0100, &field.to_le_bytes());
        element(&mut set, 0x0120, &answers.to_le_bytes());
        element(&mut set, 0x0800, &data_set_type.to_le_bytes());
        element(&mut set, 0x0900, &0_u16.to_le_bytes());
        set
    }

    #[test]
    fn n_request_begins_carries_and_ends() {
        let mut dimse = Dimse::new([1]);
        for field in [N_CREATE_RQ, N_SET_RQ, N_ACTION_RQ] {
            assert!(
                matches!(dimse.on_fragment(LAST_COMMAND, &command(field, 0)), Ok(DimseEvent::RequestBegins(c)) if c.field == field)
            );
            assert_eq!(dimse.on_fragment(DATA, &[1]), Ok(DimseEvent::RequestData { is_last: false }));
            assert_eq!(dimse.on_fragment(LAST_DATA, &[2]), Ok(DimseEvent::RequestData { is_last: true }));
            assert!(matches!(dimse.on_fragment(LAST_COMMAND, &command(field, 0x0101)), Ok(DimseEvent::Request(_))));
        }
    }

    #[test]
    fn response_is_taken_once_and_only_when_it_answers_ours() {
        let mut dimse = Dimse::new([1]);
        let answer = response(0x8100, 7, 0x0101);
        assert_eq!(Dimse::new([1]).on_fragment(LAST_COMMAND, &answer), Err(Violation::ResponseUnasked));
        assert!(dimse.expect(7));
        assert!(!dimse.expect(8), "one at a time");
        // A request in between changes nothing.
        assert!(matches!(dimse.on_fragment(LAST_COMMAND, &command(C_ECHO_RQ, 0x0101)), Ok(DimseEvent::Echo(_))));
        assert!(matches!(dimse.on_fragment(LAST_COMMAND, &command(C_STORE_RQ, 0)), Ok(DimseEvent::StoreBegins(_))));
        assert_eq!(dimse.on_fragment(LAST_DATA, &[]), Ok(DimseEvent::StoreData { is_last: true }));
        assert!(matches!(dimse.on_fragment(LAST_COMMAND, &answer), Ok(DimseEvent::Answered(c)) if c.status == Some(0)));
        assert_eq!(dimse.on_fragment(LAST_COMMAND, &answer), Err(Violation::ResponseUnasked));
        for wrong in [response(0x8100, 8, 0x0101), response(0x8001, 7, 0x0101)] {
            let mut dimse = Dimse::new([1]);
            assert!(dimse.expect(7));
            assert_eq!(dimse.on_fragment(LAST_COMMAND, &wrong), Err(Violation::ResponseUnasked));
        }
    }

    #[test]
    fn event_reply_in_a_response_is_passed_over() {
        let mut dimse = Dimse::new([1]);
        assert!(dimse.expect(7));
        assert_eq!(dimse.on_fragment(LAST_COMMAND, &response(0x8100, 7, 0)), Ok(DimseEvent::Incomplete));
        assert!(dimse.is_inside_message());
        assert_eq!(dimse.on_fragment(DATA, &[0; 9]), Ok(DimseEvent::Incomplete));
        assert!(matches!(dimse.on_fragment(LAST_DATA, &[]), Ok(DimseEvent::Answered(_))));
        assert!(dimse.expect(8));
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
            fragments in prop::collection::vec((0..4_u8, any::<bool>(), any::<bool>(), prop::collection::vec(any::<u8>(), 0..40), 0..6_usize), 0..30)
        ) {
            let mut dimse = Dimse::new([1, 3]);
            let real = [command(C_STORE_RQ, 0), command(N_ACTION_RQ, 0), command(N_SET_RQ, 0x0101), response(0x8100, 1, 0x0101)];
            for (context_id, is_command, is_last, bytes, which) in fragments {
                let _ = dimse.expect(1);
                let bytes = real.get(which).unwrap_or(&bytes);
                if dimse.on_fragment(Fragment { context_id, is_command, is_last }, bytes).is_err() {
                    break;
                }
            }
        }
    }
}
