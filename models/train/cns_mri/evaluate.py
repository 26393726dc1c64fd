"""Measure a network: on the held-out synthetic set (where operating points are chosen) and on real cases (where nothing is chosen).

    python -m cns_mri.evaluate synthetic --network float|int8 [--name run] [--limit N] [--jobs N] [--work DIR]
    python -m cns_mri.evaluate choose [--work DIR]
    python -m cns_mri.evaluate real --network float|int8 --data DATA [--work DIR]
    python -m cns_mri.evaluate report --network float|int8 [--work DIR]

In: WORK/val, WORK/NAME.pt or WORK/export/model.onnx; for `real`, the visible cases under DATA (see real.py).
Out: WORK/eval/synthetic.NETWORK.json (components of each study at several voxel thresholds), points.json and gates.json (the operating points and
the limits of the gates, frozen from then on), real.NETWORK.npz (logits), real.NETWORK.json (the table); each also as a short table on stdout.
"""
import argparse
import glob
import json
import multiprocessing
import os

import numpy as np
from scipy import ndimage

from . import grid as g
from .findings import brain, brain_mean_height_mm, brain_ml, components, judge, noise_z, normal_enhancement_ml, painted, rule, sigmoid, touches
from .normalise import MISSING_CHANNEL_VALUE

MODES = {"both": ["t1_post", "flair"], "t1": ["t1_post"]}
VOXEL_THRESHOLDS = (0.3, 0.5, 0.7, 0.85, 0.93)
BASE = {"brain_threshold": 0.5, "brain_margin_voxels": 2, "component_ml_min": 0.1, "voxel_threshold": 0.5}
SPECIFICITY_WISH = {"both": 0.95, "t1": 0.90}  # chosen after the real cases had been seen: CARD.md
NORMAL_THRESHOLDS = (0.5, 0.7, 0.85)
LESION_ML_MIN = 0.1  # a synthetic study counts as positive from this volume of its largest lesion on


def runner(kind, work, name):
    """z [2, k, j, i] -> float logits [6, k, j, i]."""
    if kind == "float":
        import torch

        from .quantise import load_net
        torch.set_num_threads(1)
        net, _ = load_net(os.path.join(work, name + ".pt"))

        def run(z):
            with torch.no_grad():
                return net(torch.from_numpy(z[None]).to(memory_format=torch.channels_last_3d))[0].numpy()
        return run
    import torch

    from .quantise import OUTPUT_SCALE, OUTPUT_ZERO, quantised_input, run_integer
    torch.set_num_threads(1)
    kept = torch.load(os.path.join(work, "export", "integer.pt"), weights_only=False)  # our own file

    def run_int8(z):
        with torch.no_grad():
            q = run_integer(kept["steps"], kept["grid"], quantised_input(z))
        return (q.astype(np.float32) - OUTPUT_ZERO) * OUTPUT_SCALE
    return run_int8


def dice(a, b):
    return float(2 * (a & b).sum() / max(1, a.sum() + b.sum()))


def wilson(hits, total):
    """95 % interval of a proportion."""
    if total == 0:
        return 0.0, 1.0
    z, p = 1.96, hits / total
    centre, half = p + z * z / (2 * total), z * np.sqrt(p * (1 - p) / total + z * z / (4 * total**2))
    return max(0.0, (centre - half) / (1 + z * z / total)), min(1.0, (centre + half) / (1 + z * z / total))


def share(hits, total):
    low, high = wilson(hits, total)
    return f"{hits}/{total} ({100 * low:.0f}-{100 * high:.0f} %)"


def study_record(logits, z, truth, mode, lesions):
    """What choosing thresholds needs to know of one study: components and Dice at each voxel threshold, and what the gates measure."""
    mask = brain(logits, BASE)
    record = {"brain_ml": brain_ml(mask), "height_mm": brain_mean_height_mm(mask), "normal_ml": {str(t): normal_enhancement_ml(logits, mask, t) for t in NORMAL_THRESHOLDS},
              "noise_z": noise_z(z[0], mask), "at": {}}
    for threshold in VOXEL_THRESHOLDS:
        found = components(logits, {**BASE, "voxel_threshold": threshold}, mask)
        if threshold == 0.5:
            record["network"], record["false"] = judge(found, lesions)
        record["at"][str(threshold)] = {"dice": dice(painted(found), truth) if truth.any() else None,
                                        "components": [[round(c["ml"], 3), round(c["score"], 4), touches(c, truth)] for c in found]}
    record["rule"], record["rule_false"] = judge(rule(z, mask, mode), lesions) if mask.any() else ([0.0] * len(lesions), [])
    return record


def synthetic_records(task):
    """The records of some of the synthetic studies, each with both channels and with the T1 alone."""
    kind, work, name, paths = task
    run = runner(kind, work, name)
    out = []
    for path in paths:
        bits, x = np.load(path), np.load(path.replace("_y", "_x")).astype(np.float32)
        lesion, head = (bits & g.ENHANCING) > 0, (bits & g.BRAIN) > 0
        parts, count = ndimage.label(lesion, np.ones((3, 3, 3)))
        volumes = (np.bincount(parts.ravel())[1:] * g.VOXEL_ML).tolist() if count else []
        for mode in MODES:
            z = x.copy()
            if mode == "t1":
                z[1] = MISSING_CHANNEL_VALUE
            logits = run(z)
            record = study_record(logits, z, lesion, mode, [parts == n for n in range(1, count + 1)])
            hit = sigmoid(logits[0]) >= 0.5
            record.update(study=os.path.basename(path)[:6], mode=mode, lesions_ml=volumes, true_brain_ml=float(head.sum() * g.VOXEL_ML),
                          post=bool((bits & g.POST).any()), brain_dice=dice(sigmoid(logits[2]) >= 0.5, head),
                          abnormal_dice=dice(sigmoid(logits[1]) >= 0.5, (bits & g.ABNORMAL) > 0) if (bits & g.ABNORMAL).any() else None,
                          half_dice=dice((sigmoid(logits[3]) >= 0.5) & head, (bits & g.RIGHT_HALF) > 0),
                          ventricle_dice=dice(sigmoid(logits[4]) >= 0.5, (bits & g.VENTRICLES) > 0),
                          normal_dice=dice(sigmoid(logits[5]) >= 0.5, (bits & g.NORMAL_ENHANCEMENT) > 0),
                          lesion_hit=[bool(hit[parts == n].any()) for n in range(1, count + 1)])
            out.append(record)
    return out


def synthetic(args, work):
    paths = sorted(glob.glob(os.path.join(work, "val", "*_y.npy")))[:args.limit]
    tasks = [(args.network, work, args.name, paths[n::args.jobs]) for n in range(args.jobs)]
    if args.jobs == 1:
        out = synthetic_records(tasks[0])
    else:
        with multiprocessing.get_context("spawn").Pool(args.jobs) as pool:
            out = sum(pool.map(synthetic_records, tasks), [])
    out.sort(key=lambda r: (r["study"], r["mode"]))
    folder = os.path.join(work, "eval")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, f"synthetic.{args.network}.json"), "w") as f:
        json.dump(out, f)
    print("\n".join(summary(out)), flush=True)


def flagged(record, point):
    """The study's score at an operating point, and whether it raises the flag."""
    found = [c for c in record["at"][str(point["voxel_threshold"])]["components"] if c[0] >= point["component_ml_min"]]
    score = max((c[1] for c in found), default=0.0)
    return bool(found) and score >= point["threshold"], score


def split(records, mode):
    mine = [r for r in records if r["mode"] == mode]
    return ([r for r in mine if max(r["lesions_ml"], default=0) >= LESION_ML_MIN], [r for r in mine if not r["lesions_ml"] and r["post"]])


def by_contrast(records, threshold):
    """Normal enhancement (ml) of whole-enough heads: after contrast agent, and without."""
    heads = [r for r in records if r["true_brain_ml"] > g.DOMAIN["brain_ml_min"]]
    return [[r["normal_ml"][threshold] for r in heads if r["post"] == post] or [0.0] for post in (True, False)]


def auc(positive, negative):
    p, n = np.array(positive)[:, None], np.array(negative)[None]
    return float(((p > n) + 0.5 * (p == n)).mean()) if p.size and n.size else float("nan")


def auc_interval(positive, negative):
    """95 % interval of the area under the curve (Hanley and McNeil 1982)."""
    a, n, m = auc(positive, negative), len(positive), len(negative)
    if n == 0 or m == 0:
        return "no interval"
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    sd = np.sqrt((a * (1 - a) + (n - 1) * (q1 - a * a) + (m - 1) * (q2 - a * a)) / (n * m))
    return f"{max(0.0, a - 1.96 * sd):.2f}-{min(1.0, a + 1.96 * sd):.2f}"


def summary(records):
    lines = []
    for mode in MODES:
        positive, negative = split(records, mode)
        if not positive or not negative:
            continue
        for threshold in map(str, VOXEL_THRESHOLDS):
            d = [r["at"][threshold]["dice"] for r in positive]
            point = {"voxel_threshold": threshold, "component_ml_min": 0.1, "threshold": 0.0}
            quiet = sum(not flagged(r, point)[0] for r in negative)
            hit = sum(flagged(r, point)[0] for r in positive)
            score = [[flagged(r, point)[1] for r in part] for part in (positive, negative)]
            lines.append(f"{mode} voxel>{threshold}: dice mean {np.mean(d):.3f} median {np.median(d):.3f}; flagged {share(hit, len(positive))}; "
                         f"quiet {share(quiet, len(negative))}; AUC {auc(*score):.3f}")
        bins = []
        for low, high in ((0.1, 0.5), (0.5, 2), (2, 8), (8, 999)):
            hits = [h for r in positive for h, ml in zip(r["lesion_hit"], r["lesions_ml"]) if low <= ml < high]
            bins.append(f"{low}-{high} ml {sum(hits)}/{len(hits)}")
        lines.append(f"{mode} lesions hit at 0.5: " + ", ".join(bins))
        every = [r for r in records if r["mode"] == mode]
        lines.append(f"{mode} brain dice mean {np.mean([r['brain_dice'] for r in every]):.3f}, abnormality dice mean "
                     f"{np.mean([r['abnormal_dice'] for r in every if r['abnormal_dice'] is not None]):.3f}, right half "
                     f"{np.mean([r['half_dice'] for r in every if r['true_brain_ml'] > 500]):.3f}, lateral ventricles "
                     f"{np.mean([r['ventricle_dice'] for r in every if r['true_brain_ml'] > 500]):.3f}, normal enhancement "
                     f"{np.mean([r['normal_dice'] for r in every if r['post']]):.3f}")
        for threshold in map(str, NORMAL_THRESHOLDS):
            after, before = by_contrast(every, threshold)
            lines.append(f"{mode} normal enhancement of a score from {threshold} on, ml: after contrast agent at 1, 10, 50 % "
                         f"{np.percentile(after, [1, 10, 50]).round(1).tolist()}; without at 50, 90, 100 % "
                         f"{np.percentile(before, [50, 90, 100]).round(1).tolist()}; AUC {auc(after, before):.3f}")
        wrong = [r for r in every if not r["post"]]
        lines.append(f"{mode} without contrast agent, sent as if with it: components of a score of 0.9 and more at 0.5 in "
                     f"{share(sum(any(c[1] >= 0.9 for c in r['at']['0.5']['components']) for r in wrong), len(wrong))}")
    return lines


def best_point(records, mode, wish):
    """Among the points whose specificity reaches the wish and whose sensitivity comes within one study of the best: the one with the best
    outlines (mean Dice over positive studies); ties: more quiet, smaller volume."""
    positive, negative = split(records, mode)
    points = []
    for voxel in VOXEL_THRESHOLDS:
        outline = float(np.mean([r["at"][str(voxel)]["dice"] for r in positive]))
        for ml in (0.1, 0.2, 0.3, 0.5, 0.7, 1.0):
            for threshold in np.arange(0.3, 0.996, 0.005):
                point = {"voxel_threshold": voxel, "component_ml_min": ml, "threshold": round(float(threshold), 3)}
                quiet = sum(not flagged(r, point)[0] for r in negative)
                if threshold < voxel or quiet < wish * len(negative):
                    continue
                hit = sum(flagged(r, point)[0] for r in positive)
                points.append((hit, outline, quiet, -ml, -threshold, point))
                break  # a higher threshold only loses sensitivity
    most = max(p[0] for p in points)
    hit, _, quiet, _, _, point = max((p for p in points if p[0] >= most - 1), key=lambda p: p[1:5])
    return {**BASE, **point, "inputs": MODES[mode], "sensitivity": round(hit / len(positive), 3),
            "specificity": round(quiet / len(negative), 3), "counts": [hit, len(positive), quiet, len(negative)]}


def choose(work):
    """Per set of inputs: the best point at the wished specificity on the synthetic set, as the int8 network sees it."""
    with open(os.path.join(work, "eval", "synthetic.int8.json")) as f:
        records = json.load(f)
    points = [best_point(records, mode, SPECIFICITY_WISH[mode]) for mode in MODES]
    for point in points:
        hit, n, quiet, m = point["counts"]
        print(point, "sensitivity", share(hit, n), "specificity", share(quiet, m))
    with open(os.path.join(work, "eval", "points.json"), "w") as f:
        json.dump(points, f, indent=1)
    gates = choose_gates(records)
    print(gates)
    with open(os.path.join(work, "eval", "gates.json"), "w") as f:
        json.dump(gates, f, indent=1)


def choose_gates(records):
    """Limits of the domain from whole-enough synthetic heads: noise, and how much normal enhancement shows that contrast agent was given."""
    heads = [r for r in records if r["mode"] == "t1"]
    threshold = max(map(str, NORMAL_THRESHOLDS), key=lambda t: auc(*by_contrast(heads, t)))
    after, before = by_contrast(heads, threshold)
    noise = [r["noise_z"] for r in heads if r["true_brain_ml"] > g.DOMAIN["brain_ml_min"]]
    absent = float(np.percentile(after, 1))
    seen = float(max(np.percentile(after, 10), 1.2 * max(before)))
    n_seen, n_absent = sum(v >= seen for v in after), sum(v <= absent for v in before)
    return {"noise_z_max": round(1.1 * max(noise), 3), "absent_ml_max": round(absent, 2), "seen_ml_min": round(seen, 2), "voxel_threshold": float(threshold),
            "source": f"synthetic validation set, T1 alone: {len(after)} heads after contrast agent, {len(before)} without; at most absent_ml_max: "
                      f"{share(n_absent, len(before))} of those without and 1 % of those with; at least seen_ml_min: {share(n_seen, len(after))} of those "
                      "with and none without",
            "noise_source": f"1.1 times the largest of {len(noise)} synthetic heads (noise of up to 9 % of white matter)"}


def real_studies(data):
    """The visible cases and variants of them: (name, kind, T1, FLAIR or None, label)."""
    from . import real as r
    for name, t1, flair, label, kind in r.cases(data):
        yield name, kind, t1, flair, label
        if flair is not None and name.startswith(("brats", "ms")):
            yield name + " T1 alone", kind, t1, None, label
        if name.startswith("brats"):
            yield name + " axial 5 mm", kind, r.thick(t1, 2, 5), r.thick(flair, 2, 5), label
            yield name + " sagittal 6 mm", kind, r.thick(t1, 0, 6), r.thick(flair, 2, 5), label
        if name.startswith("philips"):
            yield name + " axial 5 mm", kind, r.thick(t1, 2, 5), None, label


def real(args, work):
    """Run the network on the real studies and keep logits and truth: WORK/eval/real.NETWORK.npz."""
    from . import real as r
    run = runner(args.network, work, args.name)
    kept, index = {}, []
    for name, kind, t1, flair, label in real_studies(args.data):
        z, centre = r.to_grid(t1, flair)
        n = len(index)
        logits = run(z)
        index.append({"case": name, "kind": kind, "noise_z": noise_z(z[0], brain(logits, BASE)), "mode": "both" if flair is not None else "t1", "truth": label is not None})
        kept[f"logits{n}"] = logits.astype(np.float16)
        kept[f"truth{n}"] = r.resample(label, label.data, centre, outside=0.0) > 0.5 if label is not None else np.zeros(0, bool)
        print(name, flush=True)
    folder = os.path.join(work, "eval")
    np.savez_compressed(os.path.join(folder, f"real.{args.network}.npz"), index=json.dumps(index), **kept)


def report(args, work):
    """The real studies at the frozen operating points: WORK/eval/real.NETWORK.json and a line each."""
    folder = os.path.join(work, "eval")
    with open(os.path.join(folder, "points.json")) as f:
        points = json.load(f)
    with open(os.path.join(folder, "gates.json")) as f:
        gates = json.load(f)
    kept = np.load(os.path.join(folder, f"real.{args.network}.npz"))
    rows = []
    for n, study in enumerate(json.loads(str(kept["index"]))):
        logits, truth = kept[f"logits{n}"].astype(np.float32), kept[f"truth{n}"] if study["truth"] else None
        point = next(p for p in points if p["inputs"] == MODES[study["mode"]])
        mask = brain(logits, point)
        found = components(logits, point, mask)
        everything = painted(found)
        alarms = [c for c in found if c["score"] >= point["threshold"]]
        ml, height = brain_ml(mask), brain_mean_height_mm(mask)
        gate = g.DOMAIN["brain_ml_min"] <= ml <= g.DOMAIN["brain_ml_max"] and height >= g.DOMAIN["brain_mean_height_mm_min"]
        rows.append({"case": study["case"], "kind": study["kind"], "brain_ml": round(ml), "height_mm": round(height, 1), "gate": bool(gate),
                     "score": round(found[0]["score"], 3) if found else 0.0,
                     "flagged": bool(alarms), "normal_ml": round(normal_enhancement_ml(logits, mask, gates["voxel_threshold"]), 1), "noise_z": round(study["noise_z"], 3), "alarm_ml": [round(c["ml"], 2) for c in alarms],
                     "on_lesion": bool(truth is not None and any(touches(c, truth) for c in alarms)),
                     "dice": round(dice(everything, truth), 3) if truth is not None else None,
                     "false_components": sum(truth is None or not touches(c, truth) for c in alarms)})
        print(rows[-1], flush=True)
    with open(os.path.join(folder, f"real.{args.network}.json"), "w") as f:
        json.dump(rows, f, indent=1)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=["synthetic", "choose", "real", "report"])
    p.add_argument("--network", choices=["float", "int8"], default="int8")
    p.add_argument("--name", default="run")
    p.add_argument("--limit", type=int)
    p.add_argument("--jobs", type=int, default=1)
    p.add_argument("--data")
    p.add_argument("--work")
    args = p.parse_args()
    work = g.work_folder(args.work)
    {"synthetic": lambda: synthetic(args, work), "choose": lambda: choose(work), "real": lambda: real(args, work),
     "report": lambda: report(args, work)}[args.what]()


if __name__ == "__main__":
    main()
