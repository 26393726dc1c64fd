#!/usr/bin/env python3
"""Preparing one study side by side: ours against pydicom with SimpleITK and pydicom with scipy, interleaved in one run.

    pip install -r tests/system/requirements-bench.txt
    cargo build --release --example prepared
    tests/system/bench_prepare.py [--rounds 3] [--study DIR]

All do the same steps for T1 and FLAIR: read the files, sort by position, rescale, find the head, resample to its 2 mm grid with anti-aliasing, and
normalise. Ours looks for filled background and motion between the series as well; the others do not. Without --study the synthetic study of 310
instances is used. The table gives wall and processor time of one study (median of the rounds) and the ratio to ours on one thread. SimpleITK and
scipy are held to one thread too, but for the row that says otherwise; starting Python and importing is not counted.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
GRID_MM, SHAPE = 2.0, (96, 120, 96)  # k, j, i, as models/cns-mri/manifest.toml


def ours(study, n_threads):
    """Wall and processor seconds of one preparation, told by the program itself."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    program = os.environ.get("SCANSIDE_PREPARED", str(target / "release" / "examples" / "prepared"))
    out = subprocess.run([program, "--threads", str(n_threads), "--runs", "3", str(study)], check=True, capture_output=True, text=True, cwd=ROOT).stdout
    line = json.loads(out.splitlines()[-1])
    return line["median_ms"] / 1000, line["median_cpu_ms"] / 1000


def read(study):
    """Series as (values k j i, origin, directions i j k, spacings i j k), each sorted by position along its normal."""
    import numpy
    import pydicom

    series = {}
    for path in sorted(pathlib.Path(study).rglob("*")):
        if path.is_file():
            d = pydicom.dcmread(path)
            series.setdefault(d.SeriesInstanceUID, []).append(d)
    for slices in series.values():
        row, column = (numpy.array(slices[0].ImageOrientationPatient[n : n + 3], float) for n in (0, 3))
        normal = numpy.cross(row, column)
        slices.sort(key=lambda d: float(numpy.dot(normal, numpy.array(d.ImagePositionPatient, float))))
        first, last = (numpy.array(slices[n].ImagePositionPatient, float) for n in (0, -1))
        step = float(numpy.dot(normal, last - first)) / (len(slices) - 1)
        scale = lambda d: d.pixel_array.astype(numpy.float32) * float(d.get("RescaleSlope", 1)) + float(d.get("RescaleIntercept", 0))
        values = numpy.stack([scale(d) for d in slices])
        spacing = (float(slices[0].PixelSpacing[1]), float(slices[0].PixelSpacing[0]), step)
        yield values, first, (row, column, normal), spacing


def place(values, origin, directions, spacing):
    """Origin of the 2 mm grid: foreground's box, as the head finder does (every fourth voxel is enough for it)."""
    import numpy

    thin = values[::4, ::4, ::4]
    mask = thin > 0.12 * numpy.percentile(thin, 98)
    k, j, i = (numpy.where(mask.any(axis=tuple(b for b in range(3) if b != a)))[0] * 4 for a in range(3))
    corners = [origin + sum(n * mm * d for n, mm, d in zip((ci, cj, ck), spacing, directions))
               for ck in (k[0], k[-1]) for cj in (j[0], j[-1]) for ci in (i[0], i[-1])]
    low, high = numpy.min(corners, axis=0), numpy.max(corners, axis=0)
    centre = numpy.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, high[2] - 90])
    return centre - (numpy.array(SHAPE[::-1]) - 1) / 2 * GRID_MM


def normalise(values):
    import numpy

    low = values.min()
    above = values[values - low > 0.12 * (numpy.percentile(values, 98) - low)]
    bottom, top = numpy.percentile(above, [0.5, 99.5])
    inside = numpy.clip(above, bottom, top)
    return numpy.clip((numpy.clip(values, bottom, top) - inside.mean()) / max(inside.std(), 1e-9), -4, 6).astype(numpy.float32)


def sigma_mm(mm):
    """Gaussian against aliasing: standard deviation of a box as wide as the grid, where pixels are finer than it."""
    return (max(GRID_MM**2 - mm**2, 0) / 12) ** 0.5


def with_simpleitk(study):
    import numpy
    import SimpleITK

    grid = None
    for values, origin, directions, spacing in read(study):
        grid = place(values, origin, directions, spacing) if grid is None else grid
        image = SimpleITK.GetImageFromArray(values)
        image.SetOrigin(origin.tolist())
        image.SetSpacing(spacing)
        image.SetDirection(numpy.array(directions).T.ravel().tolist())
        for axis, mm in enumerate(spacing):
            if sigma_mm(mm) > 0:
                image = SimpleITK.RecursiveGaussian(image, sigma=sigma_mm(mm), direction=axis)
        to = SimpleITK.ResampleImageFilter()
        to.SetSize(SHAPE[::-1])
        to.SetOutputOrigin(grid.tolist())
        to.SetOutputSpacing((GRID_MM,) * 3)
        to.SetInterpolator(SimpleITK.sitkLinear)
        resampled = to.Execute(image)  # a view does not keep its image alive
        normalise(SimpleITK.GetArrayViewFromImage(resampled))


def with_scipy(study):
    import numpy
    from scipy import ndimage

    grid = None
    for values, origin, directions, spacing in read(study):
        grid = place(values, origin, directions, spacing) if grid is None else grid
        smooth = ndimage.gaussian_filter(values, [sigma_mm(mm) / mm for mm in spacing[::-1]])
        # From a grid index (k, j, i) to a voxel of the series.
        to_voxel = numpy.array([d / mm for d, mm in zip(directions, spacing)])
        matrix = (to_voxel * GRID_MM)[::-1, ::-1]
        offset = (to_voxel @ (grid - origin))[::-1]
        normalise(ndimage.affine_transform(smooth, matrix, offset, SHAPE, order=1))


WAYS = {"pydicom + SimpleITK": (with_simpleitk, 1), "pydicom + SimpleITK, 2 threads": (with_simpleitk, 2), "pydicom + scipy": (with_scipy, 1)}


def python_way(name, study):
    """Runs in a process of its own, so that each starts alike; the first of two goes warms the imports up."""
    out = subprocess.run([sys.executable, __file__, "--way", name, "--study", str(study)], check=True, capture_output=True, text=True).stdout
    return tuple(json.loads(out))


def one_way(name, study):
    way, n_threads = WAYS[name]
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(n_threads)
    spent = []
    for _ in range(2):
        wall, cpu = time.perf_counter(), time.process_time()
        way(study)
        spent.append((time.perf_counter() - wall, time.process_time() - cpu))
    print(json.dumps(spent[-1]))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--study", type=pathlib.Path)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        return one_way(args.way, args.study)
    with tempfile.TemporaryDirectory() as folder:
        study = args.study or pathlib.Path(folder) / "study"
        if not args.study:
            target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
            program = os.environ.get("SCANSIDE_PREPARED", str(target / "release" / "examples" / "prepared"))
            subprocess.run([program, "--synthetic", str(study)], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        rows = {"scanside, 1 thread": [], "scanside, 2 threads": [], **{name: [] for name in WAYS}}
        for _ in range(args.rounds):
            rows["scanside, 1 thread"].append(ours(study, 1))
            rows["scanside, 2 threads"].append(ours(study, 2))
            for name in WAYS:
                rows[name].append(python_way(name, study))
        n = sum(1 for p in study.rglob("*") if p.is_file())
        print(f"{n} instances, {args.rounds} interleaved rounds\n")
        print("| way | wall ms | CPU ms | wall, times ours on 1 thread | CPU, times ours |\n| --- | --- | --- | --- | --- |")
        median = {name: tuple(statistics.median(part) * 1000 for part in zip(*spent)) for name, spent in rows.items()}
        wall, cpu = median["scanside, 1 thread"]
        for name, (w, c) in median.items():
            print(f"| {name} | {w:.0f} | {c:.0f} | {w / wall:.1f} | {c / cpu:.1f} |")


if __name__ == "__main__":
    main()
