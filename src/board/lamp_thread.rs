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
//!   [`super::lamp_handle::EXCUSE`] instead. When the handle is dropped (orderly end or a panic that unwinds) it switches everything off and ends. A process
//!   that is killed is the business of the lamp keeper (`keeper.rs`), which on a box draws instead of this thread: then the handle's
//!   thread is the one of `keeper_client.rs`.
//! - **Bounds.** The queue holds [`QUEUE_MAX`] lamps; at the bound the newest one is kept aside by the handle and sent with the next
//!   `show` or `alive`: what the lamp ends on is never lost. Notices that find their channel full are counted and dropped: presses
//!   are acknowledgements of what the room sees, and the room still sees it.
//! - **No allocation while drawing.** The loop owns everything before it starts; the queue is inline memory, statistics are
//!   fixed tables of atomics, `lights_at` and the debouncer are plain arithmetic, and drivers promise not to allocate when
//!   they succeed. Only a notice allocates (a press, a failing lamp), never a frame.
//! - **No drift.** Each deadline is the one before plus 20 ms, not "now plus 20 ms". Frames that were missed are counted and skipped.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use heapless::spsc::{Consumer, Queue};
use scanside_lamp::{Debounce, lamp_number};
use tokio::sync::mpsc::Sender;

pub use super::draw::{FRAME, FRAMES_PER_S};
use super::draw::{Grid, Pen, PenNote};
use super::lamp_handle::{BoardNotice, LampHandle, LampOptions, QUEUE_MAX, Shared, micros, millis};
use super::{Board, BoardError, lights_at};
use crate::domain::Lamp;

/// A `heapless` queue of N slots holds N - 1 values.
type LampQueue = Queue<Lamp, { QUEUE_MAX + 1 }>;

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
    Ok(LampHandle::of_queue(producer, shared, options.clock, thread))
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
