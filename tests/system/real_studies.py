#!/usr/bin/env python3
"""Triage every visible real study and print a table: roles found, verdict, time, peak memory. Exit 1 when a verdict is wrong. Reads $SCANSIDE_SHARED_DATA, else ../shared/data.

    tests/system/real_studies.py [--only NAME]

Volumes that lie there as NIfTI or NRRD are first written as DICOM studies by the tool beside the data. Nothing of it is committed.
"""
import argparse
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile

from appliance import ROOT, program

SHARED = pathlib.Path(os.environ.get("SCANSIDE_SHARED_DATA", ROOT.parent / "shared" / "data"))


FLAGGED, QUIET = {"flagged"}, {"not_flagged", "indeterminate"}
VARIANTS = {"": [], " 5 mm": ["--slice-mm", "5", "--vendor", "philips"], " tilted 5 mm": ["--tilt-deg", "12", "--slice-mm", "5", "--vendor", "canon"],
            " sagittal 6 mm": ["--plane", "sagittal", "--slice-mm", "6", "--vendor", "ge"], " coronal": ["--plane", "coronal", "--vendor", "philips"],
            " enhanced": ["--enhanced"]}


def volumes():
    """(name, files by role, options of the tool, verdicts that are right)."""
    brain = SHARED / "brain"
    for case in sorted((brain / "brats2013").glob("brats_*")):
        both = {"t1_post": case / "T1c_subtrMeanDivStd.nii.gz", "flair": case / "Flair_subtrMeanDivStd.nii.gz"}
        for variant, options in VARIANTS.items():
            yield case.name + variant, both, options, FLAGGED
            yield case.name + variant + ", T1 alone", {"t1_post": both["t1_post"]}, options, FLAGGED
        yield case.name + " gaps", both, ["--drop", "3"], {"indeterminate"}
    image = {"t1_post": brain / "pyradiomics_brain1" / "brain1_image.nrrd"}
    yield "brain1", image, [], FLAGGED
    yield "brain1 tilted", image, ["--tilt-deg", "12"], FLAGGED
    for patient in ("patient01", "patient12"):
        folder = brain / "ms_native" / patient
        roles = {"flair": folder / "study1_FLAIR.nii.gz", "t1_pre": folder / "study1_T1W.nii.gz", "t2": folder / "study1_T2W.nii.gz"}
        yield "ms " + patient, roles, [], {"indeterminate"}
        yield "ms " + patient + " (T1 as if post)", {"t1_post": roles["t1_pre"], "flair": roles["flair"]}, [], QUIET
        yield "ms " + patient + " (T1 as if post, alone)", {"t1_post": roles["t1_pre"]}, [], QUIET
    isles = brain / "isles0001" / "data"
    yield "isles", {"dwi": isles / "sub-strokecase0001_ses-0001_dwi.nii.gz", "adc": isles / "sub-strokecase0001_ses-0001_adc.nii.gz"}, [], {"indeterminate"}
    yield "py_synthsr", {"flair": brain / "py_synthsr" / "FLAIR.nii.gz"}, [], {"indeterminate"}
    strip = brain / "failed_skull_strip"
    yield "failed skull strip", {"t1_post": strip / "t1c.nii.gz", "flair": strip / "t2f.nii.gz"}, [], {"indeterminate"}


def run(name, path, right):
    """(rows of the table, whether every verdict is right and there is one)."""
    process = subprocess.Popen([program(), "triage", str(path), "--json"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    out, err = process.communicate()
    rows, fine = [], True
    for line in out.splitlines():
        v = json.loads(line)
        roles = ", ".join(f"{s['role']}{'*' if s['used'] else ''}" for s in v["series"])
        what = v["verdict"] + (f" ({v['urgency']})" if v["urgency"] else "")
        score = "" if v["score"] is None else f"{v['score']:.2f}"
        ml = f"{v['findings'][0]['volume_ml']:.1f} ml" if v["findings"] else ""
        why = v["reasons"][0]["code"]
        if v["verdict"] not in right:
            fine, what = False, "**WRONG** " + what
        rows.append(f"| {name} | {roles} | {what} | {score} | {ml} | {why} | {v['timing_ms']['prepare']} + {v['timing_ms']['infer']} |")
    if not rows:
        fine = False
        rows.append(f"| {name} | - | exit {process.returncode} | | | {err.strip().splitlines()[-1][:120] if err.strip() else ''} | |")
    return rows, fine


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only")
    args = parser.parse_args()
    if not SHARED.is_dir():
        print(f"SKIP: {SHARED} is not there")
        return
    tool = SHARED.parent / "tools" / "nifti_to_dicom.py"
    print("| study | roles (* used) | verdict | score | first finding | first reason | prepare + infer, ms |\n| --- | --- | --- | --- | --- | --- | --- |")
    wrong = []

    def show(name, path, right):
        rows, fine = run(name, path, right)
        print("\n".join(rows), flush=True)
        if not fine:
            wrong.append(name)

    with tempfile.TemporaryDirectory() as folder:
        for name, roles, options, right in volumes():
            if args.only and args.only not in name:
                continue
            out = pathlib.Path(folder) / name.replace(" ", "_")
            subprocess.run([sys.executable, str(tool), "--out", str(out), "--patient", name.replace(" ", "_"), *options, *[f"{k}={v}" for k, v in roles.items()]],
                           check=True, stdout=subprocess.DEVNULL)
            show(name, out, right)
            shutil.rmtree(out)
    dicom = SHARED / "dicom"
    for case in sorted(p for p in dicom.iterdir() if p.is_dir()):
        if args.only and args.only not in case.name:
            continue
        show(case.name, case, QUIET)
    print(f"peak memory of one process: {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:.0f} MB (the largest child, Python included)")
    if wrong:
        sys.exit(f"{len(wrong)} studies with a wrong verdict: " + "; ".join(wrong))


if __name__ == "__main__":
    main()
