//! Quantised 3D convolution: int8 tensor, int8 weights, int32 bias -> int8 tensor, bit for bit as ONNX `QLinearConv` on ONNX Runtime's CPU.
//!
//! Data in: `[channels, k, j, i]` in C order, batch 1, group 1, dilation 1, one scale per tensor. Arithmetic: `x - x_zero` and `w - w_zero` as
//! i16, products summed in i32 with the bias, multiplied by the f32 `x_scale * w_scale / y_scale`, clamped, rounded half to even, shifted by
//! `y_zero`. Taps outside the image read `x_zero`, that is 0. Integer sums do not depend on their order and the one f32 product and its
//! rounding are exact IEEE operations, so every processor gives the same bytes.
//!
//! How it is fast: each output depth needs only `kernel` padded input planes, which are repacked once as pairs of channels (i16 in an i32) and
//! kept in a ring; a tile of 8 positions times 8 output channels stays in registers while the taps run ([`super::lanes`]); weights are packed
//! once in the order in which the taps read them. No column matrix is ever made. Threads share the output depths.

use std::thread;

use crate::domain::Quantisation;

use super::lanes::{Path, TILE, TileJob, WEIGHTS_PER_STEP};

/// What a convolution is, apart from its numbers. Axes in the order k, j, i.
#[derive(Clone, Debug, PartialEq)]
pub struct ConvSpec {
    /// Input channels.
    pub n_in: usize,
    /// Output channels.
    pub n_out: usize,
    /// Taps per axis.
    pub kernel: [usize; 3],
    /// Steps per axis.
    pub stride: [usize; 3],
    /// Padding before the first voxel.
    pub pad_before: [usize; 3],
    /// Padding after the last voxel.
    pub pad_after: [usize; 3],
    /// Quantisation of the input.
    pub x: Quantisation,
    /// Quantisation of the weights.
    pub w: Quantisation,
    /// Quantisation of the output.
    pub y: Quantisation,
}

/// Why a convolution cannot be built or run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QConvError {
    /// kernel, stride, padding or channels outside the bounds
    #[error(
        "kernel, stride, padding or channel count is outside 1 to 7, 1 to 4, less than the kernel, 1 to 1024 with at most 16384 taps"
    )]
    Bounds,
    /// weights or bias do not have the length that the specification says
    #[error("weights or bias do not have the length that the kernel and the channels ask for")]
    Lengths,
    /// a scale is not a positive, finite number
    #[error("a scale is not a positive, finite number")]
    Scale,
    /// the input does not have the length of its shape, or is smaller than the kernel
    #[error("the input does not have the length of its shape, or is smaller than the kernel")]
    Input,
}

/// A convolution ready to run: weights packed for one path.
#[derive(Clone, Debug)]
pub struct QConv {
    spec: ConvSpec,
    path: Path,
    /// Pairs of input channels.
    n_pairs: usize,
    /// `[block of 8 outputs][tap][pair][16]`.
    weights: Vec<i16>,
    /// `[block of 8 outputs]`.
    bias: Vec<[i32; TILE]>,
    /// `x_scale * w_scale / y_scale`, in this order as ONNX Runtime computes it.
    multiplier: f32,
}

/// Products below this are not worth a second thread (a thread costs about 30 us).
const PRODUCTS_PER_THREAD_MIN: usize = 2_000_000;

impl QConv {
    /// Packs `weights` (`[n_out, n_in, k, j, i]`) and `bias` (`[n_out]`) for this machine.
    ///
    /// # Errors
    /// [`QConvError`] when the specification is outside the bounds or the lengths disagree.
    pub fn try_new(spec: ConvSpec, weights: &[i8], bias: &[i32]) -> Result<Self, QConvError> {
        Self::for_path(spec, weights, bias, Path::detect())
    }

    /// The same for a given path; for tests that compare paths.
    ///
    /// # Errors
    /// As [`Self::try_new`].
    pub fn for_path(spec: ConvSpec, weights: &[i8], bias: &[i32], path: Path) -> Result<Self, QConvError> {
        let n_taps: usize = spec.kernel.iter().product();
        let within = |values: &[usize], max: usize| values.iter().all(|v| (1..=max).contains(v));
        let pads = spec.pad_before.iter().zip(&spec.kernel).chain(spec.pad_after.iter().zip(&spec.kernel));
        // 16384 taps of at most 255 * 255 stay below 2^31.
        if !within(&spec.kernel, 7)
            || !within(&spec.stride, 4)
            || !within(&[spec.n_in, spec.n_out], 1024)
            || n_taps * spec.n_in > 16_384
            || pads.into_iter().any(|(pad, kernel)| pad >= kernel)
        {
            return Err(QConvError::Bounds);
        }
        if weights.len() != spec.n_out * spec.n_in * n_taps || bias.len() != spec.n_out {
            return Err(QConvError::Lengths);
        }
        let multiplier = spec.x.scale * spec.w.scale / spec.y.scale;
        let scales = [spec.x.scale, spec.w.scale, spec.y.scale, multiplier];
        if !scales.iter().all(|scale| scale.is_finite() && *scale > 0.0) || !(multiplier * 4.3e9).is_finite() {
            return Err(QConvError::Scale);
        }
        let n_pairs = spec.n_in.div_ceil(2);
        let n_blocks = spec.n_out.div_ceil(TILE);
        let mut packed = vec![0_i16; n_blocks * n_taps * n_pairs * WEIGHTS_PER_STEP];
        let zero = i16::from(spec.w.zero_point);
        for (at, &weight) in weights.iter().enumerate() {
            let (output, input, tap) = (at / (n_taps * spec.n_in), at / n_taps % spec.n_in, at % n_taps);
            let step = ((output / TILE) * n_taps + tap) * n_pairs + input / 2;
            packed[step * WEIGHTS_PER_STEP + path.weight_slot(output % TILE, input % 2)] = i16::from(weight) - zero;
        }
        let mut blocks = vec![[0_i32; TILE]; n_blocks];
        for (output, &value) in bias.iter().enumerate() {
            blocks[output / TILE][output % TILE] = value;
        }
        Ok(Self { spec, path, n_pairs, weights: packed, bias: blocks, multiplier })
    }

    /// What it is.
    #[must_use]
    pub fn spec(&self) -> &ConvSpec {
        &self.spec
    }

    /// Output shape k, j, i for an input of this shape; `None` when the padded input is smaller than the kernel.
    #[must_use]
    pub fn output_shape(&self, input: [usize; 3]) -> Option<[usize; 3]> {
        let mut shape = [0; 3];
        for (axis, out) in shape.iter_mut().enumerate() {
            let padded = input[axis] + self.spec.pad_before[axis] + self.spec.pad_after[axis];
            *out = padded.checked_sub(self.spec.kernel[axis])? / self.spec.stride[axis] + 1;
        }
        Some(shape)
    }

    /// Convolves `input` (`[n_in, k, j, i]`, the last three `shape`) on at most `threads` threads; gives `[n_out, k, j, i]`.
    ///
    /// # Errors
    /// [`QConvError::Input`] when the length does not fit the shape or the shape the kernel.
    pub fn run(&self, input: &[i8], shape: [usize; 3], threads: usize) -> Result<Vec<i8>, QConvError> {
        let n_voxels: usize = shape.iter().product();
        let output_shape = self.output_shape(shape).ok_or(QConvError::Input)?;
        if n_voxels == 0 || input.len() != self.spec.n_in * n_voxels {
            return Err(QConvError::Input);
        }
        let [n_k, n_j, n_i] = output_shape;
        let mut output = vec![0_i8; self.spec.n_out * n_k * n_j * n_i];
        // Planes of one output depth, a channel after the other, so that depths can go to different threads.
        let mut depths: Vec<Vec<&mut [i8]>> = (0..n_k).map(|_| Vec::with_capacity(self.spec.n_out)).collect();
        for (at, plane) in output.chunks_mut(n_j * n_i).enumerate() {
            depths[at % n_k].push(plane);
        }
        let products = n_k * n_j * n_i * self.weights.len() / 2;
        let n_threads = threads.min(products / PRODUCTS_PER_THREAD_MIN).clamp(1, n_k);
        let share = n_k.div_ceil(n_threads);
        thread::scope(|scope| {
            let mut shares = depths.chunks_mut(share).enumerate();
            let first = shares.next();
            for (n, planes) in shares {
                scope.spawn(move || self.run_depths(input, shape, output_shape, n * share, planes));
            }
            if let Some((_, planes)) = first {
                self.run_depths(input, shape, output_shape, 0, planes);
            }
        });
        Ok(output)
    }

    /// The output depths from `first` on, one per entry of `planes`.
    fn run_depths(&self, input: &[i8], shape: [usize; 3], output: [usize; 3], first: usize, planes: &mut [Vec<&mut [i8]>]) {
        let [taps_k, taps_j, taps_i] = self.spec.kernel;
        let [step_k, step_j, step_i] = self.spec.stride;
        let mut ring = Ring::new(self, shape, output);
        let mut rows = vec![0_usize; taps_k * taps_j];
        for (depth, planes) in (first..).zip(planes) {
            for tap in 0..taps_k {
                ring.hold(self, input, shape, depth * step_k + tap);
            }
            for j in 0..output[1] {
                for (n, row) in rows.iter_mut().enumerate() {
                    *row = ring.row(depth * step_k + n / taps_j, j * step_j + n % taps_j);
                }
                let job = TileJob {
                    image: &ring.image,
                    rows: &rows,
                    row_steps: taps_i * self.n_pairs,
                    position_step: step_i * self.n_pairs,
                    weights: &self.weights,
                    bias: &self.bias,
                    multiplier: self.multiplier,
                    zero_point: self.spec.y.zero_point,
                    n_positions: output[2],
                    output_start: j * output[2],
                    planes,
                };
                self.path.run(job);
            }
        }
    }
}

/// The padded input planes that the current output depth needs: pairs of channels per voxel, `[plane][j][i][pair]`.
struct Ring {
    image: Vec<i32>,
    /// Which padded depth each plane holds.
    held: Vec<Option<usize>>,
    row_len: usize,
    plane_len: usize,
}

impl Ring {
    fn new(conv: &QConv, shape: [usize; 3], output: [usize; 3]) -> Self {
        let spec = &conv.spec;
        // Rows are long enough for whole tiles: positions past the end read zeros and are not stored.
        let tiled = output[2].next_multiple_of(TILE);
        let row_voxels = ((tiled - 1) * spec.stride[2] + spec.kernel[2]).max(spec.pad_before[2] + shape[2]);
        let n_rows = ((output[1] - 1) * spec.stride[1] + spec.kernel[1]).max(spec.pad_before[1] + shape[1]);
        let row_len = row_voxels * conv.n_pairs;
        let plane_len = n_rows * row_len;
        Self { image: vec![0; spec.kernel[0] * plane_len], held: vec![None; spec.kernel[0]], row_len, plane_len }
    }

    /// Start of row `j` (padded) of the plane at padded depth `k`.
    fn row(&self, k: usize, j: usize) -> usize {
        (k % self.held.len()) * self.plane_len + j * self.row_len
    }

    /// Makes sure that the plane at padded depth `k` is there.
    fn hold(&mut self, conv: &QConv, input: &[i8], shape: [usize; 3], k: usize) {
        let slot = k % self.held.len();
        if self.held[slot] == Some(k) {
            return;
        }
        self.held[slot] = Some(k);
        let plane = &mut self.image[slot * self.plane_len..][..self.plane_len];
        let [n_k, n_j, n_i] = shape;
        let [pad_k, pad_j, pad_i] = conv.spec.pad_before;
        let Some(depth) = k.checked_sub(pad_k).filter(|&depth| depth < n_k) else {
            plane.fill(0);
            return;
        };
        // Padding around the plane was zero from the start and stays so.
        let zero = i32::from(conv.spec.x.zero_point);
        let channel_row = |channel: usize, j: usize| &input[((channel * n_k + depth) * n_j + j) * n_i..][..n_i];
        for j in 0..n_j {
            let row = &mut plane[(pad_j + j) * self.row_len + pad_i * conv.n_pairs..][..n_i * conv.n_pairs];
            for pair in 0..conv.n_pairs {
                let slots = row[pair..].iter_mut().step_by(conv.n_pairs);
                let low = channel_row(2 * pair, j);
                if 2 * pair + 1 < conv.spec.n_in {
                    for ((slot, &a), &b) in slots.zip(low).zip(channel_row(2 * pair + 1, j)) {
                        *slot = pack(i32::from(a) - zero, i32::from(b) - zero);
                    }
                } else {
                    for (slot, &a) in slots.zip(low) {
                        *slot = pack(i32::from(a) - zero, 0);
                    }
                }
            }
        }
    }
}

/// Two values of at most 9 bits and a sign as two i16 in an i32, the first in the low half.
#[inline(always)]
fn pack(low: i32, high: i32) -> i32 {
    (low & 0xffff) | (high << 16)
}
