#!/usr/bin/env python3
"""Power cuts of the whole appliance: nothing that was answered is lost, nothing is torn. With negative controls that must lose.

    tests/system/power_cut.py [--cuts 100] [--seed 1] [--disk loop|volatile|both] [--no-controls]     (as root; $SCANSIDE names the program)

`scanside serve` runs on a disk of `disks.py` under four associations of `wire.py`, a webhook receiver, a reader of the page's API and
somebody who acknowledges. Right after a random acknowledgement, or up to 10 ms after it, the process is stopped (SIGSTOP, from the very
thread that read the acknowledgement), what the platter holds at that moment is copied, and the process goes on. The copy is mounted (ext4 replays its
journal) and judged against what peers had been told by then:

* every acknowledged SOP instance has its index row and its file, whole, by SHA-256; every row has its file, whole;
* nothing torn lies under a final name, whether it has a row or not; state files written by rename are whole;
* every verdict seen through the API, every alert that was sent, every acknowledgement answered has its row (verdicts, outbox, audit);
* SQLite's quick_check says ok; the service starts on the copy, is ready, lists the studies, stores new instances and knows the old.

Negative controls, each with one sync turned into nothing by `strace --inject` (the product is untouched): the directory's, the
file's, the index's write-ahead log's (which is what synchronous=NORMAL would do). Each must lose something, else the proof has no teeth.
"""
import argparse
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

from appliance import Appliance, Hook
from disks import LoopDisk, Mounted, VolatileDisk, available, scratch
from wire import Association, Instance, Senders, new_uid

DISK_MIB = 320
CUTS_PER_DISK = 10
EXTRA = "[spool]\nmib_max = 256\nfree_mib_min = 16\n[assemble]\nsettle_s = 1\nquiet_s = 1\n[log]\nlevel = \"warn\"\n"
DISKS = {"loop": LoopDisk, "volatile": VolatileDisk}
# What is left out, and the calls that then do nothing. Numbers of instances are running, so their paths are known beforehand.
DIRECTORY = "directory sync left out"
CONTROLS = {
    DIRECTORY: lambda at: [f"{at}/instances", *(f"{at}/instances/{n:08x}" for n in range(4))],
    "file sync left out": lambda at: [f"{at}/incoming/{n:016x}.part" for n in range(1, 2500)],
    "index log not synced (as synchronous=NORMAL)": lambda at: [f"{at}/index.sqlite3-wal"],
}


class Witness:
    """What people and programs were told: verdicts seen on the page, alerts received, acknowledgements answered."""

    def __init__(self, box, hook, watches=True):
        self.box, self.hook, self.lock, self.stopped = box, hook, threading.Lock(), False
        self.verdicts, self.acknowledged = set(), set()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        if watches:
            self.thread.start()

    def _watch(self):
        while not self.stopped:
            try:
                for study in self.box.studies():
                    uid = study["study_instance_uid"]
                    if not study["verdict"]:
                        continue
                    with self.lock:
                        self.verdicts.add(uid)
                    if study["needs_acknowledgement"]:
                        by = f"witness {new_uid()[-20:]}"
                        request = urllib.request.Request(
                            f"http://127.0.0.1:{self.box.web}/api/v1/studies/{uid}/acknowledge", json.dumps({"by": by}).encode(),
                            {"Content-Type": "application/json", "X-Scanside-Request": "1"})
                        with urllib.request.urlopen(request, timeout=10) as answer:
                            if answer.status == 200:
                                with self.lock:
                                    self.acknowledged.add(by)
            except (OSError, ValueError):
                pass
            time.sleep(0.02)

    def snapshot(self):
        with self.lock:
            return set(self.verdicts), set(self.acknowledged), {key for _, key, _ in list(self.hook.received)}

    def stop(self):
        self.stopped = True
        if self.thread.is_alive():
            self.thread.join(timeout=20)


class Told:
    """All that had been said before a cut."""

    def __init__(self, senders, witness, sent):
        self.instances = senders.snapshot()
        self.verdicts, self.acknowledgements, self.alerts = witness.snapshot()
        self.sent = sent

    def n(self):
        return len(self.instances), len(self.verdicts), len(self.alerts), len(self.acknowledgements)


def data_set_of(path):
    """The bytes after the file meta information (its group length counts from behind its own element), or `None` where there are none."""
    content = path.read_bytes()
    if content[128:132] != b"DICM" or len(content) < 144:
        return None
    return content[144 + int.from_bytes(content[140:144], "little"):]


def rows_of(state):
    """The index, opened on a copy so that the service meets its files as the cut left them."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("index.sqlite3", "index.sqlite3-wal"):
            if (state / name).exists():
                shutil.copy(state / name, folder)
        index = sqlite3.connect(f"{folder}/index.sqlite3")
        try:
            check = index.execute("PRAGMA quick_check").fetchone()[0]
            rows = {
                "instances": {sop: (number, sha) for number, sop, sha in index.execute("SELECT number, sop_instance_uid, sha256 FROM instances")},
                "verdicts": {u for u, in index.execute("SELECT study_instance_uid FROM studies WHERE id IN (SELECT study_id FROM verdicts)")},
                "alerts": {k for k, in index.execute("SELECT idempotency_key FROM outbox")},
                "acknowledgements": {by for by, in index.execute("SELECT acknowledged_by FROM acknowledgements")},
            }
        finally:
            index.close()
    return check, rows


def judge(state, told):
    """What is wrong with the state folder after the cut: a list of (what, how many)."""
    faults = {}

    def count(what):
        faults[what] = faults.get(what, 0) + 1

    try:
        check, rows = rows_of(state)
    except sqlite3.Error as error:
        return {f"the index cannot be read ({error})": 1}
    if check != "ok":
        count("the index is damaged")
    files = {int(path.stem, 16): path for path in (state / "instances").rglob("*.dcm")} if (state / "instances").exists() else {}
    hashes = {number: hashlib.sha256(data_set_of(path) or b"").digest() for number, path in files.items()}
    known = set(told.sent.values())
    for digest in hashes.values():
        if digest not in known:
            count("torn under a final name")
    for sop, (number, sha) in rows["instances"].items():
        if hashes.get(number) != sha:
            count("row without its whole file")
    for sop, (_, sha) in told.instances.items():
        row = rows["instances"].get(sop)
        if row is None:
            count("acknowledged instance without a row")
        elif hashes.get(row[0]) != sha:
            count("acknowledged instance not whole")
    for what, seen in (("verdicts", told.verdicts), ("alerts", told.alerts), ("acknowledgements", told.acknowledgements)):
        for _ in seen - rows[what]:
            count(f"lost {what}")
    for path in state.glob("*.json"):
        try:
            json.loads(path.read_text())
        except ValueError:
            count(f"{path.name} is torn")
    return faults


def boot_on(state, told, rng):
    """Starts the service on what the cut left; returns the seconds until it was ready."""
    box = Appliance(extra=EXTRA, state=state)
    try:
        begin = time.time()
        box.start()
        ready_s = time.time() - begin
        listed = {study["study_instance_uid"]: study["n_instances"] for study in box.studies()}
        for study in {study for study, _ in told.instances.values()}:
            n = sum(1 for other, _ in told.instances.values() if other == study)
            assert listed.get(study, 0) >= n, f"the page lists {listed.get(study, 0)} of {n} instances"
        assert list((state / "incoming").iterdir()) == [], "half-received instances are still there"
        association = Association(box.dicom)
        assert association.store(Instance(new_uid(), new_uid(), 1, rng)) == 0
        association.release()
        assert box.stop() == 0
        return ready_s
    finally:
        if box.process and box.process.poll() is None:
            box.process.kill()
            box.process.wait()
        shutil.rmtree(box.folder, ignore_errors=True)


def strace(paths):
    hidden = [word for path in paths for word in ("-P", path)]
    return ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:retval=0", *hidden]


class Run:
    """A disk, the appliance on it and everybody around it."""

    def __init__(self, kind, rng, control=None, disk_mib=DISK_MIB):
        self.rng, self.control, self.due, self.delay_s = rng, control, None, 0
        self.cut = threading.Event()
        self.disk, self.hook = DISKS[kind](disk_mib), Hook(b"power cut secret")
        try:
            state = self.disk.at / "state"
            wrapper = strace(CONTROLS[control](state)) if control else ()
            on = f'[[alerts.webhook]]\nurl = "{self.hook.url}"\nsecret_file = "{self.disk.folder}/secret"\non = ["flagged", "indeterminate", "not_flagged"]\n'
            (self.disk.folder / "secret").write_bytes(self.hook.secret)
            (self.disk.folder / "secret").chmod(0o600)
            self.box = Appliance(extra=EXTRA + on, state=state, wrapper=wrapper)
            self.box.start()
            # Without its sync a name is still carried to the disk by whatever else makes the file system commit: other associations' files, a
            # growing log of the index (which readers keep from starting over). One sender alone shows what is missing.
            alone = control == DIRECTORY
            self.witness = Witness(self.box, self.hook, watches=not alone)
            self.senders = Senders(self.box.dicom, 1 if alone else 4, rng, on_acknowledged=self._acknowledged)
        except BaseException:
            self.disk.close()
            raise

    def _acknowledged(self, n):
        if self.due is not None and n >= self.due:
            self.due = None
            time.sleep(self.delay_s)
            os.kill(self.box.process.pid, signal.SIGSTOP)
            self.cut.set()

    def warm_up(self, n):
        end = time.time() + 120
        while len(self.senders.acknowledged) < n and time.time() < end:
            time.sleep(0.05)

    def cut_once(self, image):
        """One cut; returns what had been told before it and what was in flight on the drive."""
        self.senders.go_on()
        self.cut.clear()
        self.delay_s = self.rng.choice((0, 0, 0.001, 0.003, 0.006, 0.01)) if not self.control else 0
        self.due = len(self.senders.acknowledged) + self.rng.randint(3, 60)
        if not self.cut.wait(timeout=120):
            raise AssertionError("no acknowledgements any more: " + self.box.log_text()[-1000:])
        told = Told(self.senders, self.witness, self.senders.sent)
        in_flight = self.disk.photograph(image, self.rng)
        os.kill(self.box.process.pid, signal.SIGCONT)
        self.senders.pause()
        return told, in_flight

    def close(self):
        self.senders.stop()
        self.witness.stop()
        self.box.kill()
        self.hook.shutdown()
        self.hook.server_close()
        self.disk.close()
        shutil.rmtree(self.box.folder, ignore_errors=True)


def one_cut(run, folder, boot):
    """(faults, told, in flight, seconds until ready on the copy)"""
    image, ready_s = folder / "copy", None
    told, in_flight = run.cut_once(image)
    with Mounted(image, folder / "mnt") as copy:
        state = copy.at / "state"
        faults = judge(state, told)
        if boot and not faults:
            ready_s = boot_on(state, told, run.rng)
    image.unlink()
    return faults, told, in_flight, ready_s


def cuts(kind, n, rng, control=None, boot=True, say=lambda line: None):
    """`n` cuts; returns (faults by kind, cuts with faults, sums)."""
    faults, n_bad, ready, sums = {}, 0, [], {"acknowledged": 0, "verdicts": 0, "alerts": 0, "acts": 0, "pending": 0, "kept": 0, "cuts": 0}
    run = None
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        try:
            for i in range(n):
                if run is None:
                    run = Run(kind, rng, control)
                    # Half of the disks get past the index's first checkpoint: then its log no longer grows, and syncing it no longer
                    # carries anybody else's names to the disk.
                    run.warm_up(900 if control else rng.choice((0, 900)))
                found, told, (pending, kept), ready_s = one_cut(run, pathlib.Path(folder), boot)
                n_bad += bool(found)
                for what, k in found.items():
                    faults[what] = faults.get(what, 0) + k
                if ready_s is not None:
                    ready.append(ready_s)
                figures = dict(zip(("acknowledged", "verdicts", "alerts", "acts"), told.n()), pending=pending, kept=kept, cuts=1)
                sums = {key: sums[key] + figures[key] for key in sums}
                say(f"  {kind:8} cut {i + 1:3}: {figures['acknowledged']} instances, {figures['verdicts']} verdicts, {figures['alerts']} alerts, "
                    f"{figures['acts']} acknowledgements told; {pending} sectors in flight, {kept} kept; {found or 'nothing lost'}")
                if (i + 1) % CUTS_PER_DISK == 0:
                    run.close()
                    run = None
        finally:
            if run is not None:
                run.close()
    return faults, n_bad, sums, ready


def line(kind, n_bad, faults, sums, ready):
    text = (f"{kind}: {sums['cuts']} cuts, {n_bad} with a loss; told before the cuts, each checked: {sums['acknowledged']} instances, {sums['verdicts']} verdicts, "
            f"{sums['alerts']} alerts, {sums['acts']} acknowledgements")
    if sums["pending"]:
        text += f"; {sums['pending']} sectors in flight, {sums['kept']} of them kept"
    if ready:
        text += f"; ready on the copy after {statistics.median(ready):.1f} s (slowest {max(ready):.1f} s)"
    return text + (f"; LOST {faults}" if faults else "")


def test_power_cuts_lose_nothing_that_was_answered():
    why = available()
    if why:
        return f"SKIP {why}"
    volatile = available(volatile=True) is None
    notes = []
    for kind in ("loop", "volatile") if volatile else ("loop",):
        faults, n_bad, sums, ready = cuts(kind, 3, random.Random(5))
        assert not faults, faults
        notes.append(line(kind, n_bad, faults, sums, ready))
    return "; ".join(notes)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cuts", type=int, default=100, help="on each kind of disk")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--disk", choices=(*DISKS, "both"), default="both")
    parser.add_argument("--control-cuts", type=int, default=10)
    parser.add_argument("--no-controls", action="store_true")
    parser.add_argument("--control", choices=list(CONTROLS), help="this control alone")
    parser.add_argument("--quiet", action="store_true")
    args = parser.parse_args()
    kinds = list(DISKS) if args.disk == "both" else [args.disk]
    why = available(volatile="volatile" in kinds)
    if why:
        sys.exit(f"no disk to cut: {why}")
    say = (lambda text: None) if args.quiet else (lambda text: print(text, flush=True))
    failed = False
    for kind in kinds if args.cuts else ():
        faults, n_bad, sums, ready = cuts(kind, args.cuts, random.Random(args.seed), say=say)
        print(line(kind, n_bad, faults, sums, ready), flush=True)
        failed |= bool(faults)
    if not args.no_controls:
        if shutil.which("strace") is None:
            sys.exit("the negative controls need strace")
        for control in [args.control] if args.control else CONTROLS:
            for kind in kinds:
                faults, n_bad, sums, _ = cuts(kind, args.control_cuts, random.Random(args.seed), control, boot=False, say=say)
                verdict = "detected, as it must be" if faults else "NOT DETECTED: the proof has no teeth"
                print(f"control, {control}, {line(kind, n_bad, faults, sums, [])}: {verdict}", flush=True)
                failed |= not faults
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
