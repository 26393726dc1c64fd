//! The kernel on VNNI: `vpdpbusd` multiplies four u8, the same for all lanes, with the fours of i8 weights of 8 output channels and adds all four
//! products to the sum without saturation.

#![allow(unsafe_code)]

use std::arch::x86_64::{__m256i, _mm256_dpbusd_avx_epi32, _mm256_dpbusd_epi32};

use super::RowJob;
use super::x86::{self, Multiply};

/// The VEX form, of processors with AVX-VNNI.
struct Vex;

impl Multiply for Vex {
    #[inline(always)]
    unsafe fn add(sums: __m256i, numbers: __m256i, weights: __m256i) -> __m256i {
        // SAFETY: the caller has AVX-VNNI.
        unsafe { _mm256_dpbusd_avx_epi32(sums, numbers, weights) }
    }
}

/// The EVEX form, of processors with AVX-512 VNNI and VL.
struct Evex;

impl Multiply for Evex {
    #[inline(always)]
    unsafe fn add(sums: __m256i, numbers: __m256i, weights: __m256i) -> __m256i {
        // SAFETY: the caller has AVX-512 VNNI and VL.
        unsafe { _mm256_dpbusd_epi32(sums, numbers, weights) }
    }
}

/// Whether the processor has one of the two forms.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx2") && (is_x86_feature_detected!("avxvnni") || has_evex())
}

fn has_evex() -> bool {
    is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512vl")
}

/// Computes the row.
///
/// # Safety
/// `is_available`, and the job has passed `Kernel::check`.
pub(super) unsafe fn run(job: RowJob<'_>) {
    // SAFETY: as the caller promises; one of the two forms is there.
    unsafe {
        if is_x86_feature_detected!("avxvnni") {
            vex(job);
        } else {
            evex(job);
        }
    }
}

/// # Safety
/// As `run`, with AVX-VNNI.
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn vex(mut job: RowJob<'_>) {
    // SAFETY: as the caller promises; this function is compiled with AVX-VNNI.
    unsafe { x86::row::<Vex>(&mut job) }
}

/// # Safety
/// As `run`, with AVX-512 VNNI and VL.
#[target_feature(enable = "avx2,avx512vnni,avx512vl")]
unsafe fn evex(mut job: RowJob<'_>) {
    // SAFETY: as the caller promises; this function is compiled with AVX-512 VNNI and VL.
    unsafe { x86::row::<Evex>(&mut job) }
}
