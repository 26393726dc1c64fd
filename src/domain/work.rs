//! Progress of a study in work: whoever works counts its steps, and says how long the next one may take. Atomics alone; clones share them.
//!
//! The service looks at it ten times a second: a study that stands still for longer than its own step may take is a fault of the box, and the
//! lamp says so. A timer that something runs is no proof that it moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// What is being done to a study.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// Nothing.
    Resting,
    /// Reading, decoding, resampling, registering: a step is a slice, or one attempt of a registration.
    Preparing,
    /// The network on the processor: a step is a part of a layer.
    Inferring,
    /// The network on an NPU, which says nothing before it has finished: its own deadline is the limit.
    InferringOnNpu,
    /// From the network's answer to the verdict.
    Deciding,
}

/// Longest step of preparing, ms. One slice is decoded in tens of milliseconds and a registration's attempt takes a few hundred on a slow
/// board; but a step may wait for a disk, whose worst reads take seconds, and counting the values of a whole volume is one step.
pub const PREPARING_STILL_MS_MAX: u64 = 10_000;
/// Longest step of the network on the processor, ms. A part of a layer takes about a millisecond; with the service's look at it, the
/// keeper's word and the lamp's frame a wedged network shows a fault within two seconds.
pub const INFERRING_STILL_MS_MAX: u64 = 1_500;
/// Longest way from the network's answer to the verdict, ms: components of a whole mask, without a step between.
pub const DECIDING_STILL_MS_MAX: u64 = 10_000;

impl Doing {
    const ALL: [Self; 5] = [Self::Resting, Self::Preparing, Self::Inferring, Self::InferringOnNpu, Self::Deciding];

    /// In words, for the page and the journal.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Resting => "resting",
            Self::Preparing => "preparing",
            Self::Inferring => "inference",
            Self::InferringOnNpu => "inference on the NPU",
            Self::Deciding => "deciding",
        }
    }

    const fn still_ms_max(self) -> u64 {
        match self {
            Self::Resting => u64::MAX,
            Self::Preparing => PREPARING_STILL_MS_MAX,
            Self::Inferring | Self::InferringOnNpu => INFERRING_STILL_MS_MAX,
            Self::Deciding => DECIDING_STILL_MS_MAX,
        }
    }
}

#[derive(Debug)]
struct Shared {
    n: AtomicU64,
    doing: AtomicU8,
    still_ms_max: AtomicU64,
}

impl Default for Shared {
    fn default() -> Self {
        Self { n: AtomicU64::new(0), doing: AtomicU8::new(0), still_ms_max: AtomicU64::new(u64::MAX) }
    }
}

/// The steps of one worker.
#[derive(Clone, Debug, Default)]
pub struct WorkSteps(Arc<Shared>);

/// What an onlooker sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkSeen {
    /// Steps so far; what matters is that the number moves.
    pub n: u64,
    /// What is being done.
    pub doing: Doing,
    /// How long it may stand still, ms.
    pub still_ms_max: u64,
}

impl WorkSteps {
    /// A step forward. Costs one relaxed addition: it may stand in a loop of milliseconds, not of pixels.
    pub fn step(&self) {
        self.0.n.fetch_add(1, Ordering::Relaxed);
    }

    /// Something else begins.
    pub fn begin(&self, doing: Doing) {
        self.begin_for(doing, doing.still_ms_max());
    }

    /// Something begins that may stand still for `still_ms_max`.
    pub fn begin_for(&self, doing: Doing, still_ms_max: u64) {
        self.0.still_ms_max.store(still_ms_max, Ordering::Release);
        self.0.doing.store(doing as u8, Ordering::Release);
        self.step();
    }

    /// What is seen now.
    #[must_use]
    pub fn seen(&self) -> WorkSeen {
        let doing = Doing::ALL.get(usize::from(self.0.doing.load(Ordering::Acquire))).copied().unwrap_or(Doing::Resting);
        WorkSeen { n: self.0.n.load(Ordering::Acquire), doing, still_ms_max: self.0.still_ms_max.load(Ordering::Acquire) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_onlooker_sees_what_the_worker_says() {
        let worker = WorkSteps::default();
        let seen_by = worker.clone();
        assert_eq!(seen_by.seen(), WorkSeen { n: 0, doing: Doing::Resting, still_ms_max: u64::MAX });
        for doing in Doing::ALL {
            let before = seen_by.seen().n;
            worker.begin(doing);
            worker.step();
            assert_eq!(seen_by.seen(), WorkSeen { n: before + 2, doing, still_ms_max: doing.still_ms_max() });
        }
        worker.begin_for(Doing::InferringOnNpu, 7_000);
        assert_eq!(seen_by.seen().still_ms_max, 7_000);
    }
}
