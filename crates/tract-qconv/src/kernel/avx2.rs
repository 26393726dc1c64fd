//! The kernel on AVX2: `vpmaddwd` multiplies a pair of i16, the same for all lanes, with the pairs of weights of 8 output channels.

#![allow(unsafe_code)]

use std::arch::asm;
use std::arch::x86_64::{__m256i, _mm256_add_epi32, _mm256_madd_epi16};

use super::RowJob;
use super::x86::{self, Multiply};

struct Madd;

impl Multiply for Madd {
    #[inline(always)]
    unsafe fn add(sums: __m256i, numbers: __m256i, weights: __m256i) -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_add_epi32(sums, _mm256_madd_epi16(numbers, weights)) }
    }
}

/// Computes the row.
///
/// # Safety
/// The processor has AVX2, and the job has passed `Kernel::check`.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn run(mut job: RowJob<'_>) {
    // SAFETY: as the caller promises; this function is compiled with AVX2.
    unsafe { x86::row::<Madd>(&mut job) }
}

/// Multiplies in registers, for measuring: 12 vectors in a round, as a tile has them; gives how many products that were.
///
/// # Safety
/// The processor has AVX2.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn in_registers(rounds: u64) -> u64 {
    let mut left = rounds.max(1);
    // SAFETY: as the caller promises; the text changes the named registers and the flags alone, and what the vectors hold is of no consequence.
    // In assembly, because a compiler would multiply equal factors once.
    unsafe {
        asm!(
            "2:",
            "vpmaddwd ymm14, ymm12, ymm13", "vpaddd ymm0, ymm0, ymm14", "vpmaddwd ymm15, ymm12, ymm13", "vpaddd ymm1, ymm1, ymm15",
            "vpmaddwd ymm14, ymm12, ymm13", "vpaddd ymm2, ymm2, ymm14", "vpmaddwd ymm15, ymm12, ymm13", "vpaddd ymm3, ymm3, ymm15",
            "vpmaddwd ymm14, ymm12, ymm13", "vpaddd ymm4, ymm4, ymm14", "vpmaddwd ymm15, ymm12, ymm13", "vpaddd ymm5, ymm5, ymm15",
            "vpmaddwd ymm14, ymm12, ymm13", "vpaddd ymm6, ymm6, ymm14", "vpmaddwd ymm15, ymm12, ymm13", "vpaddd ymm7, ymm7, ymm15",
            "vpmaddwd ymm14, ymm12, ymm13", "vpaddd ymm8, ymm8, ymm14", "vpmaddwd ymm15, ymm12, ymm13", "vpaddd ymm9, ymm9, ymm15",
            "vpmaddwd ymm14, ymm12, ymm13", "vpaddd ymm10, ymm10, ymm14", "vpmaddwd ymm15, ymm12, ymm13", "vpaddd ymm11, ymm11, ymm15",
            "dec {left}",
            "jnz 2b",
            left = inout(reg) left,
            out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _, out("ymm6") _, out("ymm7") _,
            out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _, out("ymm12") _, out("ymm13") _, out("ymm14") _,
            out("ymm15") _,
            options(nomem, nostack),
        );
    }
    (rounds.max(1) - left) * super::TILE as u64 * 16
}
