//! What the NEON kernels share: the walk over tiles, and the way from sums to bytes.

#![allow(unsafe_code)]

use std::arch::aarch64::{float32x4_t, vget_high_s8};
use std::arch::aarch64::{
    int8x16_t, int16x8_t, int32x4_t, vcvtnq_s32_f32, vcvtq_f32_s32, vdupq_n_s16, vget_low_s8, vld1q_f32, vld1q_s32, vmulq_f32,
    vqaddq_s16, vqmovn_high_s16, vqmovn_high_s32, vqmovn_s16, vqmovn_s32, vst1_s8, vst1q_s8,
};

use super::{BLOCK, RowJob, Scaling, copy_lanes};

/// Sums of two positions and 8 output channels: the first position's channels 0 to 3 and 4 to 7, then the second's.
pub(super) type Pair = [int32x4_t; 4];

/// `asm!` with the sums of six pairs in v8 to v31, for instructions of an extension: the intrinsics of dot products and matrix products are
/// not stable yet (stdarch_neon_dotprod, stdarch_neon_i8mm; Rust issues 117224 and 117223). v0 to v7 are free.
macro_rules! asm_with_sums {
    ($extension:literal, $sums:ident, [$($template:expr),* $(,)?], $($operands:tt)*) => {
        std::arch::asm!(
            concat!(".arch_extension ", $extension),
            $($template,)*
            $($operands)*
            inout("v8") $sums[0][0], inout("v9") $sums[0][1], inout("v10") $sums[0][2], inout("v11") $sums[0][3],
            inout("v12") $sums[1][0], inout("v13") $sums[1][1], inout("v14") $sums[1][2], inout("v15") $sums[1][3],
            inout("v16") $sums[2][0], inout("v17") $sums[2][1], inout("v18") $sums[2][2], inout("v19") $sums[2][3],
            inout("v20") $sums[3][0], inout("v21") $sums[3][1], inout("v22") $sums[3][2], inout("v23") $sums[3][3],
            inout("v24") $sums[4][0], inout("v25") $sums[4][1], inout("v26") $sums[4][2], inout("v27") $sums[4][3],
            inout("v28") $sums[5][0], inout("v29") $sums[5][1], inout("v30") $sums[5][2], inout("v31") $sums[5][3],
            out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _, out("v7") _,
            options(readonly, nostack)
        )
    };
}
pub(super) use asm_with_sums;

/// What computes the sums of `2 * PAIRS` positions.
pub(super) trait Tile<const PAIRS: usize> {
    /// The sums of the positions from `position` on.
    ///
    /// # Safety
    /// The processor has the instructions; the job has passed `Kernel::check`, `position` is a multiple of `2 * PAIRS` below the number of positions
    /// rounded up to whole `TILE`s, and `2 * PAIRS` divides `TILE`.
    unsafe fn sums(job: &RowJob<'_>, position: usize) -> [Pair; PAIRS];
}

/// Computes the row.
///
/// # Safety
/// The processor has NEON and the instructions of `T`; the job has passed `Kernel::check`. `2 * PAIRS` divides `TILE`. To be called from a function that
/// is compiled with these features.
#[inline(always)]
pub(super) unsafe fn row<const PAIRS: usize, T: Tile<PAIRS>>(job: &mut RowJob<'_>) {
    // SAFETY: NEON is there.
    let requantise = unsafe { Requantise::new(job.scaling) };
    let mut position = 0;
    while position < job.n_positions {
        // SAFETY: as the caller promises; `position` is a multiple of `2 * PAIRS` below `n_positions`.
        let bytes = unsafe { T::sums(job, position).map(|pair| requantise.bytes(pair)) };
        let (output, step) = (&mut job.output[position * job.output_step..], job.output_step);
        let n = job.n_positions - position;
        let end = (2 * PAIRS - 1) * step + BLOCK;
        // Where fewer channels follow each other without a gap, a store of 8 bytes may write beyond them: those bytes are yet to be written.
        let eight = job.n_channels == BLOCK || (job.n_channels == step && end <= output.len());
        if n < 2 * PAIRS || !eight {
            store_some(&bytes, output, step, n, job.n_channels);
        } else if step == BLOCK {
            store_run(&bytes, output);
        } else {
            store_all(&bytes, &mut output[..end], step);
        }
        position += 2 * PAIRS;
    }
}

/// Bias of output channels 0 to 3 and 4 to 7.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
pub(super) unsafe fn bias(scaling: &Scaling) -> [int32x4_t; 2] {
    // SAFETY: NEON is there; the bias is an array of 8.
    unsafe { [vld1q_s32(scaling.bias.as_ptr()), vld1q_s32(scaling.bias.as_ptr().add(4))] }
}

/// From sums to bytes.
struct Requantise {
    multiplier: [float32x4_t; 2],
    zero_point: int16x8_t,
}

impl Requantise {
    /// # Safety
    /// The processor has NEON.
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation)] // the zero point is an i8 held as i32
    unsafe fn new(scaling: &Scaling) -> Self {
        // SAFETY: NEON is there; the multiplier is an array of 8.
        unsafe {
            Self {
                multiplier: [vld1q_f32(scaling.multiplier.as_ptr()), vld1q_f32(scaling.multiplier.as_ptr().add(4))],
                zero_point: vdupq_n_s16(scaling.zero_point as i16),
            }
        }
    }

    /// The bytes of two positions. Every narrowing saturates, and the limits of a byte are whole numbers: to clamp after rounding is the same as
    /// before it.
    ///
    /// # Safety
    /// The processor has NEON.
    #[inline(always)]
    unsafe fn bytes(&self, [a_low, a_high, b_low, b_high]: Pair) -> int8x16_t {
        // SAFETY: NEON is there.
        unsafe {
            // Rounds half to even.
            let steps = |sums, half: usize| vcvtnq_s32_f32(vmulq_f32(vcvtq_f32_s32(sums), self.multiplier[half]));
            let [a, b] = [[a_low, a_high], [b_low, b_high]]
                .map(|[low, high]| vqaddq_s16(vqmovn_high_s32(vqmovn_s32(steps(low, 0)), steps(high, 1)), self.zero_point));
            vqmovn_high_s16(vqmovn_s16(a), b)
        }
    }
}

/// All positions of a tensor with 8 channels: one run of bytes.
#[inline(always)]
fn store_run<const PAIRS: usize>(bytes: &[int8x16_t; PAIRS], output: &mut [i8]) {
    let output = &mut output[..PAIRS * 2 * BLOCK];
    for (n, bytes) in bytes.iter().enumerate() {
        // SAFETY: NEON is there: the bytes come from it; the slice has been cut to 16 bytes for each pair.
        unsafe { vst1q_s8(output.as_mut_ptr().add(n * 2 * BLOCK), *bytes) }
    }
}

/// All positions, 8 bytes at each, one after the other.
#[inline(always)]
fn store_all<const PAIRS: usize>(bytes: &[int8x16_t; PAIRS], output: &mut [i8], step: usize) {
    assert!(output.len() >= (2 * PAIRS - 1) * step + BLOCK, "8 bytes at each position");
    for (n, bytes) in bytes.iter().enumerate() {
        // SAFETY: NEON is there: the bytes come from it; the last of the `2 * PAIRS` stores ends inside the slice, as asserted.
        unsafe {
            let at = output.as_mut_ptr().add(2 * n * step);
            vst1_s8(at, vget_low_s8(*bytes));
            vst1_s8(at.add(step), vget_high_s8(*bytes));
        }
    }
}

/// At most `n` positions, as many channels as there are.
#[inline(always)]
fn store_some<const PAIRS: usize>(bytes: &[int8x16_t; PAIRS], output: &mut [i8], step: usize, n: usize, n_channels: usize) {
    let mut lanes = [[[0_i8; BLOCK]; 2]; PAIRS];
    for (lanes, bytes) in lanes.iter_mut().zip(bytes) {
        // SAFETY: NEON is there: the bytes come from it; the two arrays are 16 bytes long.
        unsafe { vst1q_s8(lanes.as_mut_ptr().cast(), *bytes) }
    }
    for (to, lanes) in output.chunks_mut(step).zip(lanes.as_flattened()).take(n) {
        copy_lanes(lanes, to, n_channels);
    }
}
