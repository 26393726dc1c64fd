//! The kernel on plain NEON, which every ARMv8 has (Cortex-A53, A72): `smull` and `smlal` multiply 8 i8 of one position with those of one output
//! channel and add two such products in i16, `sadalp` adds neighbours to the sums in i32.
//!
//! Two products of -128..=127 and -127..=127 fit an i16 (2 * 128 * 127 = 32512), which is why this kernel's weights exclude -128. Why not the
//! multiplication of i16 by one lane, which leaves sums in their final order: it does 4 products where this does 16 in three, and the
//! Cortex-A72 multiplies on one of its two vector pipes, so that the additions run beside the products: 8 products per cycle against 4.

#![allow(unsafe_code)]

use std::arch::aarch64::{int32x4_t, vaddq_s32, vdupq_n_s32, vpaddq_s32};
use std::arch::asm;

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

/// Sums of two positions for 8 outputs, four lanes each of which are still to be added.
type Sums = [[int32x4_t; BLOCK]; 2];

/// One product of 8 numbers of both positions with the weights of two pairs of outputs: `$op` is `smull` or `smlal`, `$a` and `$b` the numbers (in
/// both halves), `$w` and `$v` the weights (one output in each half).
macro_rules! products {
    ($op:literal, $a:literal, $b:literal, $w:literal, $v:literal) => {
        concat!(
            $op,
            " v8.8h, v",
            $w,
            ".8b, v",
            $a,
            ".8b\n",
            $op,
            "2 v9.8h, v",
            $w,
            ".16b, v",
            $a,
            ".16b\n",
            $op,
            " v10.8h, v",
            $w,
            ".8b, v",
            $b,
            ".8b\n",
            $op,
            "2 v11.8h, v",
            $w,
            ".16b, v",
            $b,
            ".16b\n",
            $op,
            " v12.8h, v",
            $v,
            ".8b, v",
            $a,
            ".8b\n",
            $op,
            "2 v13.8h, v",
            $v,
            ".16b, v",
            $a,
            ".16b\n",
            $op,
            " v14.8h, v",
            $v,
            ".8b, v",
            $b,
            ".8b\n",
            $op,
            "2 v15.8h, v",
            $v,
            ".16b, v",
            $b,
            ".16b\n"
        )
    };
}

/// Adds those products to the sums of four outputs.
macro_rules! add {
    ($a0:literal, $a1:literal, $a2:literal, $a3:literal, $b0:literal, $b1:literal, $b2:literal, $b3:literal) => {
        concat!(
            "sadalp v",
            $a0,
            ".4s, v8.8h\n",
            "sadalp v",
            $a1,
            ".4s, v9.8h\n",
            "sadalp v",
            $b0,
            ".4s, v10.8h\n",
            "sadalp v",
            $b1,
            ".4s, v11.8h\n",
            "sadalp v",
            $a2,
            ".4s, v12.8h\n",
            "sadalp v",
            $a3,
            ".4s, v13.8h\n",
            "sadalp v",
            $b2,
            ".4s, v14.8h\n",
            "sadalp v",
            $b3,
            ".4s, v15.8h\n"
        )
    };
}

struct Smlal;

impl Tile<1> for Smlal {
    #[inline(always)]
    unsafe fn sums(job: &RowJob<'_>, position: usize) -> [Pair; 1] {
        // SAFETY: `check` holds: for every segment, `start + p * step + 8 * n_steps` lies in the image for both positions `p`, and the weights
        // hold `64 * n_steps` bytes from the segment's place on.
        unsafe {
            let mut sums = [[vdupq_n_s32(0); BLOCK]; 2];
            for (start, segment) in job.starts.iter().zip(job.segments) {
                let at = job.image.as_ptr().add(start + position * segment.step);
                add_segment(&mut sums, [at, at.add(segment.step)], job.weights.as_ptr().add(segment.weights), segment.n_steps);
            }
            let bias = neon::bias(job.scaling);
            let [a, b] = sums
                .map(|[a, b, c, d, e, f, g, h]| [vaddq_s32(across(a, b, c, d), bias[0]), vaddq_s32(across(e, f, g, h), bias[1])]);
            [[a[0], a[1], b[0], b[1]]]
        }
    }
}

/// Adds the steps of one segment, two at a time: 256 products in 58 instructions; the sums of the first position are in v16 to v23, those of the
/// second in v24 to v31.
///
/// The compiler does not find this by itself: it turns the products of upper halves into moves and products of lower halves, and spills sums.
///
/// # Safety
/// The processor has NEON; `8 * n_steps` bytes lie at both addresses of `at`, and `64 * n_steps` at `weights`.
#[inline(always)]
unsafe fn add_segment([a, b]: &mut Sums, at: [*const u8; 2], weights: *const u8, n_steps: usize) {
    // SAFETY: as the caller promises: every round of the loop reads 16 bytes at each address and 128 of weights, and there are `n_steps / 2`; what
    // follows reads half of it for the odd step.
    unsafe {
        asm!(
            "subs {n}, {n}, #2",
            "b.lo 3f",
            "2:",
            "ldp q4, q5, [{weights}], #64",
            "ld1r {{v0.2d}}, [{a}], #8",
            "ld1r {{v1.2d}}, [{b}], #8",
            "ldp q6, q7, [{weights}], #-32",
            "ld1r {{v2.2d}}, [{a}], #8",
            "ld1r {{v3.2d}}, [{b}], #8",
            products!("smull", 0, 1, 4, 5),
            products!("smlal", 2, 3, 6, 7),
            "ldp q4, q5, [{weights}], #64",
            "ldp q6, q7, [{weights}], #32",
            add!(16, 17, 18, 19, 24, 25, 26, 27),
            products!("smull", 0, 1, 4, 5),
            products!("smlal", 2, 3, 6, 7),
            "subs {n}, {n}, #2",
            add!(20, 21, 22, 23, 28, 29, 30, 31),
            "b.hs 2b",
            "3:",
            "tbz {n}, #0, 4f",
            "ldp q4, q5, [{weights}]",
            "ld1r {{v0.2d}}, [{a}]",
            "ld1r {{v1.2d}}, [{b}]",
            "ldp q6, q7, [{weights}, #32]",
            products!("smull", 0, 1, 4, 5),
            add!(16, 17, 18, 19, 24, 25, 26, 27),
            products!("smull", 0, 1, 6, 7),
            add!(20, 21, 22, 23, 28, 29, 30, 31),
            "4:",
            a = inout(reg) at[0] => _,
            b = inout(reg) at[1] => _,
            weights = inout(reg) weights => _,
            n = inout(reg) n_steps => _,
            inout("v16") a[0], inout("v17") a[1], inout("v18") a[2], inout("v19") a[3],
            inout("v20") a[4], inout("v21") a[5], inout("v22") a[6], inout("v23") a[7],
            inout("v24") b[0], inout("v25") b[1], inout("v26") b[2], inout("v27") b[3],
            inout("v28") b[4], inout("v29") b[5], inout("v30") b[6], inout("v31") b[7],
            out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _, out("v7") _,
            out("v8") _, out("v9") _, out("v10") _, out("v11") _, out("v12") _, out("v13") _, out("v14") _, out("v15") _,
            options(readonly, nostack)
        );
    }
}

/// The totals of four vectors.
#[inline(always)]
unsafe fn across(a: int32x4_t, b: int32x4_t, c: int32x4_t, d: int32x4_t) -> int32x4_t {
    // SAFETY: NEON is there.
    unsafe { vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d)) }
}
