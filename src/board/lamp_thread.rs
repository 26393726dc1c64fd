//! The thread that draws the lamp: `Lamp`s in through a heapless queue -> lights at 50 Hz; presses and faults out as notices.
//!
//! ```text
//!  service (async) --show(lamp)--> spsc queue --> lamp thread --set_lamps--> Board
//!        |  ^--- BoardNotice (bounded channel, try_send) ---'  |
//!        '---alive()---> last sign of life  <--- dead man's switch
//! ```
//!
//! - **Dead man's switch.** If nobody calls [`LampHandle::alive`] for longer than [`LampOptions::dead_man`], the thread shows
//!   [`Lamp::Fault`] by itself until the next sign of life. When the handle is dropped (orderly end or a panic that unwinds) it
//!   switches everything off and ends. A process that is killed is the business of the unit's stop hook.
//! - **Bounds.** The queue holds [`QUEUE_MAX`] lamps; at the bound the newest one is kept aside by the handle and sent with the next
//!   `show` or `alive`: what the lamp ends on is never lost. Notices that find their channel full are counted and dropped: presses
//!   are acknowledgements of what the room sees, and the room still sees it.
//! - **No allocation while drawing.** The loop owns everything before it starts; the queue is inline memory, statistics are
//!   fixed tables of atomics, `lights_at` and the debouncer are plain arithmetic, and drivers promise not to allocate when
//!   they succeed. Only a notice allocates (a press, a failing lamp), never a frame.
//! - **No drift.** Each deadline is the one before plus 20 ms, not "now plus 20 ms". Frames that were missed are counted and skipped.

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use heapless::spsc::{Consumer, Producer, Queue};
use tokio::sync::mpsc::Sender;

use super::debounce::Debounce;
use super::jitter::{Jitter, JitterStats};
use super::pattern::{lamp_number, lamp_of_number};
use super::{Board, BoardError, Lights, lights_at};
use crate::domain::Lamp;

/// Frames per second.
pub const FRAMES_PER_S: u32 = 50;
/// Time of one frame.
pub const FRAME: Duration = Duration::from_millis(1000 / FRAMES_PER_S as u64);
/// Lamps that may wait for the thread: more changes than that within one frame are kept as "the newest".
pub const QUEUE_MAX: usize = 15;
/// Unchanged lights are written again after this many frames (1 s), so that a lamp that lost its state comes back; a failing lamp
/// is tried again as often.
const REFRESH_FRAMES: u64 = 50;
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
    /// Two seconds of silence, 50 ms debounce.
    #[must_use]
    pub const fn new(clock: fn() -> Duration) -> Self {
        Self { dead_man: Duration::from_secs(2), debounce_ms: 50, clock }
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
struct Shared {
    /// High byte: number of the lamp; low byte: bits of the lights. One word, so that both belong together.
    current: AtomicU16,
    frames: AtomicU64,
    frames_missed: AtomicU64,
    notices_dropped: AtomicU64,
    failing: AtomicBool,
    alive_us: AtomicU64,
    stop: AtomicBool,
    jitter: Jitter,
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

    /// Frames drawn: the thread's heartbeat. It moves 50 times a second, whatever the lamp shows.
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
        self.0.jitter.stats()
    }
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
    sending: Mutex<Sending>,
    view: LampView,
    clock: fn() -> Duration,
    thread: Option<JoinHandle<()>>,
}

impl LampHandle {
    /// Shows `lamp` from the next frame on. The same lamp again changes nothing (its pattern does not start over).
    pub fn show(&self, lamp: Lamp) {
        let mut sending = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
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
        self.sending.lock().unwrap_or_else(PoisonError::into_inner).flush();
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
    let shared = Arc::new(Shared {
        current: AtomicU16::new(0),
        frames: AtomicU64::new(0),
        frames_missed: AtomicU64::new(0),
        notices_dropped: AtomicU64::new(0),
        failing: AtomicBool::new(false),
        alive_us: AtomicU64::new(micros((options.clock)())),
        stop: AtomicBool::new(false),
        jitter: Jitter::default(),
    });
    let mut drawing = Drawing {
        board,
        consumer,
        shared: Arc::clone(&shared),
        notices,
        options,
        debounce: Debounce::new(options.debounce_ms),
        wanted: Lamp::Dark,
        shown: Lamp::Dark,
        shown_since: (options.clock)(),
        written: None,
        frames_since_write: 0,
        lamps_fail: false,
        button_fails: false,
        silent_max_ms: 0,
    };
    let thread = thread::Builder::new()
        .name("lamp".to_owned())
        .spawn(move || drawing.run())
        .map_err(|cause| BoardError::Thread(cause.to_string()))?;
    let sending = Mutex::new(Sending { producer, kept: None, wanted: None });
    Ok(LampHandle { sending, view: LampView(shared), clock: options.clock, thread: Some(thread) })
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Everything the loop needs.
struct Drawing {
    board: Box<dyn Board>,
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
    written: Option<(Lamp, Lights)>,
    frames_since_write: u64,
    lamps_fail: bool,
    button_fails: bool,
    /// How long the service has been silent in this dead-man period; 0 outside one.
    silent_max_ms: u64,
}

impl Drawing {
    fn run(&mut self) {
        let mut deadline = (self.options.clock)();
        while !self.shared.stop.load(Ordering::Acquire) {
            self.frame((self.options.clock)());
            deadline += FRAME;
            thread::sleep(deadline.saturating_sub((self.options.clock)()));
            let late = (self.options.clock)().saturating_sub(deadline);
            self.shared.jitter.record(micros(late));
            // Late by whole frames: skip them instead of drawing a burst, and stay on the grid.
            let missed = u32::try_from(late.as_micros() / FRAME.as_micros()).unwrap_or(u32::MAX);
            self.shared.frames_missed.fetch_add(u64::from(missed), Ordering::AcqRel);
            deadline = deadline.saturating_add(FRAME.saturating_mul(missed));
        }
        // A dead process must not look well. Three attempts, because nobody will repeat this one.
        for _ in 0..3 {
            if self.board.set_lamps(Lights::DARK).is_ok() {
                break;
            }
        }
        self.shared.current.store(0, Ordering::Release);
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
        let frame = (self.shown, lights_at(self.shown, millis(now.saturating_sub(self.shown_since))));
        let refresh = self.frames_since_write >= REFRESH_FRAMES;
        if refresh || (!self.lamps_fail && self.written != Some(frame)) {
            self.write(frame);
        } else {
            self.frames_since_write += 1;
        }
        let button_failed = match self.board.button_pressed() {
            Ok(down) => {
                if self.debounce.on(down, millis(now)) {
                    self.notify(BoardNotice::ButtonPressed);
                }
                None
            }
            Err(error) => Some(error),
        };
        self.button_fails = button_failed.is_some();
        self.tell_failing(button_failed.as_ref());
        self.shared.frames.fetch_add(1, Ordering::AcqRel);
    }

    fn write(&mut self, (lamp, lights): (Lamp, Lights)) {
        self.frames_since_write = 0;
        match self.board.set_lamps(lights) {
            Ok(()) => {
                self.written = Some((lamp, lights));
                self.lamps_fail = false;
                self.shared.current.store(u16::from_le_bytes([lights.bits(), lamp_number(lamp)]), Ordering::Release);
            }
            Err(error) => {
                self.written = None;
                self.lamps_fail = true;
                self.tell_failing(Some(&error));
            }
        }
    }

    /// Tells the first failure, and when lamps and button both work again.
    fn tell_failing(&mut self, error: Option<&BoardError>) {
        let failing = self.lamps_fail || self.button_fails;
        if self.shared.failing.swap(failing, Ordering::AcqRel) == failing {
            return;
        }
        self.notify(match error {
            Some(error) => BoardNotice::Failing(error.to_string()),
            None => BoardNotice::Recovered,
        });
    }

    /// Whether the service has been silent for longer than the limit.
    fn service_silent(&mut self, now: Duration) -> bool {
        let silent = now.saturating_sub(Duration::from_micros(self.shared.alive_us.load(Ordering::Acquire)));
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
        if self.notices.try_send(notice).is_err() {
            self.shared.notices_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}
