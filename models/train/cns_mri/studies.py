"""The fixed held-out studies: synthetic heads written as the DICOM files that a scanner would send, and read by the appliance itself.

    python -m cns_mri.studies --program scanside [--count 220] [--models ../] [--jobs 2] [--work DIR]

In: WORK/labels (maps 19 and 20, never trained on), the program. Out: WORK/eval/studies.json, a record per study and set of inputs, and a
table: flagged, not flagged and indeterminate by kind, AUC of the score, by lesion size and by slice thickness, with 95 % intervals.

Kinds: `lesion` (half of them), `quiet`, and, beside these, `no-contrast`: a T1 without contrast agent that is tagged as if it had one
(a tenth). The main lesion's diameter is log-normal with mean 19.9 mm, as Kueker 2005 found in primary CNS lymphoma (deviation of the
logarithm 0.45: GUESS); everything else is drawn as in training. Study n depends on seed n alone and nothing is chosen on these studies.
Classic single-frame MR objects, 2 mm axial slices; thick slices are simulated by the generator before.
"""
import argparse
import json
import multiprocessing
import os
import subprocess
import tempfile

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from scipy import ndimage

from . import evaluate as e
from . import grid as g
from .generate import MAPS, head_images
from .labels import load
from .signs import midline_shift_mm

SEED = 20261125
DIAMETER_MEAN_MM, LOG_SD = 19.9, 0.45
SIZES_ML = ((0.0, 0.5), (0.5, 2.0), (2.0, 8.0), (8.0, 999.0))
AT_ONCE = 10  # studies in one call of the program
SHIFT_MM = 5.0  # as in the manifest
SLICES_MM = ((0, 2.5), (2.5, 5), (5, 7.1))
MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
PHYSICS = {"t1": dict(ScanningSequence=["GR", "IR"], SequenceVariant=["SP", "MP"], MRAcquisitionType="3D", RepetitionTime="1900",
                      EchoTime="2.3", InversionTime="900", FlipAngle="9", ContrastBolusAgent="GADOBUTROL"),
           "flair": dict(ScanningSequence=["SE", "IR"], SequenceVariant=["SK", "SP"], MRAcquisitionType="2D", RepetitionTime="9000",
                         EchoTime="110", InversionTime="2500", FlipAngle="150")}


def radius_mm(rng):
    """Half of a diameter as patients have it."""
    median = DIAMETER_MEAN_MM / np.exp(LOG_SD**2 / 2)
    return float(np.clip(median * np.exp(rng.normal(0, LOG_SD)), 4, 60) / 2)


def kind_of(n):
    return "no-contrast" if n % 11 == 10 else ("lesion", "quiet")[(n - n // 11) % 2]


def make(n, maps):
    """(kind, images, covered box, bits) of study n."""
    kind = kind_of(n)
    rng = np.random.default_rng([SEED, n])
    images, covered, bits = head_images(rng, maps, (kind != "no-contrast", kind == "lesion"), radius_mm)
    return kind, images, covered, bits


def write(folder, n, images, covered):
    """The series of one study; what lies outside the field of view is cut off. Returns the Study Instance UID."""
    box = ndimage.find_objects(covered.astype(np.uint8))[0]
    uid = [generate_uid(entropy_srcs=["scanside held-out study", str(n), str(part)]) for part in range(4)]
    for series, (name, (stored, background, _)) in enumerate(zip(("t1", "flair"), images), 1):
        stored = np.where(background, 0, stored)[box]
        top = np.percentile(stored, 99.9)
        pixels = np.clip(np.rint(stored * (2500.0 / max(top, 1e-6))), 0, 4095).astype(np.uint16)
        for k, plane in enumerate(pixels):
            d = Dataset()
            d.file_meta = FileMetaDataset()
            d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            d.file_meta.MediaStorageSOPClassUID = d.SOPClassUID = MR_IMAGE_STORAGE
            d.file_meta.MediaStorageSOPInstanceUID = d.SOPInstanceUID = generate_uid(entropy_srcs=[uid[0], name, str(k)])
            d.StudyInstanceUID, d.SeriesInstanceUID, d.FrameOfReferenceUID = uid[0], uid[series], uid[3]
            d.PatientName, d.PatientID, d.Modality, d.Manufacturer = "SYNTHETIC", "SYNTHETIC", "MR", "scanside"
            d.SeriesNumber, d.InstanceNumber, d.SeriesDescription = series, k + 1, name
            d.ImageType, d.BodyPartExamined = ["ORIGINAL", "PRIMARY", "M"], "BRAIN"
            d.PixelSpacing, d.SliceThickness = [g.SPACING_MM] * 2, g.SPACING_MM
            d.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
            d.ImagePositionPatient = [float((box[2].start - g.SHAPE_KJI[2] / 2) * g.SPACING_MM),
                                      float((box[1].start - g.SHAPE_KJI[1] / 2) * g.SPACING_MM), float((box[0].start + k) * g.SPACING_MM)]
            d.Rows, d.Columns = plane.shape
            d.SamplesPerPixel, d.PhotometricInterpretation, d.BitsAllocated, d.BitsStored, d.HighBit = 1, "MONOCHROME2", 16, 12, 11
            d.PixelRepresentation, d.PixelData = 0, plane.tobytes()
            for key, value in PHYSICS[name].items():
                setattr(d, key, value)
            pydicom.dcmwrite(os.path.join(folder, f"{n:04d}_{name}_{k:03d}.dcm"), d, enforce_file_format=True)
    return uid[0]


def verdicts(program, models, folder):
    command = [program, "triage", folder, "--json"] + (["--models", models] if models else [])
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    return {v["study_instance_uid"]: v for v in map(json.loads, done.stdout.splitlines())}


def hits(verdict, lesion):
    """Whether a finding's box holds a voxel of the true lesions (grid of the generator)."""
    for finding in verdict["findings"]:
        low, high = finding["bbox_lps_mm"]
        half = np.array(g.SHAPE_KJI)[::-1] / 2
        start = [(low[0] / g.SPACING_MM) + half[0], (low[1] / g.SPACING_MM) + half[1], low[2] / g.SPACING_MM]
        stop = [(high[0] / g.SPACING_MM) + half[0], (high[1] / g.SPACING_MM) + half[1], high[2] / g.SPACING_MM]
        i, j, k = (slice(max(0, int(a)), max(0, int(np.ceil(b)) + 1)) for a, b in zip(start, stop))
        if lesion[k, j, i].any():
            return True
    return False


def summary(records):
    lines = []
    for inputs in ("both", "t1"):
        mine = [r for r in records if r["inputs"] == inputs]
        for kind in ("lesion", "quiet", "no-contrast"):
            part = [r for r in mine if r["kind"] == kind]
            counts = {v: sum(r["verdict"] == v for r in part) for v in ("flagged", "not_flagged", "indeterminate")}
            lines.append(f"{inputs} {kind}: " + ", ".join(f"{v} {e.share(c, len(part))}" for v, c in counts.items()))
        positive, negative = ([r["score"] for r in mine if r["kind"] == kind and r["score"] is not None] for kind in ("lesion", "quiet"))
        lines.append(f"{inputs}: AUC {e.auc(positive, negative):.3f} ({e.auc_interval(positive, negative)}; "
                     f"{len(positive)} with, {len(negative)} without a lesion; indeterminate ones have no score)")
        cells = []
        for low, high in SIZES_ML:
            part = [r for r in mine if r["kind"] == "lesion" and low <= r["largest_ml"] < high]
            cells.append(f"{low:g}-{high:g} ml {e.share(sum(r['verdict'] == 'flagged' for r in part), len(part))}")
        lines.append(f"{inputs} flagged by the largest lesion: " + ", ".join(cells))
        cells = []
        for low, high in SLICES_MM:
            part = [r for r in mine if r["kind"] == "lesion" and low <= r["slice_mm"] < high]
            cells.append(f"{low:g}-{high:g} mm {e.share(sum(r['verdict'] == 'flagged' for r in part), len(part))}")
        lines.append(f"{inputs} flagged by the thickness of the T1's slices: " + ", ".join(cells))
        flagged = [r for r in mine if r["kind"] == "lesion" and r["verdict"] == "flagged"]
        lines.append(f"{inputs} flagged for a true lesion: {e.share(sum(r['on_lesion'] for r in flagged), len(flagged))}")
        pairs = [(abs(r["true_shift_mm"]), abs(r["signs"]["midline-shift"])) for r in mine
                 if r["true_shift_mm"] is not None and r["signs"].get("midline-shift") is not None]
        if pairs:
            true, seen = np.array(pairs).T
            large = true >= SHIFT_MM
            lines.append(f"{inputs} midline shift: measured on {len(pairs)} of {sum(r['true_shift_mm'] is not None for r in mine)} heads; error against the "
                         f"true map, mm at 50, 90, 100 %: {np.percentile(np.abs(true - seen), [50, 90, 100]).round(1).tolist()}; of those with a true shift of "
                         f"{SHIFT_MM} mm and more {e.share(int((seen[large] >= SHIFT_MM).sum()), int(large.sum()))} are measured so, of the others "
                         f"{e.share(int((seen[~large] >= SHIFT_MM).sum()), int((~large).sum()))}")
    return lines


def judge_studies(task):
    """The records of some studies, each with both series and with the T1 alone; a few at a time, since the program checks itself at each start."""
    program, models, work, numbers = task
    maps, records = load(work, *MAPS["val"]), []
    for first in range(0, len(numbers), AT_ONCE):
        with tempfile.TemporaryDirectory() as folder:
            waiting = []
            for inputs in ("both", "t1"):
                os.mkdir(os.path.join(folder, inputs))
            for n in numbers[first:first + AT_ONCE]:
                kind, images, covered, bits = make(n, maps)
                lesion = (bits & g.ENHANCING) > 0
                parts, count = ndimage.label(lesion, np.ones((3, 3, 3)))
                largest = float(np.bincount(parts.ravel())[1:].max() * g.VOXEL_ML) if count else 0.0
                if kind == "lesion" and largest < e.LESION_ML_MIN:
                    continue  # cut off by the field of view: neither with nor without
                shift = midline_shift_mm((bits & g.BRAIN) > 0, (bits & g.RIGHT_HALF) > 0, (bits & g.VENTRICLES) > 0)
                facts = {"study": n, "kind": kind, "largest_ml": round(largest, 3), "slice_mm": round(images[0][2], 2),
                         "true_shift_mm": None if shift is None else round(shift, 2)}
                for inputs in ("both", "t1"):
                    uid = write(os.path.join(folder, inputs), n, images[:1 if inputs == "t1" else 2], covered)
                waiting.append((uid, facts, lesion))
            for inputs in ("both", "t1"):
                found = verdicts(program, models, os.path.join(folder, inputs))
                records += [{**facts, "inputs": inputs, **said(found[uid], lesion)} for uid, facts, lesion in waiting]
        print(len(records), "verdicts", flush=True)
    return records


def said(verdict, lesion):
    return {"verdict": verdict["verdict"], "urgency": verdict["urgency"], "score": verdict["score"],
            "reasons": [r["code"] for r in verdict["reasons"]], "used": [s["role"] for s in verdict["series"] if s["used"]],
            "signs": {s["code"]: s["value"] for s in verdict.get("signs", [])}, "on_lesion": hits(verdict, lesion),
            "timing_ms": verdict["timing_ms"]}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--program", required=True)
    p.add_argument("--models")
    p.add_argument("--count", type=int, default=220, help="of which every eleventh is `no-contrast`")
    p.add_argument("--jobs", type=int, default=1)
    p.add_argument("--work")
    args = p.parse_args()
    work = g.work_folder(args.work)
    tasks = [(args.program, args.models, work, range(n, args.count, args.jobs)) for n in range(args.jobs)]
    with multiprocessing.get_context("spawn").Pool(args.jobs) as pool:
        records = sorted(sum(pool.map(judge_studies, tasks), []), key=lambda r: (r["study"], r["inputs"]))
    folder = os.path.join(work, "eval")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "studies.json"), "w") as f:
        json.dump(records, f)
    print("\n".join(summary(records)))


if __name__ == "__main__":
    main()
