#!/usr/bin/env python3
"""The aarch64 program under qemu gives the same verdicts as the x86-64 one, to the letter, timings and clock aside.

    tests/system/cross_verdict.py [AARCH64_PROGRAM]      default: the one that .ci/cross builds
"""
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
OTHER = sys.argv[1] if len(sys.argv) > 1 else str(CROSS / "aarch64-unknown-linux-gnu" / "release" / "scanside")


def verdicts(command, folder):
    begin = time.time()
    run = subprocess.run([*command, "triage", str(folder), "--json"], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr[-2000:]
    found = [json.loads(line) for line in run.stdout.splitlines()]
    for verdict in found:
        for key in ("timing_ms", "decided_at"):
            verdict.pop(key, None)
    return found, time.time() - begin


with tempfile.TemporaryDirectory() as folder:
    synthetic_studies(folder)
    here, here_s = verdicts([program()], folder)
    there, there_s = verdicts(["qemu-aarch64-static", OTHER], folder)
assert len(here) == 2 and {v["verdict"] for v in here} == {"flagged", "not_flagged"}, here
if here != there:
    for a, b in zip(here, there):
        for key in a:
            if a[key] != b.get(key):
                print(f"{key}:\n  x86-64  {json.dumps(a[key])[:600]}\n  aarch64 {json.dumps(b.get(key))[:600]}")
    sys.exit("the verdicts differ")
print(f"2 verdicts identical on x86-64 ({here_s:.1f} s) and aarch64 under qemu ({there_s:.1f} s)")
print("1 passed, 0 failed")
