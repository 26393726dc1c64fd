//! The kernel on FEAT_DotProd (Cortex-A55, A76 and later): `sdot` adds the products of four i8 of one position with the fours of weights of four
//! output channels. 12 positions times 8 outputs are 24 of the 32 registers; 4 hold the weights of a step, 4 the numbers of four positions.

#![allow(unsafe_code)]

use super::neon::{self, Pair, Tile};
use super::{BLOCK, RowJob, Segment, TILE};

/// Positions in pairs.
const PAIRS: usize = TILE / 2;
/// From one position to the next where a tensor has 8 channels: positions then follow each other without a gap.
const DENSE: usize = BLOCK;

/// Computes the row.
///
/// # Safety
/// The processor has FEAT_DotProd, and the job has passed `Kernel::check`.
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn run(mut job: RowJob<'_>) {
    // SAFETY: as the caller promises; this function is compiled with these features.
    unsafe { neon::row::<PAIRS, Sdot>(&mut job) }
}

/// One position's four numbers `$lane` of register `$x`, with the first or second fours of the weights of all outputs.
macro_rules! products {
    ($low:literal, $high:literal, $x:literal, 0, $lane:literal) => {
        products!($low, $high, $x, "0", "1", $lane)
    };
    ($low:literal, $high:literal, $x:literal, 1, $lane:literal) => {
        products!($low, $high, $x, "2", "3", $lane)
    };
    ($low:literal, $high:literal, $x:literal, $w_low:literal, $w_high:literal, $lane:literal) => {
        concat!(
            "sdot v", $low, ".4s, v", $w_low, ".16b, v", $x, ".4b[", $lane, "]\n", "sdot v", $high, ".4s, v", $w_high, ".16b, v",
            $x, ".4b[", $lane, "]\n"
        )
    };
}

struct Sdot;

impl Tile<PAIRS> for Sdot {
    #[inline(always)]
    unsafe fn sums(job: &RowJob<'_>, position: usize) -> [Pair; PAIRS] {
        // SAFETY: `check` holds: for every segment, `start + p * step + 8 * n_steps` lies in the image for each of the tile's positions `p`, the
        // weights hold `64 * n_steps` bytes from the segment's place on, and there is at least one step.
        unsafe {
            let [low, high] = neon::bias(job.scaling);
            let mut sums = [[low, high, low, high]; PAIRS];
            let (image, weights) = (job.image.as_ptr(), job.weights.as_ptr());
            let mut segments = job.starts.iter().zip(job.segments).peekable();
            // The segments of one source follow each other and have a step in common.
            while let Some((_, Segment { step, .. })) = segments.peek() {
                let step = *step;
                let same = |(_, segment): &(&usize, &Segment)| segment.step == step;
                if step == DENSE {
                    while let Some((start, segment)) = segments.next_if(same) {
                        let at = image.add(start + position * step);
                        dense(&mut sums, at, weights.add(segment.weights), segment.n_steps);
                    }
                } else {
                    let offsets = std::array::from_fn(|p| p * step);
                    while let Some((start, segment)) = segments.next_if(same) {
                        let at = image.add(start + position * step);
                        strided(&mut sums, at, &offsets, weights.add(segment.weights), segment.n_steps);
                    }
                }
            }
            sums
        }
    }
}

/// Adds the steps of one segment; position p's sums are in v(8 + 2 p) and the next. A step is 8 numbers of each position and 64 bytes of weights: 48 products in 64 instructions.
///
/// # Safety
/// The processor has FEAT_DotProd; `8 * n_steps` bytes lie at `at + offset` for each offset, the first of which is 0, and `64 * n_steps` at
/// `weights`; `n_steps` is not 0.
#[inline(always)]
unsafe fn strided(sums: &mut [Pair; PAIRS], at: *const u8, offsets: &[usize; TILE], weights: *const u8, n_steps: usize) {
    // SAFETY: as the caller promises; the numbers at offset 0 are read last, so that the address can move on with that load.
    unsafe {
        neon::asm_with_sums!(
            "dotprod",
            sums,
            [
                "2:",
                "ldp q0, q1, [{weights}], #32",
                "ldr d4, [{at}, {o1}]",
                "ldr d5, [{at}, {o2}]",
                "ldp q2, q3, [{weights}], #32",
                "ldr d6, [{at}, {o3}]",
                "ldr d7, [{at}, {o4}]",
                products!(10, 11, 4, 0, 0),
                products!(12, 13, 5, 0, 0),
                products!(14, 15, 6, 0, 0),
                products!(16, 17, 7, 0, 0),
                products!(10, 11, 4, 1, 1),
                "ldr d4, [{at}, {o5}]",
                products!(12, 13, 5, 1, 1),
                "ldr d5, [{at}, {o6}]",
                products!(14, 15, 6, 1, 1),
                "ldr d6, [{at}, {o7}]",
                products!(16, 17, 7, 1, 1),
                "ldr d7, [{at}, {o8}]",
                products!(18, 19, 4, 0, 0),
                products!(20, 21, 5, 0, 0),
                products!(22, 23, 6, 0, 0),
                products!(24, 25, 7, 0, 0),
                products!(18, 19, 4, 1, 1),
                "ldr d4, [{at}, {o9}]",
                products!(20, 21, 5, 1, 1),
                "ldr d5, [{at}, {o10}]",
                products!(22, 23, 6, 1, 1),
                "ldr d6, [{at}, {o11}]",
                products!(24, 25, 7, 1, 1),
                "ldr d7, [{at}], #8",
                "subs {n}, {n}, #1",
                products!(26, 27, 4, 0, 0),
                products!(28, 29, 5, 0, 0),
                products!(30, 31, 6, 0, 0),
                products!(8, 9, 7, 0, 0),
                products!(26, 27, 4, 1, 1),
                products!(28, 29, 5, 1, 1),
                products!(30, 31, 6, 1, 1),
                products!(8, 9, 7, 1, 1),
                "b.ne 2b",
            ],
            at = inout(reg) at => _,
            weights = inout(reg) weights => _,
            n = inout(reg) n_steps => _,
            o1 = in(reg) offsets[1],
            o2 = in(reg) offsets[2],
            o3 = in(reg) offsets[3],
            o4 = in(reg) offsets[4],
            o5 = in(reg) offsets[5],
            o6 = in(reg) offsets[6],
            o7 = in(reg) offsets[7],
            o8 = in(reg) offsets[8],
            o9 = in(reg) offsets[9],
            o10 = in(reg) offsets[10],
            o11 = in(reg) offsets[11],
        );
    }
}

/// The same where the positions' numbers follow each other: one load brings those of four, a step takes 56 instructions.
///
/// # Safety
/// The processor has FEAT_DotProd; `8 * (n_steps + 11)` bytes lie at `at` and `64 * n_steps` at `weights`; `n_steps` is not 0.
#[inline(always)]
unsafe fn dense(sums: &mut [Pair; PAIRS], at: *const u8, weights: *const u8, n_steps: usize) {
    // SAFETY: as the caller promises.
    unsafe {
        neon::asm_with_sums!(
            "dotprod",
            sums,
            [
                "2:",
                "ldp q0, q1, [{weights}], #32",
                "ldp q4, q5, [{at}]",
                "ldp q2, q3, [{weights}], #32",
                "ldp q6, q7, [{at}, #32]",
                products!(8, 9, 4, 0, 0),
                products!(10, 11, 4, 0, 2),
                products!(12, 13, 5, 0, 0),
                products!(14, 15, 5, 0, 2),
                products!(8, 9, 4, 1, 1),
                products!(10, 11, 4, 1, 3),
                products!(12, 13, 5, 1, 1),
                products!(14, 15, 5, 1, 3),
                "ldp q4, q5, [{at}, #64]",
                "subs {n}, {n}, #1",
                products!(16, 17, 6, 0, 0),
                products!(18, 19, 6, 0, 2),
                products!(20, 21, 7, 0, 0),
                products!(22, 23, 7, 0, 2),
                products!(16, 17, 6, 1, 1),
                products!(18, 19, 6, 1, 3),
                products!(20, 21, 7, 1, 1),
                products!(22, 23, 7, 1, 3),
                "add {at}, {at}, #8",
                products!(24, 25, 4, 0, 0),
                products!(26, 27, 4, 0, 2),
                products!(28, 29, 5, 0, 0),
                products!(30, 31, 5, 0, 2),
                products!(24, 25, 4, 1, 1),
                products!(26, 27, 4, 1, 3),
                products!(28, 29, 5, 1, 1),
                products!(30, 31, 5, 1, 3),
                "b.ne 2b",
            ],
            at = inout(reg) at => _,
            weights = inout(reg) weights => _,
            n = inout(reg) n_steps => _,
        );
    }
}
