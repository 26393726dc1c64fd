//! The lamp keeper's loop: words of the service and samples of the button in -> lights at 50 Hz, presses and states out.
//!
//! ```text
//!   systemd ---- socket lamp.sock --------+
//!                                         v
//!   service ==Said 4 Hz==> peers --LifeEvent--> life (crates/lamp) --lights--> pen --> Board
//!           <=Press, State==    ^                 ^                             |
//!   board test ==TestLights==> -+      hold <-----+------- contact -------------+
//! ```
//!
//! A process of its own with one thread: it lives on when the service dies, hangs or is stopped, and says so with a fault light. It uses std
//! alone; nothing in the loop blocks but the board's driver, and systemd's watchdog stands behind that (the loop feeds it by itself).
//!
//! Bounds: [`PEERS_MAX`] connections (at the bound the one that has waited longest without a Hello makes room, else the new one is closed),
//! [`FRAMES_PER_TURN_MAX`] words read of each peer in a turn, [`scanside_lamp::presses::WAITING_MAX`] presses kept. A peer that reads too
//! slowly misses states, never a press. Bytes that are no word end their connection.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;

use scanside_lamp::{Hold, HoldEvent, Life, LifeEvent, LifeNote, Presses, TestEnd};

use super::draw::{Grid, Pen, PenNote};
use super::jitter::Jitter;
pub use super::keeper_notes::{KeeperNote, in_words};
use super::keeper_protocol::{FromKeeper, KeeperState, Role, Text, ToKeeper, short};
use super::peer::{Came, Peer};
use super::{Board, BoardProfile, Lights};
use crate::domain::Lamp;

/// Connections at a time: the service, a test, and two that have not said what they are.
pub const PEERS_MAX: usize = 4;
/// Words that are read of one peer in one turn of the loop (20 ms): a peer that says more waits.
pub const FRAMES_PER_TURN_MAX: usize = 8;
/// A connection that says no Hello for this long is closed.
const HELLO_WAIT: Duration = Duration::from_secs(2);
/// A state is told at least this often.
const STATE_PERIOD: Duration = Duration::from_millis(250);
/// The loop says that it lives after so many frames (200 ms): four times within a watchdog of one second.
const ALIVE_FRAMES: u64 = 10;

/// What the keeper needs.
pub struct KeeperOptions {
    /// A clock that never goes back.
    pub clock: fn() -> Duration,
    /// How long the button must read the same, ms.
    pub debounce_ms: u64,
    /// Whether there is a button.
    pub has_button: bool,
    /// The file that is made when a factory reset is asked for.
    pub reset_file: Option<PathBuf>,
    /// Another number for each start.
    pub boot: u64,
}

impl KeeperOptions {
    /// The options of a board.
    #[must_use]
    pub fn of(profile: &BoardProfile, clock: fn() -> Duration, boot: u64) -> Self {
        let debounce_ms = profile.button.as_ref().map_or(50, |button| button.debounce_ms);
        Self { clock, debounce_ms, has_button: profile.button.is_some(), reset_file: None, boot }
    }
}

/// The keeper of one board.
pub struct Keeper {
    options: KeeperOptions,
    profile: Text,
    pen: Pen,
    hold: Hold,
    life: Life,
    presses: Presses,
    /// Presses during a test are the test's.
    test_presses: Presses,
    listener: Option<UnixListener>,
    peers: Vec<Peer>,
    jitter: Jitter,
    state: KeeperState,
    state_told: Option<(KeeperState, Duration)>,
    trouble: Text,
    notes: Vec<KeeperNote>,
}

impl Keeper {
    /// A keeper that draws on `board` and hears whoever connects to `listener`.
    ///
    /// # Errors
    /// When the socket cannot be set up.
    pub fn new(board: Box<dyn Board>, listener: UnixListener, options: KeeperOptions) -> std::io::Result<Self> {
        listener.set_nonblocking(true)?;
        let pen = Pen::new(board);
        Ok(Self {
            profile: short(pen.board_name()),
            pen,
            hold: Hold::new(options.debounce_ms),
            life: Life::new(0),
            presses: Presses::new(),
            test_presses: Presses::new(),
            listener: Some(listener),
            peers: Vec::with_capacity(PEERS_MAX),
            jitter: Jitter::default(),
            state: KeeperState::default(),
            state_told: None,
            trouble: Text::new(),
            notes: Vec::new(),
            options,
        })
    }

    /// Draws until `tell` says stop.
    pub fn run(mut self, mut tell: impl FnMut(KeeperNote) -> std::ops::ControlFlow<()>) {
        let mut grid = Grid::new(self.options.clock);
        self.life = Life::new(millis((self.options.clock)()));
        loop {
            self.frame((self.options.clock)());
            if self.state.frames.is_multiple_of(ALIVE_FRAMES) {
                self.notes.push(KeeperNote::Alive);
            }
            for note in self.notes.drain(..) {
                if tell(note).is_break() {
                    self.pen.darken();
                    return;
                }
            }
            let (late, missed) = grid.wait();
            self.jitter.record(u64::try_from(late.as_micros()).unwrap_or(u64::MAX));
            self.state.frames_missed += u64::from(missed);
        }
    }

    /// One frame: words, time, lights, button, answers.
    fn frame(&mut self, now: Duration) {
        self.accept(now);
        for idx in 0..self.peers.len() {
            self.hear(idx, now);
        }
        self.on(LifeEvent::Tick, now);
        self.close_peers(now);
        let lights = self.hold.warning(millis(now)).unwrap_or_else(|| self.life.lights(millis(now)));
        if let Some((lamp, lights)) = self.pen.draw((self.life.lamp(), lights)) {
            (self.state.lamp, self.state.lights) = (scanside_lamp::lamp_number(lamp), lights.bits());
        }
        match self.pen.button() {
            Some(down) => {
                if let Some(event) = self.hold.on(down, millis(now)) {
                    self.on_button(event, now);
                }
            }
            None => self.hold.unreadable(),
        }
        self.state.frames += 1;
        (self.state.failing, self.state.testing) = (self.pen.failing(), self.life.is_testing());
        match self.pen.take_note() {
            Some(PenNote::Failing(text)) => {
                self.trouble = short(&text);
                self.notes.push(KeeperNote::Failing(text));
                self.broadcast(&FromKeeper::Trouble(self.trouble.clone()));
            }
            Some(PenNote::Recovered) => self.notes.push(KeeperNote::Recovered),
            None => {}
        }
        self.presses.give_up(millis(now));
        self.test_presses.give_up(millis(now));
        self.send_presses();
        self.send_state(now);
    }

    fn accept(&mut self, now: Duration) {
        let Some(listener) = &self.listener else { return };
        match listener.accept() {
            Ok((stream, _)) => {
                if self.peers.len() >= PEERS_MAX {
                    let Some(idx) = self.peers.iter().position(|peer| peer.role.is_none()) else {
                        self.notes.push(KeeperNote::PeerRefused("there are too many connections"));
                        return;
                    };
                    self.peers.remove(idx);
                }
                if let Ok(peer) = Peer::new(stream, now) {
                    self.peers.push(peer);
                }
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
            // Out of descriptors or the like: what is connected goes on, and the next turn tries again. Told once.
            Err(error) => {
                let text = error.to_string();
                if self.trouble.as_str() != short(&text).as_str() {
                    self.trouble = short(&text);
                    self.notes.push(KeeperNote::SocketFailed(text));
                }
            }
        }
    }

    /// Reads what one peer says.
    fn hear(&mut self, idx: usize, now: Duration) {
        for _ in 0..FRAMES_PER_TURN_MAX {
            let Some(peer) = self.peers.get_mut(idx).filter(|peer| peer.open) else { return };
            match peer.read() {
                Came::Word(word) => {
                    if !self.on_word(idx, word, now) {
                        self.refuse(idx, "it spoke out of turn");
                    }
                }
                Came::Nothing => return,
                Came::Ended => {
                    if let Some(peer) = self.peers.get_mut(idx) {
                        peer.open = false;
                    }
                    return;
                }
                Came::Nonsense => self.refuse(idx, "what it said is no word of the protocol"),
            }
        }
    }

    fn refuse(&mut self, idx: usize, why: &'static str) {
        if let Some(peer) = self.peers.get_mut(idx) {
            peer.open = false;
        }
        self.notes.push(KeeperNote::PeerRefused(why));
    }

    /// Takes one word; `false` when this peer may not say it.
    fn on_word(&mut self, idx: usize, word: ToKeeper, now: Duration) -> bool {
        let role = self.peers.get(idx).and_then(|peer| peer.role);
        match (word, role) {
            (ToKeeper::Hello(Role::Service), None) => self.on_service_hello(idx, now),
            (ToKeeper::Hello(Role::Test), None) => self.on_test_hello(idx, now),
            (ToKeeper::Said { lamp, sound }, Some(Role::Service)) => self.on(LifeEvent::Said { lamp, sound }, now),
            (ToKeeper::PressTaken(number), Some(Role::Service)) => self.presses.taken(number),
            (ToKeeper::PressTaken(number), Some(Role::Test)) => self.test_presses.taken(number),
            (ToKeeper::TestLamp(lamp), Some(Role::Test)) => self.on(LifeEvent::TestLamp(lamp), now),
            (ToKeeper::TestLights(lights), Some(Role::Test)) => self.on(LifeEvent::TestLights(lights), now),
            (ToKeeper::Goodbye, Some(role)) => {
                if let Some(peer) = self.peers.get_mut(idx) {
                    (peer.parted, peer.open) = (true, false);
                }
                self.on(if role == Role::Service { LifeEvent::Goodbye } else { LifeEvent::TestEnded }, now);
            }
            _ => return false,
        }
        true
    }

    /// The newest service wins: the one before is closed and not heard any more.
    fn on_service_hello(&mut self, idx: usize, now: Duration) {
        for (other, peer) in self.peers.iter_mut().enumerate() {
            if other != idx && peer.role == Some(Role::Service) {
                (peer.open, peer.role) = (false, None);
            }
        }
        self.on(LifeEvent::Hello, now);
        self.welcome(idx, Role::Service);
    }

    fn on_test_hello(&mut self, idx: usize, now: Duration) {
        let busy = self.peers.iter().any(|peer| peer.open && peer.role == Some(Role::Test));
        if !busy {
            self.test_presses = Presses::new();
            self.on(LifeEvent::TestAsked, now);
        }
        if busy || !self.life.is_testing() {
            if let Some(peer) = self.peers.get_mut(idx) {
                peer.send(&FromKeeper::TestRefused);
                peer.open = false;
            }
            return;
        }
        self.welcome(idx, Role::Test);
    }

    fn welcome(&mut self, idx: usize, role: Role) {
        let welcome =
            FromKeeper::Welcome { boot: self.options.boot, has_button: self.options.has_button, profile: self.profile.clone() };
        let trouble = self.pen.failing().then(|| FromKeeper::Trouble(self.trouble.clone()));
        if let Some(peer) = self.peers.get_mut(idx) {
            peer.role = Some(role);
            peer.send(&welcome);
            if let Some(trouble) = trouble {
                peer.send(&trouble);
            }
            peer.send(&FromKeeper::State(self.state));
        }
    }

    fn on(&mut self, event: LifeEvent, now: Duration) {
        let (life, notes) = self.life.on(event, millis(now));
        self.life = life;
        for note in notes {
            if let LifeNote::TestOver(end) = note {
                self.end_test(end);
            }
            self.notes.push(KeeperNote::Life(note));
        }
    }

    fn end_test(&mut self, end: TestEnd) {
        for peer in self.peers.iter_mut().filter(|peer| peer.role == Some(Role::Test)) {
            peer.send(&FromKeeper::TestOver(end));
            (peer.open, peer.parted) = (false, true);
        }
    }

    /// Forgets connections that ended, and those that never said what they are. A service that left without a goodbye is lost.
    fn close_peers(&mut self, now: Duration) {
        for peer in &mut self.peers {
            peer.open &= peer.role.is_some() || now.saturating_sub(peer.since) <= HELLO_WAIT;
        }
        let left = |role| self.peers.iter().any(|peer| !peer.open && !peer.parted && peer.role == Some(role));
        let (service_left, test_left) = (left(Role::Service), left(Role::Test));
        self.peers.retain(|peer| peer.open);
        if service_left {
            self.on(LifeEvent::Closed, now);
        }
        if test_left {
            self.on(LifeEvent::TestEnded, now);
        }
    }

    fn on_button(&mut self, event: HoldEvent, now: Duration) {
        match event {
            HoldEvent::Pressed if self.life.is_testing() => {
                self.test_presses.pressed(millis(now));
                self.notes.push(KeeperNote::Pressed(true));
            }
            // Without a live service the room sees a fault or nothing: there is nothing that this press could acknowledge.
            HoldEvent::Pressed => {
                let live = self.life.is_live();
                if live {
                    self.presses.pressed(millis(now));
                }
                self.notes.push(KeeperNote::Pressed(live));
            }
            HoldEvent::ResetAsked if self.life.is_testing() => {}
            HoldEvent::ResetAsked => {
                let made = self.options.reset_file.as_ref().map_or(Err("no file is named for it".to_owned()), |path| {
                    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path);
                    file.map(|_| ()).map_err(|error| format!("{}: {error}", path.display()))
                });
                self.notes.push(KeeperNote::ResetAsked(made));
            }
        }
    }

    /// Sends each press once on each connection, in order, until it is taken.
    fn send_presses(&mut self) {
        for peer in &mut self.peers {
            let presses = match peer.role {
                Some(Role::Service) => &self.presses,
                Some(Role::Test) => &self.test_presses,
                None => continue,
            };
            for number in presses.waiting() {
                if number > peer.press_sent && peer.send(&FromKeeper::Press(number)) {
                    peer.press_sent = number;
                }
            }
        }
    }

    fn send_state(&mut self, now: Duration) {
        let seen = |state: &KeeperState| (state.lamp, state.lights, state.failing, state.testing);
        let due =
            self.state_told.is_none_or(|(told, at)| seen(&told) != seen(&self.state) || now.saturating_sub(at) >= STATE_PERIOD);
        if due {
            self.state.jitter = self.jitter.stats();
            self.state_told = Some((self.state, now));
            self.broadcast(&FromKeeper::State(self.state));
        }
    }

    fn broadcast(&mut self, word: &FromKeeper) {
        for peer in self.peers.iter_mut().filter(|peer| peer.role.is_some()) {
            peer.send(word);
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What burns according to a state.
#[must_use]
pub fn shown(state: &KeeperState) -> (Lamp, Lights) {
    (scanside_lamp::lamp_of_number(state.lamp), Lights::from_bits(state.lights))
}
