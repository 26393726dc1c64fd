#!/usr/bin/env python3
"""Ingest side by side: dcmtk's dcmsend over 4 associations into `scanside serve` (durable) and into dcmtk's storescp (never syncs).

    tests/system/bench_ingest.py [--instances 2000] [--associations 4] [--rounds 2]

Prints a table of instances/s, CPU per instance and peak memory; the rounds alternate so that a noisy machine hits both alike.
"""
import argparse
import pathlib
import resource
import shutil
import subprocess
import tempfile
import time

import numpy
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from appliance import Appliance, free_port


def make(folder, n, n_associations):
    pixels = numpy.random.default_rng(1).integers(0, 4096, (512, 512), dtype=numpy.uint16).tobytes()
    data = Dataset()
    data.SOPClassUID, data.Modality, data.PatientName, data.PatientID = CTImageStorage, "CT", "BENCH^INGEST", "BENCH"
    data.Rows = data.Columns = 512
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 16, 12, 11, 0, 1
    data.PhotometricInterpretation, data.PixelData = "MONOCHROME2", pixels
    data.ImageOrientationPatient, data.PixelSpacing, data.SliceThickness = [1, 0, 0, 0, 1, 0], [0.5, 0.5], 1
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = CTImageStorage
    for a in range(n_associations):
        data.StudyInstanceUID, data.SeriesInstanceUID = generate_uid(), generate_uid()
        (folder / str(a)).mkdir()
        for i in range(n // n_associations):
            data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            data.InstanceNumber, data.ImagePositionPatient = i + 1, [0, 0, i]
            data.save_as(folder / str(a) / f"{i:05}.dcm", enforce_file_format=True)


def send(folder, port, n_associations, called):
    begin = time.time()
    senders = [
        subprocess.Popen(["dcmsend", "-aec", called, "+sd", "127.0.0.1", str(port), str(folder / str(a))], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for a in range(n_associations)
    ]
    codes = [s.wait() for s in senders]
    assert not any(codes), codes
    return time.time() - begin


def cpu_s(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12]) + int(fields[13]) + int(fields[14])) / 100


def ours(folder, n, n_associations):
    with Appliance() as box:
        before = cpu_s(box.process.pid)
        took = send(folder, box.dicom, n_associations, "SCANSIDE")
        cpu, (_, peak) = cpu_s(box.process.pid) - before, box.rss_mb()
        stored = len(box.stored_files())
        assert stored == n, f"{stored} of {n} stored"
    shutil.rmtree(box.folder)
    return n / took, cpu / n * 1000, peak


def dcmtk(folder, n, n_associations):
    with tempfile.TemporaryDirectory() as out:
        port = free_port()
        peer = subprocess.Popen(["storescp", "--fork", "-od", out, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.5)
        took = send(folder, port, n_associations, "ANY")
        cpu = cpu_s(peer.pid)
        peer.terminate()
        peer.wait()
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        stored = len(list(pathlib.Path(out).iterdir()))
        assert stored == n, f"{stored} of {n} stored"
    return n / took, cpu / n * 1000, peak


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--instances", type=int, default=2000)
    parser.add_argument("--associations", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        make(folder, args.instances, args.associations)
        print(f"{args.instances} instances of 0.5 MB, {args.associations} associations of an unmodified dcmsend")
        print("| receiver | instances/s | CPU ms/instance | peak MB |\n| --- | --- | --- | --- |")
        for _ in range(args.rounds):
            for name, run in (("scanside (durable)", ours), ("dcmtk storescp --fork (never syncs)", dcmtk)):
                rate, cpu, peak = run(folder, args.instances, args.associations)
                print(f"| {name} | {rate:.0f} | {cpu:.1f} | {peak:.0f} |", flush=True)


if __name__ == "__main__":
    main()
