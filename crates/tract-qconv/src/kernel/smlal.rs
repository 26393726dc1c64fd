//! The kernel on plain NEON, which every ARMv8 has (Cortex-A53, A72): `smull` and `smlal` multiply 8 i8 of one position with those of one output
//! channel and add two such products in i16, `sadalp` adds neighbours to the sums in i32.
//!
//! Two products of -128..=127 and -127..=127 fit an i16 (2 * 128 * 127 = 32512), which is why this kernel's weights exclude -128. Why not the
//! multiplication of i16 by one lane, which leaves sums in their final order: it does 4 products where this does 16 in three, and the
//! Cortex-A72 multiplies on one of its two vector pipes, so that the additions run beside the products: 8 products per cycle against 4.

#![allow(unsafe_code)]

use std::arch::aarch64::{
    int8x16_t, int32x4_t, vaddq_s32, vdupq_n_s32, vget_low_s8, vld1q_dup_s64, vld1q_s8, vmlal_high_s8, vmlal_s8, vmull_high_s8,
    vmull_s8, vpadalq_s16, vpaddq_s32, vreinterpretq_s8_s64,
};

use super::neon::{self, Pair, Tile};
use super::{BLOCK, RowJob};

/// Computes the row.
///
/// # Safety
/// The processor has NEON, and the job has passed `Kernel::check`.
#[target_feature(enable = "neon")]
pub(super) unsafe fn run(mut job: RowJob<'_>) {
    // SAFETY: as the caller promises; this function is compiled with NEON.
    unsafe { neon::row::<1, Smlal>(&mut job) }
}

/// Bytes of the image in one step.
const IMAGE_STEP: usize = 8;
/// Bytes of weights in one step.
const WEIGHT_STEP: usize = IMAGE_STEP * BLOCK;

struct Smlal;

impl Tile<1> for Smlal {
    #[inline(always)]
    unsafe fn sums(job: &RowJob<'_>, position: usize) -> [Pair; 1] {
        // SAFETY: `check` holds: for every segment, `start + p * step + 8 * n_steps` lies in the image for both positions `p`, and the weights
        // hold `64 * n_steps` bytes from the segment's place on.
        unsafe {
            // Two positions, 8 outputs; the four lanes of each are still to be added.
            let mut sums = [[vdupq_n_s32(0); BLOCK]; 2];
            for (start, segment) in job.starts.iter().zip(job.segments) {
                let first = job.image.as_ptr().add(start + position * segment.step);
                let mut at = [first, first.add(segment.step)];
                let mut weights = job.weights.as_ptr().add(segment.weights).cast::<i8>();
                for _ in 0..segment.n_steps / 2 {
                    two_steps(&mut sums, at.map(|at| [eight(at), eight(at.add(IMAGE_STEP))]), weights);
                    at = at.map(|at| at.add(2 * IMAGE_STEP));
                    weights = weights.add(2 * WEIGHT_STEP);
                }
                if segment.n_steps % 2 == 1 {
                    one_step(&mut sums, at.map(|at| eight(at)), weights);
                }
            }
            let bias = neon::bias(job.scaling);
            let [a, b] = sums
                .map(|[a, b, c, d, e, f, g, h]| [vaddq_s32(across(a, b, c, d), bias[0]), vaddq_s32(across(e, f, g, h), bias[1])]);
            [[a[0], a[1], b[0], b[1]]]
        }
    }
}

/// Eight numbers, in both halves of a register.
#[inline(always)]
unsafe fn eight(at: *const u8) -> int8x16_t {
    // SAFETY: NEON is there, and 8 bytes lie at `at`; the load asks for no alignment.
    unsafe { vreinterpretq_s8_s64(vld1q_dup_s64(at.cast())) }
}

/// Adds the products of 16 numbers of two positions.
#[inline(always)]
unsafe fn two_steps(sums: &mut [[int32x4_t; BLOCK]; 2], numbers: [[int8x16_t; 2]; 2], weights: *const i8) {
    // SAFETY: NEON is there, and 128 bytes lie at `weights`.
    unsafe {
        for pair in 0..BLOCK / 2 {
            let first = vld1q_s8(weights.add(pair * 16));
            let second = vld1q_s8(weights.add(WEIGHT_STEP + pair * 16));
            for (sums, [x, y]) in sums.iter_mut().zip(numbers) {
                let even = vmlal_s8(vmull_s8(vget_low_s8(first), vget_low_s8(x)), vget_low_s8(second), vget_low_s8(y));
                let odd = vmlal_high_s8(vmull_high_s8(first, x), second, y);
                sums[2 * pair] = vpadalq_s16(sums[2 * pair], even);
                sums[2 * pair + 1] = vpadalq_s16(sums[2 * pair + 1], odd);
            }
        }
    }
}

/// Adds the products of 8 numbers of two positions.
#[inline(always)]
unsafe fn one_step(sums: &mut [[int32x4_t; BLOCK]; 2], numbers: [int8x16_t; 2], weights: *const i8) {
    // SAFETY: NEON is there, and 64 bytes lie at `weights`.
    unsafe {
        for pair in 0..BLOCK / 2 {
            let w = vld1q_s8(weights.add(pair * 16));
            for (sums, x) in sums.iter_mut().zip(numbers) {
                sums[2 * pair] = vpadalq_s16(sums[2 * pair], vmull_s8(vget_low_s8(w), vget_low_s8(x)));
                sums[2 * pair + 1] = vpadalq_s16(sums[2 * pair + 1], vmull_high_s8(w, x));
            }
        }
    }
}

/// The totals of four vectors.
#[inline(always)]
unsafe fn across(a: int32x4_t, b: int32x4_t, c: int32x4_t, d: int32x4_t) -> int32x4_t {
    // SAFETY: NEON is there.
    unsafe { vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d)) }
}
