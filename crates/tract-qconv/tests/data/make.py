#!/usr/bin/env python3
"""Writes the small quantised networks of tests/onnx.rs with an input and ONNX Runtime's output for each.

    python crates/tract-qconv/tests/data/make.py        needs numpy, onnx, onnxruntime (1.28 wrote what is here)

Everything is signed: ONNX Runtime's x86 path for u8 activations and i8 weights saturates and is no reference.
"""
import pathlib

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

HERE = pathlib.Path(__file__).parent
rng = np.random.default_rng(7)


class Net:
    def __init__(self, shape):
        self.nodes, self.values, self.shape = [], [], shape
        self.axes = len(shape) - 2

    def const(self, name, value):
        self.values.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def conv(self, name, x, n_in, n_out, taps=3, stride=1, per_channel=False, bias=True):
        w = np.clip(rng.normal(0, 40, (n_out, n_in) + (taps,) * self.axes), -127, 127).astype(np.int8)
        # Scales that keep most outputs inside the range of int8.
        scale = np.float32(1.1 / (40 * np.sqrt(n_in * taps**self.axes)))
        w_scale = (scale * rng.uniform(0.5, 1.5, n_out)).astype(np.float32) if per_channel else scale
        w_zero = np.zeros(n_out, np.int8) if per_channel else np.int8(0)
        inputs = [
            x, self.const(f"{name}.xs", np.float32(0.05)), self.const(f"{name}.xz", np.int8(-20)),
            self.const(f"{name}.w", w), self.const(f"{name}.ws", w_scale), self.const(f"{name}.wz", w_zero),
            self.const(f"{name}.ys", np.float32(0.05)), self.const(f"{name}.yz", np.int8(-20)),
        ]
        if bias:
            inputs.append(self.const(f"{name}.b", rng.integers(-3000, 3000, n_out).astype(np.int32)))
        self.nodes.append(helper.make_node(
            "QLinearConv", inputs, [name], name=f"n_{name}", kernel_shape=[taps] * self.axes, strides=[stride] * self.axes,
            dilations=[1] * self.axes, pads=[taps // 2] * (2 * self.axes)))
        return name

    def up(self, name, x):
        scales = self.const(f"{name}.scales", np.array([1, 1] + [2] * self.axes, np.float32))
        self.nodes.append(helper.make_node(
            "Resize", [x, "", scales], [name], name=f"n_{name}", mode="nearest", nearest_mode="floor",
            coordinate_transformation_mode="asymmetric"))
        return name

    def concat(self, name, *xs):
        self.nodes.append(helper.make_node("Concat", list(xs), [name], name=f"n_{name}", axis=1))
        return name

    def add(self, name, a, b, y_scale=0.05):
        q = [self.const(f"{name}.s", np.float32(0.05)), self.const(f"{name}.z", np.int8(-20))]
        self.nodes += [helper.make_node("DequantizeLinear", [x, *q], [f"{name}.{n}"]) for n, x in enumerate([a, b])]
        self.nodes.append(helper.make_node("Add", [f"{name}.0", f"{name}.1"], [f"{name}.sum"]))
        y = [self.const(f"{name}.ys", np.float32(y_scale)), self.const(f"{name}.yz", np.int8(-20))]
        self.nodes.append(helper.make_node("QuantizeLinear", [f"{name}.sum", *y], [name], name=f"n_{name}"))
        return name

    def write(self, name, n_out):
        out = [1, n_out, *self.shape[2:]]
        graph = helper.make_graph(
            self.nodes, name, [helper.make_tensor_value_info("x", TensorProto.INT8, self.shape)],
            [helper.make_tensor_value_info("y", TensorProto.INT8, out)], self.values)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.checker.check_model(model)
        onnx.save(model, HERE / f"{name}.onnx")
        x = rng.integers(-128, 128, self.shape).astype(np.int8)
        y = onnxruntime.InferenceSession(HERE / f"{name}.onnx", providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        assert y.std() > 20 and ((y == 127) | (y == -128)).mean() < 0.3, (y.std(), "a network that says something")
        x.tofile(HERE / f"{name}.input.i8")
        y.tofile(HERE / f"{name}.output.i8")


def unet(shape, per_channel):
    net = Net(shape)
    a = net.conv("a", "x", 3, 12, per_channel=per_channel)
    b = net.conv("b", a, 12, 16, stride=2, per_channel=per_channel)
    c = net.conv("c", b, 16, 20, taps=1, bias=False)
    d = net.concat("d", net.up("u", c), a)
    e = net.conv("e", d, 32, 9, per_channel=per_channel)
    net.conv("y", e, 9, 5, taps=1)
    return net


unet([1, 3, 18, 26], True).write("flat", 5)
unet([1, 3, 6, 10, 14], False).write("solid", 5)

net = Net([1, 2, 5, 11, 13])
a = net.conv("a", "x", 2, 8)
b = net.add("b", net.conv("c", a, 8, 8), a)  # taken in by its convolution
d = net.add("d", a, b, y_scale=0.07)  # both are needed elsewhere, too
net.conv("y", net.concat("e", d, net.conv("f", b, 8, 8)), 16, 3)
net.write("residual", 3)
