//! Plan: weights `[n_out, n_in, k, j, i]` -> segments of taps, and their weights in the order in which a kernel reads them.
//!
//! Channels-last rows make the taps along i of one output one contiguous run of numbers; such a run is a segment. A source that is up-sampled
//! F times is not read F times: all outputs with the same remainder modulo F (a phase) see each of its voxels through the same taps, so that
//! their weights are added up beforehand. A 3x3x3 kernel over a source doubled on each axis then takes 2x2x2 products per output instead of 27,
//! and the doubled tensor is never made. Adding integer weights is exact.
//!
//! A merged weight may not fit the kernel's weight format; then it is split into a sum of weights that do, in a further segment over the same
//! numbers.

use std::collections::BTreeMap;

use crate::aligned::AlignedBytes;
use crate::kernel::{BLOCK, Kernel, Scaling, Segment};
use crate::spec::ConvSpec;

/// How one source is read along one axis.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Axis {
    /// Padding before the source's first voxel, in voxels as held.
    pub(crate) lead: usize,
    /// How often a voxel is repeated when the row is made; 1 where the phases do it.
    pub(crate) repeat: usize,
    /// Held voxels from one position of a phase to the next.
    pub(crate) step: usize,
    /// For each phase the taps: held voxel relative to the position's first, and the kernel's taps that fall on it.
    phases: Vec<Vec<(usize, Vec<usize>)>>,
}

impl Axis {
    fn new(spec: &ConvSpec, axis: usize, source: usize, fold: usize) -> Self {
        let (pad, n_taps, repeat) = (spec.pad_before[axis], spec.kernel[axis], spec.sources[source].repeat[axis]);
        if fold == 1 {
            return Self {
                lead: pad,
                repeat,
                step: spec.stride[axis],
                phases: vec![(0..n_taps).map(|t| (t, vec![t])).collect()],
            };
        }
        if repeat == 1 {
            let phases = (0..fold).map(|phase| (0..n_taps).map(|t| (phase + t, vec![t])).collect()).collect();
            return Self { lead: pad, repeat: 1, step: fold, phases };
        }
        // floor((phase - pad + t) / fold) + lead, all of it positive.
        let lead = pad.div_ceil(fold);
        let merge = |phase: usize| {
            let mut taps = BTreeMap::<usize, Vec<usize>>::new();
            for t in 0..n_taps {
                taps.entry((phase + t + lead * fold - pad) / fold).or_default().push(t);
            }
            taps.into_iter().collect()
        };
        Self { lead, repeat: 1, step: 1, phases: (0..fold).map(merge).collect() }
    }

    /// First and last held voxel that a phase reads, relative to the position's first.
    pub(crate) fn span(&self, phase: usize) -> (usize, usize) {
        let taps = &self.phases[phase];
        (taps.first().map_or(0, |tap| tap.0), taps.last().map_or(0, |tap| tap.0))
    }

    /// Most voxels that any phase spans.
    pub(crate) fn span_max(&self) -> usize {
        (0..self.phases.len()).map(|phase| self.span(phase)).map(|(first, last)| last - first + 1).max().unwrap_or(1)
    }

    /// One past the last held voxel that any phase of `n` positions in all phases reads.
    pub(crate) fn end(&self, n_positions: usize) -> usize {
        let last = (0..self.phases.len()).map(|phase| self.span(phase).1).max().unwrap_or(0);
        n_positions.saturating_sub(1) * self.step + last + 1
    }
}

/// The rows that a segment reads: of which source, and which plane and row relative to the position's first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowOfTaps {
    pub(crate) source: usize,
    pub(crate) k: usize,
    pub(crate) j: usize,
    /// Bytes from the start of the row to the first number of position 0.
    pub(crate) offset: usize,
}

/// What a block of output channels reads in one phase.
#[derive(Clone, Debug, Default)]
pub(crate) struct Program {
    pub(crate) rows: Vec<RowOfTaps>,
    pub(crate) segments: Vec<Segment>,
}

/// Everything that is computed once.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Phases per axis.
    pub(crate) fold: [usize; 3],
    /// For each source, how it is read along k, j, i.
    pub(crate) axes: Vec<[Axis; 3]>,
    /// For each phase `(k * fold_j + j) * fold_i + i` and each block of output channels.
    pub(crate) programs: Vec<Vec<Program>>,
    pub(crate) weights: AlignedBytes,
    /// For each block of output channels.
    pub(crate) scalings: Vec<Scaling>,
}

impl Plan {
    /// `spec`, `weights` and `bias` have been checked against each other.
    pub(crate) fn new(spec: &ConvSpec, weights: &[i8], bias: &[i32], kernel: Kernel) -> Self {
        let fold: [usize; 3] = std::array::from_fn(|axis| fold(spec, axis));
        let axes: Vec<[Axis; 3]> =
            (0..spec.sources.len()).map(|source| std::array::from_fn(|axis| Axis::new(spec, axis, source, fold[axis]))).collect();
        let n_blocks = spec.n_out.div_ceil(BLOCK);
        let mut packer = Packer { spec, weights, kernel, bytes: Vec::new(), known: BTreeMap::new() };
        let mut programs = Vec::new();
        for phase in 0..fold.iter().product() {
            let phases = [phase / (fold[1] * fold[2]), phase / fold[2] % fold[1], phase % fold[2]];
            programs.push((0..n_blocks).map(|block| packer.program(&axes, phases, block)).collect());
        }
        let scalings = (0..n_blocks).map(|block| scaling(spec, weights, bias, kernel, block)).collect();
        Self { fold, axes, programs, weights: AlignedBytes::copy_of(&packer.bytes), scalings }
    }
}

/// How many phases an axis has: the up-sampling that its sources share, where the steps allow it.
fn fold(spec: &ConvSpec, axis: usize) -> usize {
    let repeats = || spec.sources.iter().map(|source| source.repeat[axis]);
    let most = repeats().max().unwrap_or(1);
    if spec.stride[axis] == 1 && repeats().all(|repeat| repeat == 1 || repeat == most) { most } else { 1 }
}

/// Bias, scale and limits of a block. Kernels that do not subtract the input's zero point get its part of every sum in the bias.
fn scaling(spec: &ConvSpec, weights: &[i8], bias: &[i32], kernel: Kernel, block: usize) -> Scaling {
    let per_output = spec.n_in() * spec.n_taps();
    let mut scaling = Scaling::new(spec.y.zero_point);
    for (lane, n) in (block * BLOCK..spec.n_out.min((block + 1) * BLOCK)).enumerate() {
        let sum: i32 = weights[n * per_output..][..per_output].iter().map(|&w| i32::from(w) - i32::from(spec.w_zero_point)).sum();
        scaling.bias[lane] = bias[n].wrapping_sub(sum.wrapping_mul(kernel.element().offset(spec.x.zero_point)));
        scaling.multiplier[lane] = spec.multiplier(n);
    }
    scaling
}

/// Collects packed weights; equal ones are kept once (the phases share those of a source that is not up-sampled).
struct Packer<'a> {
    spec: &'a ConvSpec,
    weights: &'a [i8],
    kernel: Kernel,
    bytes: Vec<u8>,
    known: BTreeMap<Vec<u8>, usize>,
}

impl Packer<'_> {
    fn program(&mut self, axes: &[[Axis; 3]], phases: [usize; 3], block: usize) -> Program {
        let mut program = Program::default();
        let size = self.kernel.element().size();
        let mut first_channel = 0;
        for (source, [axis_k, axis_j, axis_i]) in axes.iter().enumerate() {
            let n_channels = self.spec.sources[source].channels;
            let (first, last) = axis_i.span(phases[2]);
            let len = (last - first + 1) * n_channels;
            for (k, taps_k) in &axis_k.phases[phases[0]] {
                for (j, taps_j) in &axis_j.phases[phases[1]] {
                    let mut run = vec![[0_i32; BLOCK]; len];
                    for (i, taps_i) in &axis_i.phases[phases[2]] {
                        for channel in 0..n_channels {
                            let taps = [taps_k.as_slice(), taps_j, taps_i];
                            run[(i - first) * n_channels + channel] = self.merged(block, first_channel + channel, taps);
                        }
                    }
                    let row = RowOfTaps { source, k: *k, j: *j, offset: first * n_channels * size };
                    self.add(&mut program, row, &run, axis_i.step * n_channels * size);
                }
            }
            first_channel += n_channels;
        }
        program
    }

    /// The weights of a block's outputs for one input channel, summed over the taps.
    fn merged(&self, block: usize, channel: usize, [taps_k, taps_j, taps_i]: [&[usize]; 3]) -> [i32; BLOCK] {
        let [_, n_j, n_i] = self.spec.kernel;
        let zero = i32::from(self.spec.w_zero_point);
        std::array::from_fn(|lane| {
            let output = block * BLOCK + lane;
            if output >= self.spec.n_out {
                return 0;
            }
            let first = (output * self.spec.n_in() + channel) * self.spec.n_taps();
            let mut sum = 0;
            for k in taps_k {
                for j in taps_j {
                    for i in taps_i {
                        sum += i32::from(self.weights[first + (k * n_j + j) * n_i + i]) - zero;
                    }
                }
            }
            sum
        })
    }

    /// Adds the run as one segment, and what of it does not fit the weight format as further ones.
    fn add(&mut self, program: &mut Program, row: RowOfTaps, run: &[[i32; BLOCK]], step: usize) {
        let (granule, size) = (self.kernel.granule(), self.kernel.element().size());
        let [low, high] = self.kernel.weight_limits();
        let mut rest = run.to_vec();
        rest.resize(run.len().next_multiple_of(granule), [0; BLOCK]);
        let mut range = 0..rest.len() / granule;
        while !range.is_empty() {
            let part: Vec<[i32; BLOCK]> =
                rest[range.start * granule..range.end * granule].iter().map(|lanes| lanes.map(|w| w.clamp(low, high))).collect();
            program.rows.push(RowOfTaps { offset: row.offset + range.start * granule * size, ..row });
            program.segments.push(Segment { step, n_steps: range.len(), weights: self.pack(&part) });
            for (lanes, taken) in rest[range.start * granule..].iter_mut().zip(&part) {
                for (w, taken) in lanes.iter_mut().zip(taken) {
                    *w -= taken;
                }
            }
            let is_left = |n: &usize| rest[n * granule..(n + 1) * granule].iter().any(|lanes| lanes != &[0; BLOCK]);
            let first = range.clone().find(is_left);
            let last = range.clone().rev().find(is_left);
            range = first.zip(last).map_or(0..0, |(first, last)| first..last + 1);
        }
    }

    /// Where the packed weights of whole steps stand.
    fn pack(&mut self, run: &[[i32; BLOCK]]) -> usize {
        let granule = self.kernel.granule();
        let mut packed = vec![0_u8; run.len() / granule * self.kernel.step_bytes()];
        for (n, lanes) in run.iter().enumerate() {
            let step = &mut packed[n / granule * self.kernel.step_bytes()..][..self.kernel.step_bytes()];
            for (lane, w) in lanes.iter().enumerate() {
                // The limits of the format have been applied: the low bytes are the whole number.
                let size = self.kernel.element().size();
                step[self.kernel.weight_slot(lane, n % granule)..][..size].copy_from_slice(&w.to_le_bytes()[..size]);
            }
        }
        let at = self.bytes.len();
        let bytes = &mut self.bytes;
        *self.known.entry(packed).or_insert_with_key(|packed| {
            bytes.extend_from_slice(packed);
            bytes.resize(bytes.len().next_multiple_of(64), 0);
            at
        })
    }
}
