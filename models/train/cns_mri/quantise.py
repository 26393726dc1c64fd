"""Fold batch norm, calibrate on synthetic heads, write the int8 network and its QDQ twin.

    python -m cns_mri.quantise [--work DIR] [--name run] [--samples 24]

In: WORK/NAME.pt and WORK/train. Out: WORK/export/model.onnx (int8 in, int8 out, only QLinearConv + Resize + Concat),
model.qdq.onnx (the same integers between QuantizeLinear/DequantizeLinear, for NPUs), quant.json (input and output scale) and integer.pt (for
`run_integer`, the evaluation).

Per tensor: weights symmetric int8, activations int8. A ReLU output uses zero point -128, so that the clamp of the integer convolution
is the ReLU. Tensors that meet in a concatenation share one scale. Input: z in [-4, 6]; output: logits in [-8, 8).
"""
import argparse
import glob
import json
import os

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional as F

from . import grid as g
from .net import OUTPUTS, Net
from .normalise import CLIP_Z, MISSING_CHANNEL_VALUE

INPUT_SCALE = float(np.float32((CLIP_Z[1] - CLIP_Z[0]) / 255))
INPUT_ZERO = int(round(-128 - CLIP_Z[0] / INPUT_SCALE))
OUTPUT_SCALE, OUTPUT_ZERO = 0.0625, 0
PERCENTILE = 99.995


def fold(net):
    """The network as a list of steps over named tensors: ("conv", out, in, weight, bias, stride, relu), ("up", ...), ("concat", ...)."""
    steps = []

    def conv(out, source, block):
        c, norm = block[0], block[1]
        gain = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach()
        weight = c.weight.detach() * gain.view(-1, 1, 1, 1, 1)
        bias = (norm.bias - norm.running_mean * gain).detach()
        steps.append(("conv", out, source, weight.numpy(), bias.numpy(), c.stride[0], True))

    def chain(name, source, blocks):
        for n, b in enumerate(blocks):
            out = f"{name}_{n}"
            conv(out, source, b)
            source = out
        return source

    s0 = chain("enc0", "x", net.enc0)
    s1 = chain("enc1", s0, net.enc1)
    s2 = chain("enc2", s1, net.enc2)
    y = chain("enc3", s2, net.enc3)
    for level, skip, up, dec in ((2, s2, net.up2, net.dec2), (1, s1, net.up1, net.dec1), (0, s0, net.up0, net.dec0)):
        conv(f"up{level}", y, up)
        steps.append(("up", f"big{level}", f"up{level}"))
        steps.append(("concat", f"cat{level}", (f"big{level}", skip)))
        y = chain(f"dec{level}", f"cat{level}", dec)
    steps.append(("conv", "y", y, net.out.weight.detach().numpy(), net.out.bias.detach().numpy(), 1, False))
    return steps


def run_float(steps, x, watch=None):
    """The folded network on a torch tensor; `watch(name, tensor)` sees every convolution's output."""
    t = {"x": x}
    for step in steps:
        if step[0] == "conv":
            _, out, source, weight, bias, stride, relu = step
            v = F.conv3d(t[source], torch.from_numpy(weight), torch.from_numpy(bias), stride, weight.shape[-1] // 2)
            t[out] = F.relu(v) if relu else v
            if watch:
                watch(out, t[out])
        elif step[0] == "up":
            t[step[1]] = F.interpolate(t[step[2]], scale_factor=2.0)
        else:
            t[step[1]] = torch.cat([t[s] for s in step[2]], 1)
    return t["y"]


def run_integer(steps, grid, x):
    """The integer network on int8 `x` [2, k, j, i] -> int8 logits, computed in single precision: several times faster than onnxruntime's
    integer convolutions. A sum beyond 2^24 may lose its last bit; package.py counts how often that changes an output (hardly ever)."""
    t = {"x": torch.from_numpy((x.astype(np.float32) - grid["x"][1])[None]).to(memory_format=torch.channels_last_3d)}
    for step in steps:
        out = step[1]
        if step[0] == "conv":
            weight, scale, bias = integers(step, grid)
            v = F.conv3d(t[step[2]], torch.from_numpy(weight.astype(np.float32)), torch.from_numpy(bias.astype(np.float32)), step[5],
                         weight.shape[-1] // 2)
            zero = grid[out][1]
            t[out] = v.mul_(float(grid[step[2]][0] * scale / grid[out][0])).round_().clamp_(-128 - zero, 127 - zero)
        elif step[0] == "up":
            t[out] = F.interpolate(t[step[2]], scale_factor=2.0)
        else:
            t[out] = torch.cat([t[s] for s in step[2]], 1)
    return (t["y"][0].numpy() + grid["y"][1]).astype(np.int8)


def quantised_input(z):
    """z -> int8, as the manifest states: saturate(round_half_even(z / scale) + zero_point)."""
    return np.clip(np.rint(np.asarray(z, np.float32) / np.float32(INPUT_SCALE)) + INPUT_ZERO, -128, 127).astype(np.int8)


def calibrate(steps, paths):
    """tensor -> (scale, zero point)."""
    top = {}

    def watch(name, tensor):
        flat = tensor.reshape(-1)
        k = max(1, int(round(flat.numel() * (1 - PERCENTILE / 100))))
        top.setdefault(name, []).append(float(flat.topk(k).values[-1]))

    with torch.no_grad():
        for n, path in enumerate(paths):
            x = np.load(path).astype(np.float32)
            if n % 3 == 0:
                x[1] = MISSING_CHANNEL_VALUE
            x = (quantised_input(x).astype(np.float32) - INPUT_ZERO) * np.float32(INPUT_SCALE)
            run_float(steps, torch.from_numpy(x[None]).to(memory_format=torch.channels_last_3d), watch)
    limit = {name: max(np.max(v), 1e-3) for name, v in top.items()}
    for step in steps:
        if step[0] == "up":
            limit[step[1]] = limit[step[2]]
    for step in steps:
        if step[0] == "concat":
            first, skip = step[2]
            together = max(limit[first], limit[skip])
            for name in (first, skip, step[1], first.replace("big", "up")):
                limit[name] = together
    grid = {name: (np.float32(v / 255), -128) for name, v in limit.items()}
    grid["x"], grid["y"] = (np.float32(INPUT_SCALE), INPUT_ZERO), (np.float32(OUTPUT_SCALE), OUTPUT_ZERO)
    return grid


def integers(step, grid):
    """(int8 weight, weight scale, int32 bias) of one convolution."""
    _, _, source, weight, bias, _, _ = step
    scale = np.float32(np.abs(weight).max() / 127)
    return (np.clip(np.rint(weight / scale), -127, 127).astype(np.int8), scale,
            np.rint(bias.astype(np.float64) / (np.float64(grid[source][0]) * np.float64(scale))).astype(np.int32))


def shapes(steps):
    out = {"x": (2, *g.SHAPE_KJI)}
    for step in steps:
        if step[0] == "conv":
            out[step[1]] = (step[3].shape[0], *((s + step[5] - 1) // step[5] for s in out[step[2]][1:]))
        elif step[0] == "up":
            out[step[1]] = (out[step[2]][0], *(2 * s for s in out[step[2]][1:]))
        else:
            out[step[1]] = (sum(out[s][0] for s in step[2]), *out[step[2][0]][1:])
    return out


class Writer:
    """Collects nodes and constants, then saves an opset-17 model with static shapes."""

    def __init__(self):
        self.nodes, self.constants = [], {}

    def constant(self, name, value):
        self.constants[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def node(self, kind, inputs, output, **attributes):
        self.nodes.append(helper.make_node(kind, inputs, [output], name="n_" + output, **attributes))
        return output

    def save(self, path, shape, dtype, name):
        def tensor(n, kind):
            return helper.make_tensor_value_info(n, kind, (1, *shape[n]))
        extra = [tensor(n, dtype) for n in shape if n not in ("x", "y")] if dtype == TensorProto.INT8 else []
        graph = helper.make_graph(self.nodes, name, [tensor("x", dtype)], [tensor("y", dtype)],
                                  list(self.constants.values()), value_info=extra)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="scanside")
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, path)


def conv_attributes(step):
    pad, size = step[3].shape[-1] // 2, step[3].shape[-1]
    return dict(kernel_shape=[size] * 3, pads=[pad] * 6, strides=[step[5]] * 3, dilations=[1] * 3, group=1)


UP = dict(mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")


def write_integer(steps, grid, path):
    w = Writer()
    zero = w.constant("weight_zero", np.int8(0))
    twice = w.constant("twice", np.array([1, 1, 2, 2, 2], np.float32))

    def parameters(name):  # tensors of one concatenation share their numbers, not their names
        return [w.constant(name + ".scale", grid[name][0]), w.constant(name + ".zero", np.int8(grid[name][1]))]

    for step in steps:
        out = step[1]
        if step[0] == "conv":
            weight, scale, bias = integers(step, grid)
            w.node("QLinearConv", [step[2], *parameters(step[2]), w.constant(out + ".weight", weight),
                                   w.constant(out + ".weight_scale", scale), zero, *parameters(out),
                                   w.constant(out + ".bias", bias)], out, **conv_attributes(step))
        elif step[0] == "up":
            w.node("Resize", [step[2], "", twice], out, **UP)
        else:
            w.node("Concat", list(step[2]), out, axis=1)
    w.save(path, shapes(steps), TensorProto.INT8, "cns-mri")


def write_qdq(steps, grid, path):
    """The twin: the same integers, float input and output."""
    w = Writer()
    zero8, zero32 = w.constant("weight_zero", np.int8(0)), w.constant("bias_zero", np.int32(0))
    twice = w.constant("twice", np.array([1, 1, 2, 2, 2], np.float32))

    def there_and_back(value, name):
        p = [w.constant(name + ".scale", grid[name][0]), w.constant(name + ".zero", np.int8(grid[name][1]))]
        return w.node("DequantizeLinear", [w.node("QuantizeLinear", [value, *p], name + ".q"), *p],
                      "y" if name == "y" else name + ".dq")

    value = {"x": there_and_back("x", "x")}
    for step in steps:
        out = step[1]
        if step[0] == "conv":
            weight, scale, bias = integers(step, grid)
            wd = w.node("DequantizeLinear", [w.constant(out + ".weight", weight), w.constant(out + ".weight_scale", scale), zero8], out + ".w")
            bs = np.float32(grid[step[2]][0] * scale)
            bd = w.node("DequantizeLinear", [w.constant(out + ".bias", bias), w.constant(out + ".bias_scale", bs), zero32], out + ".b")
            v = w.node("Conv", [value[step[2]], wd, bd], out + ".f", **conv_attributes(step))
        elif step[0] == "up":
            v = w.node("Resize", [value[step[2]], "", twice], out + ".f", **UP)
        else:
            v = w.node("Concat", [value[s] for s in step[2]], out + ".f", axis=1)
        value[out] = there_and_back(v, out)
    w.save(path, shapes(steps), TensorProto.FLOAT, "cns-mri-qdq")


def load_net(path):
    state = torch.load(path, weights_only=True)
    net = Net().eval()
    net.load_state_dict(state.get("ema", state))
    return net, state


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--work")
    p.add_argument("--name", default="run")
    p.add_argument("--samples", type=int, default=24)
    args = p.parse_args()
    torch.set_num_threads(1)
    work = g.work_folder(args.work)
    out = os.path.join(work, "export")
    os.makedirs(out, exist_ok=True)
    net, _ = load_net(os.path.join(work, args.name + ".pt"))
    steps = fold(net)
    grid = calibrate(steps, sorted(glob.glob(os.path.join(work, "train", "*_x.npy")))[:args.samples])
    write_integer(steps, grid, os.path.join(out, "model.onnx"))
    write_qdq(steps, grid, os.path.join(out, "model.qdq.onnx"))
    size = shapes(steps)
    macs = sum(s[3][0].size * np.prod(size[s[1]]) for s in steps if s[0] == "conv")
    facts = {"input_scale": INPUT_SCALE, "input_zero_point": INPUT_ZERO, "output_scale": OUTPUT_SCALE, "output_zero_point": OUTPUT_ZERO,
             "outputs": list(OUTPUTS), "parameters": int(sum(s[3].size + s[4].size for s in steps if s[0] == "conv")), "macs": int(macs)}
    torch.save({"steps": steps, "grid": grid}, os.path.join(out, "integer.pt"))
    with open(os.path.join(out, "quant.json"), "w") as f:
        json.dump(facts, f, indent=1)
    print(facts, {n: os.path.getsize(os.path.join(out, n)) for n in ("model.onnx", "model.qdq.onnx")})


if __name__ == "__main__":
    main()
