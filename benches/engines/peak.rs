//! Peak: what one core of this machine can do at best, measured in the same run -> multiply-adds and bytes per second; the roof over the layers.

use std::hint::black_box;
use std::time::Instant;

/// The roof of one core.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Roof {
    /// int8 multiply-adds per second, 10^9; none where no loop for this processor is written here.
    pub(crate) int8_gmacs: Option<f64>,
    /// How it was measured.
    pub(crate) how: &'static str,
    /// Bytes read and written per second by a copy larger than the caches, 10^9.
    pub(crate) gb_per_s: f64,
}

/// Measures for about half a second.
pub(crate) fn measure() -> Roof {
    let (int8_gmacs, how) = int8_gmacs();
    Roof { int8_gmacs, how, gb_per_s: copy_gb_per_s() }
}

/// The fastest of a few repetitions: disturbance only ever slows down.
fn best_per_second(work: f64, mut run: impl FnMut()) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..12 {
        let begin = Instant::now();
        run();
        best = best.min(begin.elapsed().as_secs_f64());
    }
    work / best / 1e9
}

fn copy_gb_per_s() -> f64 {
    const LEN: usize = 64 << 20;
    let (from, mut to) = (vec![1_u8; LEN], vec![0_u8; LEN]);
    #[allow(clippy::cast_precision_loss)] // far below 2^52
    let bytes = 2.0 * LEN as f64;
    best_per_second(bytes, || to.copy_from_slice(black_box(&from)))
}

/// The one function to fill in for another processor: AVX2 here, by the two ways that exact int8 sums can be had.
#[cfg(target_arch = "x86_64")]
fn int8_gmacs() -> (Option<f64>, &'static str) {
    let Some(simd) = pulp::x86::V3::try_new() else { return (None, "not measured: no AVX2") };
    let widened = best_per_second(avx2::WORK_MADD, || simd.vectorize(avx2::Madd(simd)));
    let bytes = best_per_second(avx2::WORK_MADDUBS, || simd.vectorize(avx2::Maddubs(simd)));
    if widened > bytes {
        (Some(widened), "vpmaddwd + vpaddd on int16, in registers")
    } else {
        (Some(bytes), "vpmaddubsw + vpmaddwd + vpaddd on int8, in registers")
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn int8_gmacs() -> (Option<f64>, &'static str) {
    (None, "not measured on this processor")
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    //! Loops of nothing but multiply-adds. Eight sums hide the latency; the factors are reread through `black_box` once per round of 32, so
    //! that the compiler cannot take the products out of the loop.

    use std::arch::x86_64::__m256i;
    use std::hint::black_box;

    const ROUNDS: u32 = 200_000;
    /// Products per vector: 16 int16 pairs' halves.
    pub(super) const WORK_MADD: f64 = ROUNDS as f64 * 32.0 * 16.0;
    /// Products per vector: 32 bytes.
    pub(super) const WORK_MADDUBS: f64 = ROUNDS as f64 * 32.0 * 32.0;

    pub(super) struct Madd(pub(super) pulp::x86::V3);
    pub(super) struct Maddubs(pub(super) pulp::x86::V3);

    impl pulp::NullaryFnOnce for Madd {
        type Output = ();
        #[inline(always)]
        fn call(self) {
            let simd = self.0;
            rounds(|a, b, sum| simd.avx2._mm256_add_epi32(sum, simd.avx2._mm256_madd_epi16(a, b)));
        }
    }

    impl pulp::NullaryFnOnce for Maddubs {
        type Output = ();
        #[inline(always)]
        fn call(self) {
            let simd = self.0;
            let ones: __m256i = pulp::cast([1_i16; 16]);
            rounds(|a, b, sum| {
                let pairs = simd.avx2._mm256_maddubs_epi16(a, b);
                simd.avx2._mm256_add_epi32(sum, simd.avx2._mm256_madd_epi16(pairs, ones))
            });
        }
    }

    /// An outer product of four vectors by two, four times over, as a kernel's inner loop has it.
    #[inline(always)]
    fn rounds(step: impl Fn(__m256i, __m256i, __m256i) -> __m256i) {
        let zero: __m256i = pulp::cast([0_i32; 8]);
        let mut sums = [zero; 8];
        let factors: [__m256i; 24] = [pulp::cast([3_u8; 32]); 24];
        for _ in 0..ROUNDS {
            let factors = black_box(&factors);
            for six in factors.as_chunks::<6>().0 {
                for (n, sum) in sums.iter_mut().enumerate() {
                    *sum = step(six[n % 4], six[4 + n / 4], *sum);
                }
            }
        }
        black_box(&sums);
    }
}
