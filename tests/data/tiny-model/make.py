"""Writes the tiny model package of tests/infer.rs: random weights, the operators of the real one, golden output by ONNX Runtime.

    python make.py        (needs numpy, onnx 1.23, onnxruntime 1.28)

It covers both strides, kernels 3 and 1, an odd channel count, zero points other than -128, padding, concatenation and up-sampling.
Out, beside this file: model.onnx, model.qdq.onnx (the same integers between float input and output, for NPUs), manifest.toml, golden.input.i8, golden.output.i8; six.onnx and six.output.i8, the same with six output
channels; pooled.onnx, which must be refused.
"""
import hashlib
import os

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh

HERE = os.path.dirname(os.path.abspath(__file__))
SHAPE = (6, 10, 12)
rng = np.random.default_rng(7)
nodes, constants = [], {}


def constant(name, value):
    constants[name] = nh.from_array(np.asarray(value), name)
    return name


def conv(x, y, n_in, n_out, size, stride, x_q, y_q, bias=True):
    w = rng.integers(-127, 128, (n_out, n_in, size, size, size), dtype=np.int8)
    w_scale = np.float32(0.011)
    inputs = [x, constant(y + ".xs", np.float32(x_q[0])), constant(y + ".xz", np.int8(x_q[1])), constant(y + ".w", w),
              constant(y + ".ws", w_scale), constant(y + ".wz", np.int8(0)), constant(y + ".ys", np.float32(y_q[0])),
              constant(y + ".yz", np.int8(y_q[1]))]
    if bias:
        inputs.append(constant(y + ".b", rng.integers(-3000, 3000, n_out, dtype=np.int32)))
    pad = size // 2
    nodes.append(h.make_node("QLinearConv", inputs, [y], name=y, kernel_shape=[size] * 3, pads=[pad] * 6, strides=[stride] * 3,
                             dilations=[1] * 3, group=1))


x_q, a_q, b_q, y_q = (0.0392156876623631, -26), (0.07, -128), (1.1, -128), (2.0, 3)
conv("x", "a", 2, 9, 3, 1, x_q, a_q)
conv("a", "b", 9, 16, 3, 2, a_q, b_q)
conv("b", "c", 16, 8, 1, 1, b_q, a_q, bias=False)
nodes.append(h.make_node("Resize", ["c", "", constant("twice", np.array([1, 1, 2, 2, 2], np.float32))], ["d"], name="d", mode="nearest",
                         coordinate_transformation_mode="asymmetric", nearest_mode="floor"))
nodes.append(h.make_node("Concat", ["d", "a"], ["e"], name="e", axis=1))
conv("e", "f", 17, 8, 3, 1, a_q, b_q)
conv("f", "y", 8, 3, 1, 1, b_q, y_q)
graph = h.make_graph(nodes, "tiny", [h.make_tensor_value_info("x", T.INT8, [1, 2, *SHAPE])],
                     [h.make_tensor_value_info("y", T.INT8, [1, 3, *SHAPE])], list(constants.values()))
model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
onnx.checker.check_model(model, full_check=True)
onnx.save(model, os.path.join(HERE, "model.onnx"))


def qdq_twin(model):
    """The same integers: each tensor quantised and back in float, convolutions in float between them."""
    values = {i.name: nh.to_array(i) for i in model.graph.initializer}
    out, initial, quantisation = [], [], {"x": (x_q, None)}

    def const(name, value):
        initial.append(nh.from_array(np.asarray(value), name))
        return name

    def there_and_back(value, name, q):
        pair = [const(name + ".scale", np.float32(q[0])), const(name + ".zero", np.int8(q[1]))]
        out.append(h.make_node("QuantizeLinear", [value, *pair], [name + ".q"]))
        out.append(h.make_node("DequantizeLinear", [name + ".q", *pair], ["y" if name == "y" else name + ".dq"]))
        quantisation[name] = q

    there_and_back("x", "x", x_q)
    for node in model.graph.node:
        name = node.output[0]
        if node.op_type == "QLinearConv":
            x, xs, _, w, ws, _, ys, yz = node.input[:8]
            inputs = [x + ".dq", name + ".w"]
            out.append(h.make_node("DequantizeLinear", [const(name + ".wi", values[w]), const(name + ".ws", values[ws]),
                                                        const(name + ".wz", np.int8(0))], [name + ".w"]))
            if len(node.input) > 8:
                scale = const(name + ".bs", np.float32(values[xs] * values[ws]))
                out.append(h.make_node("DequantizeLinear", [const(name + ".bi", values[node.input[8]]), scale, const(name + ".bz", np.int32(0))],
                                       [name + ".b"]))
                inputs.append(name + ".b")
            out.append(h.make_node("Conv", inputs, [name + ".f"], **{a.name: h.get_attribute_value(a) for a in node.attribute}))
            there_and_back(name + ".f", name, (values[ys], values[yz]))
        else:
            first = node.input[0]
            inputs = [i + ".dq" if i in quantisation else const(i + "." + name, values[i]) if i else "" for i in node.input]
            out.append(h.make_node(node.op_type, inputs, [name + ".f"], **{a.name: h.get_attribute_value(a) for a in node.attribute}))
            there_and_back(name + ".f", name, quantisation[first])
    graph = h.make_graph(out, "tiny-qdq", [h.make_tensor_value_info("x", T.FLOAT, [1, 2, *SHAPE])],
                         [h.make_tensor_value_info("y", T.FLOAT, [1, 3, *SHAPE])], initial)
    twin = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(twin, full_check=True)
    return twin


onnx.save(qdq_twin(model), os.path.join(HERE, "model.qdq.onnx"))


def refused(name, change):
    """The same network with something that the engine does not do."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    change(other.graph)
    onnx.checker.check_model(other, full_check=True)
    onnx.save(other, os.path.join(HERE, name))


def pooled(graph):
    graph.node[-1].input[0] = "p"
    graph.node.insert(len(graph.node) - 1, h.make_node("MaxPool", ["f"], ["p"], name="p", kernel_shape=[3] * 3, pads=[1] * 6))


refused("pooled.onnx", pooled)
x = rng.integers(-128, 128, (1, 2, *SHAPE), dtype=np.int8)
x[:, :, 0] = 127  # extremes at an edge
y = onnxruntime.InferenceSession(os.path.join(HERE, "model.onnx"), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
print("output range", y.min(), y.max(), "saturated", np.mean((y == -128) | (y == 127)), "values", len(np.unique(y)))
x.tofile(os.path.join(HERE, "golden.input.i8"))
y.tofile(os.path.join(HERE, "golden.output.i8"))
options = onnxruntime.SessionOptions()
options.add_session_config_entry("session.disable_quant_qdq", "1")  # else 8-bit products saturate on x86 without VNNI: 60 steps away
session = onnxruntime.InferenceSession(os.path.join(HERE, "model.qdq.onnx"), options, providers=["CPUExecutionProvider"])
f = session.run(None, {"x": (x.astype(np.float32) - x_q[1]) * np.float32(x_q[0])})[0]
apart = np.abs(np.clip(np.rint(f / np.float32(y_q[0])) + y_q[1], -128, 127) - y)
print("twin: at most", apart.max(), "steps away,", np.mean(apart > 0), "of the values differ")

# The same with the three further outputs.
nodes.pop()
conv("f", "y", 8, 6, 1, 1, b_q, y_q)
graph = h.make_graph(nodes, "six", [h.make_tensor_value_info("x", T.INT8, [1, 2, *SHAPE])],
                     [h.make_tensor_value_info("y", T.INT8, [1, 6, *SHAPE])], list(constants.values()))
six = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
onnx.checker.check_model(six, full_check=True)
onnx.save(six, os.path.join(HERE, "six.onnx"))
y = onnxruntime.InferenceSession(os.path.join(HERE, "six.onnx"), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
y.tofile(os.path.join(HERE, "six.output.i8"))


def sha256(name):
    with open(os.path.join(HERE, name), "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


with open(os.path.join(HERE, "manifest.toml"), "w") as f:
    f.write(f"""# Written by make.py: random weights, for tests only.
schema = "scanside.model/1"
name = "tiny"
version = "0.0.1"
file = "model.onnx"
sha256 = "{sha256('model.onnx')}"
precision = "int8"

[input]
spacing_mm = 20.0
shape_kji = {list(SHAPE)}
axes = "LPS"
scale = {x_q[0]!r}
zero_point = {x_q[1]}

[[input.channels]]
role = "t1_post"
required = true

[[input.channels]]
role = "flair"
required = false

[input.normalise]
method = "foreground-z/1"
background_mode_fraction = 0.05
foreground_fraction = 0.1
foreground_percentile = 99.0
clip_percentiles = [0.5, 99.5]
clip_z = [-4.0, 6.0]
background_value = -4.0
missing_channel_value = -4.0

[output]
channels = ["enhancing_lesion", "abnormality", "brain"]
scale = {y_q[0]}
zero_point = {y_q[1]}

[[operating_points]]
inputs = ["t1_post"]
voxel_threshold = 0.5
brain_threshold = 0.5
brain_margin_voxels = 1
component_ml_min = 0.1
threshold = 0.6
sensitivity = 0.9
specificity = 0.9
source = "none: random weights"

[domain]
brain_ml_min = 500.0
brain_ml_max = 2500.0
brain_mean_height_mm_min = 40.0
slice_spacing_mm_max = 7.0
body_part = "head"

[critical]
total_enhancing_ml_min = 10.0
max_diameter_mm_min = 30.0
source = "none: random weights"

[[golden]]
name = "case1"
inputs = ["t1_post", "flair"]
input = "golden.input.i8"
output = "golden.output.i8"
input_sha256 = "{sha256('golden.input.i8')}"
output_sha256 = "{sha256('golden.output.i8')}"

[qdq]
file = "model.qdq.onnx"
sha256 = "{sha256('model.qdq.onnx')}"
steps_max = 4
steps = 1
fraction_max = 0.01
source = "onnxruntime 1.28.0, CPU provider: at most {int(apart.max())} steps"

[training]
note = "none"
""")
