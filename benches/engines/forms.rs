//! Forms: the shipped integer network (ONNX, QLinearConv + Resize + Concat) -> the same network as other runtimes want it, and its layers'
//! multiply-adds and bytes. Everything is derived when the benchmark runs, from the one file, so that all contenders do the same work.
//!
//! - `Integer`: as shipped, int8 activations (ONNX Runtime's QOperator s8s8).
//! - `IntegerU8`: the same integers with uint8 activations (zero points + 128): the form that ONNX Runtime's x86 kernels are made for.
//! - `Float`: weights and bias dequantised into a plain `Conv`, and a `Relu` where the integer layer's zero point of -128 is one.
//! - `FloatGather`: the same with nearest up-sampling as `Gather`, which tract does faster than `Resize`.
//! - `Qdq`, `QdqU8`: the package's QDQ twin as it is, and with uint8 activations.

use std::collections::BTreeMap;

use prost::Message;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TensorShapeProto, ValueInfoProto, type_proto,
};

use crate::Failure;

/// ONNX's numbers for element types (onnx.proto, `TensorProto.DataType`).
const FLOAT: i32 = 1;
const UINT8: i32 = 2;
const INT8: i32 = 3;
const INT64: i32 = 7;

/// How a network is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Integer,
    IntegerU8,
    Float,
    FloatGather,
    Qdq,
    QdqU8,
}

impl Form {
    /// Whether it starts from the QDQ twin.
    pub(crate) fn is_of_the_twin(self) -> bool {
        matches!(self, Self::Qdq | Self::QdqU8)
    }

    /// Whether input and output are float.
    pub(crate) fn is_float_outside(self) -> bool {
        !matches!(self, Self::Integer | Self::IntegerU8)
    }
}

/// The network's file in another form and, where `grid` is given, on another grid (it is fully convolutional).
pub(crate) fn derive(file: &[u8], form: Form, grid: Option<[usize; 3]>) -> Result<Vec<u8>, Failure> {
    let mut model = ModelProto::decode(file)?;
    let graph = model.graph.as_mut().ok_or("the network has no graph")?;
    if let Some(grid) = grid {
        set_grid(graph, grid)?;
    }
    match form {
        Form::Integer | Form::Qdq => {}
        Form::IntegerU8 | Form::QdqU8 => unsigned_activations(graph, form == Form::IntegerU8)?,
        Form::Float | Form::FloatGather => {
            let shapes = shapes(graph)?;
            float(graph)?;
            if form == Form::FloatGather {
                gather_upsampling(graph, &shapes)?;
            }
        }
    }
    graph.value_info.clear(); // shapes and types of the inner tensors are those of the old form
    Ok(model.encode_to_vec())
}

/// What one layer has to do at least.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    /// The node's name.
    pub(crate) name: String,
    /// Multiply-adds; 0 where nothing is multiplied.
    pub(crate) macs: u64,
    /// Bytes of int8 input, weights and output, each touched once.
    pub(crate) bytes: u64,
}

/// The layers of the integer network, in order.
pub(crate) fn layers(file: &[u8], grid: Option<[usize; 3]>) -> Result<Vec<Layer>, Failure> {
    let mut model = ModelProto::decode(file)?;
    let graph = model.graph.as_mut().ok_or("the network has no graph")?;
    if let Some(grid) = grid {
        set_grid(graph, grid)?;
    }
    let shapes = shapes(graph)?;
    let size = |name: &String| shapes.get(name).map_or(0, |shape| shape.iter().product::<u64>());
    let layer = |node: &NodeProto| {
        let out = node.output.first().map_or(0, size);
        let read: u64 = node.input.iter().map(size).sum();
        let weights = weights_of(graph, node).map_or(0, |w| w.dims.iter().map(|d| d.unsigned_abs()).product::<u64>());
        let per_voxel = weights_of(graph, node).map_or(0, |w| w.dims.iter().skip(1).map(|d| d.unsigned_abs()).product());
        Layer { name: node.name.clone(), macs: out * per_voxel, bytes: read + weights + out }
    };
    Ok(graph.node.iter().map(layer).collect())
}

fn weights_of<'a>(graph: &'a GraphProto, node: &NodeProto) -> Option<&'a TensorProto> {
    (node.op_type == "QLinearConv").then(|| node.input.get(3).and_then(|name| constant(graph, name).ok()))?
}

fn constant<'a>(graph: &'a GraphProto, name: &str) -> Result<&'a TensorProto, Failure> {
    graph.initializer.iter().find(|tensor| tensor.name == name).ok_or_else(|| format!("{name} is not a constant").into())
}

fn scalar_f32(graph: &GraphProto, name: &str) -> Result<f32, Failure> {
    let bytes = constant(graph, name)?.raw_data.first_chunk::<4>().ok_or_else(|| format!("{name} is not a float"))?;
    Ok(f32::from_le_bytes(*bytes))
}

/// An int8 zero point.
fn scalar_i8(graph: &GraphProto, name: &str) -> Result<i8, Failure> {
    let bytes = &constant(graph, name)?.raw_data;
    Ok(bytes.first().ok_or_else(|| format!("{name} is empty"))?.cast_signed())
}

fn ints<'a>(node: &'a NodeProto, name: &str) -> &'a [i64] {
    node.attribute.iter().find(|attribute| attribute.name == name).map_or(&[], |attribute| &attribute.ints)
}

fn sides(value: &mut ValueInfoProto) -> Result<&mut type_proto::Tensor, Failure> {
    match value.r#type.as_mut().and_then(|kind| kind.value.as_mut()) {
        Some(type_proto::Value::TensorType(tensor)) => Ok(tensor),
        None => Err(format!("{} is no tensor", value.name).into()),
    }
}

fn set_grid(graph: &mut GraphProto, grid: [usize; 3]) -> Result<(), Failure> {
    for value in graph.input.iter_mut().chain(&mut graph.output) {
        let shape = sides(value)?.shape.get_or_insert_with(TensorShapeProto::default);
        for (dim, &n) in shape.dim.iter_mut().skip(2).zip(&grid) {
            *dim = Dimension { value: Some(dimension::Value::DimValue(i64::try_from(n)?)), ..Dimension::default() };
        }
    }
    graph.value_info.clear();
    Ok(())
}

/// Shape of the input and of every node's output: `[channels, k, j, i]`.
fn shapes(graph: &mut GraphProto) -> Result<BTreeMap<String, Vec<u64>>, Failure> {
    let mut shapes = BTreeMap::new();
    for value in &mut graph.input {
        let name = value.name.clone();
        let dims = sides(value)?.shape.as_ref().map_or(&[][..], |shape| &shape.dim);
        let sizes: Vec<u64> = dims
            .iter()
            .skip(1)
            .filter_map(|dim| match dim.value {
                Some(dimension::Value::DimValue(n)) => Some(n.unsigned_abs()),
                _ => None,
            })
            .collect();
        shapes.insert(name, sizes);
    }
    let graph = &*graph;
    for node in &graph.node {
        let input = |at: usize| {
            let name = node.input.get(at).ok_or_else(|| format!("{} lacks an input", node.name))?;
            shapes.get(name).cloned().ok_or_else(|| format!("the shape of {name} is not known"))
        };
        let shape: Vec<u64> = match node.op_type.as_str() {
            "QLinearConv" => {
                let weights = weights_of(graph, node).ok_or("a convolution has no weights")?;
                let (kernel, stride, pads) = (ints(node, "kernel_shape"), ints(node, "strides"), ints(node, "pads"));
                let sides = input(0)?.into_iter().skip(1).zip(kernel).zip(stride).enumerate().map(|(axis, ((n, taps), step))| {
                    let padded = n + pads[axis].unsigned_abs() + pads[axis + kernel.len()].unsigned_abs();
                    (padded - taps.unsigned_abs()) / step.unsigned_abs() + 1
                });
                std::iter::once(weights.dims[0].unsigned_abs()).chain(sides).collect()
            }
            "Resize" => input(0)?.into_iter().enumerate().map(|(axis, n)| if axis == 0 { n } else { 2 * n }).collect(),
            "Concat" => {
                let mut shape = input(0)?;
                shape[0] += input(1)?[0];
                shape
            }
            other => return Err(format!("node {} is a {other}: this benchmark does not know it", node.name).into()),
        };
        shapes.insert(node.output.first().ok_or("a node has no output")?.clone(), shape);
    }
    Ok(shapes)
}

/// Activations become uint8: every zero point but those of weights and bias rises by 128.
fn unsigned_activations(graph: &mut GraphProto, outside_too: bool) -> Result<(), Failure> {
    for tensor in &mut graph.initializer {
        if tensor.name.ends_with(".zero") && tensor.data_type == INT8 {
            tensor.data_type = UINT8;
            for byte in &mut tensor.raw_data {
                *byte ^= 0x80;
            }
        }
    }
    if outside_too {
        for value in graph.input.iter_mut().chain(&mut graph.output) {
            sides(value)?.elem_type = UINT8;
        }
    }
    Ok(())
}

fn float(graph: &mut GraphProto) -> Result<(), Failure> {
    let mut nodes = Vec::new();
    let mut constants: Vec<TensorProto> = graph.initializer.iter().filter(|t| t.name == "twice").cloned().collect();
    for node in &graph.node {
        if node.op_type != "QLinearConv" {
            nodes.push(node.clone());
            continue;
        }
        let [x, x_scale, _, weights, w_scale, w_zero, _, y_zero, bias] = node.input.as_slice() else {
            return Err(format!("{} has not the nine inputs of a QLinearConv with bias", node.name).into());
        };
        let (x_scale, w_scale) = (scalar_f32(graph, x_scale)?, scalar_f32(graph, w_scale)?);
        let w_zero = f32::from(scalar_i8(graph, w_zero)?);
        let weights = constant(graph, weights)?;
        let values = weights.raw_data.iter().map(|byte| (f32::from(byte.cast_signed()) - w_zero) * w_scale);
        constants.push(tensor(&weights.name, &weights.dims, FLOAT, values.flat_map(f32::to_le_bytes).collect()));
        let bias = constant(graph, bias)?;
        #[allow(clippy::cast_precision_loss)] // as DequantizeLinear does
        let values = bias.raw_data.as_chunks::<4>().0.iter().map(|bytes| i32::from_le_bytes(*bytes) as f32 * (x_scale * w_scale));
        constants.push(tensor(&bias.name, &bias.dims, FLOAT, values.flat_map(f32::to_le_bytes).collect()));
        let output = node.output.first().ok_or("a node has no output")?;
        let is_relu = scalar_i8(graph, y_zero)? == i8::MIN;
        let sums = if is_relu { format!("{output}.sum") } else { output.clone() };
        nodes.push(NodeProto {
            op_type: "Conv".to_owned(),
            input: vec![x.clone(), weights.name.clone(), bias.name.clone()],
            output: vec![sums.clone()],
            ..node.clone()
        });
        if is_relu {
            nodes.push(plain("Relu", &[&sums], output, Vec::new()));
        }
    }
    graph.node = nodes;
    graph.initializer = constants;
    for value in graph.input.iter_mut().chain(&mut graph.output) {
        sides(value)?.elem_type = FLOAT;
    }
    Ok(())
}

/// Nearest up-sampling by two: three gathers, one per axis.
fn gather_upsampling(graph: &mut GraphProto, shapes: &BTreeMap<String, Vec<u64>>) -> Result<(), Failure> {
    let mut nodes = Vec::new();
    for node in std::mem::take(&mut graph.node) {
        if node.op_type != "Resize" {
            nodes.push(node);
            continue;
        }
        let (input, output) = (&node.input[0], &node.output[0]);
        let shape = shapes.get(input).ok_or_else(|| format!("the shape of {input} is not known"))?;
        let mut from = input.clone();
        for axis in 1..shape.len() {
            let to = if axis + 1 == shape.len() { output.clone() } else { format!("{output}.{axis}") };
            let indices = format!("{output}.indices{axis}");
            let values = (0..i64::try_from(2 * shape[axis])?).flat_map(|n| (n / 2).to_le_bytes()).collect();
            graph.initializer.push(tensor(&indices, &[i64::try_from(2 * shape[axis])?], INT64, values));
            let attribute = AttributeProto {
                name: "axis".to_owned(),
                i: i64::try_from(axis + 1)?,
                r#type: 2, // INT
                ..AttributeProto::default()
            };
            nodes.push(plain("Gather", &[&from, &indices], &to, vec![attribute]));
            from = to;
        }
    }
    graph.node = nodes;
    graph.initializer.retain(|tensor| tensor.name != "twice");
    Ok(())
}

fn plain(kind: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: kind.to_owned(),
        name: format!("n_{output}_{kind}"),
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        output: vec![output.to_owned()],
        attribute,
        ..NodeProto::default()
    }
}

fn tensor(name: &str, dims: &[i64], data_type: i32, raw_data: Vec<u8>) -> TensorProto {
    TensorProto { name: name.to_owned(), dims: dims.to_vec(), data_type, raw_data, ..TensorProto::default() }
}
