#!/usr/bin/env python3
"""The aarch64 program under qemu gives the same network outputs and the same verdicts as the x86-64 one, on every processor and kernel.

    tests/system/cross_verdict.py [AARCH64_PROGRAM] [--cpus NAME,...] [--kernels NAME,...] [--no-verdicts]

AARCH64_PROGRAM: by default the one that .ci/cross builds. First the raw outputs: `scanside model verify` runs the whole network on every golden
case and compares each byte with what ONNX Runtime gave; once per processor (Cortex-A53 and A72: smlal, A76: sdot, max: smmla) with the kernel that
the engine chooses, then once per kernel named with --kernels, forced by SCANSIDE_KERNEL=NAME here and, where the processor has it, there.
Then two synthetic studies, T1 and FLAIR, as DICOM files: the verdicts are equal to the letter, timings and clock aside.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from appliance import ROOT, program, synthetic_studies

TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
CROSS = pathlib.Path(os.environ.get("CROSS_TARGET_DIR", TARGET / "cross"))
EMULATOR = "qemu-aarch64-static"
CPUS = ["cortex-a53", "cortex-a72", "cortex-a76", "max"]
# Kernel -> processors of the list above that have it; none: x86-64 alone.
KERNELS = {"portable": CPUS, "avx2": [], "vnni": [], "smlal": CPUS, "sdot": ["cortex-a76", "max"], "smmla": ["max"]}
X86_FLAGS = {"portable": "fpu", "avx2": "avx2", "vnni": "avx512_vnni"}


def verify(label, command, **environment):
    """One line: the golden outputs under these circumstances. True when every byte agrees."""
    begin = time.time()
    run = subprocess.run([*command, "model", "verify", "--models", str(ROOT / "models")], capture_output=True, text=True, cwd=ROOT,
                         env=dict(os.environ, **environment))
    text = " ".join((run.stdout + run.stderr).split())[:200]
    print(f"{'equal  ' if run.returncode == 0 else 'DIFFERS'} {label:38} {time.time() - begin:6.1f} s  {text}", flush=True)
    return run.returncode == 0


def outputs(other, cpus, kernels):
    """Golden outputs on every processor and kernel: how many runs agree, how many do not."""
    with open("/proc/cpuinfo") as lines:
        flags = next((line.split() for line in lines if line.startswith("flags")), [])
    results = [verify("x86-64", [program()])]
    results += [verify(f"aarch64 {cpu}", [EMULATOR, other], QEMU_CPU=cpu) for cpu in cpus]
    for kernel in kernels:
        if X86_FLAGS.get(kernel) in flags:
            results.append(verify(f"x86-64, {kernel} forced", [program()], SCANSIDE_KERNEL=kernel))
        elif kernel in X86_FLAGS and not KERNELS[kernel]:
            print(f"skipped x86-64, {kernel}: this processor does not have it")
        for cpu in (cpu for cpu in KERNELS[kernel] if cpu in cpus):
            results.append(verify(f"aarch64 {cpu}, {kernel} forced", [EMULATOR, other], QEMU_CPU=cpu, SCANSIDE_KERNEL=kernel))
    return results.count(True), results.count(False)


def verdicts(command, folder):
    begin = time.time()
    run = subprocess.run([*command, "triage", str(folder), "--json"], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr[-2000:]
    found = [json.loads(line) for line in run.stdout.splitlines()]
    for verdict in found:
        for key in ("timing_ms", "decided_at"):
            verdict.pop(key, None)
    return found, time.time() - begin


def compare_verdicts(other):
    with tempfile.TemporaryDirectory() as folder:
        synthetic_studies(folder)
        here, here_s = verdicts([program()], folder)
        there, there_s = verdicts([EMULATOR, other], folder)
    assert len(here) == 2 and {v["verdict"] for v in here} == {"flagged", "not_flagged"}, here
    if here != there:
        for a, b in zip(here, there):
            for key in a:
                if a[key] != b.get(key):
                    print(f"{key}:\n  x86-64  {json.dumps(a[key])[:600]}\n  aarch64 {json.dumps(b.get(key))[:600]}")
        sys.exit("the verdicts differ")
    print(f"2 verdicts identical on x86-64 ({here_s:.1f} s) and aarch64 under qemu ({there_s:.1f} s)")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", nargs="?", default=str(CROSS / "aarch64-unknown-linux-gnu" / "release" / "scanside"))
    parser.add_argument("--cpus", default=",".join(CPUS))
    parser.add_argument("--kernels", default="", help="also force these: " + ",".join(KERNELS) + ", or all")
    parser.add_argument("--no-verdicts", action="store_true")
    args = parser.parse_args()
    kernels = list(KERNELS) if args.kernels == "all" else [name for name in args.kernels.split(",") if name]
    if unknown := [name for name in kernels if name not in KERNELS]:
        sys.exit(f"unknown kernel {unknown[0]}; there are {', '.join(KERNELS)}")
    equal, different = outputs(args.program, args.cpus.split(","), kernels)
    if different:
        sys.exit(f"{different} of {equal + different} runs of the network do not give the golden outputs")
    print(f"{equal} runs of the network give the golden outputs to the last byte")
    if not args.no_verdicts:
        compare_verdicts(args.program)
    print("1 passed, 0 failed")


if __name__ == "__main__":
    main()
