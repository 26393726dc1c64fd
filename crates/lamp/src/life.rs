//! The lamp's life cycle, a dead man's switch: words of the service, tests and time in -> the lamp that is shown, and what to note.
//!
//! ```text
//!                         Said                           nothing for 1.5 s
//!   Starting --------------------------->  Live(lamp) ---------------------> Silent = fault
//!   lamp test, dark      +---------------> |  |   ^                            |  |
//!      |  |              |                 |  |   +------------ Said ----------+  |
//!      |  | 180 s        | Said     Closed |  | Goodbye                           | Closed
//!      |  +-> Silent     |                 v  v                                   v
//!      | Closed        Lost = fault <------+  +------> Stopped = dark          Lost = fault
//!      +-> Lost          |  ^                             | Hello -> Starting, Said -> Live, Closed -> Stopped
//!                        +--+ Hello (a new service that has not spoken yet leaves the fault lit)
//!
//!   beside it:  no test --TestAsked--> Testing --(TestEnded, 120 s, 2 s without a word, the service wants critical or fault)--> no test
//! ```
//!
//! `Said { sound: false }` is the service's own admission that its work does not move: it shows fault. Green burns only while a live service
//! says so, or in a test that a person runs. The lamp test at the start lights red and yellow together, a look that no state has; green needs
//! no test: a green light that is broken shows as a dark box, which means fault, while a broken red one would show nothing at all.

use heapless::Vec;

use crate::lamp::Lamp;
use crate::pattern::{Lights, lights_at};

/// Longest silence of a live service, ms. With the four words a second that it gives, five are missing by then.
pub const DEAD_MAN_MS: u64 = 1_500;
/// Longest start: the model's self-test and the replay of the store, as long as the unit's own limit.
pub const START_MS_MAX: u64 = 180_000;
/// Length of the lamp test.
pub const LAMP_TEST_MS: u64 = 1_000;
/// Longest board test.
pub const TEST_MS_MAX: u64 = 120_000;
/// Longest silence of whoever tests.
pub const TEST_SILENT_MS: u64 = 2_000;
/// Notes of one event.
const NOTES_MAX: usize = 4;

/// What the lamp's life takes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LifeEvent {
    /// A service has connected; whatever another one says from now on is not heard.
    Hello,
    /// The service says what it wants to be shown, and whether its work moves.
    Said {
        /// The lamp.
        lamp: Lamp,
        /// Whether its work moves.
        sound: bool,
    },
    /// The service ends in order.
    Goodbye,
    /// The service's connection ended without a goodbye.
    Closed,
    /// A person wants to test the board.
    TestAsked,
    /// The test shows a lamp.
    TestLamp(Lamp),
    /// The test shows single lights.
    TestLights(Lights),
    /// The test is over, in whatever way.
    TestEnded,
    /// Time passes; before each frame.
    Tick,
}

/// Why a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TestEnd {
    /// Whoever tested has gone.
    Done,
    /// It took longer than [`TEST_MS_MAX`], or whoever tested fell silent.
    TimeOver,
    /// The service needs the lamp for a critical finding or a fault.
    Needed,
}

/// What is worth a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LifeNote {
    /// The service lives; it had been away or silent before.
    ServiceLive {
        /// For how long it had not been heard, ms; `None` for the first time.
        silent_ms: Option<u64>,
    },
    /// The service is silent: fault.
    ServiceSilent,
    /// The service's connection ended without a goodbye: fault.
    ServiceLost,
    /// The service ended in order: dark.
    ServiceStopped,
    /// The service did not come up in time: fault.
    StartTooLong,
    /// The service says that its work stands still (`false`), or moves again.
    Sound(bool),
    /// A test began.
    TestBegan,
    /// A test was refused: the lamp is needed.
    TestRefused,
    /// A test ended.
    TestOver(TestEnd),
}

/// Notes of one event.
pub type Notes = Vec<LifeNote, NOTES_MAX>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    Starting { since_ms: u64, first: bool },
    Live { lamp: Lamp, sound: bool, heard_ms: u64 },
    Silent { heard_ms: u64 },
    Lost { heard_ms: u64 },
    Stopped { heard_ms: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shows {
    Lamp(Lamp),
    Lights(Lights),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Test {
    began_ms: u64,
    word_ms: u64,
    shows: Shows,
}

/// The life of one lamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    service: Service,
    test: Option<Test>,
    /// What is shown and since when: a pattern starts over only when it changes.
    shown: Shows,
    shown_since_ms: u64,
}

impl Life {
    /// The keeper has just started.
    #[must_use]
    pub const fn new(now_ms: u64) -> Self {
        Self {
            service: Service::Starting { since_ms: now_ms, first: true },
            test: None,
            shown: Shows::Lamp(Lamp::Dark),
            shown_since_ms: now_ms,
        }
    }

    /// Takes an event.
    #[must_use]
    pub fn on(mut self, event: LifeEvent, now_ms: u64) -> (Self, Notes) {
        let mut notes = Notes::new();
        let mut note = |what| {
            // An event gives two notes at most: one of the service, one of the test.
            let _ = notes.push(what);
        };
        let before = self.service;
        self.service = self.service_on(event, now_ms);
        if let Some(told) = told(before, self.service, event, now_ms) {
            note(told);
        }
        let testing = self.test.is_some();
        // A box whose service is away may be tested; a service that begins to call, or calls with its own voice, ends the test.
        let called = needs_lamp(before);
        let calls = self.is_needed() && (self.is_live() || !called);
        self.test = if calls { None } else { self.test_on(event, now_ms) };
        match (testing, self.test.is_some()) {
            (false, true) => note(LifeNote::TestBegan),
            (true, false) => note(LifeNote::TestOver(match event {
                LifeEvent::TestEnded => TestEnd::Done,
                _ if self.is_needed() => TestEnd::Needed,
                _ => TestEnd::TimeOver,
            })),
            (false, false) if event == LifeEvent::TestAsked => note(LifeNote::TestRefused),
            (false, false) | (true, true) => {}
        }
        let shows = self.test.map_or(Shows::Lamp(wanted(self.service)), |test| test.shows);
        if shows != self.shown {
            (self.shown, self.shown_since_ms) = (shows, now_ms);
        }
        (self, notes)
    }

    fn service_on(&self, event: LifeEvent, now_ms: u64) -> Service {
        let heard_ms = match self.service {
            Service::Starting { since_ms, .. } => since_ms,
            Service::Live { heard_ms, .. }
            | Service::Silent { heard_ms }
            | Service::Lost { heard_ms }
            | Service::Stopped { heard_ms } => heard_ms,
        };
        match (event, self.service) {
            (LifeEvent::Said { lamp, sound }, _) => Service::Live { lamp, sound, heard_ms: now_ms },
            (LifeEvent::Hello, Service::Stopped { .. }) => Service::Starting { since_ms: now_ms, first: false },
            (LifeEvent::Goodbye, _) => Service::Stopped { heard_ms },
            (LifeEvent::Closed, Service::Stopped { .. }) => self.service,
            (LifeEvent::Closed, _) => Service::Lost { heard_ms },
            (LifeEvent::Tick, Service::Live { .. }) if now_ms.saturating_sub(heard_ms) > DEAD_MAN_MS => {
                Service::Silent { heard_ms }
            }
            (LifeEvent::Tick, Service::Starting { since_ms, .. }) if now_ms.saturating_sub(since_ms) > START_MS_MAX => {
                Service::Silent { heard_ms }
            }
            _ => self.service,
        }
    }

    fn test_on(&self, event: LifeEvent, now_ms: u64) -> Option<Test> {
        let test = match (event, self.test) {
            (LifeEvent::TestAsked, None) => Test { began_ms: now_ms, word_ms: now_ms, shows: Shows::Lamp(Lamp::Dark) },
            (LifeEvent::TestEnded, _) | (_, None) => return None,
            (LifeEvent::TestLamp(lamp), Some(test)) => Test { word_ms: now_ms, shows: Shows::Lamp(lamp), ..test },
            (LifeEvent::TestLights(lights), Some(test)) => Test { word_ms: now_ms, shows: Shows::Lights(lights), ..test },
            (LifeEvent::TestAsked, Some(test)) => Test { word_ms: now_ms, ..test },
            (_, Some(test)) => test,
        };
        let over = now_ms.saturating_sub(test.began_ms) > TEST_MS_MAX || now_ms.saturating_sub(test.word_ms) > TEST_SILENT_MS;
        (!over).then_some(test)
    }

    fn is_needed(&self) -> bool {
        needs_lamp(self.service)
    }

    /// Whether a service that lives sees the presses: without one a press has nobody whom it could acknowledge to.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        matches!(self.service, Service::Live { .. })
    }

    /// Whether a person tests the board: presses are the test's then.
    #[must_use]
    pub const fn is_testing(&self) -> bool {
        self.test.is_some()
    }

    /// The lamp that is shown. In a test of single lights it is [`Lamp::Dark`].
    #[must_use]
    pub const fn lamp(&self) -> Lamp {
        match self.shown {
            Shows::Lamp(lamp) => lamp,
            Shows::Lights(_) => Lamp::Dark,
        }
    }

    /// The lights at `now_ms`, after a [`LifeEvent::Tick`] of that time.
    #[must_use]
    pub fn lights(&self, now_ms: u64) -> Lights {
        if let (Service::Starting { since_ms, first: true }, None) = (self.service, self.test)
            && now_ms.saturating_sub(since_ms) < LAMP_TEST_MS
        {
            return Lights { red: true, yellow: true, ..Lights::DARK };
        }
        match self.shown {
            Shows::Lamp(lamp) => lights_at(lamp, now_ms.saturating_sub(self.shown_since_ms)),
            Shows::Lights(lights) => lights,
        }
    }
}

/// What the service's state calls for.
const fn wanted(service: Service) -> Lamp {
    match service {
        Service::Live { lamp, sound: true, .. } => lamp,
        Service::Live { sound: false, .. } | Service::Silent { .. } | Service::Lost { .. } => Lamp::Fault,
        Service::Starting { .. } | Service::Stopped { .. } => Lamp::Dark,
    }
}

const fn needs_lamp(service: Service) -> bool {
    matches!(wanted(service), Lamp::Critical | Lamp::Fault)
}

fn told(before: Service, after: Service, event: LifeEvent, now_ms: u64) -> Option<LifeNote> {
    match (before, after) {
        (Service::Live { sound: was, .. }, Service::Live { sound, .. }) => (was != sound).then_some(LifeNote::Sound(sound)),
        (Service::Starting { first: true, .. }, Service::Live { .. }) => Some(LifeNote::ServiceLive { silent_ms: None }),
        (Service::Starting { since_ms: from_ms, .. }, Service::Live { .. })
        | (
            Service::Silent { heard_ms: from_ms } | Service::Lost { heard_ms: from_ms } | Service::Stopped { heard_ms: from_ms },
            Service::Live { .. },
        ) => Some(LifeNote::ServiceLive { silent_ms: Some(now_ms.saturating_sub(from_ms)) }),
        (Service::Starting { .. }, Service::Silent { .. }) => Some(LifeNote::StartTooLong),
        (_, Service::Silent { .. }) if event == LifeEvent::Tick && before != after => Some(LifeNote::ServiceSilent),
        (_, Service::Lost { .. }) if before != after => Some(LifeNote::ServiceLost),
        (_, Service::Stopped { .. }) if before != after => Some(LifeNote::ServiceStopped),
        _ => None,
    }
}

#[cfg(test)]
#[path = "life_tests.rs"]
mod tests;
