//! What a quantised convolution is, apart from its numbers: sources, taps, steps, padding, scales in -> a checked specification, or what is wrong.

/// `real = scale * (stored - zero_point)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantisation {
    /// Real units per step.
    pub scale: f32,
    /// The stored value of real zero.
    pub zero_point: i8,
}

/// One tensor of a concatenation along the channels, perhaps brought to the size of the others by nearest up-sampling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its channels.
    pub channels: usize,
    /// How often each voxel is repeated along k, j, i; 1 for none.
    pub repeat: [usize; 3],
}

/// What a convolution is, apart from its numbers. Axes in the order k, j, i; a 2D convolution has one k.
#[derive(Clone, Debug, PartialEq)]
pub struct ConvSpec {
    /// The input: the sources, one after the other along the channels.
    pub sources: Vec<Source>,
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
    /// Quantisation of the input, one for all sources.
    pub x: Quantisation,
    /// Scale of the weights: one for all, or one for each output channel.
    pub w_scales: Vec<f32>,
    /// Zero point of the weights.
    pub w_zero_point: i8,
    /// Quantisation of the output.
    pub y: Quantisation,
}

/// Why a convolution cannot be built or run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QConvError {
    /// sources, kernel, stride, padding or channels outside the bounds
    #[error(
        "outside the bounds: 1 to 4 sources repeated 1 to 4 times, kernel 1 to 7, stride 1 to 4, padding less than the kernel, \
         1 to 1024 channels with at most 16384 taps"
    )]
    Bounds,
    /// weights, scales or bias do not have the length that the specification says
    #[error("weights, scales or bias do not have the length that the kernel and the channels ask for")]
    Lengths,
    /// a scale is not a positive, finite number
    #[error("a scale is not a positive, finite number")]
    Scale,
    /// an input or the output does not have the length of its shape, or the input is smaller than the kernel
    #[error("an input or the output does not have the length of its shape, or the input is smaller than the kernel")]
    Shape,
    /// this processor does not have the instructions of the kernel that was asked for
    #[error("this processor does not have the instructions of the kernel that was asked for")]
    Unavailable,
}

/// Most sources of a concatenation.
const SOURCES_MAX: usize = 4;
/// Products per output; so many of at most 255 * 255 stay below 2^31.
const TAPS_MAX: usize = 16_384;

impl ConvSpec {
    /// Input channels.
    #[must_use]
    pub fn n_in(&self) -> usize {
        self.sources.iter().map(|source| source.channels).sum()
    }

    /// Taps of one input channel.
    #[must_use]
    pub fn n_taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// Output shape k, j, i for an input of this shape (after up-sampling); `None` when the padded input is smaller than the kernel.
    #[must_use]
    pub fn output_shape(&self, input: [usize; 3]) -> Option<[usize; 3]> {
        let mut shape = [0; 3];
        for (axis, out) in shape.iter_mut().enumerate() {
            let padded = input[axis].checked_add(self.pad_before[axis] + self.pad_after[axis])?;
            *out = padded.checked_sub(self.kernel[axis])? / self.stride[axis] + 1;
        }
        Some(shape)
    }

    /// Shape of a source for an input of this shape; `None` when it is not a whole multiple.
    #[must_use]
    pub fn source_shape(&self, source: usize, input: [usize; 3]) -> Option<[usize; 3]> {
        let repeat = self.sources.get(source)?.repeat;
        let whole = input.iter().zip(&repeat).all(|(n, repeat)| n.is_multiple_of(*repeat));
        whole.then(|| std::array::from_fn(|axis| input[axis] / repeat[axis]))
    }

    /// What one step of a sum is worth in steps of the output, for output channel `channel`: the order of the two operations is ONNX Runtime's.
    #[must_use]
    pub(crate) fn multiplier(&self, channel: usize) -> f32 {
        let w_scale = if self.w_scales.len() == 1 { self.w_scales[0] } else { self.w_scales[channel] };
        self.x.scale * w_scale / self.y.scale
    }

    /// Everything that can be checked without an input.
    pub(crate) fn check(&self, n_weights: usize, n_bias: usize) -> Result<(), QConvError> {
        let within = |values: &[usize], max: usize| values.iter().all(|v| (1..=max).contains(v));
        let sources_fit = (1..=SOURCES_MAX).contains(&self.sources.len())
            && self.sources.iter().all(|source| within(&[source.channels], 1024) && within(&source.repeat, 4));
        let mut pads = self.pad_before.iter().zip(&self.kernel).chain(self.pad_after.iter().zip(&self.kernel));
        if !sources_fit
            || !within(&self.kernel, 7)
            || !within(&self.stride, 4)
            || !within(&[self.n_in(), self.n_out], 1024)
            || self.n_taps() * self.n_in() > TAPS_MAX
            || pads.any(|(pad, kernel)| pad >= kernel)
        {
            return Err(QConvError::Bounds);
        }
        let scales_fit = self.w_scales.len() == 1 || self.w_scales.len() == self.n_out;
        if n_weights != self.n_out * self.n_in() * self.n_taps() || n_bias != self.n_out || !scales_fit {
            return Err(QConvError::Lengths);
        }
        let positive = |scale: f32| scale.is_finite() && scale > 0.0;
        // A sum of 2^31 must stay a finite number of output steps.
        let multiplied = (0..self.n_out).map(|n| self.multiplier(n)).all(|m| positive(m) && (m * 4.3e9).is_finite());
        if positive(self.x.scale) && positive(self.y.scale) && multiplied { Ok(()) } else { Err(QConvError::Scale) }
    }
}
