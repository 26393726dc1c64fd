//! Engine on tract: an ONNX network in integers -> a plan whose convolutions and up-samplings are our own operators; the only file that knows tract.
//!
//! Loading: parse, infer types, replace each quantised convolution by [`QConv`] and each nearest up-sampling by [`upsample`], then refuse
//! whatever is neither of these nor a concatenation, so that nothing runs in floating point or slowly without a word. Running: one study at a
//! time; before each of its own operators the engine looks at the clock and at the cancel flag.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::cnn::conv::{Conv, KernelFormat};
use tract_onnx::tract_core::ops::nn::DataFormat;
use tract_onnx::tract_core::ops::nn::resize::NearestUpsample;

use crate::domain::{Findings, ModelSpec, PreparedStudy, Quantisation};

use super::control::{Control, EngineOptions, LayerTime};
use super::engine::{Cancel, Engine, EngineError};
use super::package::ModelPackage;
use super::qconv::{ConvSpec, QConv};

/// tract with our own integer operators.
pub struct TractEngine {
    plan: Arc<TypedRunnableModel>,
    spec: ModelSpec,
    control: Arc<Control>,
}

impl TractEngine {
    /// Loads the package's network.
    ///
    /// # Errors
    /// [`EngineError::Load`] when the file is no network, [`EngineError::Unsupported`] naming the operator that cannot run in integers here,
    /// [`EngineError::WrongShape`] when network and manifest disagree.
    pub fn new(package: &ModelPackage, options: EngineOptions) -> Result<Self, EngineError> {
        let control = Arc::new(Control::new(options));
        // tract may panic on a malformed graph; a bad file must cost no more than an error.
        let plan = catch_unwind(AssertUnwindSafe(|| plan(package, &control)))
            .unwrap_or_else(|_| Err(EngineError::Load("the parser gave up on it".to_owned())))?;
        Ok(Self { plan, spec: package.spec.clone(), control })
    }

    /// Runs every golden case of the package; the outputs must agree to the last bit.
    ///
    /// # Errors
    /// [`EngineError::Golden`] naming the case and the first value that differs.
    pub fn self_test(&mut self, package: &ModelPackage) -> Result<(), EngineError> {
        for golden in &package.goldens {
            let fail = |problem: String| EngineError::Golden { name: golden.name.clone(), problem };
            let (input, expected) = package.golden_tensors(golden).map_err(|fault| fail(fault.to_string()))?;
            self.control.set_budget(None);
            let output = self.run_raw(&input)?;
            let differing = output.iter().zip(&expected).filter(|(a, b)| a != b).count();
            if let Some(first) = output.iter().zip(&expected).position(|(a, b)| a != b) {
                return Err(fail(format!("{differing} of {} values differ, the first at {first}", expected.len())));
            }
        }
        Ok(())
    }

    /// Runs the first golden input `n` times (at least once); gives the median time of the whole and of each operator, in order.
    ///
    /// # Errors
    /// As [`Self::self_test`].
    pub fn bench(&mut self, package: &ModelPackage, n: usize) -> Result<(Duration, Vec<LayerTime>), EngineError> {
        let golden =
            package.goldens.first().ok_or_else(|| EngineError::Failed("the package has no golden case to run".to_owned()))?;
        let (input, _) = package.golden_tensors(golden).map_err(|fault| EngineError::Failed(fault.to_string()))?;
        self.control.set_budget(None);
        self.control.bench(n, || self.run_raw(&input).map(|_| ()))
    }

    /// Runs the network on a raw int8 tensor `[channels, k, j, i]`; gives `[output channels, k, j, i]`.
    ///
    /// # Errors
    /// [`EngineError::WrongShape`], [`EngineError::Deadline`] when stopped, [`EngineError::Failed`].
    fn run_raw(&self, input: &[i8]) -> Result<Vec<i8>, EngineError> {
        let failed = |e: TractError| EngineError::Failed(format!("{e:#}"));
        let [n_k, n_j, n_i] = self.spec.shape_kji;
        let tensor = Tensor::from_shape(&[1, self.spec.channels.len(), n_k, n_j, n_i], input)
            .map_err(|e| EngineError::WrongShape(format!("the input tensor: {e}")))?;
        self.control.begin();
        let result = self.plan.run(tvec!(tensor.into_tvalue()));
        if self.control.has_stopped() {
            return Err(EngineError::Deadline { budget_ms: self.control.budget_ms() });
        }
        let outputs = result.map_err(failed)?;
        let output = outputs.first().ok_or_else(|| EngineError::Failed("the network gave no output".to_owned()))?;
        let values = output.try_as_plain_ram().and_then(|view| view.as_slice::<i8>().map(<[i8]>::to_vec)).map_err(failed)?;
        let n = self.spec.output_channels.len() * n_k * n_j * n_i;
        if values.len() == n {
            Ok(values)
        } else {
            Err(EngineError::WrongShape(format!("{} output values instead of {n}", values.len())))
        }
    }
}

impl Engine for TractEngine {
    fn run(&mut self, study: &PreparedStudy, budget: Duration) -> Result<Findings, EngineError> {
        let (input, inputs) = super::tensors::quantise(study, &self.spec)?;
        let start = self.control.set_budget(Some(budget));
        let output = self.run_raw(&input)?;
        let infer_ms = u64::try_from(self.control.now().saturating_sub(start).as_millis()).unwrap_or(u64::MAX);
        super::tensors::findings(&output, study.grid.clone(), inputs, infer_ms, &self.spec)
    }

    fn cancel(&self) -> Cancel {
        self.control.cancel()
    }
}

// ---- from the file to the plan ----

fn plan(package: &ModelPackage, control: &Arc<Control>) -> Result<Arc<TypedRunnableModel>, EngineError> {
    let load = |e: TractError| EngineError::Load(format!("{e:#}"));
    let mut model = tract_onnx::onnx()
        .model_for_read(&mut std::io::Cursor::new(package.network()))
        .and_then(|model| model.into_typed())
        .map_err(load)?;
    check_shapes(&model, &package.spec)?;
    check_quantisation(&model, &package.spec)?;
    replace_convolutions(&mut model, control)?;
    let mut model = model.into_decluttered().map_err(load)?;
    replace_upsampling(&mut model, control)?;
    model.compact().map_err(load)?; // drops what was replaced
    for node in &model.nodes {
        let name = node.op.name();
        if !["Source", "Const", "QConv3d", "Upsample3d", "Concat"].contains(&name.as_ref()) {
            return Err(EngineError::Unsupported(format!(
                "node {} is a {name}, which would not run in integers here",
                node.name
            )));
        }
    }
    model.into_runnable().map_err(load)
}

/// Input int8 `[1, channels, k, j, i]`, output int8 `[1, output channels, k, j, i]`, one of each.
fn check_shapes(model: &TypedModel, spec: &ModelSpec) -> Result<(), EngineError> {
    let [n_k, n_j, n_i] = spec.shape_kji;
    let sides = [
        ("input", model.inputs.as_slice(), spec.channels.len()),
        ("output", model.outputs.as_slice(), spec.output_channels.len()),
    ];
    for (side, outlets, n_channels) in sides {
        let wanted = [1, n_channels, n_k, n_j, n_i];
        let fact = match outlets {
            [one] => model.outlet_fact(*one).map_err(|e| EngineError::Load(format!("{e:#}")))?,
            _ => return Err(EngineError::WrongShape(format!("the network has {} {side}s instead of one", outlets.len()))),
        };
        if fact.shape.as_concrete() != Some(&wanted) || fact.datum_type != i8::datum_type() {
            return Err(EngineError::WrongShape(format!(
                "the network's {side} is {fact:?}, and the manifest says int8 {wanted:?}"
            )));
        }
    }
    Ok(())
}

/// The manifest's input and output quantisation are those of the network.
fn check_quantisation(model: &TypedModel, spec: &ModelSpec) -> Result<(), EngineError> {
    let unsupported = |e: TractError| EngineError::Unsupported(format!("{e:#}"));
    let agrees = |side: &str, found: Quantisation, wanted: Quantisation| {
        if found == wanted {
            Ok(())
        } else {
            Err(EngineError::WrongShape(format!("the network's {side} has {found:?}, the manifest {wanted:?}")))
        }
    };
    for node in &model.nodes {
        if node.op_as::<Conv>().is_none_or(|conv| conv.q_params.is_none()) {
            continue;
        }
        if model.inputs.contains(&node.inputs[0]) {
            agrees("input", quantisation(model, node, 3).map_err(unsupported)?, spec.input_quantisation)?;
        }
        if model.outputs.contains(&OutletId::new(node.id, 0)) {
            agrees("output", quantisation(model, node, 7).map_err(unsupported)?, spec.output_quantisation)?;
        }
    }
    Ok(())
}

fn replace_convolutions(model: &mut TypedModel, control: &Arc<Control>) -> Result<(), EngineError> {
    let quantised: Vec<usize> = model
        .nodes
        .iter()
        .filter(|node| node.op_as::<Conv>().is_some_and(|conv| conv.q_params.is_some()))
        .map(|node| node.id)
        .collect();
    for id in quantised {
        let unsupported = |name: &str, e: TractError| EngineError::Unsupported(format!("convolution {name}: {e:#}"));
        let node = model.node(id);
        let name = node.name.clone();
        let conv = convolution(model, node).map_err(|e| unsupported(&name, e))?;
        let op = QConv3d(Own { name: name.clone(), control: control.clone(), inner: Arc::new(conv) });
        TypedModelPatch::replace_single_op(model, node, &[node.inputs[0]], op)
            .and_then(|patch| patch.apply(model))
            .map_err(|e| unsupported(&name, e))?;
    }
    Ok(())
}

/// A quantised convolution node as our own. Its inputs: x, weights, bias, then zero point and scale of x, weights, y.
fn convolution(model: &TypedModel, node: &TypedNode) -> TractResult<QConv> {
    let conv = node.op_as::<Conv>().context("no convolution")?;
    let pool = &conv.pool_spec;
    ensure!(conv.group == 1, "has {} groups", conv.group);
    ensure!(conv.kernel_fmt == KernelFormat::OIHW && pool.data_format == DataFormat::NCHW, "is not in the order of ONNX");
    ensure!(pool.dilations().iter().all(|d| *d == 1), "is dilated");
    ensure!(conv.q_params == Some(i8::datum_type()), "does not put out int8");
    let input = model.outlet_fact(node.inputs[0])?;
    let shape = input.shape.as_concrete().context("the input has no fixed shape")?;
    ensure!(
        shape.len() == 5 && shape[0] == 1 && input.datum_type == i8::datum_type(),
        "the input is not int8 [1, channels, k, j, i]"
    );
    let axes = |values: &[usize]| <[usize; 3]>::try_from(values).map_err(|_| format_err!("has not three axes"));
    let padding = pool.computed_padding(&shape[2..]);
    let pads: Vec<(usize, usize)> = padding.iter().map(|p| (p.pad_before, p.pad_after)).collect();
    let spec = ConvSpec {
        n_in: pool.input_channels,
        n_out: pool.output_channels,
        kernel: axes(&pool.kernel_shape)?,
        stride: axes(&pool.strides())?,
        pad_before: axes(&pads.iter().map(|p| p.0).collect::<Vec<_>>())?,
        pad_after: axes(&pads.iter().map(|p| p.1).collect::<Vec<_>>())?,
        x: quantisation(model, node, 3)?,
        w: quantisation(model, node, 5)?,
        y: quantisation(model, node, 7)?,
    };
    let weights = constant(model, node.inputs[1], 0)?;
    let bias = constant(model, node.inputs[2], 0)?.cast_to::<i32>()?.into_owned();
    let bias = bias.try_as_plain_ram()?.as_slice::<i32>()?.to_vec();
    // No bias, or one value for all channels, comes as a scalar.
    let bias = if bias.len() == 1 { vec![bias[0]; spec.n_out] } else { bias };
    Ok(QConv::try_new(spec, weights.try_as_plain_ram()?.as_slice::<i8>()?, &bias)?)
}

/// Zero point at input `at`, scale behind it; one for the whole tensor.
fn quantisation(model: &TypedModel, node: &TypedNode, at: usize) -> TractResult<Quantisation> {
    let input = |at: usize| node.inputs.get(at).copied().context("has no quantisation");
    let zero_point = constant(model, input(at)?, 0)?;
    let scale = constant(model, input(at + 1)?, 0)?;
    ensure!(zero_point.len() == 1 && scale.len() == 1, "has one scale per channel; one per tensor is needed");
    let zero_point = i8::try_from(zero_point.cast_to_scalar::<i32>()?).context("the zero point is not of int8")?;
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
    ensure!(depth < CHAIN_MAX && !node.inputs.is_empty(), "{} is not constant", node.name);
    let inputs: TVec<TValue> =
        node.inputs.iter().map(|input| Ok(constant(model, *input, depth + 1)?.into_tvalue())).collect::<TractResult<_>>()?;
    let values = node.op.eval_out_of_plan(inputs)?.with_context(|| format!("{} is not constant", node.name))?;
    values.into_iter().nth(outlet.slot).map(TValue::into_arc_tensor).context("the outlet is not there")
}

fn replace_upsampling(model: &mut TypedModel, control: &Arc<Control>) -> Result<(), EngineError> {
    let found: Vec<usize> = model.nodes.iter().filter(|node| node.op_is::<NearestUpsample>()).map(|node| node.id).collect();
    for id in found {
        let node = model.node(id);
        let name = node.name.clone();
        let factors = node.op_as::<NearestUpsample>().map(|op| op.scales.to_vec());
        let Some([1, 1, f_k, f_j, f_i]) = factors.as_deref() else {
            return Err(EngineError::Unsupported(format!("up-sampling {name} by {factors:?}")));
        };
        let op = Upsample3d(Own { name: name.clone(), control: control.clone(), inner: Arc::new([*f_k, *f_j, *f_i]) });
        TypedModelPatch::replace_single_op(model, node, &[node.inputs[0]], op)
            .and_then(|patch| patch.apply(model))
            .map_err(|e| EngineError::Unsupported(format!("up-sampling {name}: {e:#}")))?;
    }
    Ok(())
}

// ---- our operators as tract sees them ----

/// What each of our operators holds. Two are equal only when they are the same object.
struct Own<T> {
    name: String,
    control: Arc<Control>,
    inner: Arc<T>,
}

impl<T> Clone for Own<T> {
    fn clone(&self) -> Self {
        Self { name: self.name.clone(), control: self.control.clone(), inner: self.inner.clone() }
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

/// The quantised convolution.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct QConv3d(Own<QConv>);

/// The nearest up-sampling.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Upsample3d(Own<[usize; 3]>);

/// Runs one operator, unless it is too late.
fn step<T>(control: &Control, name: &str, run: impl FnOnce() -> TractResult<T>) -> TractResult<T> {
    control.step(name, run).unwrap_or_else(|| bail!("stopped before {name}"))
}

/// Shape of a `[1, channels, k, j, i]` tensor behind its first axis.
fn volume_shape(shape: &[usize]) -> TractResult<(usize, [usize; 3])> {
    match shape {
        [1, n_channels, n_k, n_j, n_i] => Ok((*n_channels, [*n_k, *n_j, *n_i])),
        _ => bail!("{shape:?} is not [1, channels, k, j, i]"),
    }
}

fn volume_fact(
    input: &TypedFact,
    shape: impl FnOnce(usize, [usize; 3]) -> Option<(usize, [usize; 3])>,
) -> TractResult<TVec<TypedFact>> {
    let (n_channels, volume) = volume_shape(input.shape.as_concrete().context("the input has no fixed shape")?)?;
    let (n_channels, [n_k, n_j, n_i]) = shape(n_channels, volume).context("the input is smaller than the kernel")?;
    Ok(tvec!(i8::fact([1, n_channels, n_k, n_j, n_i])))
}

impl Op for QConv3d {
    fn name(&self) -> StaticName {
        "QConv3d".into()
    }

    op_as_typed_op!();
}

impl EvalOp for QConv3d {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let Own { name, control, inner: conv } = &self.0;
        step(control, name, || {
            let input = args_1!(inputs);
            let (_, shape) = volume_shape(input.shape())?;
            let output = conv.run(input.try_as_plain_ram()?.as_slice::<i8>()?, shape, control.threads())?;
            let [n_k, n_j, n_i] = conv.output_shape(shape).context("the input is smaller than the kernel")?;
            Ok(tvec!(Tensor::from_shape(&[1, conv.spec().n_out, n_k, n_j, n_i], &output)?.into_tvalue()))
        })
    }
}

impl TypedOp for QConv3d {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let conv = &self.0.inner;
        volume_fact(inputs[0], |_, shape| Some((conv.spec().n_out, conv.output_shape(shape)?)))
    }

    as_op!();
}

impl Op for Upsample3d {
    fn name(&self) -> StaticName {
        "Upsample3d".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Upsample3d {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let Own { name, control, inner: factors } = &self.0;
        step(control, name, || {
            let input = args_1!(inputs);
            let (n_channels, shape) = volume_shape(input.shape())?;
            let output = super::upsample::upsample(input.try_as_plain_ram()?.as_slice::<i8>()?, n_channels, shape, **factors)
                .context("the tensor does not have the length of its shape")?;
            let [n_k, n_j, n_i]: [usize; 3] = std::array::from_fn(|axis| shape[axis] * factors[axis]);
            Ok(tvec!(Tensor::from_shape(&[1, n_channels, n_k, n_j, n_i], &output)?.into_tvalue()))
        })
    }
}

impl TypedOp for Upsample3d {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let factors = &self.0.inner;
        volume_fact(inputs[0], |n, shape| Some((n, std::array::from_fn(|axis| shape[axis] * factors[axis]))))
    }

    as_op!();
}
