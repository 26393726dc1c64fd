//! A quantised `Conv` node of tract -> its specification, weights and bias; and the first step of the rewrite.

use std::sync::Arc;

use tract_core::internal::*;
use tract_core::ops::cnn::conv::{Conv, KernelFormat};
use tract_core::ops::nn::DataFormat;

use super::{PlanarConv, Rewrite, RewriteError};
use crate::{ConvSpec, QConv, Quantisation, Source};

/// A convolution as the graph has it.
#[derive(Debug)]
pub(super) struct Layer {
    /// One source, all input channels.
    pub(super) spec: ConvSpec,
    /// `[n_out, n_in, k, j, i]`.
    pub(super) weights: Vec<i8>,
    /// `[n_out]`.
    pub(super) bias: Vec<i32>,
    /// Whether the graph's tensors have two axes instead of three.
    pub(super) is_flat: bool,
}

/// Replaces each quantised convolution by a [`PlanarConv`]; gives how many there were. For a graph as `into_typed` gives it: later passes of tract take
/// quantised convolutions apart.
///
/// # Errors
/// [`RewriteError`] naming the convolution that this crate cannot run: groups, dilation, unsigned tensors, a batch, several zero points.
pub fn replace_convolutions(model: &mut TypedModel, rewrite: &Rewrite) -> Result<usize, RewriteError> {
    let is_quantised = |node: &&TypedNode| node.op_as::<Conv>().is_some_and(|conv| conv.q_params.is_some());
    let found: Vec<usize> = model.nodes.iter().filter(is_quantised).map(|node| node.id).collect();
    for &id in &found {
        let node = model.node(id);
        let name = node.name.clone();
        let refuse = |error: TractError| RewriteError::new(&name, format!("this convolution {error:#}"));
        let layer = layer(model, node).map_err(refuse)?;
        let conv = QConv::for_kernel(layer.spec.clone(), &layer.weights, &layer.bias, rewrite.kernel)
            .map_err(|error| RewriteError::new(&name, error))?;
        let op = PlanarConv::new(&name, Arc::new(layer), Arc::new(conv), rewrite.watch.clone());
        TypedModelPatch::replace_single_op(model, node, &[node.inputs[0]], op)
            .and_then(|patch| patch.apply(model))
            .map_err(refuse)?;
    }
    Ok(found.len())
}

/// Quantisation of the input (`false`) or output (`true`) of a quantised convolution; `None` for any other node.
///
/// # Errors
/// [`RewriteError`] when it has not one constant scale and zero point.
pub fn node_quantisation(model: &TypedModel, node: &TypedNode, of_output: bool) -> Result<Option<Quantisation>, RewriteError> {
    if node.op_as::<Conv>().is_none_or(|conv| conv.q_params.is_none()) {
        return Ok(None);
    }
    let read = per_tensor(model, node, if of_output { 7 } else { 3 });
    read.map(Some).map_err(|error| RewriteError::new(&node.name, format!("this convolution {error:#}")))
}

/// Inputs of the node: x, weights, bias, then zero point and scale of x, weights, y.
fn layer(model: &TypedModel, node: &TypedNode) -> TractResult<Layer> {
    let conv = node.op_as::<Conv>().context("is none")?;
    let pool = &conv.pool_spec;
    ensure!(conv.group == 1, "has {} groups", conv.group);
    ensure!(conv.kernel_fmt == KernelFormat::OIHW && pool.data_format == DataFormat::NCHW, "is not in the order of ONNX");
    ensure!(pool.dilations().iter().all(|d| *d == 1), "is dilated");
    ensure!(conv.q_params == Some(i8::datum_type()), "does not put out int8");
    let input = model.outlet_fact(node.inputs[0])?;
    let shape = input.shape.as_concrete().context("has an input without a fixed shape")?;
    let is_flat = shape.len() == 4;
    ensure!(
        (is_flat || shape.len() == 5) && shape[0] == 1 && input.datum_type == i8::datum_type(),
        "has an input that is not int8 [1, channels, (k,) j, i]"
    );
    // A 2D convolution is a 3D one with a single k.
    let axes = |values: &[usize], k: usize| -> TractResult<[usize; 3]> {
        match values {
            [j, i] => Ok([k, *j, *i]),
            [k, j, i] => Ok([*k, *j, *i]),
            _ => bail!("has {} axes", values.len()),
        }
    };
    let (pad_before, pad_after): (Vec<usize>, Vec<usize>) =
        pool.computed_padding(&shape[2..]).iter().map(|p| (p.pad_before, p.pad_after)).unzip();
    let w_scales = constant(model, input_at(node, 6)?, 0)?;
    let w_zero_points = constant(model, input_at(node, 5)?, 0)?.cast_to::<i32>()?.into_owned();
    let w_zero_points = w_zero_points.try_as_plain_ram()?.as_slice::<i32>()?.to_vec();
    let w_zero_point = *w_zero_points.first().context("has no zero point of the weights")?;
    ensure!(w_zero_points.iter().all(|zero| *zero == w_zero_point), "has several zero points of the weights");
    let spec = ConvSpec {
        sources: vec![Source { channels: pool.input_channels, repeat: [1; 3] }],
        n_out: pool.output_channels,
        kernel: axes(&pool.kernel_shape, 1)?,
        stride: axes(&pool.strides(), 1)?,
        pad_before: axes(&pad_before, 0)?,
        pad_after: axes(&pad_after, 0)?,
        x: per_tensor(model, node, 3)?,
        w_scales: w_scales.cast_to::<f32>()?.try_as_plain_ram()?.as_slice::<f32>()?.to_vec(),
        w_zero_point: i8::try_from(w_zero_point).context("has weights that are not of int8")?,
        y: per_tensor(model, node, 7)?,
    };
    let weights = constant(model, node.inputs[1], 0)?;
    let weights = weights.try_as_plain_ram()?.as_slice::<i8>()?.to_vec();
    let bias = constant(model, node.inputs[2], 0)?.cast_to::<i32>()?.into_owned();
    let bias = bias.try_as_plain_ram()?.as_slice::<i32>()?.to_vec();
    // No bias, or one value for all channels, comes as a scalar.
    let bias = if bias.len() == 1 { vec![bias[0]; spec.n_out] } else { bias };
    Ok(Layer { spec, weights, bias, is_flat })
}

fn input_at(node: &TypedNode, at: usize) -> TractResult<OutletId> {
    node.inputs.get(at).copied().context("has no quantisation")
}

/// Zero point at input `at`, scale behind it; one for the whole tensor.
fn per_tensor(model: &TypedModel, node: &TypedNode, at: usize) -> TractResult<Quantisation> {
    let zero_point = constant(model, input_at(node, at)?, 0)?;
    let scale = constant(model, input_at(node, at + 1)?, 0)?;
    ensure!(zero_point.len() == 1 && scale.len() == 1, "has one scale per channel of a tensor");
    let zero_point = i8::try_from(zero_point.cast_to_scalar::<i32>()?).context("has a zero point that is not of int8")?;
    Ok(Quantisation { scale: scale.cast_to_scalar::<f32>()?, zero_point })
}

/// Longest chain of casts and reshapes in front of a constant.
const CHAIN_MAX: usize = 8;

/// The value of an outlet that depends on constants alone.
fn constant(model: &TypedModel, outlet: OutletId, depth: usize) -> TractResult<Arc<Tensor>> {
    if let Some(value) = &model.outlet_fact(outlet)?.konst {
        return Ok(value.clone());
    }
    let node = model.node(outlet.node);
    ensure!(depth < CHAIN_MAX && !node.inputs.is_empty(), "has an input {} that is not constant", node.name);
    let inputs: TVec<TValue> =
        node.inputs.iter().map(|input| Ok(constant(model, *input, depth + 1)?.into_tvalue())).collect::<TractResult<_>>()?;
    let values = node.op.eval_out_of_plan(inputs)?.with_context(|| format!("has an input {} that is not constant", node.name))?;
    values.into_iter().nth(outlet.slot).map(TValue::into_arc_tensor).context("has an input that is not there")
}
