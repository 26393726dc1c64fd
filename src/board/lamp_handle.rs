//! The service's end of the lamp: `Lamp`s and signs of life in -> a queue (or one atomic) to the thread; what burns out, for anybody to see.
//!
//! The thread at the other end draws by itself (`lamp_thread.rs`) or talks to the lamp keeper (`keeper_client.rs`); both share what is
//! written here.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use heapless::spsc::Producer;
use scanside_lamp::life::DEAD_MAN_MS;
use scanside_lamp::{lamp_number, lamp_of_number};
use tokio::sync::mpsc::Sender;

use super::Lights;
use super::jitter::{Jitter, JitterStats};
use crate::domain::Lamp;

/// Lamps that may wait for the thread: more changes than that within one frame are kept as "the newest".
pub const QUEUE_MAX: usize = 15;
/// A task that waits for the disk may be silent for this long: an SD card's worst writes take seconds, and that is slow, not dead.
pub const EXCUSE: Duration = Duration::from_secs(5);
/// How long dropping the handle waits for the last, dark frame.
const STOP_WAIT_MAX: Duration = Duration::from_millis(500);

/// What the lamp thread is told once.
#[derive(Clone, Copy, Debug)]
pub struct LampOptions {
    /// Longest silence of the service before the lamp shows a fault.
    pub dead_man: Duration,
    /// How long the button must read the same, ms.
    pub debounce_ms: u64,
    /// A clock that never goes back, with better than a millisecond's resolution, from any fixed moment on. Passed in, because
    /// rooms read no clocks.
    pub clock: fn() -> Duration,
}

impl LampOptions {
    /// One and a half seconds of silence ([`DEAD_MAN_MS`]), 50 ms debounce.
    #[must_use]
    pub const fn new(clock: fn() -> Duration) -> Self {
        Self { dead_man: Duration::from_millis(DEAD_MAN_MS), debounce_ms: 50, clock }
    }
}

/// What the lamp thread reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BoardNotice {
    /// The acknowledge button was pressed.
    ButtonPressed,
    /// The lamps or the button could not be used; once, until they work again.
    Failing(String),
    /// They work again.
    Recovered,
    /// The service was silent for longer than the limit and the lamp showed a fault; sent when it is back, so that it is on record.
    DeadManReleased {
        /// How long it had been silent, ms.
        silent_ms: u64,
    },
}

/// Written by the thread, read by anybody.
#[derive(Debug)]
pub(super) struct Shared {
    /// High byte: number of the lamp; low byte: bits of the lights. One word, so that both belong together.
    pub(super) current: AtomicU16,
    /// Whether `current` is known: always for a board of our own, while it is connected for a keeper's.
    pub(super) seen: AtomicBool,
    pub(super) frames: AtomicU64,
    pub(super) frames_missed: AtomicU64,
    pub(super) notices_dropped: AtomicU64,
    pub(super) failing: AtomicBool,
    alive_us: AtomicU64,
    excused_until_us: AtomicU64,
    pub(super) stop: AtomicBool,
    pub(super) jitter: Jitter,
    /// The keeper's figures, where a keeper draws.
    pub(super) keeper_jitter: Mutex<Option<JitterStats>>,
}

impl Shared {
    pub(super) fn new(now: Duration) -> Self {
        Self {
            current: AtomicU16::new(0),
            seen: AtomicBool::new(false),
            frames: AtomicU64::new(0),
            frames_missed: AtomicU64::new(0),
            notices_dropped: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            alive_us: AtomicU64::new(micros(now)),
            excused_until_us: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            jitter: Jitter::default(),
            keeper_jitter: Mutex::new(None),
        }
    }

    /// For how long the service has been silent without an excuse.
    pub(super) fn silent(&self, now: Duration) -> Duration {
        if micros(now) < self.excused_until_us.load(Ordering::Acquire) {
            return Duration::ZERO;
        }
        now.saturating_sub(Duration::from_micros(self.alive_us.load(Ordering::Acquire)))
    }

    pub(super) fn show(&self, lamp: u8, lights: u8) {
        self.current.store(u16::from_le_bytes([lights, lamp]), Ordering::Release);
        self.seen.store(true, Ordering::Release);
    }

    pub(super) fn notify(&self, notices: &Sender<BoardNotice>, notice: BoardNotice) {
        if notices.try_send(notice).is_err() {
            self.notices_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Sees the lamp; clones see the same one.
#[derive(Clone, Debug)]
pub struct LampView(Arc<Shared>);

impl LampView {
    /// The lamp and the lights of the last frame that the board took.
    #[must_use]
    pub fn current(&self) -> (Lamp, Lights) {
        let [lights, lamp] = self.0.current.load(Ordering::Acquire).to_le_bytes();
        (lamp_of_number(lamp), Lights::from_bits(lights))
    }

    /// What the board burns; `None` when it cannot say: before the first frame, and while the lamp keeper is away.
    #[must_use]
    pub fn lights(&self) -> Option<Lights> {
        self.0.seen.load(Ordering::Acquire).then(|| self.current().1)
    }

    /// Frames drawn (where a keeper draws: turns of the thread that talks to it): the thread's heartbeat. It moves 50 times a second, whatever the lamp shows.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.0.frames.load(Ordering::Acquire)
    }

    /// Frames that were skipped because the thread woke more than a frame late.
    #[must_use]
    pub fn frames_missed(&self) -> u64 {
        self.0.frames_missed.load(Ordering::Acquire)
    }

    /// Notices that found their channel full.
    #[must_use]
    pub fn notices_dropped(&self) -> u64 {
        self.0.notices_dropped.load(Ordering::Acquire)
    }

    /// Whether the board refused the last frame: `DeviceCondition::LampFailing`.
    #[must_use]
    pub fn failing(&self) -> bool {
        self.0.failing.load(Ordering::Acquire)
    }

    /// How late frames come.
    #[must_use]
    pub fn jitter(&self) -> JitterStats {
        let keeper = *self.0.keeper_jitter.lock().unwrap_or_else(PoisonError::into_inner);
        keeper.unwrap_or_else(|| self.0.jitter.stats())
    }
}

/// How a lamp gets from the handle to the thread.
enum Way {
    /// Through the queue to the thread that draws.
    Queue(Mutex<Sending>),
    /// Through one atomic to the thread that talks to the keeper: the newest is all that counts there.
    Newest(Arc<AtomicU8>),
}

struct Sending {
    producer: Producer<'static, Lamp>,
    /// The newest lamp, when the queue was full.
    kept: Option<Lamp>,
    /// What was asked for last.
    wanted: Option<Lamp>,
}

impl Sending {
    fn flush(&mut self) {
        if let Some(lamp) = self.kept.take() {
            self.kept = self.producer.enqueue(lamp).err();
        }
    }
}

/// The service's end of the lamp thread. Dropping it switches the lamp off.
pub struct LampHandle {
    way: Way,
    view: LampView,
    clock: fn() -> Duration,
    thread: Option<JoinHandle<()>>,
}

impl LampHandle {
    /// The handle of a thread that talks to a keeper and reads the number of the newest lamp.
    pub(super) fn of_keeper(newest: Arc<AtomicU8>, shared: Arc<Shared>, clock: fn() -> Duration, thread: JoinHandle<()>) -> Self {
        Self { way: Way::Newest(newest), view: LampView(shared), clock, thread: Some(thread) }
    }

    /// The handle of a thread that draws what comes through its queue.
    pub(super) fn of_queue(
        producer: Producer<'static, Lamp>,
        shared: Arc<Shared>,
        clock: fn() -> Duration,
        thread: JoinHandle<()>,
    ) -> Self {
        let way = Way::Queue(Mutex::new(Sending { producer, kept: None, wanted: None }));
        Self { way, view: LampView(shared), clock, thread: Some(thread) }
    }

    /// Shows `lamp` from the next frame on. The same lamp again changes nothing (its pattern does not start over).
    pub fn show(&self, lamp: Lamp) {
        let sending = match &self.way {
            Way::Queue(sending) => sending,
            Way::Newest(newest) => {
                // Whoever asks lives: the first lamp after a long start must not look like one after a long silence.
                self.alive();
                return newest.store(lamp_number(lamp), Ordering::Release);
            }
        };
        let mut sending = sending.lock().unwrap_or_else(PoisonError::into_inner);
        sending.flush();
        if sending.wanted == Some(lamp) {
            return;
        }
        sending.wanted = Some(lamp);
        // Behind a lamp that is kept aside nothing may overtake: the newer one takes its place.
        sending.kept = if sending.kept.is_some() { Some(lamp) } else { sending.producer.enqueue(lamp).err() };
    }

    /// The service lives. To be called more often than [`LampOptions::dead_man`], from the task whose life matters.
    pub fn alive(&self) {
        self.view.0.alive_us.store(micros((self.clock)()), Ordering::Release);
        if let Way::Queue(sending) = &self.way {
            sending.lock().unwrap_or_else(PoisonError::into_inner).flush();
        }
    }

    /// Runs `wait`, a call that waits for the disk: for [`EXCUSE`] its silence is none. The service lives when it comes back.
    pub fn excused<T>(&self, wait: impl FnOnce() -> T) -> T {
        let until = (self.clock)() + EXCUSE;
        self.view.0.excused_until_us.store(micros(until), Ordering::Release);
        let waited = wait();
        self.alive();
        self.view.0.excused_until_us.store(0, Ordering::Release);
        waited
    }

    /// The lamp and the lights of the last frame.
    #[must_use]
    pub fn current(&self) -> (Lamp, Lights) {
        self.view.current()
    }

    /// A view for others.
    #[must_use]
    pub fn view(&self) -> LampView {
        self.view.clone()
    }
}

impl Drop for LampHandle {
    fn drop(&mut self) {
        if matches!(self.way, Way::Newest(_)) && thread::panicking() {
            // No goodbye: the connection ends with the process, and the keeper shows a fault. A process that lives on after the panic
            // has nobody left who gives signs of life, which the keeper is told at once.
            self.view.0.alive_us.store(0, Ordering::Release);
            self.view.0.excused_until_us.store(0, Ordering::Release);
            return;
        }
        self.view.0.stop.store(true, Ordering::Release);
        let Some(thread) = self.thread.take() else { return };
        // The thread looks at the flag once a frame. A board that hangs must not hang the end of the process.
        for _ in 0..STOP_WAIT_MAX.as_millis() / 5 {
            if thread.is_finished() {
                let _ = thread.join();
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
