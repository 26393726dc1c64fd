#!/usr/bin/env python3
"""Ingest side by side: `scanside serve` (durable), dcmtk's storescp (never syncs), Orthanc (its default configuration: syncs files, not its index).

    tests/system/bench_ingest.py [--instances 800] [--associations 1 4] [--rounds 3] [--peers scanside dcmtk orthanc]
    tests/system/bench_ingest.py --quickack FILE  our receiver against a build without the two calls of set_quickack in src/receive
    tests/system/bench_ingest.py --soak 20000     memory over that many instances, evicting
    tests/system/bench_ingest.py --enhanced 3800  memory while storescu sends one enhanced MR object of that many frames (2 GB)

The sender is Debian's dcmsend, one process for each association, once as it is (Nagle's algorithm on) and once with TCP_NODELAY=1 in its
environment, which makes it fast. The receivers take turns inside each round, so that a noisy machine hits all alike; the ratios are those
inside a round. Everything lies under $TMPDIR: put that on the disk that is meant. $SCANSIDE names the program, made with optimisation.
"""
import argparse
import json
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import numpy
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedMRImageStorage, ExplicitVRLittleEndian, generate_uid

import wire
from appliance import Appliance, free_port, program


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


def send(folder, port, called, fast=False):
    """Seconds that one dcmsend for each folder took."""
    env = dict(os.environ, **({"TCP_NODELAY": "1"} if fast else {}))
    begin = time.time()
    senders = [
        subprocess.Popen(["dcmsend", "-aec", called, "+sd", "127.0.0.1", str(port), str(part)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
        for part in sorted(folder.iterdir())
    ]
    codes = [s.wait() for s in senders]
    assert not any(codes), codes
    return time.time() - begin


def stat_of(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None


def family(pid):
    """The process and its children, with their /proc stat fields."""
    found = {pid: stat_of(pid)}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := stat_of(entry)) and fields[1] == str(pid):
            found[int(entry)] = fields
    return {p: fields for p, fields in found.items() if fields}


def cpu_s(pid):
    """CPU of a process, of the children that it has reaped, and of those that it has not."""
    n = 0
    for member, fields in family(pid).items():
        n += sum(map(int, fields[11:15] if member == pid else fields[11:13]))
    return n / os.sysconf("SC_CLK_TCK")


def memory_mb(pid):
    """Proportional set size of a process and its children: shared pages count once."""
    n = 0
    for member in family(pid):
        try:
            text = pathlib.Path(f"/proc/{member}/smaps_rollup").read_text()
            n += int(text.split("\nPss:")[1].split()[0])
        except (OSError, IndexError):
            pass
    return n / 1024


class Sampled:
    """The highest memory while the block runs."""

    def __init__(self, pid):
        self.pid, self.first, self.peak, self.over = pid, memory_mb(pid), 0.0, threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        while not self.over.wait(0.1):
            self.peak = max(self.peak, memory_mb(self.pid))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
        self.peak = max(self.peak, memory_mb(self.pid))


def measured(pid, folder, n, port, called, fast):
    before = cpu_s(pid)
    with Sampled(pid) as memory:
        took = send(folder, port, called, fast)
    time.sleep(0.2)
    return {"rate": n / took, "cpu": (cpu_s(pid) - before) / n * 1000, "peak": memory.peak, "growth": memory.peak - memory.first}


def scanside(folder, n, fast):
    with Appliance() as box:
        figures = measured(box.process.pid, folder, n, box.dicom, "SCANSIDE", fast)
        stored = len(box.stored_files())
        assert stored == n, f"{stored} of {n} stored"
    shutil.rmtree(box.folder)
    return figures


def dcmtk(folder, n, fast):
    with tempfile.TemporaryDirectory() as out:
        port = free_port()
        env = dict(os.environ, **({"TCP_NODELAY": "1"} if fast else {}))
        peer = subprocess.Popen(["storescp", "--fork", "-od", out, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
        try:
            time.sleep(0.5)
            figures = measured(peer.pid, folder, n, port, "ANY", fast)
        finally:
            peer.terminate()
            peer.wait()
        stored = len(list(pathlib.Path(out).iterdir()))
        assert stored == n, f"{stored} of {n} stored"
    return figures


def orthanc(folder, n, fast):
    with tempfile.TemporaryDirectory() as out:
        port = free_port()
        settings = {
            "Name": "bench", "StorageDirectory": f"{out}/store", "IndexDirectory": f"{out}/index", "DicomAet": "ORTHANC", "DicomPort": port,
            "HttpServerEnabled": False, "Plugins": [], "OverwriteInstances": False,
        }
        (pathlib.Path(out) / "orthanc.json").write_text(json.dumps(settings))
        env = dict(os.environ, **({"TCP_NODELAY": "1"} if fast else {}))
        peer = subprocess.Popen(["Orthanc", f"{out}/orthanc.json"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
        try:
            end = time.time() + 60
            while time.time() < end and subprocess.run(["echoscu", "-aec", "ORTHANC", "127.0.0.1", str(port)], capture_output=True).returncode:
                time.sleep(0.2)
            figures = measured(peer.pid, folder, n, port, "ORTHANC", fast)
        finally:
            peer.terminate()
            peer.wait()
        stored = sum(1 for path in pathlib.Path(out, "store").rglob("*") if path.is_file())
        assert stored >= n, f"{stored} of {n} stored"
    return figures


PEERS = {"scanside": scanside, "dcmtk": dcmtk, "orthanc": orthanc}
NAMES = {"scanside": "scanside (durable)", "dcmtk": "dcmtk storescp --fork (never syncs)", "orthanc": "Orthanc (default)"}


def compare(args):
    peers = [name for name in args.peers if name != "orthanc" or shutil.which("Orthanc")]
    print("| sender | associations | receiver | instances/s | CPU ms/instance | peak MB (growth) | scanside is so many times as fast, by round |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for n_associations in args.associations:
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            make(folder, args.instances, n_associations)
            for fast in (False, True):
                rounds = [{name: PEERS[name](folder, args.instances, fast) for name in peers} for _ in range(args.rounds)]
                for name in peers:
                    mine = [r[name] for r in rounds]
                    middle = {key: statistics.median(m[key] for m in mine) for key in mine[0]}
                    rates = [m["rate"] for m in mine]
                    ratios = " ".join(f"{r['scanside']['rate'] / r[name]['rate']:.2f}" for r in rounds) if name != "scanside" and "scanside" in peers else ""
                    sender = "dcmsend, TCP_NODELAY" if fast else "dcmsend"
                    print(f"| {sender} | {n_associations} | {NAMES[name]} | {middle['rate']:.0f} ({min(rates):.0f}-{max(rates):.0f}) | {middle['cpu']:.2f} | "
                          f"{middle['peak']:.0f} (+{middle['growth']:.0f}) | {ratios} |", flush=True)


def quickack(args):
    """The ratio to another build of scanside, one without the two calls of `set_quickack` in src/receive, in alternating runs."""
    def rate(program):
        os.environ["SCANSIDE"] = program
        with Appliance() as box:
            rate = args.instances / send(folder, box.dicom, "SCANSIDE")
        shutil.rmtree(box.folder)
        return rate

    own = program()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        make(folder, args.instances, 1)
        for _ in range(args.rounds):
            with_it, without = rate(own), rate(args.quickack)
            print(f"one stock dcmsend: {with_it:.0f} instances/s with TCP_QUICKACK, {without:.0f} without: {with_it / without:.1f} times", flush=True)


def soak(args):
    """Memory over many instances of 0.5 MB, with verdicts and evictions."""
    class Large(wire.Instance):
        SIDES = (512,)

    with Appliance(extra="[spool]\nmib_max = 1024\n[assemble]\nsettle_s = 1\nquiet_s = 1\n[log]\nlevel = \"warn\"\n") as box:
        box.forget_peak()
        base, _ = box.rss_mb()
        senders = wire.Senders(box.dicom, 4, random.Random(1), instances_per_study=100, make=Large, remember=False)
        samples, step, begin = [], max(1, args.soak // 40), time.time()
        while (n := senders.n_acknowledged) < args.soak:
            if n >= len(samples) * step:
                samples.append(box.rss_mb()[0])
                print(f"  {n} instances, {samples[-1]:.1f} MB", flush=True)
            time.sleep(0.05)
            assert box.process.poll() is None and (n > 0 or time.time() - begin < 60), senders.errors[-1:]
        took = time.time() - begin
        senders.stop()
        _, peak = box.rss_mb()
        tenth = max(1, len(samples) // 10)
        early, late = statistics.median(samples[tenth:3 * tenth + 1]), statistics.median(samples[-2 * tenth:])
        print(f"{args.soak} instances in {took:.0f} s: {base:.1f} MB before, {early:.1f} MB early, {late:.1f} MB late, peak {peak:.1f} MB (+{peak - base:.1f}); "
              f"{len(senders.refused)} refused, {box.get('/api/v1/status')['spool']['n_instances']} still stored")
    shutil.rmtree(box.folder)


def write_enhanced(path, n_frames):
    """An enhanced MR object: functional groups of every frame by pydicom, then its pixels as a stream."""
    data = Dataset()
    data.SOPClassUID, data.SOPInstanceUID, data.Modality = EnhancedMRImageStorage, generate_uid(), "MR"
    data.StudyInstanceUID, data.SeriesInstanceUID, data.NumberOfFrames = generate_uid(), generate_uid(), n_frames
    data.Rows = data.Columns = 512
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 16, 12, 11, 0, 1
    data.PhotometricInterpretation = "MONOCHROME2"
    groups = []
    for i in range(n_frames):
        frame, position, orientation, measures, content = (Dataset() for _ in range(5))
        position.ImagePositionPatient, orientation.ImageOrientationPatient = [0, 0, i * 0.5], [1, 0, 0, 0, 1, 0]
        measures.PixelSpacing, measures.SliceThickness = [0.5, 0.5], 0.5
        content.StackID, content.InStackPositionNumber, content.DimensionIndexValues = "1", i + 1, [1, i + 1]
        frame.PlanePositionSequence, frame.PlaneOrientationSequence = [position], [orientation]
        frame.PixelMeasuresSequence, frame.FrameContentSequence = [measures], [content]
        groups.append(frame)
    data.PerFrameFunctionalGroupsSequence = groups
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = EnhancedMRImageStorage, data.SOPInstanceUID
    data.save_as(path, enforce_file_format=True)
    frame = numpy.random.default_rng(1).integers(0, 4096, (512, 512), dtype=numpy.uint16).tobytes()
    with open(path, "ab") as out:
        out.write(b"\xe0\x7f\x10\0OW\0\0" + (n_frames * len(frame)).to_bytes(4, "little"))
        for _ in range(n_frames):
            out.write(frame)


def enhanced(args):
    with tempfile.TemporaryDirectory() as folder, Appliance() as box:
        path = pathlib.Path(folder) / "enhanced.dcm"
        write_enhanced(path, args.enhanced)
        box.forget_peak()
        base, _ = box.rss_mb()
        before, begin = cpu_s(box.process.pid), time.time()
        sent = subprocess.run(["storescu", "-aec", "SCANSIDE", "127.0.0.1", str(box.dicom), str(path)], capture_output=True, text=True)
        took, cpu, (_, peak) = time.time() - begin, cpu_s(box.process.pid) - before, box.rss_mb()
        assert sent.returncode == 0, sent.stderr
        n_bytes = path.stat().st_size
        stored = box.stored_files()
        assert len(stored) == 1 and stored[0].stat().st_size > args.enhanced * 524288
        print(f"{args.enhanced} frames, {n_bytes / 1e9:.2f} GB in {took:.1f} s ({n_bytes / took / 1e6:.0f} MB/s, {cpu:.1f} s CPU): {base:.1f} MB before, peak {peak:.1f} MB (+{peak - base:.1f})")
    shutil.rmtree(box.folder)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--instances", type=int, default=800)
    parser.add_argument("--associations", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--quickack", metavar="PROGRAM")
    parser.add_argument("--soak", type=int)
    parser.add_argument("--enhanced", type=int)
    args = parser.parse_args()
    if args.quickack:
        quickack(args)
    elif args.soak:
        soak(args)
    elif args.enhanced:
        enhanced(args)
    else:
        compare(args)


if __name__ == "__main__":
    sys.exit(main())
