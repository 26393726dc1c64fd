//! The thread that draws the lamp: `Lamp`s in through a heapless queue -> lights at 50 Hz; presses and faults out as notices.
//!
//! ```text
//!  service (async) --show(lamp)--> spsc queue --> lamp thread --set_lamps--> Board
//!        |  ^--- BoardNotice (bounded channel, try_send) ---'  |
//!        '---alive()---> last sign of life  <--- dead man's switch
//! ```
//!
//! - **Dead man's switch.** If nobody calls [`LampHandle::alive`] for longer than [`LampOptions::dead_man`], the thread shows
//!   [`Lamp::Fault`] by itself until the next sign of life. A task that waits for the disk says so ([`LampHandle::excused`]) and has
//!   [`EXCUSE`] instead. When the handle is dropped (orderly end or a panic that unwinds) it switches everything off and ends. A process
//!   that is killed is the business of the lamp keeper (`keeper.rs`), which on a box draws instead of this thread: then the handle's
//!   thread is the one of `keeper_client.rs`.
//! - **Bounds.** The queue holds [`QUEUE_MAX`] lamps; at the bound the newest one is kept aside by the handle and sent with the next
//!   `show` or `alive`: what the lamp ends on is never lost. Notices that find their channel full are counted and dropped: presses
//!   are acknowledgements of what the room sees, and the room still sees it.
//! - **No allocation while drawing.** The loop owns everything before it starts; the queue is inline memory, statistics are
//!   fixed tables of atomics, `lights_at` and the debouncer are plain arithmetic, and drivers promise not to allocate when
//!   they succeed. Only a notice allocates (a press, a failing lamp), never a frame.
//! - **No drift.** Each deadline is the one before plus 20 ms, not "now plus 20 ms". Frames that were missed are counted and skipped.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use heapless::spsc::{Consumer, Producer, Queue};
use tokio::sync::mpsc::Sender;

use scanside_lamp::life::DEAD_MAN_MS;
use scanside_lamp::{Debounce, lamp_number, lamp_of_number};

pub use super::draw::{FRAME, FRAMES_PER_S};
use super::draw::{Grid, Pen, PenNote};
use super::jitter::{Jitter, JitterStats};
use super::{Board, BoardError, Lights, lights_at};
use crate::domain::Lamp;

/// Lamps that may wait for the thread: more changes than that within one frame are kept as "the newest".
pub const QUEUE_MAX: usize = 15;
/// A task that waits for the disk may be silent for this long: an SD card's worst writes take seconds, and that is slow, not dead.
pub const EXCUSE: Duration = Duration::from_secs(5);
/// How long dropping the handle waits for the last, dark frame.
const STOP_WAIT_MAX: Duration = Duration::from_millis(500);

/// A `heapless` queue of N slots holds N - 1 values.
type LampQueue = Queue<Lamp, { QUEUE_MAX + 1 }>;

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
    jitter: Jitter,
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

/// Starts the thread that draws on `board`; it shows nothing until the first [`LampHandle::show`].
///
/// The queue's memory (a few bytes) is never given back: its two ends live on two threads, and safe code needs `'static` for that.
/// A process starts one lamp.
///
/// # Errors
/// [`BoardError::Thread`] when the system gives no thread.
pub fn start(board: Box<dyn Board>, options: LampOptions, notices: Sender<BoardNotice>) -> Result<LampHandle, BoardError> {
    let (producer, consumer) = Box::leak(Box::new(LampQueue::new())).split();
    let shared = Arc::new(Shared::new((options.clock)()));
    let mut drawing = Drawing {
        pen: Pen::new(board),
        consumer,
        shared: Arc::clone(&shared),
        notices,
        options,
        debounce: Debounce::new(options.debounce_ms),
        wanted: Lamp::Dark,
        shown: Lamp::Dark,
        shown_since: (options.clock)(),
        silent_max_ms: 0,
    };
    let thread = thread::Builder::new()
        .name("lamp".to_owned())
        .spawn(move || drawing.run())
        .map_err(|cause| BoardError::Thread(cause.to_string()))?;
    let way = Way::Queue(Mutex::new(Sending { producer, kept: None, wanted: None }));
    Ok(LampHandle { way, view: LampView(shared), clock: options.clock, thread: Some(thread) })
}

pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Everything the loop needs.
struct Drawing {
    pen: Pen,
    consumer: Consumer<'static, Lamp>,
    shared: Arc<Shared>,
    notices: Sender<BoardNotice>,
    options: LampOptions,
    debounce: Debounce,
    /// What the service wants.
    wanted: Lamp,
    /// What is shown: `wanted`, or a fault while the service is silent.
    shown: Lamp,
    shown_since: Duration,
    /// How long the service has been silent in this dead-man period; 0 outside one.
    silent_max_ms: u64,
}

impl Drawing {
    fn run(&mut self) {
        let mut grid = Grid::new(self.options.clock);
        while !self.shared.stop.load(Ordering::Acquire) {
            self.frame((self.options.clock)());
            let (late, missed) = grid.wait();
            self.shared.jitter.record(micros(late));
            self.shared.frames_missed.fetch_add(u64::from(missed), Ordering::AcqRel);
        }
        // A dead process must not look well.
        self.pen.darken();
        self.shared.show(0, 0);
    }

    /// One frame: what to show, the lights, the button.
    fn frame(&mut self, now: Duration) {
        while let Some(lamp) = self.consumer.dequeue() {
            self.wanted = lamp;
        }
        let lamp = if self.service_silent(now) { Lamp::Fault } else { self.wanted };
        if lamp != self.shown {
            self.shown = lamp;
            self.shown_since = now;
        }
        let lights = lights_at(self.shown, millis(now.saturating_sub(self.shown_since)));
        if let Some((lamp, lights)) = self.pen.draw((self.shown, lights)) {
            self.shared.show(lamp_number(lamp), lights.bits());
        }
        if self.pen.button().is_some_and(|down| self.debounce.on(down, millis(now))) {
            self.notify(BoardNotice::ButtonPressed);
        }
        self.shared.failing.store(self.pen.failing(), Ordering::Release);
        match self.pen.take_note() {
            Some(PenNote::Failing(text)) => self.notify(BoardNotice::Failing(text)),
            Some(PenNote::Recovered) => self.notify(BoardNotice::Recovered),
            None => {}
        }
        self.shared.frames.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether the service has been silent for longer than the limit.
    fn service_silent(&mut self, now: Duration) -> bool {
        let silent = self.shared.silent(now);
        if silent > self.options.dead_man {
            self.silent_max_ms = millis(silent);
            return true;
        }
        if self.silent_max_ms > 0 {
            let silent_ms = std::mem::take(&mut self.silent_max_ms);
            self.notify(BoardNotice::DeadManReleased { silent_ms });
        }
        false
    }

    fn notify(&mut self, notice: BoardNotice) {
        self.shared.notify(&self.notices, notice);
    }
}
