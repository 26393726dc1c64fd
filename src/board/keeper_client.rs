//! The other end of the lamp keeper: the service's lamp, and a person's board test. `Lamp`s in -> words to the keeper; presses and states out.
//!
//! The service's end is a thread that gives the keeper a word four times a second and at each change, makes a lost connection anew, and
//! answers the same [`LampHandle`] as the lamp thread. While there is no keeper it says so once ([`BoardNotice::Failing`]) and goes on trying.
//! Only the handle's orderly end says goodbye: after a panic the connection just ends, and the keeper shows a fault.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use scanside_lamp::lamp_of_number;
use tokio::sync::mpsc::Sender;

use super::BoardError;
use super::keeper_protocol::{FRAME_BYTES, FromKeeper, KeeperState, Role, ToKeeper};
use super::lamp_handle::{BoardNotice, LampHandle, LampOptions, Shared, millis};

/// A word at least this often: 4 Hz.
const WORD_PERIOD: Duration = Duration::from_millis(250);
/// How long the thread waits for the keeper's words before it looks at the lamp again; a change is told within this.
const READ_WAIT: Duration = Duration::from_millis(40);
/// How long a word may take to go out: a keeper that stands still for longer is gone.
const WRITE_WAIT: Duration = Duration::from_millis(200);
/// Pause before the next attempt to connect.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// A keeper that has said nothing for this long (it gives four states a second) is gone.
const KEEPER_SILENT: Duration = Duration::from_secs(2);
/// The service says that it is not sound when the task that matters has been silent for this long. Together with the keeper's own frame and
/// this thread's turns it shows within one and a half seconds. The conductor moves ten times a second.
const SOUND_MAX: Duration = Duration::from_millis(1000);
/// No lamp has been asked for yet: nothing is said, and the keeper knows that the service is starting.
const NOTHING_YET: u8 = u8::MAX;

/// A connection to the keeper.
pub struct Link {
    stream: UnixStream,
    buffer: [u8; FRAME_BYTES],
    filled: usize,
}

impl Link {
    /// Connects and says who this is.
    ///
    /// # Errors
    /// The system's.
    pub fn open(socket: &Path, role: Role) -> std::io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(READ_WAIT))?;
        stream.set_write_timeout(Some(WRITE_WAIT))?;
        let mut link = Self { stream, buffer: [0; FRAME_BYTES], filled: 0 };
        link.say(ToKeeper::Hello(role))?;
        Ok(link)
    }

    /// Says a word.
    ///
    /// # Errors
    /// The system's; the connection is of no use after one.
    pub fn say(&mut self, word: ToKeeper) -> std::io::Result<()> {
        self.stream.write_all(&word.encode())
    }

    /// The keeper's next word, or `None` when none came within 40 ms.
    ///
    /// # Errors
    /// The system's; `UnexpectedEof` when the keeper has closed, `InvalidData` when it said what is no word.
    pub fn hear(&mut self) -> std::io::Result<Option<FromKeeper>> {
        let Some(rest) = self.buffer.get_mut(self.filled..) else { return Err(ErrorKind::InvalidData.into()) };
        match self.stream.read(rest) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => self.filled += n,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        if self.filled < FRAME_BYTES {
            return Ok(None);
        }
        self.filled = 0;
        FromKeeper::decode(&self.buffer).map(Some).map_err(|error| std::io::Error::new(ErrorKind::InvalidData, error))
    }
}

/// Starts the thread that talks to the keeper behind `socket`. The keeper need not be there yet.
///
/// # Errors
/// [`BoardError::Thread`] when the system gives no thread.
pub fn start(socket: &Path, options: LampOptions, notices: Sender<BoardNotice>) -> Result<LampHandle, BoardError> {
    let shared = Arc::new(Shared::new((options.clock)()));
    let wanted = Arc::new(AtomicU8::new(NOTHING_YET));
    let mut talk = Talk {
        socket: socket.to_owned(),
        clock: options.clock,
        shared: Arc::clone(&shared),
        wanted: Arc::clone(&wanted),
        notices,
        press: (0, 0),
        told_failing: false,
        trouble: None,
        silent_max_ms: 0,
    };
    let thread = thread::Builder::new()
        .name("lamp".to_owned())
        .spawn(move || talk.run())
        .map_err(|cause| BoardError::Thread(cause.to_string()))?;
    Ok(LampHandle::of_keeper(wanted, shared, options.clock, thread))
}

/// Everything the thread needs.
struct Talk {
    socket: PathBuf,
    clock: fn() -> Duration,
    shared: Arc<Shared>,
    wanted: Arc<AtomicU8>,
    notices: Sender<BoardNotice>,
    /// The keeper's start and the number of the last press that was passed on.
    press: (u64, u64),
    told_failing: bool,
    /// What the keeper said of its board.
    trouble: Option<String>,
    /// How long the service has been silent in this dead-man period; 0 outside one.
    silent_max_ms: u64,
}

impl Talk {
    fn run(&mut self) {
        while !self.stopping() {
            if let Err(error) = self.connect().and_then(|link| self.talk(link)) {
                self.away(&error);
            }
            if !self.stopping() {
                self.turn();
                thread::sleep(RETRY_PAUSE);
            }
        }
    }

    /// Connects on a thread of its own: while nobody takes connections from a full socket (systemd holds it for a keeper that cannot start),
    /// connecting blocks, and this thread must go on turning. There is one attempt at a time.
    fn connect(&mut self) -> std::io::Result<Link> {
        let (found, attempt) = mpsc::sync_channel(1);
        let socket = self.socket.clone();
        thread::Builder::new().name("lamp-connect".to_owned()).spawn(move || {
            // Nobody listens any more when the service ends.
            let _ = found.send(Link::open(&socket, Role::Service));
        })?;
        let from = (self.clock)();
        loop {
            self.turn();
            match attempt.recv_timeout(RETRY_PAUSE) {
                Ok(link) => return link,
                Err(mpsc::RecvTimeoutError::Disconnected) => return Err(ErrorKind::BrokenPipe.into()),
                Err(mpsc::RecvTimeoutError::Timeout) if self.stopping() => return Err(ErrorKind::Interrupted.into()),
                Err(mpsc::RecvTimeoutError::Timeout) if (self.clock)().saturating_sub(from) > KEEPER_SILENT => {
                    self.away(&std::io::Error::new(ErrorKind::TimedOut, "it takes no connection"));
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn stopping(&self) -> bool {
        self.shared.stop.load(Ordering::Acquire)
    }

    /// The thread moves: its heartbeat, and the record of a conductor that was silent.
    fn turn(&mut self) {
        self.shared.frames.fetch_add(1, Ordering::AcqRel);
        let silent = self.shared.silent((self.clock)());
        if self.wanted.load(Ordering::Acquire) == NOTHING_YET {
            // The service starts: there is no sign of life to miss yet.
        } else if silent > SOUND_MAX {
            self.silent_max_ms = millis(silent);
        } else if self.silent_max_ms > 0 {
            let silent_ms = std::mem::take(&mut self.silent_max_ms);
            self.shared.notify(&self.notices, BoardNotice::DeadManReleased { silent_ms });
        }
    }

    /// The keeper is not there, or has gone.
    fn away(&mut self, error: &std::io::Error) {
        self.shared.seen.store(false, Ordering::Release);
        self.tell(Some(format!("the lamp keeper behind {} is away: {error}", self.socket.display())));
    }

    fn tell(&mut self, trouble: Option<String>) {
        self.shared.failing.store(trouble.is_some(), Ordering::Release);
        if trouble.is_some() == self.told_failing {
            return;
        }
        self.told_failing = trouble.is_some();
        self.shared.notify(&self.notices, trouble.map_or(BoardNotice::Recovered, BoardNotice::Failing));
    }

    /// One connection, until it ends or the handle does.
    fn talk(&mut self, mut link: Link) -> std::io::Result<()> {
        let (mut boot, mut said, mut said_at, mut heard_at) = (0, None, Duration::ZERO, (self.clock)());
        self.trouble = None;
        loop {
            self.turn();
            let now = (self.clock)();
            if self.stopping() {
                // A service that panics says no goodbye: the handle is not dropped in order then, and its owner does not set `stop`.
                return link.say(ToKeeper::Goodbye);
            }
            let word = self.word(now);
            if let Some(word) = word
                && (said != Some(word) || now.saturating_sub(said_at) >= WORD_PERIOD)
            {
                link.say(word)?;
                (said, said_at) = (Some(word), now);
            }
            if let Some(heard) = link.hear()? {
                heard_at = (self.clock)();
                match heard {
                    FromKeeper::Welcome { boot: number, .. } => boot = number,
                    FromKeeper::Press(number) => {
                        self.on_press(boot, number);
                        link.say(ToKeeper::PressTaken(number))?;
                    }
                    FromKeeper::State(state) => self.on_state(&state),
                    FromKeeper::Trouble(text) => self.trouble = Some(text.as_str().to_owned()),
                    FromKeeper::TestRefused | FromKeeper::TestOver(_) => {}
                }
            } else if (self.clock)().saturating_sub(heard_at) > KEEPER_SILENT {
                return Err(std::io::Error::new(ErrorKind::TimedOut, "it says nothing"));
            }
        }
    }

    /// What the service has to say now; nothing before it has asked for a lamp.
    fn word(&self, now: Duration) -> Option<ToKeeper> {
        let number = self.wanted.load(Ordering::Acquire);
        let sound = self.shared.silent(now) <= SOUND_MAX;
        (number != NOTHING_YET).then(|| ToKeeper::Said { lamp: lamp_of_number(number), sound })
    }

    /// A press that was passed on before, over another connection, is taken and not told again.
    fn on_press(&mut self, boot: u64, number: u64) {
        let (known_boot, last) = self.press;
        if boot == known_boot && number <= last {
            return;
        }
        self.press = (boot, number);
        self.shared.notify(&self.notices, BoardNotice::ButtonPressed);
    }

    fn on_state(&mut self, state: &KeeperState) {
        self.shared.show(state.lamp, state.lights);
        self.shared.frames_missed.store(state.frames_missed, Ordering::Release);
        *self.shared.keeper_jitter.lock().unwrap_or_else(PoisonError::into_inner) = Some(state.jitter);
        if !state.failing {
            self.trouble = None;
        }
        let trouble = state.failing.then(|| self.trouble.clone().unwrap_or_else(|| "the lamp keeper's board fails".to_owned()));
        self.tell(trouble);
    }
}
