//! The second step of the rewrite: a graph of [`PlanarConv`], [`Sum`], nearest up-sampling and concatenation -> a channels-last graph of [`FusedConv`].

use std::collections::BTreeMap;
use std::sync::Arc;

use tract_core::internal::*;
use tract_core::ops::array::TypedConcat;
use tract_core::ops::nn::resize::NearestUpsample;
use tract_core::ops::source::TypedSource;

use super::{ChannelsFirst, ChannelsLast, FusedConv, PlanarConv, Rewrite, RewriteError, Sum};
use crate::{ConvSpec, QConv, Source};

/// A channels-last tensor of the new graph, as a convolution is to read it.
#[derive(Clone, Debug)]
struct Part {
    outlet: OutletId,
    source: Source,
}

/// Fuses a decluttered graph.
///
/// # Errors
/// [`RewriteError`] naming the node that is neither source, constant, quantised convolution, nearest up-sampling nor concatenation of channels, or
/// whose combination a convolution cannot take.
pub fn fuse(model: &TypedModel, rewrite: &Rewrite) -> Result<TypedModel, RewriteError> {
    let mut fused = TypedModel::default();
    // What stands in the new graph for each outlet of the old one.
    let mut parts = BTreeMap::<usize, Vec<Part>>::new();
    // Convolutions that are to take in a sum, with their inputs.
    let mut waiting = BTreeMap::<usize, Vec<Part>>::new();
    let order = model.eval_order().map_err(|error| RewriteError::new("graph", error))?;
    for id in order {
        let node = model.node(id);
        let refuse = |error: TractError| RewriteError::new(&node.name, format!("{error:#}"));
        let found = if node.op_is::<TypedSource>() {
            vec![source(&mut fused, node, rewrite).map_err(refuse)?]
        } else if let Some(conv) = node.op_as::<PlanarConv>() {
            let input = parts.get(&node.inputs[0].node).cloned().unwrap_or_default();
            if waits_for_sum(model, node) {
                // Wired with the sum, unless that finds that it cannot.
                waiting.insert(id, input);
                continue;
            }
            vec![convolution(&mut fused, node, conv, &input, None, rewrite).map_err(refuse)?]
        } else if let Some(op) = node.op_as::<Sum>() {
            let [a, b] = [0, 1].map(|n| node.inputs[n].node);
            let held = waiting.remove(&a);
            let other = whole(parts.get(&b)).map_err(refuse)?;
            if let Some(input) = held {
                let conv = model.node(a).op_as::<PlanarConv>().context("is none").map_err(refuse)?;
                vec![convolution(&mut fused, model.node(a), conv, &input, Some((op, other)), rewrite).map_err(refuse)?]
            } else {
                let part = whole(parts.get(&a)).map_err(refuse)?;
                let outlets = fused.wire_node(&node.name, op.clone(), &[part.outlet, other.outlet]).map_err(refuse)?;
                vec![Part { outlet: outlets[0], source: part.source }]
            }
        } else if let Some(op) = node.op_as::<NearestUpsample>() {
            let input = parts.get(&node.inputs[0].node).cloned().unwrap_or_default();
            upsampled(&op.scales, input).map_err(refuse)?
        } else if node.op_as::<TypedConcat>().is_some_and(|op| op.axis == 1) {
            node.inputs.iter().flat_map(|input| parts.get(&input.node).cloned().unwrap_or_default()).collect()
        } else if node.op.name() == "Const" {
            continue;
        } else {
            return Err(RewriteError::new(&node.name, format!("is a {}, which would not run in integers here", node.op.name())));
        };
        parts.insert(id, found);
    }
    let mut outputs = Vec::new();
    for outlet in &model.outputs {
        let node = model.node(outlet.node);
        let refuse = |error: TractError| RewriteError::new(&node.name, format!("{error:#}"));
        let Some([Part { outlet, source: Source { repeat: [1, 1, 1], .. } }]) = parts.get(&outlet.node).map(Vec::as_slice) else {
            return Err(RewriteError::new(&node.name, "the output is not that of a convolution"));
        };
        let name = format!("{}.channels-first", node.name);
        let op = ChannelsFirst::new(&name, rewrite.watch.clone());
        outputs.extend(fused.wire_node(&name, op, &[*outlet]).map_err(refuse)?);
    }
    fused.select_output_outlets(&outputs).map_err(|error| RewriteError::new("graph", error))?;
    Ok(fused)
}

fn source(fused: &mut TypedModel, node: &TypedNode, rewrite: &Rewrite) -> TractResult<Part> {
    let fact = node.outputs[0].fact.clone();
    let channels = *fact.shape.as_concrete().and_then(|shape| shape.get(1)).context("has no fixed shape")?;
    let outlet = fused.add_source(&node.name, fact)?;
    let name = format!("{}.channels-last", node.name);
    let outlets = fused.wire_node(&name, ChannelsLast::new(&name, rewrite.watch.clone()), &[outlet])?;
    Ok(Part { outlet: outlets[0], source: Source { channels, repeat: [1; 3] } })
}

/// Whether a convolution's output goes into the first operand of one sum and nowhere else.
fn waits_for_sum(model: &TypedModel, node: &TypedNode) -> bool {
    let [only] = node.outputs[0].successors.as_slice() else { return false };
    let is_output = model.outputs.contains(&OutletId::new(node.id, 0));
    !is_output && only.slot == 0 && model.node(only.node).op_is::<Sum>()
}

/// The one tensor, not up-sampled, that an operand of a sum must be.
fn whole(parts: Option<&Vec<Part>>) -> TractResult<Part> {
    match parts.map(Vec::as_slice) {
        Some([part]) if part.source.repeat == [1; 3] => Ok(part.clone()),
        _ => bail!("adds a tensor that is concatenated or up-sampled; only what a convolution reads can be"),
    }
}

fn upsampled(scales: &[usize], input: Vec<Part>) -> TractResult<Vec<Part>> {
    let factors = match *scales {
        [1, 1, j, i] => [1, j, i],
        [1, 1, k, j, i] => [k, j, i],
        _ => bail!("up-samples by {scales:?}"),
    };
    let repeat = |source: Source| Source { repeat: std::array::from_fn(|axis| source.repeat[axis] * factors[axis]), ..source };
    Ok(input.into_iter().map(|part| Part { source: repeat(part.source), ..part }).collect())
}

fn convolution(
    fused: &mut TypedModel,
    node: &TypedNode,
    op: &PlanarConv,
    input: &[Part],
    sum: Option<(&Sum, Part)>,
    rewrite: &Rewrite,
) -> TractResult<Part> {
    let layer = op.layer();
    let spec = ConvSpec { sources: input.iter().map(|part| part.source).collect(), ..layer.spec.clone() };
    let mut conv = QConv::for_kernel(spec, &layer.weights, &layer.bias, rewrite.kernel)?;
    let mut outlets: Vec<OutletId> = input.iter().map(|part| part.outlet).collect();
    if let Some((sum, other)) = sum {
        conv = conv.with_residual(sum.add().clone());
        outlets.push(other.outlet);
    }
    let source = Source { channels: layer.spec.n_out, repeat: [1; 3] };
    let op = FusedConv::new(&node.name, Arc::new(conv), layer.is_flat, rewrite.watch.clone());
    Ok(Part { outlet: fused.wire_node(&node.name, op, &outlets)?[0], source })
}
