//! The kernel in plain Rust: what every other kernel must equal to the byte.

use super::{BLOCK, RowJob};

/// Computes the row.
pub(super) fn run(job: RowJob<'_>) {
    for position in 0..job.n_positions {
        let mut sums = job.scaling.bias;
        for (start, segment) in job.starts.iter().zip(job.segments) {
            let numbers = job.image[start + position * segment.step..][..segment.n_steps * 4].as_chunks::<4>().0;
            let weights = job.weights[segment.weights..].as_chunks::<{ 4 * BLOCK }>().0;
            for (pair, weights) in numbers.iter().zip(weights) {
                let [low, high] = pair_of(*pair);
                for (sum, weights) in sums.iter_mut().zip(weights.as_chunks::<4>().0) {
                    let [w_low, w_high] = pair_of(*weights);
                    *sum = sum.wrapping_add(w_low * low + w_high * high);
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
fn pair_of([a, b, c, d]: [u8; 4]) -> [i32; 2] {
    [i32::from(i16::from_le_bytes([a, b])), i32::from(i16::from_le_bytes([c, d]))]
}
