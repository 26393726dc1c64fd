//! How late the lamp thread wakes: latenesses in -> median, 99th percentile, maximum.
//!
//! A fixed table of atomics, written by one thread and read by any: recording neither allocates nor locks.

use std::sync::atomic::{AtomicU64, Ordering};

/// Width of a bucket, µs.
pub const BUCKET_US: u64 = 100;
/// Buckets; later wake-ups (20 ms and more: a whole frame) share the last one.
const BUCKETS: usize = 200;

/// Counts of latenesses.
#[derive(Debug)]
pub struct Jitter {
    buckets: [AtomicU64; BUCKETS],
    max_us: AtomicU64,
}

/// What the counts say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JitterStats {
    /// Frames measured.
    pub n: u64,
    /// Half of the frames were at most this late, µs (upper edge of its bucket, never above the maximum).
    pub median_us: u64,
    /// 99 % of the frames were at most this late, µs.
    pub p99_us: u64,
    /// The latest frame, µs, exactly.
    pub max_us: u64,
}

impl Default for Jitter {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| AtomicU64::new(0)), max_us: AtomicU64::new(0) }
    }
}

impl Jitter {
    /// Counts one frame that came `late_us` after its time.
    pub fn record(&self, late_us: u64) {
        let idx = usize::try_from(late_us / BUCKET_US).unwrap_or(usize::MAX).min(BUCKETS - 1);
        if let Some(bucket) = self.buckets.get(idx) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.max_us.fetch_max(late_us, Ordering::Relaxed);
    }

    /// The figures so far.
    #[must_use]
    pub fn stats(&self) -> JitterStats {
        let counts: Vec<u64> = self.buckets.iter().map(|b| b.load(Ordering::Relaxed)).collect();
        let n: u64 = counts.iter().sum();
        let max_us = self.max_us.load(Ordering::Relaxed);
        let at = |permille: u64| -> u64 {
            let wanted = (n * permille).div_ceil(1000).max(1);
            let mut seen = 0;
            for (idx, count) in counts.iter().enumerate() {
                seen += count;
                if seen >= wanted {
                    let last = idx + 1 == BUCKETS;
                    let edge = (idx as u64 + 1) * BUCKET_US;
                    return if last { max_us } else { edge.min(max_us) };
                }
            }
            0
        };
        JitterStats { n, median_us: at(500), p99_us: at(990), max_us }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn no_frames_give_zeros() {
        assert_eq!(Jitter::default().stats(), JitterStats::default());
    }

    proptest! {
        #[test]
        fn quantiles_are_within_one_bucket_of_the_sorted_list(mut late in prop::collection::vec(0_u64..19_000, 1..500)) {
            let jitter = Jitter::default();
            for &us in &late {
                jitter.record(us);
            }
            late.sort_unstable();
            let stats = jitter.stats();
            let exact = |permille: usize| late[(late.len() * permille).div_ceil(1000).max(1) - 1];
            prop_assert_eq!(stats.n, late.len() as u64);
            prop_assert_eq!(stats.max_us, late[late.len() - 1]);
            prop_assert!(stats.median_us >= exact(500) && stats.median_us - exact(500) <= BUCKET_US);
            prop_assert!(stats.p99_us >= exact(990) && stats.p99_us - exact(990) <= BUCKET_US);
        }

        #[test]
        fn frames_later_than_the_table_are_reported_by_the_maximum(late_us in 20_000_u64..10_000_000) {
            let jitter = Jitter::default();
            jitter.record(late_us);
            prop_assert_eq!(jitter.stats(), JitterStats { n: 1, median_us: late_us, p99_us: late_us, max_us: late_us });
        }
    }
}
