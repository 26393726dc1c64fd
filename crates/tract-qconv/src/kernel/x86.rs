//! What the kernels on 256-bit vectors share: the walk over segments, and the way from sums to bytes. Both take 4 bytes of the image, the same for
//! all lanes, and 32 bytes of weights in a step.

#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m256i, _mm_storel_epi64, _mm_unpackhi_epi64, _mm256_add_epi32, _mm256_castsi256_si128, _mm256_cvtepi32_ps,
    _mm256_cvtps_epi32, _mm256_extracti128_si256, _mm256_load_ps, _mm256_load_si256, _mm256_max_ps, _mm256_min_ps, _mm256_mul_ps,
    _mm256_packs_epi16, _mm256_packs_epi32, _mm256_permutevar8x32_epi32, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setr_epi32,
    _mm256_storeu_si256,
};

use super::{BLOCK, RowJob, Scaling, TILE};

/// One multiplication and addition.
pub(super) trait Multiply {
    /// Adds the products of 4 bytes of the image, in every lane of `numbers`, with the weights of each lane to `sums`.
    ///
    /// # Safety
    /// The processor has the instructions.
    unsafe fn add(sums: __m256i, numbers: __m256i, weights: __m256i) -> __m256i;
}

/// Bytes of the image in one step.
const IMAGE_STEP: usize = 4;
/// Bytes of weights in one step.
const WEIGHT_STEP: usize = 32;

/// Computes the row.
///
/// # Safety
/// The processor has AVX2 and the instructions of `M`; the job has passed `Kernel::check`; the weights are aligned to 32 bytes. To be called from a
/// function that is compiled with these features.
#[inline(always)]
pub(super) unsafe fn row<M: Multiply>(job: &mut RowJob<'_>) {
    let mut position = 0;
    while position < job.n_positions {
        let n = TILE.min(job.n_positions - position);
        // SAFETY: as the caller promises; `position` is a multiple of `TILE` below `n_positions`, and `check` counts whole tiles.
        unsafe {
            let sums = tile::<M>(job, position);
            let output = &mut job.output[position * job.output_step..];
            if job.output_step == BLOCK && job.n_channels == BLOCK && n == TILE {
                store_all(&sums, job.scaling, output);
            } else {
                store(&sums, job.scaling, output, job.output_step, n, job.n_channels);
            }
        }
        position += TILE;
    }
}

/// The sums of 12 positions and 8 output channels.
///
/// # Safety
/// As `row`; `position + TILE` is at most the number of positions rounded up to whole tiles.
#[inline(always)]
unsafe fn tile<M: Multiply>(job: &RowJob<'_>, position: usize) -> [__m256i; TILE] {
    // SAFETY: `check` holds: for every segment, `start + p * step + 4 * n_steps` lies in the image for each of the tile's positions `p`, and the
    // weights hold `32 * n_steps` bytes from the segment's place on. Loads of the image ask for no alignment; the weights begin at a multiple of
    // 64 and so does each segment's part (`Packer::pack`). `Scaling` is aligned to 32.
    unsafe {
        let mut sums = [_mm256_load_si256(job.scaling.bias.as_ptr().cast()); TILE];
        for (start, segment) in job.starts.iter().zip(job.segments) {
            let step = segment.step;
            // Four pointers, three positions each: an index register then gives every address without arithmetic.
            let first = job.image.as_ptr().add(start + position * step);
            let mut at = [first, first.add(opaque(3 * step)), first.add(opaque(6 * step)), first.add(opaque(9 * step))];
            let mut weights = job.weights.as_ptr().add(segment.weights);
            let end = weights.add(segment.n_steps * WEIGHT_STEP);
            while weights < end {
                let w = _mm256_load_si256(weights.cast());
                for (at, sums) in at.iter_mut().zip(sums.as_chunks_mut::<3>().0) {
                    sums[0] = M::add(sums[0], broadcast(*at), w);
                    sums[1] = M::add(sums[1], broadcast(at.add(step)), w);
                    sums[2] = M::add(sums[2], broadcast(at.add(2 * step)), w);
                    *at = at.add(IMAGE_STEP);
                }
                weights = weights.add(WEIGHT_STEP);
            }
        }
        sums
    }
}

/// The same number; the compiler does not know that it is, and so keeps what follows from it in a register instead of adding it up anew for each
/// position.
#[inline(always)]
fn opaque(mut n: usize) -> usize {
    // SAFETY: the text is empty: nothing is run, and the register keeps its value.
    unsafe { std::arch::asm!("/* {n} */", n = inout(reg) n, options(pure, nomem, nostack, preserves_flags)) };
    n
}

/// Four bytes of the image in all lanes.
///
/// # Safety
/// The four bytes are there, and so is AVX2.
#[inline(always)]
unsafe fn broadcast(at: *const u8) -> __m256i {
    // SAFETY: as the caller promises.
    unsafe { _mm256_set1_epi32(at.cast::<i32>().read_unaligned()) }
}

/// Eight sums to steps of the output around its zero point, still 32 bits wide.
#[inline(always)]
unsafe fn steps(sums: __m256i, scaling: &Scaling) -> __m256i {
    // SAFETY: AVX2 is there; `Scaling` is aligned to 32 and begins with the bias, 32 bytes long.
    unsafe {
        let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(sums), _mm256_load_ps(scaling.multiplier.as_ptr()));
        let clamped = _mm256_min_ps(_mm256_max_ps(scaled, _mm256_set1_ps(scaling.low)), _mm256_set1_ps(scaling.high));
        // Rounds half to even: the mode that the processor starts in and that Rust asks not to be changed.
        _mm256_add_epi32(_mm256_cvtps_epi32(clamped), _mm256_set1_epi32(scaling.zero_point))
    }
}

/// The bytes of four positions, one after the other.
#[inline(always)]
unsafe fn bytes(sums: &[__m256i; 4], scaling: &Scaling) -> __m256i {
    // SAFETY: AVX2 is there.
    unsafe {
        // One after the other and not mapped: a closure would not be compiled with the vector instructions.
        let (a, b) = (steps(sums[0], scaling), steps(sums[1], scaling));
        let (c, d) = (steps(sums[2], scaling), steps(sums[3], scaling));
        // The packs work on the halves: a0-3 b0-3 c0-3 d0-3, a4-7 b4-7 c4-7 d4-7; the permutation joins what belongs together.
        let packed = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
        _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
    }
}

/// A whole tile of a tensor with 8 channels: one run of bytes.
///
/// # Safety
/// As `row`.
#[inline(always)]
unsafe fn store_all(sums: &[__m256i; TILE], scaling: &Scaling, output: &mut [i8]) {
    for (four, to) in sums.as_chunks::<4>().0.iter().zip(output.as_chunks_mut::<{ 4 * BLOCK }>().0) {
        // SAFETY: AVX2 is there; `to` is 32 bytes long.
        unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), bytes(four, scaling)) }
    }
}

/// Any tile: eight bytes, or as many as there are channels, at each position.
///
/// # Safety
/// As `row`.
#[inline(always)]
unsafe fn store(sums: &[__m256i; TILE], scaling: &Scaling, output: &mut [i8], step: usize, n: usize, n_channels: usize) {
    for (four, first) in sums.as_chunks::<4>().0.iter().zip((0..n).step_by(4)) {
        // SAFETY: AVX2 is there; each store writes 8 bytes to an array of 8.
        let lanes: [[i8; BLOCK]; 4] = unsafe {
            let bytes = bytes(four, scaling);
            let (low, high) = (_mm256_castsi256_si128(bytes), _mm256_extracti128_si256::<1>(bytes));
            let mut lanes = [[0; BLOCK]; 4];
            _mm_storel_epi64(lanes[0].as_mut_ptr().cast(), low);
            _mm_storel_epi64(lanes[1].as_mut_ptr().cast(), _mm_unpackhi_epi64(low, low));
            _mm_storel_epi64(lanes[2].as_mut_ptr().cast(), high);
            _mm_storel_epi64(lanes[3].as_mut_ptr().cast(), _mm_unpackhi_epi64(high, high));
            lanes
        };
        for (lanes, position) in lanes.iter().zip(first..n) {
            super::copy_lanes(lanes, &mut output[position * step..], n_channels);
        }
    }
}
