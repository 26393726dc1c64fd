//! The operators as tract sees them: int8 tensors in -> an int8 tensor out, `[1, channels, k, j, i]` or channels-last `[1, k, j, i, channels]`, or the
//! same without k.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use tract_core::internal::*;

use super::Watch;
use super::read::Layer;
use crate::QConv;

/// What each operator holds. Two are equal only when they are the same object.
pub(super) struct Own<T> {
    name: String,
    watch: Arc<dyn Watch>,
    pub(super) inner: Arc<T>,
}

impl<T> Own<T> {
    pub(super) fn new(name: &str, watch: Arc<dyn Watch>, inner: Arc<T>) -> Self {
        Self { name: name.to_owned(), watch, inner }
    }

    /// Runs the operator, unless the watch says no.
    pub(super) fn step<R>(&self, run: impl FnOnce() -> TractResult<R>) -> TractResult<R> {
        ensure!(self.watch.begin(&self.name), "stopped before {}", self.name);
        let result = run();
        self.watch.end(&self.name);
        result
    }
}

impl<T> Clone for Own<T> {
    fn clone(&self) -> Self {
        Self { name: self.name.clone(), watch: self.watch.clone(), inner: self.inner.clone() }
    }
}

impl<T> fmt::Debug for Own<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl<T> PartialEq for Own<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}

impl<T> Eq for Own<T> {}

impl<T> Hash for Own<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

/// A quantised convolution with the inputs and outputs of the ONNX node, channels first: the reference for one layer of a fused graph. It converts
/// to and fro, which is slow.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PlanarConv {
    own: Own<QConv>,
    layer: Own<Layer>,
}

impl PlanarConv {
    pub(super) fn new(name: &str, layer: Arc<Layer>, conv: Arc<QConv>, watch: Arc<dyn Watch>) -> Self {
        Self { own: Own::new(name, watch.clone(), conv), layer: Own::new(name, watch, layer) }
    }

    pub(super) fn layer(&self) -> &Layer {
        &self.layer.inner
    }
}

/// A quantised convolution over channels-last tensors, with the up-samplings and concatenations that stood before it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FusedConv {
    own: Own<QConv>,
    is_flat: bool,
}

impl FusedConv {
    pub(super) fn new(name: &str, conv: Arc<QConv>, is_flat: bool, watch: Arc<dyn Watch>) -> Self {
        Self { own: Own::new(name, watch, conv), is_flat }
    }

    /// The convolution.
    #[must_use]
    pub fn conv(&self) -> &QConv {
        &self.own.inner
    }

    /// Common shape of the sources after up-sampling.
    fn shape(&self, first: &[usize]) -> TractResult<[usize; 3]> {
        let (shape, n_channels) = split_last(first)?;
        let source = self.conv().spec().sources[0];
        ensure!(n_channels == source.channels, "{first:?} has not {} channels", source.channels);
        Ok(std::array::from_fn(|axis| shape[axis] * source.repeat[axis]))
    }
}

/// Channels first -> channels last.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ChannelsLast(Own<()>);

/// Channels last -> channels first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ChannelsFirst(Own<()>);

impl ChannelsLast {
    pub(super) fn new(name: &str, watch: Arc<dyn Watch>) -> Self {
        Self(Own::new(name, watch, Arc::new(())))
    }
}

impl ChannelsFirst {
    pub(super) fn new(name: &str, watch: Arc<dyn Watch>) -> Self {
        Self(Own::new(name, watch, Arc::new(())))
    }
}

/// k, j, i and channels of a channels-last tensor.
fn split_last(shape: &[usize]) -> TractResult<([usize; 3], usize)> {
    match *shape {
        [1, j, i, channels] => Ok(([1, j, i], channels)),
        [1, k, j, i, channels] => Ok(([k, j, i], channels)),
        _ => bail!("{shape:?} is not [1, (k,) j, i, channels]"),
    }
}

/// k, j, i and channels of a channels-first tensor.
fn split_first(shape: &[usize]) -> TractResult<([usize; 3], usize)> {
    match *shape {
        [1, channels, j, i] => Ok(([1, j, i], channels)),
        [1, channels, k, j, i] => Ok(([k, j, i], channels)),
        _ => bail!("{shape:?} is not [1, channels, (k,) j, i]"),
    }
}

fn joined_last([k, j, i]: [usize; 3], channels: usize, is_flat: bool) -> TVec<usize> {
    if is_flat { tvec![1, j, i, channels] } else { tvec![1, k, j, i, channels] }
}

fn joined_first([k, j, i]: [usize; 3], channels: usize, is_flat: bool) -> TVec<usize> {
    if is_flat { tvec![1, channels, j, i] } else { tvec![1, channels, k, j, i] }
}

pub(super) fn fixed(fact: &TypedFact) -> TractResult<&[usize]> {
    ensure!(fact.datum_type == i8::datum_type(), "the input is {:?}, not int8", fact.datum_type);
    fact.shape.as_concrete().context("the input has no fixed shape")
}

/// Voxels that are moved together, so that both sides stay in the first-level cache.
const CHUNK: usize = 1024;

/// `[channels][voxels]` -> `[voxels][channels]`.
fn to_last(from: &[i8], to: &mut [i8], channels: usize) {
    let n = from.len() / channels.max(1);
    for (chunk, to) in to.chunks_mut(CHUNK * channels).enumerate() {
        for channel in 0..channels {
            let from = &from[channel * n + chunk * CHUNK..];
            for (to, &x) in to[channel..].iter_mut().step_by(channels).zip(from) {
                *to = x;
            }
        }
    }
}

/// `[voxels][channels]` -> `[channels][voxels]`; each thread takes some of the channels.
fn to_first(from: &[i8], to: &mut [i8], channels: usize, threads: usize) {
    let n = from.len() / channels.max(1);
    let per_thread = channels.div_ceil(threads.max(1)).max(1);
    let planes = |first: usize, to: &mut [i8]| {
        for (chunk, from) in from.chunks(CHUNK * channels).enumerate() {
            for (channel, to) in (first..).zip(to.chunks_mut(n)) {
                let to = &mut to[chunk * CHUNK..];
                for (to, &x) in to.iter_mut().zip(from[channel..].iter().step_by(channels)) {
                    *to = x;
                }
            }
        }
    };
    if n < CHUNK || per_thread >= channels {
        planes(0, to);
        return;
    }
    std::thread::scope(|scope| {
        for (share, to) in to.chunks_mut(per_thread * n).enumerate() {
            scope.spawn(move || planes(share * per_thread, to));
        }
    });
}

/// A new tensor of this shape, every byte of which `fill` writes unless it fails.
pub(super) fn filled(shape: &[usize], fill: impl FnOnce(&mut [i8]) -> TractResult<()>) -> TractResult<TVec<TValue>> {
    // SAFETY: any byte is an i8, and `fill` writes all of them before anybody reads one: a convolution computes each row, a change of layout moves each
    // byte. Writing zeros first would touch every page on one thread.
    #[allow(unsafe_code)]
    let mut tensor = unsafe { Tensor::uninitialized::<i8>(shape)? };
    fill(tensor.try_as_plain_ram_mut()?.as_slice_mut::<i8>()?)?;
    Ok(tvec!(tensor.into_tvalue()))
}

impl Op for PlanarConv {
    fn name(&self) -> StaticName {
        "QConvPlanar".into()
    }

    op_as_typed_op!();
}

impl EvalOp for PlanarConv {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let conv = &self.own.inner;
        self.own.step(|| {
            let input = args_1!(inputs);
            let (shape, channels) = split_first(input.shape())?;
            let out = conv.spec().output_shape(shape).context("the input is smaller than the kernel")?;
            let planes = input.try_as_plain_ram()?;
            let planes = planes.as_slice::<i8>()?;
            let mut last = vec![0; planes.len()];
            to_last(planes, &mut last, channels);
            let mut result = vec![0; out.iter().product::<usize>() * conv.spec().n_out];
            conv.run_watched(&[&last], shape, (&mut result, self.own.watch.threads()), &|| self.own.watch.step())?;
            filled(&joined_first(out, conv.spec().n_out, self.layer().is_flat), |planes| {
                to_first(&result, planes, conv.spec().n_out, self.own.watch.threads());
                Ok(())
            })
        })
    }
}

impl TypedOp for PlanarConv {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let (shape, _) = split_first(fixed(inputs[0])?)?;
        let spec = self.own.inner.spec();
        let out = spec.output_shape(shape).context("the input is smaller than the kernel")?;
        Ok(tvec!(i8::fact(joined_first(out, spec.n_out, self.layer().is_flat))))
    }

    as_op!();
}

impl Op for FusedConv {
    fn name(&self) -> StaticName {
        "QConv".into()
    }

    op_as_typed_op!();
}

impl EvalOp for FusedConv {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let conv = self.conv();
        self.own.step(|| {
            let shape = self.shape(inputs[0].shape())?;
            let out = conv.spec().output_shape(shape).context("the input is smaller than the kernel")?;
            let views = inputs.iter().map(|input| input.try_as_plain_ram()).collect::<TractResult<Vec<_>>>()?;
            let sources = views.iter().map(|view| view.as_slice::<i8>()).collect::<TractResult<Vec<_>>>()?;
            filled(&joined_last(out, conv.spec().n_out, self.is_flat), |output| {
                Ok(conv.run_watched(&sources, shape, (output, self.own.watch.threads()), &|| self.own.watch.step())?)
            })
        })
    }
}

impl TypedOp for FusedConv {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let spec = self.conv().spec();
        let n_inputs = spec.sources.len() + usize::from(self.conv().has_residual());
        ensure!(inputs.len() == n_inputs, "{} inputs instead of {n_inputs}", inputs.len());
        let shape = self.shape(fixed(inputs[0])?)?;
        for (n, input) in inputs[..spec.sources.len()].iter().enumerate() {
            let (found, channels) = split_last(fixed(input)?)?;
            let fits = spec.source_shape(n, shape) == Some(found) && channels == spec.sources[n].channels;
            ensure!(fits, "source {n} is {found:?} with {channels} channels, and {shape:?} is wanted");
        }
        let out = spec.output_shape(shape).context("the input is smaller than the kernel")?;
        let out = joined_last(out, spec.n_out, self.is_flat);
        for residual in &inputs[spec.sources.len()..] {
            ensure!(fixed(residual)? == out.as_slice(), "a tensor of {residual:?} is added to one of {out:?}");
        }
        Ok(tvec!(i8::fact(out)))
    }

    as_op!();
}

impl Op for ChannelsLast {
    fn name(&self) -> StaticName {
        "ChannelsLast".into()
    }

    op_as_typed_op!();
}

impl EvalOp for ChannelsLast {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        self.0.step(|| {
            let input = args_1!(inputs);
            let (shape, channels) = split_first(input.shape())?;
            let view = input.try_as_plain_ram()?;
            let from = view.as_slice::<i8>()?;
            filled(&joined_last(shape, channels, input.rank() == 4), |to| {
                to_last(from, to, channels);
                Ok(())
            })
        })
    }
}

impl TypedOp for ChannelsLast {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let found = fixed(inputs[0])?;
        let (shape, channels) = split_first(found)?;
        Ok(tvec!(i8::fact(joined_last(shape, channels, found.len() == 4))))
    }

    as_op!();
}

impl Op for ChannelsFirst {
    fn name(&self) -> StaticName {
        "ChannelsFirst".into()
    }

    op_as_typed_op!();
}

impl EvalOp for ChannelsFirst {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        self.0.step(|| {
            let input = args_1!(inputs);
            let (shape, channels) = split_last(input.shape())?;
            let view = input.try_as_plain_ram()?;
            let from = view.as_slice::<i8>()?;
            filled(&joined_first(shape, channels, input.rank() == 4), |to| {
                to_first(from, to, channels, self.0.watch.threads());
                Ok(())
            })
        })
    }
}

impl TypedOp for ChannelsFirst {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let found = fixed(inputs[0])?;
        let (shape, channels) = split_last(found)?;
        Ok(tvec!(i8::fact(joined_first(shape, channels, found.len() == 4))))
    }

    as_op!();
}
