//! The kernel on FEAT_I8MM (Neoverse V1 and N2, Cortex-A510, A710 and later): `smmla` adds the products of 8 i8 of two positions with those of two
//! output channels, four sums of 8 products each.

#![allow(unsafe_code)]

use std::arch::aarch64::{int32x4_t, vdupq_laneq_s64, vreinterpretq_s32_s64, vreinterpretq_s64_s32, vzip1q_s64, vzip2q_s64};

use super::neon::{self, Pair, Tile};
use super::{BLOCK, RowJob, Segment, TILE};

/// Positions in pairs.
const PAIRS: usize = TILE / 2;
/// From one position to the next where a tensor has 8 channels: positions then follow each other without a gap.
const DENSE: usize = BLOCK;

/// Computes the row.
///
/// # Safety
/// The processor has FEAT_I8MM, and the job has passed `Kernel::check`.
#[target_feature(enable = "neon,i8mm")]
pub(super) unsafe fn run(mut job: RowJob<'_>) {
    // SAFETY: as the caller promises; this function is compiled with these features.
    unsafe { neon::row::<PAIRS, Smmla>(&mut job) }
}

/// One pair of positions, in register `$x`, and all four pairs of outputs.
macro_rules! products {
    ($a:literal, $b:literal, $c:literal, $d:literal, $x:literal) => {
        concat!(
            "smmla v",
            $a,
            ".4s, v",
            $x,
            ".16b, v0.16b\n",
            "smmla v",
            $b,
            ".4s, v",
            $x,
            ".16b, v1.16b\n",
            "smmla v",
            $c,
            ".4s, v",
            $x,
            ".16b, v2.16b\n",
            "smmla v",
            $d,
            ".4s, v",
            $x,
            ".16b, v3.16b\n"
        )
    };
}

struct Smmla;

impl Tile<PAIRS> for Smmla {
    #[inline(always)]
    unsafe fn sums(job: &RowJob<'_>, position: usize) -> [Pair; PAIRS] {
        // SAFETY: `check` holds: for every segment, `start + p * step + 8 * n_steps` lies in the image for each of the tile's positions `p`, the
        // weights hold `64 * n_steps` bytes from the segment's place on, and there is at least one step.
        unsafe {
            // Block n of a pair: outputs 2 n and 2 n + 1 of its first position, then of its second.
            let [low, high] = neon::bias(job.scaling).map(|bias| vreinterpretq_s64_s32(bias));
            let blocks =
                [vdupq_laneq_s64::<0>(low), vdupq_laneq_s64::<1>(low), vdupq_laneq_s64::<0>(high), vdupq_laneq_s64::<1>(high)];
            let mut sums = [blocks.map(|block| vreinterpretq_s32_s64(block)); PAIRS];
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
            sums.map(|[a, b, c, d]| {
                let [[a_low, b_low], [a_high, b_high]] = [split(a, b), split(c, d)];
                [a_low, a_high, b_low, b_high]
            })
        }
    }
}

/// The first position's four sums of two blocks, and the second's.
#[inline(always)]
unsafe fn split(a: int32x4_t, b: int32x4_t) -> [int32x4_t; 2] {
    // SAFETY: NEON is there.
    unsafe {
        let (a, b) = (vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b));
        [vreinterpretq_s32_s64(vzip1q_s64(a, b)), vreinterpretq_s32_s64(vzip2q_s64(a, b))]
    }
}

/// Adds the steps of one segment; the blocks of pair p are in v(8 + 4 p) and the next three. A step is 8 numbers of each position and 64 bytes of weights: 24 products in 46 instructions.
///
/// # Safety
/// The processor has FEAT_I8MM; `8 * n_steps` bytes lie at `at + offset` for each offset, the first of which is 0, and `64 * n_steps` at `weights`;
/// `n_steps` is not 0.
#[inline(always)]
unsafe fn strided(sums: &mut [Pair; PAIRS], at: *const u8, offsets: &[usize; TILE], weights: *const u8, n_steps: usize) {
    // SAFETY: as the caller promises; the numbers at offset 0 are read last, so that the address can move on with that load.
    unsafe {
        neon::asm_with_sums!(
            "i8mm",
            sums,
            [
                "2:",
                "ldr d4, [{at}, {o2}]",
                "ldr d5, [{at}, {o3}]",
                "ldr d6, [{at}, {o4}]",
                "ldr d7, [{at}, {o5}]",
                "ldp q0, q1, [{weights}], #32",
                "ldp q2, q3, [{weights}], #32",
                "zip1 v4.2d, v4.2d, v5.2d",
                "zip1 v6.2d, v6.2d, v7.2d",
                products!(12, 13, 14, 15, 4),
                "ldr d4, [{at}, {o6}]",
                "ldr d5, [{at}, {o7}]",
                products!(16, 17, 18, 19, 6),
                "ldr d6, [{at}, {o8}]",
                "ldr d7, [{at}, {o9}]",
                "zip1 v4.2d, v4.2d, v5.2d",
                products!(20, 21, 22, 23, 4),
                "ldr d4, [{at}, {o10}]",
                "ldr d5, [{at}, {o11}]",
                "zip1 v6.2d, v6.2d, v7.2d",
                products!(24, 25, 26, 27, 6),
                "ldr d7, [{at}, {o1}]",
                "ldr d6, [{at}], #8",
                "zip1 v4.2d, v4.2d, v5.2d",
                "subs {n}, {n}, #1",
                products!(28, 29, 30, 31, 4),
                "zip1 v6.2d, v6.2d, v7.2d",
                products!(8, 9, 10, 11, 6),
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

/// The same where the positions' numbers follow each other: one load brings those of four, a step takes 32 instructions.
///
/// # Safety
/// The processor has FEAT_I8MM; `8 * (n_steps + 11)` bytes lie at `at` and `64 * n_steps` at `weights`; `n_steps` is not 0.
#[inline(always)]
unsafe fn dense(sums: &mut [Pair; PAIRS], at: *const u8, weights: *const u8, n_steps: usize) {
    // SAFETY: as the caller promises.
    unsafe {
        neon::asm_with_sums!(
            "i8mm",
            sums,
            [
                "2:",
                "ldp q4, q5, [{at}]",
                "ldp q0, q1, [{weights}], #32",
                "ldp q2, q3, [{weights}], #32",
                "ldp q6, q7, [{at}, #32]",
                products!(8, 9, 10, 11, 4),
                products!(12, 13, 14, 15, 5),
                "ldp q4, q5, [{at}, #64]",
                "subs {n}, {n}, #1",
                products!(16, 17, 18, 19, 6),
                products!(20, 21, 22, 23, 7),
                "add {at}, {at}, #8",
                products!(24, 25, 26, 27, 4),
                products!(28, 29, 30, 31, 5),
                "b.ne 2b",
            ],
            at = inout(reg) at => _,
            weights = inout(reg) weights => _,
            n = inout(reg) n_steps => _,
        );
    }
}
