//! The kernels in plain Rust: what every other kernel must equal to the byte. A step takes 4 bytes of the image and 4 bytes of weights for each output.

use super::{BLOCK, RowJob};

/// Computes the row; `values` reads `N` numbers from 4 bytes of the image (`false`) or of the weights (`true`).
#[inline(always)]
pub(super) fn run<const N: usize>(job: RowJob<'_>, values: impl Fn([u8; 4], bool) -> [i32; N]) {
    for position in 0..job.n_positions {
        let mut sums = job.scaling.bias;
        for (start, segment) in job.starts.iter().zip(job.segments) {
            let numbers = job.image[start + position * segment.step..][..segment.n_steps * 4].as_chunks::<4>().0;
            let weights = job.weights[segment.weights..].as_chunks::<{ 4 * BLOCK }>().0;
            for (numbers, weights) in numbers.iter().zip(weights) {
                let numbers = values(*numbers, false);
                for (sum, weights) in sums.iter_mut().zip(weights.as_chunks::<4>().0) {
                    let products = numbers.into_iter().zip(values(*weights, true)).map(|(x, w)| x * w);
                    *sum = sum.wrapping_add(products.sum());
                }
            }
        }
        let output = &mut job.output[position * job.output_step..][..job.n_channels];
        for (lane, byte) in output.iter_mut().enumerate() {
            *byte = job.scaling.byte(lane, sums[lane]);
        }
    }
}

/// Two i16 numbers, little-endian.
#[inline(always)]
pub(super) fn pair([a, b, c, d]: [u8; 4], _is_weight: bool) -> [i32; 2] {
    [i32::from(i16::from_le_bytes([a, b])), i32::from(i16::from_le_bytes([c, d]))]
}

/// Four numbers: u8 in the image, i8 in the weights.
#[inline(always)]
pub(super) fn fours(bytes: [u8; 4], is_weight: bool) -> [i32; 4] {
    bytes.map(|byte| if is_weight { i32::from(byte.cast_signed()) } else { i32::from(byte) })
}
