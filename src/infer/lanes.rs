//! Lanes: the inner loops of [`super::qconv`], once, generic over the processor's vectors: AVX2 on x86-64, NEON on aarch64, plain Rust elsewhere.
//!
//! Data in: a row of packed input and the packed weights; data out: a row of int8 in each output channel's plane. All paths compute the same
//! integers. Intrinsics come through `pulp`, whose tokens prove that the processor has them, so that no unsafe code is needed here.

use std::array::from_fn;

/// Positions, and output channels, of one tile: 8 x 8 sums are 8 AVX2 registers or 16 of NEON's.
pub(crate) const TILE: usize = 8;
/// Weights for one pair of input channels and 8 output channels.
pub(crate) const WEIGHTS_PER_STEP: usize = 2 * TILE;

/// Which instructions do the work.
#[derive(Clone, Copy, Debug)]
pub enum Path {
    /// Plain Rust.
    Portable,
    /// AVX2 (x86-64-v3).
    #[cfg(target_arch = "x86_64")]
    Avx2(pulp::x86::V3),
    /// NEON.
    #[cfg(target_arch = "aarch64")]
    Neon(pulp::aarch64::Neon),
}

/// One output row in all output channels.
pub(crate) struct TileJob<'a, 'b> {
    /// Packed input.
    pub(crate) image: &'a [i32],
    /// Start of each tap row (k, j) in it.
    pub(crate) rows: &'a [usize],
    /// Pairs that one output reads in each tap row.
    pub(crate) row_steps: usize,
    /// Pairs from one output position to the next.
    pub(crate) position_step: usize,
    /// Packed weights of all blocks.
    pub(crate) weights: &'a [i16],
    /// Bias of each block.
    pub(crate) bias: &'a [[i32; TILE]],
    /// From sums to output steps.
    pub(crate) multiplier: f32,
    /// Output zero point.
    pub(crate) zero_point: i8,
    /// Length of the row.
    pub(crate) n_positions: usize,
    /// Where the row starts in each plane.
    pub(crate) output_start: usize,
    /// One plane per output channel.
    pub(crate) planes: &'a mut [&'b mut [i8]],
}

impl Path {
    /// The best path on this machine.
    #[must_use]
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = pulp::x86::V3::try_new() {
            return Self::Avx2(simd);
        }
        #[cfg(target_arch = "aarch64")]
        if let Some(simd) = pulp::aarch64::Neon::try_new() {
            return Self::Neon(simd);
        }
        Self::Portable
    }

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "avx2",
            #[cfg(target_arch = "aarch64")]
            Self::Neon(_) => "neon",
        }
    }

    /// Where the weight of output channel `output` (in its block) and input channel `parity` (in its pair) stands in a step. AVX2 multiplies
    /// and adds neighbours, the others take the even channels first and the odd ones after.
    pub(crate) const fn weight_slot(self, output: usize, parity: usize) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => 2 * output + parity,
            _ => parity * TILE + output,
        }
    }

    /// Computes the row.
    pub(crate) fn run(self, job: TileJob<'_, '_>) {
        match self {
            Self::Portable => row(Plain, job),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(simd) => simd.vectorize(Row { lanes: Avx2(simd), job }),
            #[cfg(target_arch = "aarch64")]
            Self::Neon(simd) => simd.vectorize(Row { lanes: Neon(simd), job }),
        }
    }
}

/// Eight sums, one per output channel of a block.
trait Lanes: Copy {
    type Sums: Copy;
    type Weights: Copy;
    fn start(self, bias: [i32; TILE]) -> Self::Sums;
    fn weights(self, weights: &[i16; WEIGHTS_PER_STEP]) -> Self::Weights;
    /// Adds both products of a pair to each sum.
    fn add(self, sums: Self::Sums, weights: Self::Weights, pair: i32) -> Self::Sums;
    fn end(self, sums: Self::Sums) -> [i32; TILE];
}

#[derive(Clone, Copy)]
struct Plain;

impl Lanes for Plain {
    type Sums = [i32; TILE];
    type Weights = [i16; WEIGHTS_PER_STEP];

    #[inline(always)]
    fn start(self, bias: [i32; TILE]) -> Self::Sums {
        bias
    }

    #[inline(always)]
    fn weights(self, weights: &[i16; WEIGHTS_PER_STEP]) -> Self::Weights {
        *weights
    }

    #[inline(always)]
    fn add(self, sums: Self::Sums, weights: Self::Weights, pair: i32) -> Self::Sums {
        #[allow(clippy::cast_possible_truncation)] // the low half is meant
        let (low, high) = (i32::from(pair as i16), pair >> 16);
        from_fn(|n| {
            let products = i32::from(weights[n]) * low + i32::from(weights[n + TILE]) * high;
            sums[n].wrapping_add(products)
        })
    }

    #[inline(always)]
    fn end(self, sums: Self::Sums) -> [i32; TILE] {
        sums
    }
}

#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Avx2(pulp::x86::V3);

#[cfg(target_arch = "x86_64")]
impl Lanes for Avx2 {
    type Sums = std::arch::x86_64::__m256i;
    type Weights = std::arch::x86_64::__m256i;

    #[inline(always)]
    fn start(self, bias: [i32; TILE]) -> Self::Sums {
        pulp::cast(bias)
    }

    #[inline(always)]
    fn weights(self, weights: &[i16; WEIGHTS_PER_STEP]) -> Self::Weights {
        pulp::cast(*weights)
    }

    #[inline(always)]
    fn add(self, sums: Self::Sums, weights: Self::Weights, pair: i32) -> Self::Sums {
        let products = self.0.avx2._mm256_madd_epi16(weights, self.0.avx._mm256_set1_epi32(pair));
        self.0.avx2._mm256_add_epi32(sums, products)
    }

    #[inline(always)]
    fn end(self, sums: Self::Sums) -> [i32; TILE] {
        pulp::cast(sums)
    }
}

#[cfg(target_arch = "aarch64")]
#[derive(Clone, Copy)]
struct Neon(pulp::aarch64::Neon);

#[cfg(target_arch = "aarch64")]
impl Lanes for Neon {
    type Sums = [std::arch::aarch64::int32x4_t; 2];
    type Weights = [std::arch::aarch64::int16x4_t; 4];

    #[inline(always)]
    fn start(self, bias: [i32; TILE]) -> Self::Sums {
        pulp::cast(bias)
    }

    #[inline(always)]
    fn weights(self, weights: &[i16; WEIGHTS_PER_STEP]) -> Self::Weights {
        pulp::cast(*weights)
    }

    #[inline(always)]
    fn add(self, sums: Self::Sums, weights: Self::Weights, pair: i32) -> Self::Sums {
        let neon = self.0.neon;
        let pair: std::arch::aarch64::int16x4_t = pulp::cast([pair, pair]);
        let [even_a, even_b, odd_a, odd_b] = weights;
        let [a, b] = sums;
        let (a, b) = (neon.vmlal_lane_s16::<0>(a, even_a, pair), neon.vmlal_lane_s16::<0>(b, even_b, pair));
        [neon.vmlal_lane_s16::<1>(a, odd_a, pair), neon.vmlal_lane_s16::<1>(b, odd_b, pair)]
    }

    #[inline(always)]
    fn end(self, sums: Self::Sums) -> [i32; TILE] {
        pulp::cast(sums)
    }
}

/// The job as `pulp` wants it: a call that it compiles with the processor's features.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
struct Row<'a, 'b, L> {
    lanes: L,
    job: TileJob<'a, 'b>,
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
impl<L: Lanes> pulp::NullaryFnOnce for Row<'_, '_, L> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        row(self.lanes, self.job);
    }
}

#[inline(always)]
fn row<L: Lanes>(lanes: L, job: TileJob<'_, '_>) {
    let block_len = job.rows.len() * job.row_steps * WEIGHTS_PER_STEP;
    let blocks = job.weights.chunks_exact(block_len).zip(job.bias);
    for ((weights, bias), planes) in blocks.zip(job.planes.chunks_mut(TILE)) {
        for position in (0..job.n_positions).step_by(TILE) {
            let sums =
                tile(lanes, job.image, job.rows, position * job.position_step, job.position_step, job.row_steps, weights, *bias);
            let n = TILE.min(job.n_positions - position);
            store(&sums, job.multiplier, job.zero_point, planes, job.output_start + position, n);
        }
    }
}

/// The sums of 8 positions and 8 output channels.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // all of them live in registers
fn tile<L: Lanes>(
    lanes: L,
    image: &[i32],
    rows: &[usize],
    offset: usize,
    step: usize,
    len: usize,
    weights: &[i16],
    bias: [i32; TILE],
) -> [[i32; TILE]; TILE] {
    let mut sums = [lanes.start(bias); TILE];
    for (start, weights) in rows.iter().zip(weights.chunks_exact(len * WEIGHTS_PER_STEP)) {
        let row = &image[start + offset..][..(TILE - 1) * step + len];
        let at: [&[i32]; TILE] = from_fn(|n| &row[n * step..][..len]);
        let weights = &weights.as_chunks::<WEIGHTS_PER_STEP>().0[..len];
        for t in 0..len {
            let w = lanes.weights(&weights[t]);
            for (sums, at) in sums.iter_mut().zip(&at) {
                *sums = lanes.add(*sums, w, at[t]);
            }
        }
    }
    sums.map(|sums| lanes.end(sums))
}

/// Adding this to a float below 2^22 in size leaves it rounded to a whole number, half to even, in the low bits.
const ROUNDER: f32 = 12_582_912.0; // 1.5 * 2^23

/// Sums -> int8, transposed into one plane per output channel.
#[inline(always)]
fn store(sums: &[[i32; TILE]; TILE], multiplier: f32, zero_point: i8, planes: &mut [&mut [i8]], start: usize, n: usize) {
    let zero = i32::from(zero_point);
    #[allow(clippy::cast_precision_loss)] // -255 to 255
    let (low, high) = ((-128 - zero) as f32, (127 - zero) as f32);
    let mut tile = [[0_i8; TILE]; TILE];
    for (position, sums) in sums.iter().enumerate() {
        let bytes = requantise(sums, multiplier, low, high, zero);
        for (channel, byte) in bytes.into_iter().enumerate() {
            tile[channel][position] = byte;
        }
    }
    for (plane, bytes) in planes.iter_mut().zip(&tile) {
        plane[start..start + n].copy_from_slice(&bytes[..n]);
    }
}

#[inline(always)]
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)] // as ONNX Runtime does; the result lies in -128 to 127
fn requantise(sums: &[i32; TILE], multiplier: f32, low: f32, high: f32, zero: i32) -> [i8; TILE] {
    from_fn(|n| {
        let value = (sums[n] as f32 * multiplier).max(low).min(high);
        let rounded = (value + ROUNDER).to_bits().wrapping_sub(ROUNDER.to_bits()).cast_signed();
        (rounded + zero) as i8
    })
}
