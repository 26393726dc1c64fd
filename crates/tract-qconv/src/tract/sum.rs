//! A `QuantizeLinear` of an `Add` of two `DequantizeLinear` -> a [`Sum`] of two int8 tensors of one shape, in any layout.

use std::sync::Arc;

use tract_core::internal::*;
use tract_core::ops::binary::TypedBinOp;
use tract_core::ops::element_wise::ElementWiseOp;
use tract_core::ops::math::Add;
use tract_core::ops::quant::{DequantizeLinearF32, QuantizeLinearI8};

use super::ops::{Own, filled, fixed};
use super::{Rewrite, RewriteError};
use crate::{QAdd, Quantisation};

/// The sum of two int8 tensors of one shape, channels first or last.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sum(Own<QAdd>);

impl Sum {
    pub(super) fn add(&self) -> &Arc<QAdd> {
        &self.0.inner
    }
}

/// Replaces each sum; gives how many there were. For a graph as `into_typed` gives it.
///
/// tract keeps the reciprocal of a scale of `QuantizeLinear`; where that is not exact, the scale comes back with an error of its last bit, which
/// can move a sum that lies halfway between two steps.
///
/// # Errors
/// [`RewriteError`] when tract does not take the new operator.
pub fn replace_sums(model: &mut TypedModel, rewrite: &Rewrite) -> Result<usize, RewriteError> {
    let mut n = 0;
    for id in 0..model.nodes.len() {
        // Looked at one after the other: an earlier replacement may have given this one other inputs.
        let node = model.node(id);
        let Some((inputs, add)) = sum(model, node) else { continue };
        n += 1;
        let name = node.name.clone();
        let op = Sum(Own::new(&name, rewrite.watch.clone(), Arc::new(add)));
        TypedModelPatch::replace_single_op(model, node, &inputs, op)
            .and_then(|patch| patch.apply(model))
            .map_err(|error| RewriteError::new(&name, format!("this sum {error:#}")))?;
    }
    Ok(n)
}

/// What a node adds, if it is the end of a sum.
fn sum(model: &TypedModel, node: &TypedNode) -> Option<([OutletId; 2], QAdd)> {
    let end = node.op_as::<ElementWiseOp>()?.0.downcast_ref::<QuantizeLinearI8>()?;
    let add = model.node(node.inputs.first()?.node);
    add.op_as::<TypedBinOp>()?.0.downcast_ref::<Add>()?;
    let [a, b] = *add.inputs.as_slice() else { return None };
    let operand = |outlet: OutletId| {
        let node = model.node(outlet.node);
        let op = node.op_as::<DequantizeLinearF32>()?;
        let input = *node.inputs.first()?;
        let is_int8 = model.outlet_fact(input).ok()?.datum_type == i8::datum_type();
        let zero_point = i8::try_from(op.zero_point).ok()?;
        is_int8.then_some((input, Quantisation { scale: op.scale, zero_point }))
    };
    let ((a, a_quantisation), (b, b_quantisation)) = (operand(a)?, operand(b)?);
    let of_one_shape = model.outlet_fact(a).ok()?.shape == model.outlet_fact(b).ok()?.shape;
    let y = Quantisation { scale: end.scale.recip(), zero_point: end.zero_point };
    of_one_shape.then(|| ([a, b], QAdd::new(a_quantisation, b_quantisation, y)))
}

impl Op for Sum {
    fn name(&self) -> StaticName {
        "QAdd".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Sum {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        self.0.step(|| {
            let (a, b) = args_2!(inputs);
            let (first, second) = (a.try_as_plain_ram()?, b.try_as_plain_ram()?);
            filled(a.shape(), |to| {
                to.copy_from_slice(first.as_slice::<i8>()?);
                self.0.inner.add(to, second.as_slice::<i8>()?);
                Ok(())
            })
        })
    }
}

impl TypedOp for Sum {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        ensure!(fixed(inputs[0])? == fixed(inputs[1])?, "tensors of {:?} and {:?} are added", inputs[0], inputs[1]);
        Ok(tvec!(inputs[0].without_value()))
    }

    as_op!();
}
