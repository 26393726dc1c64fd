//! The kernel on AVX2: `vpmaddwd` multiplies a pair of i16, the same for all lanes, with the pairs of weights of 8 output channels.

#![allow(unsafe_code)]

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

/// Multiplies in registers, for measuring; gives how many products that were.
///
/// # Safety
/// The processor has AVX2.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn in_registers(rounds: u64) -> u64 {
    // SAFETY: as the caller promises; this function is compiled with AVX2.
    unsafe { x86::in_registers::<Madd>(rounds) };
    rounds * super::TILE as u64 * 16
}
