//! Kernels: one row of padded input and packed weights -> one row of eight output channels. One file for each kind of processor; all give the
//! same bytes.
//!
//! | Kernel | Input and weights | One instruction | Where |
//! | --- | --- | --- | --- |
//! | `portable` | i16 | - | everywhere; what the others are compared with |
//! | `portable-bytes` | u8, i8 | - | everywhere; what `vnni` computes, for tests on processors without it |
//! | `avx2` | i16 | `vpmaddwd`: 2 products for each of 8 outputs | x86-64-v3 |
//! | `vnni` | u8, i8 | `vpdpbusd`: 4 products for each of 8 outputs | AVX-VNNI or AVX-512 VNNI |
//! | `smlal` | i8 | `smlal`: 8 products in i16 for one output | NEON: every ARMv8 |
//! | `sdot` | i8 | `sdot`: 4 products for each of 4 outputs | FEAT_DotProd |
//! | `smmla` | i8 | `smmla`: 8 products for each of 2 outputs at 2 positions | FEAT_I8MM |
//!
//! Why i16 on AVX2 and not `vpmaddubsw`, which multiplies twice as many bytes: it adds two products of u8 and i8 in a saturating i16, and 2 * 255 * 127
//! does not fit. It also needs a second multiplication (`vpmaddwd` with ones) to come to i32, on the same two ports, so that both forms end at
//! 32 products per cycle on Zen and on Intel's cores since Haswell; the exact one needs no care.

#[cfg(target_arch = "aarch64")]
use std::arch::is_aarch64_feature_detected;
use std::fmt;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(target_arch = "aarch64")]
mod sdot;
#[cfg(target_arch = "aarch64")]
mod smlal;
#[cfg(target_arch = "aarch64")]
mod smmla;
#[cfg(target_arch = "x86_64")]
mod vnni;
#[cfg(target_arch = "x86_64")]
mod x86;

/// Output channels that a kernel computes together.
pub(crate) const BLOCK: usize = 8;
/// Positions that a kernel computes together: 12 times 8 sums are 12 of AVX2's 16 registers or 24 of NEON's 32.
pub(crate) const TILE: usize = 12;

/// Which instructions do the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Plain Rust, in the number format of [`Self::Vnni`]: for tests on processors without it.
    PortableBytes,
    /// Plain Rust.
    Portable,
    /// AVX2.
    Avx2,
    /// AVX-VNNI, or AVX-512 VNNI with 256-bit vectors.
    Vnni,
    /// NEON.
    Smlal,
    /// NEON with FEAT_DotProd.
    Sdot,
    /// NEON with FEAT_I8MM.
    Smmla,
}

/// The number format of a kernel's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    /// `x - x_zero` in 16 bits.
    I16,
    /// `x + 128`; the zero point's part of a sum is in the bias.
    U8,
    /// `x` as it is; the zero point's part of a sum is in the bias.
    I8,
}

/// A run of taps: numbers that lie one after the other in a row, times packed weights.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    /// Bytes from one position to the next.
    pub(crate) step: usize,
    /// Steps of the kernel's granule.
    pub(crate) n_steps: usize,
    /// Where the weights begin.
    pub(crate) weights: usize,
}

/// From the sums of a block to bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
pub(crate) struct Scaling {
    pub(crate) bias: [i32; BLOCK],
    pub(crate) multiplier: [f32; BLOCK],
    /// -128 and 127 less the zero point: steps of the output around real zero.
    pub(crate) low: f32,
    pub(crate) high: f32,
    pub(crate) zero_point: i32,
}

/// One row of one block of output channels.
pub(crate) struct RowJob<'a> {
    pub(crate) image: &'a [u8],
    /// For each segment, where the numbers of position 0 begin.
    pub(crate) starts: &'a [usize],
    pub(crate) segments: &'a [Segment],
    pub(crate) weights: &'a [u8],
    pub(crate) scaling: &'a Scaling,
    pub(crate) n_positions: usize,
    /// Channels of the block that there are, 1 to 8.
    pub(crate) n_channels: usize,
    /// From the first position's first channel on.
    pub(crate) output: &'a mut [i8],
    /// From one position to the next.
    pub(crate) output_step: usize,
}

impl Kernel {
    /// All that this architecture knows, the slowest first.
    pub const ALL: &'static [Self] = &[
        Self::PortableBytes,
        Self::Portable,
        #[cfg(target_arch = "x86_64")]
        Self::Avx2,
        #[cfg(target_arch = "x86_64")]
        Self::Vnni,
        #[cfg(target_arch = "aarch64")]
        Self::Smlal,
        #[cfg(target_arch = "aarch64")]
        Self::Sdot,
        #[cfg(target_arch = "aarch64")]
        Self::Smmla,
    ];

    /// The best kernel that this processor can run.
    #[must_use]
    pub fn detect() -> Self {
        Self::ALL.iter().rev().copied().find(|kernel| kernel.is_available()).unwrap_or(Self::Portable)
    }

    /// The kernel of this name, if this architecture knows it.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kernel| kernel.as_str() == name)
    }

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PortableBytes => "portable-bytes",
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Vnni => "vnni",
            Self::Smlal => "smlal",
            Self::Sdot => "sdot",
            Self::Smmla => "smmla",
        }
    }

    /// Whether this processor can run it.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            Self::PortableBytes | Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "x86_64")]
            Self::Vnni => vnni::is_available(),
            #[cfg(target_arch = "aarch64")]
            Self::Smlal => is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "aarch64")]
            Self::Sdot => is_aarch64_feature_detected!("dotprod"),
            #[cfg(target_arch = "aarch64")]
            Self::Smmla => is_aarch64_feature_detected!("i8mm"),
            _ => false,
        }
    }

    pub(crate) const fn element(self) -> Element {
        match self {
            Self::Portable | Self::Avx2 => Element::I16,
            Self::PortableBytes | Self::Vnni => Element::U8,
            Self::Smlal | Self::Sdot | Self::Smmla => Element::I8,
        }
    }

    /// Numbers of a row that one step takes.
    pub(crate) const fn granule(self) -> usize {
        match self {
            Self::Portable | Self::Avx2 => 2,
            Self::PortableBytes | Self::Vnni => 4,
            Self::Smlal | Self::Sdot | Self::Smmla => 8,
        }
    }

    /// Bytes of packed weights for one step: granule times 8 outputs.
    pub(crate) const fn step_bytes(self) -> usize {
        self.granule() * BLOCK * self.element().size()
    }

    /// Byte of a step at which the weight of output `lane` and number `n` of the granule stands.
    pub(crate) const fn weight_slot(self, lane: usize, n: usize) -> usize {
        match self {
            Self::PortableBytes | Self::Portable | Self::Avx2 | Self::Vnni | Self::Smlal | Self::Smmla => {
                (lane * self.granule() + n) * self.element().size()
            }
            // Fours of all outputs, then their second fours.
            Self::Sdot => n / 4 * 4 * BLOCK + lane * 4 + n % 4,
        }
    }

    /// Smallest and largest weight of one packed step.
    pub(crate) const fn weight_limits(self) -> [i32; 2] {
        match self {
            Self::Portable | Self::Avx2 => [i16::MIN as i32 + 1, i16::MAX as i32],
            Self::PortableBytes | Self::Vnni | Self::Sdot | Self::Smmla => [i8::MIN as i32, i8::MAX as i32],
            Self::Smlal => [i8::MIN as i32 + 1, i8::MAX as i32],
        }
    }

    /// Runs nothing but the kernel's multiplications and additions, on registers, `rounds` times 12 vectors; gives how many products that were. The
    /// caller's clock then tells what one core does at best. `None` where that loop is not written, or the processor lacks the instructions.
    #[must_use]
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))] // no such loop is written for other architectures
    pub fn multiply_in_registers(self, rounds: u64) -> Option<u64> {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 if self.is_available() => {
                // SAFETY: AVX2 is there.
                #[allow(unsafe_code)]
                let products = unsafe { avx2::in_registers(rounds) };
                Some(products)
            }
            _ => None,
        }
    }

    /// Computes the row.
    pub(crate) fn run(self, job: RowJob<'_>) {
        self.check(&job);
        match self {
            Self::PortableBytes => portable::run::<4>(job, portable::fours),
            Self::Portable => portable::run::<2>(job, portable::pair),
            // SAFETY: a `QConv` is only made for a kernel that `is_available`, and `check` has tested the bounds that the kernels rely on.
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code)]
            Self::Avx2 => unsafe { avx2::run(job) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code)]
            Self::Vnni => unsafe { vnni::run(job) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            #[allow(unsafe_code)]
            Self::Smlal => unsafe { smlal::run(job) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            #[allow(unsafe_code)]
            Self::Sdot => unsafe { sdot::run(job) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            #[allow(unsafe_code)]
            Self::Smmla => unsafe { smmla::run(job) },
            _ => unreachable!("a kernel of another architecture is not available"),
        }
    }

    /// What kernels read and write without looking: every step of every segment of whole tiles lies in the image and in the weights, and
    /// every channel of every position in the output.
    fn check(self, job: &RowJob<'_>) {
        assert_eq!(job.starts.len(), job.segments.len(), "one start for each segment");
        let last = job.n_positions.next_multiple_of(TILE).saturating_sub(1);
        let bytes = self.granule() * self.element().size();
        for (start, segment) in job.starts.iter().zip(job.segments) {
            let end = start + last * segment.step + segment.n_steps * bytes;
            assert!(segment.n_steps > 0 && end <= job.image.len(), "a segment lies in the image");
            assert!(segment.weights + segment.n_steps * self.step_bytes() <= job.weights.len(), "a segment has its weights");
        }
        assert!((1..=BLOCK).contains(&job.n_channels), "a block has 1 to {BLOCK} channels");
        let end = job.n_positions.saturating_sub(1) * job.output_step + job.n_channels;
        assert!(job.n_positions > 0 && end <= job.output.len(), "the positions lie in the output");
    }
}

/// The first `n_channels` lanes to the start of `output`. In pieces of fixed length: a call of `memcpy` for 6 bytes costs more than the sums.
#[inline(always)]
fn copy_lanes(lanes: &[i8; BLOCK], output: &mut [i8], n_channels: usize) {
    if n_channels == BLOCK {
        output[..BLOCK].copy_from_slice(lanes);
        return;
    }
    let mut at = 0;
    if n_channels & 4 != 0 {
        output[..4].copy_from_slice(&lanes[..4]);
        at = 4;
    }
    if n_channels & 2 != 0 {
        output[at..at + 2].copy_from_slice(&lanes[at..at + 2]);
        at += 2;
    }
    if n_channels & 1 != 0 {
        output[at] = lanes[at];
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Element {
    /// Bytes of one number.
    pub(crate) const fn size(self) -> usize {
        match self {
            Self::I16 => 2,
            Self::U8 | Self::I8 => 1,
        }
    }

    /// What is added to a sum for each unit of weight when a number of this format stands for real zero.
    pub(crate) fn offset(self, zero_point: i8) -> i32 {
        match self {
            Self::I16 => 0,
            Self::U8 => i32::from(zero_point) + 128,
            Self::I8 => i32::from(zero_point),
        }
    }

    /// Writes numbers in this format.
    pub(crate) fn convert(self, from: &[i8], to: &mut [u8], zero_point: i8) {
        match self {
            Self::I16 => {
                let zero = i16::from(zero_point);
                for (to, &x) in to.as_chunks_mut::<2>().0.iter_mut().zip(from) {
                    *to = (i16::from(x) - zero).to_le_bytes();
                }
            }
            Self::U8 => {
                for (to, &x) in to.iter_mut().zip(from) {
                    *to = x.cast_unsigned() ^ 0x80;
                }
            }
            Self::I8 => {
                for (to, &x) in to.iter_mut().zip(from) {
                    *to = x.cast_unsigned();
                }
            }
        }
    }

    /// Writes real zeros.
    pub(crate) fn fill(self, to: &mut [u8], zero_point: i8) {
        match self {
            Self::I16 => to.fill(0),
            Self::U8 => to.fill(zero_point.cast_unsigned() ^ 0x80),
            Self::I8 => to.fill(zero_point.cast_unsigned()),
        }
    }
}

impl Scaling {
    pub(crate) fn new(zero_point: i8) -> Self {
        let zero = f32::from(zero_point);
        Self {
            bias: [0; BLOCK],
            multiplier: [0.0; BLOCK],
            low: -128.0 - zero,
            high: 127.0 - zero,
            zero_point: i32::from(zero_point),
        }
    }

    /// The byte of one sum: one f32 product, clamped, rounded half to even, shifted by the zero point, as ONNX Runtime computes it.
    #[inline(always)]
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)] // the conversion rounds as IEEE says; the result lies in -128 to 127
    pub(crate) fn byte(&self, lane: usize, sum: i32) -> i8 {
        let steps = (sum as f32 * self.multiplier[lane]).max(self.low).min(self.high);
        (steps.round_ties_even() as i32 + self.zero_point) as i8
    }
}
