#!/usr/bin/env python3
"""Instructions per inference on aarch64: ours, tract float, ONNX Runtime float and int8, under qemu with the processors of the boards.

    tests/system/instructions.py [--cpus a76,a72,a53,i8mm] [--contenders ours,tract-float-gather,ort-float,ort-int8-u8,...]
                                 [--grid 48,64,48|whole] [--program BENCH] [--json FILE] [--layers] [--symbols] [--keep FOLDER]

Cross-builds benches/engines (`.ci/cross -- --bench engines`; CROSS_TARGET_DIR as there), builds the counter
(tests/system/instructions/count.c) and runs each contender on one thread, two inferences: the second one is counted, from the mark before it
to the mark after it, so that loading and warming up are not in the figure. The emulator knows nothing of caches and issue width: instructions
compare programs, they are no times.

The default grid is a seventh of the network's own, which takes minutes per engine; per multiply-add both agree (docs/ENGINE.md, `--grid whole`).
SCANSIDE_KERNEL reaches the program, so that a kernel can be forced.

Needs Debian's qemu-user (the dynamic one: the static one has no plugins), gcc, libstdc++6:arm64 and a Python with pip, which fetches ONNX
Runtime's aarch64 wheel (ORT_AARCH64=FILE names another libonnxruntime.so; without either, its rows are left out and named).
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
CROSS = pathlib.Path(os.environ.get("CROSS_TARGET_DIR", TARGET / "cross"))
ORT_VERSION = "1.28.0"  # from 1.29 on the library carries telemetry
# Name, qemu's processor, and the part number under which engines that read /proc/cpuinfo know it (Arm's MIDR_EL1 tables).
CPUS = {
    "a76": ("cortex-a76", 0xD0B),
    "a72": ("cortex-a72", 0xD08),
    "a53": ("cortex-a53", 0xD03),
    # No board of today has i8mm without SVE in qemu's list: "max" without SVE and SME stands for a core such as A715.
    "i8mm": ("max,sve=off,sme=off", 0xD4D),
}
FEATURES = {
    "a76": "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
    "a72": "fp asimd evtstrm crc32 cpuid",
    "a53": "fp asimd evtstrm crc32 cpuid",
    "i8mm": "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp i8mm bf16",
}
CONTENDERS = ["ours", "tract-float", "tract-float-gather", "ort-float", "ort-int8-u8", "ort-int8-s8", "ort-qdq-u8", "ort-qdq-s8"]
# Issue 4: at most so much of the instructions of the best of these.
AIMS = [("a76", "tract", 0.35), ("a76", "ort", 0.25), ("a72", "tract", 0.70)]


def build_bench():
    """The cross-built benchmark."""
    env = dict(os.environ, CROSS_TARGET_DIR=str(CROSS))
    run = subprocess.run([ROOT / ".ci" / "cross", "--", "--bench", "engines", "--message-format=json"], env=env, cwd=ROOT, text=True,
                         stdout=subprocess.PIPE)
    found = [m["executable"] for m in (json.loads(line) for line in run.stdout.splitlines() if line.startswith("{"))
             if m.get("reason") == "compiler-artifact" and m["target"]["name"] == "engines" and m.get("executable")]
    if not found:
        sys.exit(f".ci/cross built no benchmark (status {run.returncode})")
    return found[-1]


def build_counter(folder):
    counter = folder / "count.so"
    source = ROOT / "tests" / "system" / "instructions" / "count.c"
    subprocess.run(["gcc", "-Wall", "-O2", "-shared", "-fPIC", "-o", counter, source], check=True)
    return counter


def onnx_runtime(folder):
    """ONNX Runtime's library for aarch64, or None."""
    if os.environ.get("ORT_AARCH64"):
        return pathlib.Path(os.environ["ORT_AARCH64"])
    kept = CROSS / "ort" / f"libonnxruntime.so.{ORT_VERSION}"
    if kept.exists():
        return kept
    fetch = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", f"onnxruntime=={ORT_VERSION}", "--no-deps",
             "--only-binary=:all:", "--python-version", "3.11", "--platform", "manylinux_2_28_aarch64", "--platform",
             "manylinux_2_27_aarch64", "-d", str(folder)]
    if subprocess.run(fetch).returncode != 0:
        return None
    with zipfile.ZipFile(next(folder.glob("onnxruntime-*.whl"))) as wheel:
        name = next(n for n in wheel.namelist() if n.startswith("onnxruntime/capi/libonnxruntime.so"))
        kept.parent.mkdir(parents=True, exist_ok=True)
        with wheel.open(name) as source, open(kept, "wb") as out:
            shutil.copyfileobj(source, out)
    return kept


def prefix(folder, cpu):
    """A root for qemu that holds nothing but a /proc/cpuinfo as this processor's kernel would write it: ONNX Runtime's library dies without one,
    and tract takes its kernels by the part number. (No loader and no C library here: those must be Debian's own, of one package.)"""
    root = folder / f"root-{cpu}"
    (root / "proc").mkdir(parents=True, exist_ok=True)
    core = "\n".join(["BogoMIPS\t: 108.00", f"Features\t: {FEATURES[cpu]}", "CPU implementer\t: 0x41", "CPU architecture: 8",
                      "CPU variant\t: 0x3", f"CPU part\t: {CPUS[cpu][1]:#05x}", "CPU revision\t: 1", ""])
    (root / "proc" / "cpuinfo").write_text("".join(f"processor\t: {n}\n{core}\n" for n in range(4)))
    return root


class Counter:
    def __init__(self, folder, program, grid, library):
        self.folder, self.program, self.grid, self.library = folder, program, grid, library
        self.plugin = build_counter(folder)

    def run(self, cpu, contender, symbols=None):
        """(instructions of one inference, the sample's JSON with instructions by layer, first and last mark)."""
        out = self.folder / f"marks-{cpu}-{contender}"
        plugin, quiet = f"{self.plugin},out={out}", []
        if symbols:
            path, first, last = symbols
            plugin, quiet = f"{plugin},symbols={path},from={first},to={last}", ["-d", "plugin", "-D", "/dev/null"]
        command = ["qemu-aarch64", "-cpu", CPUS[cpu][0], "-L", prefix(self.folder, cpu), *quiet, "-plugin", plugin, self.program,
                   "--contender", contender, "--threads", "1", "--warm", "1", "--runs", "1", "--check", "false",
                   "--model", ROOT / "models" / "cns-mri"]
        if self.grid:
            command += ["--grid", self.grid]
        if self.library:
            command += ["--ort", self.library]
        run = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if run.returncode != 0:
            raise RuntimeError(f"status {run.returncode}: {run.stderr.strip()[-400:]}")
        sample = json.loads(run.stdout.splitlines()[-1])
        marks = [int(line) for line in out.read_text().split()]
        # A run has a mark at either end, and one before and one after each layer that tells its time.
        per_run = 2 + 2 * len(sample["layers"])
        if len(marks) not in (2 * per_run, 2 * per_run + 1):
            raise RuntimeError(f"{len(marks)} marks instead of {2 * per_run}: somebody else calls getppid, or the engine's clock is looked at otherwise")
        last = marks[-per_run:]
        layers = [(name, last[2 + 2 * n] - last[1 + 2 * n]) for n, (name, _) in enumerate(sample["layers"])]
        return last[-1] - last[0], layers, (len(marks) - per_run + 1, len(marks))


def table(counts, macs):
    """Million instructions, instructions per multiply-add, and ours as a fraction of each."""
    rows = []
    for cpu, by_contender in counts.items():
        ours = by_contender.get("ours")
        for contender, n in by_contender.items():
            if isinstance(n, str):
                rows.append(f"| {cpu} | {contender} | failed: {n} | | |")
                continue
            ratio = f"{ours / n:.3f}" if isinstance(ours, int) else "-"
            rows.append(f"| {cpu} | {contender} | {n / 1e6:.1f} | {n / macs:.4f} | {ratio} |")
    head = ["| processor | contender | million instructions | per multiply-add | ours / this |", "| --- | --- | ---: | ---: | ---: |"]
    return "\n".join(head + rows)


def aims(counts):
    lines = []
    for cpu, family, most in AIMS:
        rivals = [n for name, n in counts.get(cpu, {}).items() if name.startswith(family) and isinstance(n, int)]
        ours = counts.get(cpu, {}).get("ours")
        if rivals and isinstance(ours, int):
            ratio = ours / min(rivals)
            against = "tract float" if family == "tract" else "ONNX Runtime's best"
            lines.append(f"{cpu}: {ratio:.3f} of {against}, aim at most {most}: {'reached' if ratio <= most else 'MISSED'}")
    return "\n".join(lines)


def multiply_adds(grid):
    """Of the shipped network, proportional to the grid: the manifest has them for the whole one."""
    import tomllib
    manifest = tomllib.loads((ROOT / "models" / "cns-mri" / "manifest.toml").read_text())
    whole = manifest["input"]["shape_kji"]
    sides = [int(n) for n in grid.split(",")] if grid else whole
    return manifest["training"]["gmac"] * 1e9 * (sides[0] * sides[1] * sides[2]) / (whole[0] * whole[1] * whole[2])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpus", default=",".join(CPUS))
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    parser.add_argument("--grid", default="48,64,48")
    parser.add_argument("--program", help="a benchmark that is built already")
    parser.add_argument("--json")
    parser.add_argument("--layers", action="store_true", help="also ours by layer")
    parser.add_argument("--symbols", action="store_true", help="also the functions in which the instructions are (runs everything twice)")
    parser.add_argument("--keep", help="folder for counter, marks and symbols")
    args = parser.parse_args()
    grid = None if args.grid == "whole" else args.grid
    macs = multiply_adds(grid)
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(args.keep or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        contenders = args.contenders.split(",")
        library = onnx_runtime(folder) if any(name.startswith("ort") for name in contenders) else None
        counter = Counter(folder, args.program or build_bench(), grid, library)
        counts, by_layer = {}, {}
        for cpu in args.cpus.split(","):
            for name in contenders:
                if name.startswith("ort") and library is None:
                    print(f"{name}: left out, no ONNX Runtime for aarch64", file=sys.stderr)
                    continue
                try:
                    n, layers, marks = counter.run(cpu, name)
                except RuntimeError as error:
                    n, layers = str(error), []
                counts.setdefault(cpu, {})[name] = n
                print(f"{cpu} {name}: {n}", file=sys.stderr, flush=True)
                if layers:
                    by_layer[cpu] = layers
                if args.symbols and isinstance(n, int):
                    path = folder / f"symbols-{cpu}-{name}"
                    counter.run(cpu, name, symbols=(path, *marks))
                    print(f"functions, {cpu} {name}:\n" + "\n".join(path.read_text().splitlines()[:25]))
    print(f"\ngrid {args.grid}, {macs / 1e9:.2f} G multiply-adds, one thread, second inference\n")
    print(table(counts, macs))
    print("\n" + aims(counts))
    if args.layers:
        for cpu, layers in by_layer.items():
            print(f"\nours by layer, {cpu}:")
            print("\n".join(f"  {n / 1e6:10.2f} M  {name}" for name, n in layers))
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps({"grid": args.grid, "macs": macs, "counts": counts, "layers": by_layer}, indent=1))


if __name__ == "__main__":
    main()
