"""Put the model folder together: network, twin, manifest, golden cases, card, notice.

    python -m cns_mri.package --out ../cns-mri [--version 0.1.0] [--work DIR] [--name run]

In: WORK/export, WORK/eval (points.json and the tables), WORK/val (golden inputs), card.md beside the README. Out: the folder,
with every hash in manifest.toml. Fails when the golden outputs of two runs differ.
"""
import argparse
import glob
import hashlib
import json
import os
import shutil

import numpy as np
import onnxruntime
import torch

from . import evaluate as e
from . import grid as g
from . import implants
from . import normalise as n
from . import studies
from .quantise import quantised_input

NOTICE = """The weights of cns-mri were trained on synthetic images only. Their anatomy comes from 20 whole-head label maps:

SynthSeg training label maps (training_seg_01 to 20), BBillot/SynthSeg 66342c1f, Apache License 2.0,
Copyright 2020 Benjamin Billot. B. Billot et al., "SynthSeg: Segmentation of brain MRI scans of any contrast and resolution
without retraining", Medical Image Analysis 86, 2023.

The label maps are not part of this folder. No acquired image was used to train, calibrate or tune the model, and none is in it:
the golden cases are synthetic.
"""

SIGNS = {
    "midline_shift_mm_min": 5.0,
    "midline_shift_source": "Brain Trauma Foundation, Bullock 2006 (Neurosurgery 58, S2-16 and S2-25): a shift of more than 5 mm is an indication to "
                            "operate on a subdural or parenchymal mass; taken over here as the size from which people are called at once",
    "ventricle_index_min": 0.40,
    "ventricle_index_source": "Evans 1942: above 0.30 the ventricles are enlarged, which many old people's are, and dividing by the brain's width "
                              "instead of the skull's reads higher; measured so, the 20 label maps of the training have 0.17-0.39; GUESS: above all of them",
}


def sha256(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def toml(value):
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml(v) for v in value) + "]"
    return repr(float(value)) if isinstance(value, float) else json.dumps(value) if isinstance(value, str) else str(value)


def table(name, items, notes=None):
    rows = [name] + [f"{k} = {toml(v)}" + (f"  # {notes[k]}" if notes and k in notes else "") for k, v in items.items()]
    return "\n".join(rows) + "\n"


def golden(work, out):
    """One positive study with both channels, one with the T1 alone: raw int8 in C order, and their manifest entries."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(os.path.join(out, "model.onnx"), options, providers=["CPUExecutionProvider"])
    positive = [p for p in sorted(glob.glob(os.path.join(work, "val", "*_y.npy"))) if (np.load(p) & 1).sum() > 100]
    os.makedirs(os.path.join(out, "golden"), exist_ok=True)
    entries = []
    for number, (path, mode) in enumerate(zip(positive, e.MODES), 1):
        z = np.load(path.replace("_y", "_x")).astype(np.float32)
        if mode == "t1":
            z[1] = n.MISSING_CHANNEL_VALUE
        x = quantised_input(z)[None]
        y = session.run(None, {"x": x})[0]
        if not np.array_equal(y, session.run(None, {"x": x})[0]):
            raise SystemExit("the runtime is not deterministic")
        entry = {"name": f"case{number}", "inputs": e.MODES[mode]}
        for part, array in (("input", x), ("output", y)):
            entry[part] = f"golden/case{number}.{part}.i8"
            array.tofile(os.path.join(out, entry[part]))
        entry.update({f"{part}_sha256": sha256(os.path.join(out, entry[part])) for part in ("input", "output")})
        entries.append(entry)
    return entries


def twin(out, quant, entries):
    """The manifest's [qdq]: the twin's hash, and how near a device's answers must be, from how near onnxruntime's own provider comes.

    The twin holds the same integers, but its convolutions are float: a value on a boundary rounds to the other side here and there, and the layers
    behind amplify that. Twice the largest difference and ten times the share beyond two steps are allowed."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # else 8-bit products saturate on x86 without VNNI
    session = onnxruntime.InferenceSession(os.path.join(out, "model.qdq.onnx"), options, providers=["CPUExecutionProvider"])
    steps, largest, share = 2, 0, 0.0
    for entry in entries:
        x = np.fromfile(os.path.join(out, entry["input"]), np.int8).reshape(1, -1, *g.SHAPE_KJI)
        wanted = np.fromfile(os.path.join(out, entry["output"]), np.int8)
        y = session.run(None, {"x": (x.astype(np.float32) - quant["input_zero_point"]) * np.float32(quant["input_scale"])})[0].ravel()
        got = np.clip(np.rint(y / np.float32(quant["output_scale"])) + quant["output_zero_point"], -128, 127)
        apart = np.abs(got - wanted)
        largest, share = max(largest, int(apart.max())), max(share, float(np.mean(apart > steps)))
    return {"file": "model.qdq.onnx", "sha256": sha256(os.path.join(out, "model.qdq.onnx")), "steps_max": max(4, 2 * largest), "steps": steps,
            "fraction_max": max(0.005, float(np.ceil(share * 1e4) / 1e3)),
            "source": f"onnxruntime {onnxruntime.__version__}, CPU provider, on the {len(entries)} golden cases: at most {largest} int8 steps, {share:.2%} of "
                      f"the values more than {steps}; GUESS: a device that rounds in its own way may be twice and ten times as far; verdicts must be equal"}


def manifest(work, out, version, state, entries, continues):
    with open(os.path.join(work, "export", "quant.json")) as f:
        quant = json.load(f)
    with open(os.path.join(work, "eval", "points.json")) as f:
        points = json.load(f)
    with open(os.path.join(work, "eval", "gates.json")) as f:
        gates = json.load(f)
    samples = len(glob.glob(os.path.join(work, "train", "*_y.npy")))
    text = [
        table("# Written by models/train (python -m cns_mri.package); figures and their meaning: CARD.md", {
            "schema": "scanside.model/1", "name": "cns-mri", "version": version, "file": "model.onnx",
            "sha256": sha256(os.path.join(out, "model.onnx")), "precision": "int8"}),
        table("[input]", {"spacing_mm": g.SPACING_MM, "shape_kji": list(g.SHAPE_KJI), "axes": "LPS",
                          "scale": quant["input_scale"], "zero_point": quant["input_zero_point"]}),
        table("[[input.channels]]", {"role": "t1_post", "required": True}),
        table("[[input.channels]]", {"role": "flair", "required": False}),
        "# models/train/cns_mri/normalise.py is the reference. Per channel, on the grid:\n"
        "# background = off the acquired field of view, or filled: where the acquired volume's single most frequent stored value fills\n"
        "#   more than background_mode_fraction of its voxels, the mask of voxels with that value is resampled with the intensities'\n"
        "#   weights and a grid point with more than 0.5 of it is background;\n"
        "# inside = not background; low = min(inside); foreground = inside points with\n"
        "#   v - low > foreground_fraction * (percentile(inside, foreground_percentile) - low);\n"
        "# bottom, top = clip_percentiles of the foreground (percentiles interpolate linearly at (n - 1) * p / 100);\n"
        "# mean, sd (population) of the foreground clipped to bottom..top;\n"
        "# z = clip((clip(v, bottom, top) - mean) / sd, clip_z); background points become background_value.\n"
        "# Fewer than 500 inside or foreground points: the channel counts as missing, all missing_channel_value.\n"
        + table("[input.normalise]", {
            "method": "foreground-z/1", "background_mode_fraction": n.BACKGROUND_MODE_FRACTION,
            "foreground_fraction": n.FOREGROUND_FRACTION, "foreground_percentile": n.FOREGROUND_PERCENTILE,
            "clip_percentiles": list(n.CLIP_PERCENTILES), "clip_z": list(n.CLIP_Z), "background_value": n.BACKGROUND_VALUE,
            "missing_channel_value": n.MISSING_CHANNEL_VALUE}),
        table("[output]", {"channels": quant["outputs"], "scale": quant["output_scale"], "zero_point": quant["output_zero_point"]})]
    for p in points:
        hit, positive, quiet, negative = p["counts"]
        text.append(table("[[operating_points]]", {
            **{k: p[k] for k in ("inputs", "voxel_threshold", "brain_threshold", "brain_margin_voxels", "component_ml_min", "threshold",
                                 "sensitivity", "specificity")},
            "source": f"synthetic validation set (label maps 19-20, seeds from 900000), int8, {positive} positive / {negative} negative: "
                      f"flagged {e.share(hit, positive)}, not flagged {e.share(quiet, negative)}, 95 % Wilson; chosen on the same set, "
                      "so optimistic; real cases: CARD.md"},
            {"brain_margin_voxels": "largest 6-connected part of the brain output, dilated by so many 6-neighbour steps"}))
    domain = {**g.DOMAIN, "noise_z_max": gates["noise_z_max"]}
    domain["source"] += "; noise_z_max: " + gates["noise_source"]
    text.append(table("[domain]", domain))
    text.append(table("[signs]", SIGNS))
    text.append("# Volume of normal_enhancement at or above voxel_threshold in and around the brain.\n" + table("[contrast]", {
        k: gates[k] for k in ("voxel_threshold", "seen_ml_min", "absent_ml_max", "source")}))
    text.append(table("[critical]", {
        "total_enhancing_ml_min": 10.0, "max_diameter_mm_min": 30.0,
        "source": "GUESS, from no data and no guideline: a volume or diameter at which mass effect is likely; the site's radiologists must set it"}))
    text += [table("[[golden]]", entry) for entry in entries]
    text.append("# The same integers between float input and output, for NPUs; how near a device's answers to the golden ones must be.\n"
                + table("[qdq]", twin(out, quant, entries)))
    text.append(table("[training]", {
        "recipe": "models/train", "data": "synthetic heads from SynthSeg label maps 1-18 (Apache-2.0); no acquired image",
        **({"continues": continues} if continues else {}), **({"start_sha256": state["start"]} if state.get("start") else {}),
        "samples": samples, "steps": state["step"], "patches": state["patches_per_step"] * state["step"], "cpu_minutes": round(state["cpu_s"] / 60, 1),
        "parameters": quant["parameters"], "gmac": round(quant["macs"] / 1e9, 2), "torch": torch.__version__.split("+")[0],
        "onnxruntime": onnxruntime.__version__}))
    return "\n".join(text)


def summary_with_rule(records):
    return e.summary(records) + ["all lesions and all heads, " + implants.against_rule(records, mode) for mode in e.MODES]


def real_table(work, network):
    with open(os.path.join(work, "eval", f"real.{network}.json")) as f:
        rows = json.load(f)
    lines = ["| case | expected | brain ml | mean height mm | brain gate | score | flagged | alarm components ml | Dice | false alarm components |", "|---|---|---|---|---|---|---|---|---|---|"]
    for r in rows:
        lines.append(f"| {r['case']} | {r['kind']} | {r['brain_ml']} | {r['height_mm']} | {'passed' if r['gate'] else 'STOPPED'} | {r['score']} | {'yes' if r['flagged'] else 'no'} | "
                     f"{', '.join(map(str, r['alarm_ml'])) or '-'} | {'-' if r['dice'] is None else r['dice']} | {r['false_components']} |")
    return "\n".join(lines)


def card(work, out, version):
    with open(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "card.md")) as f:
        text = f.read()
    for network in ("float", "int8"):
        path = os.path.join(work, "eval", f"synthetic.{network}.json")
        if os.path.exists(path):
            with open(path) as f:
                text = text.replace(f"@synthetic.{network}@", "\n".join("- " + s for s in summary_with_rule(json.load(f))))
        real = os.path.join(work, "eval", f"real.{network}.json")
        text = text.replace(f"@real.{network}@", real_table(work, network) if os.path.exists(real) else "Not measured.")
    with open(os.path.join(work, "eval", "synthetic.int8.json")) as f:
        whole = json.load(f)
    rows = ["| inputs | wished specificity | voxel threshold | component ml | score threshold | flagged | not flagged |", "|---|---|---|---|---|---|---|"]
    for mode in e.MODES:
        for wish in (0.97, 0.95, 0.9, 0.85):
            p = e.best_point(whole, mode, wish)
            rows.append(f"| {' + '.join(p['inputs'])} | {wish} | {p['voxel_threshold']} | {p['component_ml_min']} | {p['threshold']} | "
                        f"{e.share(*p['counts'][:2])} | {e.share(*p['counts'][2:])} |")
    text = text.replace("@trade@", "\n".join(rows))
    path = os.path.join(work, "eval", "synthetic.float.json")
    if os.path.exists(path):
        with open(path) as f:
            part = json.load(f)
        same = {(r["study"], r["mode"]): r for r in whole}
        words = []
        for mode in e.MODES:
            pairs = [(r["at"]["0.5"]["dice"], same[r["study"], mode]["at"]["0.5"]["dice"]) for r in e.split(part, mode)[0]]
            a, b = np.array(pairs).T
            words.append(f"{mode} {a.mean():.3f} / {b.mean():.3f}, largest change {np.abs(a - b).max():.3f} (n = {len(a)})")
        text = text.replace("@float.studies@", str(len(part) // len(e.MODES))).replace("@float.int8@", "; ".join(words))
    with open(os.path.join(work, "eval", "points.json")) as f:
        points = json.load(f)
    path, lines = os.path.join(work, "eval", "implants.int8.json"), ["Not measured."]
    if os.path.exists(path):
        with open(path) as f:
            lines = implants.summary(json.load(f), {tuple(p["inputs"]): p for p in points})
    text = text.replace("@implants@", "\n".join("- " + s for s in lines))
    path, lines = os.path.join(work, "eval", "studies.json"), ["Not measured."]
    if os.path.exists(path):
        with open(path) as f:
            lines = studies.summary(json.load(f))
    text = text.replace("@studies@", "\n".join("- " + s for s in lines))
    with open(os.path.join(work, "eval", "gates.json")) as f:
        text = text.replace("@gates@", json.load(f)["source"])
    text = text.replace("@points@", "\n".join(
        f"| {' + '.join(p['inputs'])} | {p['voxel_threshold']} | {p['component_ml_min']} | {p['threshold']} | "
        f"{e.share(*p['counts'][:2])} | {e.share(*p['counts'][2:])} |" for p in points))
    with open(os.path.join(out, "CARD.md"), "w") as f:
        f.write(text.replace("@version@", version))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", required=True)
    p.add_argument("--version", default="0.3.0")
    p.add_argument("--continues", help="what the run started from, for the manifest")
    p.add_argument("--work")
    p.add_argument("--name", default="run")
    args = p.parse_args()
    work = g.work_folder(args.work)
    os.makedirs(args.out, exist_ok=True)
    for name in ("model.onnx", "model.qdq.onnx"):
        shutil.copy(os.path.join(work, "export", name), os.path.join(args.out, name))
    state = torch.load(os.path.join(work, args.name + ".pt"), weights_only=True)
    entries = golden(work, args.out)
    with open(os.path.join(args.out, "manifest.toml"), "w") as f:
        f.write(manifest(work, args.out, args.version, state, entries, args.continues))
    with open(os.path.join(args.out, "NOTICE"), "w") as f:
        f.write(NOTICE)
    card(work, args.out, args.version)
    print("packaged", args.out, "step", state["step"])


if __name__ == "__main__":
    main()
