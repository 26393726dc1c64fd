//! The core of the signal lamp: what the service said, what the button did and the time in -> which lights burn, and what to tell.
//!
//! `no_std`, no allocation, no clock: time is passed in as milliseconds that never go back. It runs inside the service's lamp thread, in the
//! lamp keeper (a process of its own), and could run on a microcontroller beside the box.
//!
//! | File | Holds |
//! | --- | --- |
//! | [`lamp`] | the eight lamps, their names and numbers |
//! | [`pattern`] | lamp + time -> lights, after IEC 60601-1-8 |
//! | [`debounce`] | contact samples -> presses |
//! | [`hold`] | contact samples -> a press, the warning from 3 s on, the factory reset after 10 s |
//! | [`life`] | the life cycle: starting, live, silent, lost, stopped, testing; a dead man's switch |
//! | [`presses`] | presses with their numbers, until the service has taken them |
#![no_std]

pub mod debounce;
pub mod hold;
pub mod lamp;
pub mod life;
pub mod pattern;
pub mod presses;

pub use debounce::Debounce;
pub use hold::{Hold, HoldEvent};
pub use lamp::{LAMPS, Lamp, lamp_named, lamp_number, lamp_of_number};
pub use life::{Life, LifeEvent, LifeNote, TestEnd};
pub use pattern::{Lights, lights_at};
pub use presses::Presses;
