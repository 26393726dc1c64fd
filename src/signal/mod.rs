//! Signal: what people are told. Verdicts, acknowledgements, work and device conditions in -> the lamp and the notices out.
//!
//! [`Signaller`] is a pure state machine: no clock, no file, no socket; the service carries out the actions it returns. It
//! imports `domain` alone.
//!
//! ```text
//!                      verdict, flagged or indeterminate
//!   (unknown study) ---------------------------------------> Unacknowledged(level)
//!          |                                                   |   ^  a later verdict never lowers the level,
//!          | not flagged: a result, nobody is called           |   '- a higher one raises it (DESIGN.md rule 5)
//!          v                                       acknowledge v
//!        quiet <------ same or lower verdict ------ Acknowledged(level)
//!                                                              |
//!                             verdict with a higher level -----'--> Unacknowledged(level)
//! ```
//!
//! The lamp is the most urgent of what is unacknowledged, the device's state and work in progress, in the order of
//! [`Lamp`](crate::domain::Lamp): critical > fault > suspicious > indeterminate > degraded > working > ready.
//! Why a fault stands between the two: a critical finding *was* found, and red and yellow alternating would hide "call now"
//! behind a message for IT; the page names the fault all the while and the lamp comes back to it with the acknowledgement.
//! A fault outranks a suspicious finding because a room that sees a calm yellow would take the box for working.

mod signaller;

pub use signaller::{NoticeKind, SignalAction, SignalEvent, SignalOptions, Signaller, StudySignal};
