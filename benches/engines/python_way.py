"""The Python way, for benches/engines: onnxruntime in Python on the float network; prints one line of JSON as the other contenders do.

    python_way.py FLOAT.onnx INPUT.f32 CHANNELS,K,J,I GOLDEN_OUTPUT.i8|- OUTPUT_SCALE OUTPUT_ZERO THREADS WARM RUNS
"""
import json
import sys
import time


def status_mb(key):
    with open("/proc/self/status") as lines:
        return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(key)), 0.0)


empty_mb = status_mb("VmRSS:")
network, source, shape, golden, scale, zero, threads, warm, runs = sys.argv[1:]
import numpy as np  # noqa: E402 (counts as memory)
import onnxruntime as ort  # noqa: E402

options = ort.SessionOptions()
options.intra_op_num_threads = int(threads)
session = ort.InferenceSession(network, options, providers=["CPUExecutionProvider"])
x = np.fromfile(source, "<f4").reshape(1, *map(int, shape.split(",")))
sample = {"wall_ms": [], "cpu_ms": [], "equal": None}
for n in range(int(warm) + int(runs)):
    wall, cpu = time.perf_counter(), time.process_time()
    (y,) = session.run(["y"], {"x": x})
    if n >= int(warm):
        sample["wall_ms"].append((time.perf_counter() - wall) * 1000)
        sample["cpu_ms"].append((time.process_time() - cpu) * 1000)
sample["peak_mb"] = status_mb("VmHWM:") - empty_mb
if golden != "-":
    steps = np.clip(np.rint(y.ravel() / np.float32(scale)) + int(zero), -128, 127).astype(np.int8)
    sample["equal"] = float(np.mean(steps == np.fromfile(golden, np.int8)))
print(json.dumps(sample))
