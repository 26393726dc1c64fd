"""The test with statistical power: lesions of known size implanted into acquired brains that have none, and a rule without learning beside.

    python -m cns_mri.implants --network float|int8 --data DATA [--repeats 6] [--name run] [--work DIR]

In: the visible cases without an enhancing tumour (real.py), the network, WORK/eval/points.json (frozen operating points).
Out: WORK/eval/implants.NETWORK.json and a table: per inputs and diameter, lesions found with 95 % intervals; false volume and components;
and the same for the rule without learning (findings.py) with the network's false volume at the rule's sensitivity. Nothing is chosen here.

A lesion is a noisy ellipsoid whose T1 lies 0.4-2 z above the 95th percentile of the brain, with a bright FLAIR and a rim of oedema; three
of one size stand in one head, at least 36 mm apart, and each is found when a component at or above the operating point touches it.
"""
import argparse
import json
import os

import numpy as np
from scipy import ndimage

from . import evaluate as e
from . import grid as g
from . import real
from .fields import blob
from .findings import brain, components, judge, rule
from .normalise import CLIP_Z, MISSING_CHANNEL_VALUE

DIAMETERS_MM = (6, 9, 13, 20, 30)
PER_HEAD, APART_MM = 3, 36.0


def implant(rng, x, brain, diameter_mm):
    """(image with up to PER_HEAD lesions, their masks)."""
    x, masks = x.copy(), []
    core = (ndimage.distance_transform_edt(brain) * g.SPACING_MM > 6) & (x[0] > np.percentile(x[0][brain], 15))
    bright = np.percentile(x[0][brain], 95)
    middle, spread = np.median(x[1][brain]), x[1][brain].std() + 1e-3
    places = np.argwhere(core)
    centres = []
    for _ in range(200):
        centre = places[rng.integers(len(places))].astype(float)
        if len(masks) == PER_HEAD or any(np.linalg.norm(centre - c) * g.SPACING_MM < APART_MM for c in centres):
            continue
        shape = blob(rng, centre, diameter_mm / 2, 1.3, 0.2)
        if shape is None:
            continue
        box, field = shape
        lesion, rim = np.zeros(g.SHAPE_KJI), np.zeros(g.SHAPE_KJI)
        lesion[box], rim[box] = field < 1, (field >= 1) & (field < 1.7)
        if not lesion.any():
            lesion[tuple(centre.astype(int))] = 1
        soft, swollen = ndimage.gaussian_filter(lesion, 0.67), ndimage.gaussian_filter(rim, 0.67)  # 1.35 mm
        x[0] += soft * (bright + rng.uniform(0.4, 2.0) - x[0])
        x[1] += soft * (middle + rng.uniform(0.5, 2.5) * spread - x[1])
        x[1] += swollen * (middle + rng.uniform(1.0, 2.5) * spread - x[1])
        centres.append(centre)
        masks.append(lesion > 0.5)
    return np.clip(x, *CLIP_Z).astype(np.float32), masks


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--network", choices=["float", "int8"], default="int8")
    p.add_argument("--data", required=True)
    p.add_argument("--repeats", type=int, default=6)
    p.add_argument("--name", default="run")
    p.add_argument("--work")
    args = p.parse_args()
    work = g.work_folder(args.work)
    run = e.runner(args.network, work, args.name)
    with open(os.path.join(work, "eval", "points.json")) as f:
        points = {tuple(q["inputs"]): q for q in json.load(f)}
    rng, rows = np.random.default_rng([20261124, 0]), []
    for name, t1, flair, _, kind in real.cases(args.data):
        if kind != "quiet" or "flair-as-t1" in name:
            continue
        clean, _ = real.to_grid(t1, flair)
        inside = ndimage.binary_erosion(brain(run(clean), e.BASE))
        for mm in DIAMETERS_MM:
            for _ in range(args.repeats):
                x, masks = implant(rng, clean, inside, mm)
                for mode in e.MODES if flair is not None else ["t1"]:
                    z = x.copy()
                    if mode == "t1":
                        z[1] = MISSING_CHANNEL_VALUE
                    point = points[tuple(e.MODES[mode])]
                    logits = run(z)
                    best, false = judge(components(logits, point, brain(logits, point)), masks)
                    row = {"brain": name, "mm": mm, "mode": mode, "network": best, "false": false}
                    row["rule"], row["rule_false"] = judge(rule(x, inside, mode), masks)
                    rows.append(row)
        print(name, flush=True)
    with open(os.path.join(work, "eval", f"implants.{args.network}.json"), "w") as f:
        json.dump(rows, f)
    print("\n".join(summary(rows, points)))


def summary(rows, points):
    lines = []
    for mode in e.MODES:
        mine = [r for r in rows if r["mode"] == mode]
        threshold = points[tuple(e.MODES[mode])]["threshold"]
        cells = []
        for mm in DIAMETERS_MM:
            scores = [s for r in mine if r["mm"] == mm for s in r["network"]]
            cells.append(f"{mm} mm {e.share(sum(s >= threshold for s in scores), len(scores))}")
        false = [c for r in mine for c in r["false"] if c[1] >= threshold]
        lines.append(f"{mode}: " + ", ".join(cells) + f"; false components per head {len(false) / len(mine):.2f}, "
                     f"false ml per head {sum(c[0] for c in false) / len(mine):.2f}")
    return lines + [against_rule(rows, mode) for mode in e.MODES]


def against_rule(rows, mode):
    """The rule without learning beside the network at the same sensitivity. Rows hold "network", "false", "rule", "rule_false"."""
    mine = [r for r in rows if r["mode"] == mode]
    by_rule = [s for r in mine for s in r["rule"]]
    hits = sum(s > 0 for s in by_rule)
    false_ml = sum(c[0] for r in mine for c in r["rule_false"]) / len(mine)
    equal = sorted((s for r in mine for s in r["network"]), reverse=True)[max(0, hits - 1)]
    ours = sum(c[0] for r in mine for c in r["false"] if c[1] >= equal) / len(mine)
    reached = "" if equal > 0 else " (which the network does not reach at its voxel threshold)"
    return (f"{mode}, rule without learning: {e.share(hits, len(by_rule))} of all sizes, false ml per head {false_ml:.2f}; "
            f"network at that sensitivity{reached}: false ml per head {ours:.2f}")


if __name__ == "__main__":
    main()
