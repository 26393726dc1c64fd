#!/usr/bin/env python3
"""A disk that is full, read-only or failing: each C-STORE is answered 0xA700 within a second, nothing half-written stays, the page works and
names the cause, and when the disk is well again the next image is taken, without a restart wherever the disk itself allows that.

An idle box on a disk that begins to fail, or stops to answer, shows fault without anybody sending anything.

Full and read-only are real (an ext4 image of `disks.py`; read-only by ext4's own error handling, so that the file system has to be mounted
anew). I/O errors come from `strace --inject` on the running service: one kind of call after the other fails, the product is untouched.
"""
import os
import pathlib
import random
import shutil
import subprocess
import time
import urllib.error
import urllib.request

from appliance import Appliance
from disks import LoopDisk, Mounted, VolatileDisk, available, run
from wire import Association, Instance, new_uid

EXTRA = "[spool]\nmib_max = 256\nfree_mib_min = 16\n[assemble]\nsettle_s = 1\nquiet_s = 1\n"
OUT_OF_RESOURCES = 0xA700
ANSWER_S_MAX = 1.0
RNG = random.Random(11)


class Site:
    """The box with its state on a disk of its own, and a scanner that tries."""

    def __init__(self, options="commit=300,noatime", disk=LoopDisk):
        self.disk = disk(128)
        self.box = Appliance(extra=EXTRA, state=self.disk.at / "state")
        self.disk.mount.remount(options)
        self.box.start()

    def store(self):
        """Sends one image; returns (status, seconds)."""
        association = Association(self.box.dicom, timeout_s=15)
        begin = time.time()
        status = association.store(Instance(new_uid(), new_uid(), 1, RNG))
        took = time.time() - begin
        association.release()
        return status, took

    def files(self):
        state = self.box.state
        return len(list((state / "incoming").iterdir())), len(list((state / "instances").rglob("*.dcm")))

    def refuses(self, what, conditions):
        """While the fault lasts: refusals in time, nothing left behind, the page names it."""
        _, before = self.files()
        slowest = 0.0
        for _ in range(3):
            status, took = self.store()
            slowest = max(slowest, took)
            assert status == OUT_OF_RESOURCES, f"{what}: {status:#06x}"
        assert slowest < ANSWER_S_MAX * crowd(), f"{what}: an answer took {slowest:.2f} s"
        assert self.files()[1] == before, f"{what}: files under final names: {before} before, {self.files()[1]} after"
        end, names = time.time() + 20, []
        while time.time() < end:
            names = [cause["code"] for cause in self.box.get("/api/v1/status")["causes"]]
            if set(names) & set(conditions):
                break
            time.sleep(0.2)
        assert set(names) & set(conditions), f"{what}: the page names {names}"
        with urllib.request.urlopen(f"http://127.0.0.1:{self.box.web}/", timeout=10) as page:
            assert page.status == 200
        self.box.get("/api/v1/studies")
        return slowest

    def serves_again(self, what):
        status, _ = self.store()
        assert status == 0, f"{what}: {status:#06x} although the disk is well again"
        partial, _ = self.files()
        assert partial == 0, f"{what}: {partial} half-received files stayed"
        end, names = time.time() + 20, []
        while time.time() < end:
            names = [cause["code"] for cause in self.box.get("/api/v1/status")["causes"]]
            if not set(names) & {"storage-failing", "disk-full"}:
                return
            time.sleep(0.2)
        raise AssertionError(f"{what}: the page still names {names}")

    def close(self):
        if self.box.process.poll() is None:
            self.box.kill()
        self.disk.close()
        shutil.rmtree(self.box.folder, ignore_errors=True)


def crowd():
    """How much more work than processors the machine has: times are not the box's own then."""
    return max(1.0, os.getloadavg()[0] / os.cpu_count())


class Injected:
    """Calls of a running process fail, until the block ends."""

    def __init__(self, pid, calls, error, paths=()):
        hidden = [word for path in paths for word in ("-P", str(path))]
        self.process = subprocess.Popen(
            ["strace", "-f", "-p", str(pid), "-o", "/dev/null", "-e", f"trace={calls}", "-e", f"inject={calls}:error={error}", *hidden],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.time() + 10
        while time.time() < end and "TracerPid:\t0" in pathlib.Path(f"/proc/{pid}/status").read_text():
            time.sleep(0.02)
        time.sleep(0.3)  # until the other threads are held too

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


def test_a_full_disk_refuses_in_time_and_serves_again_when_there_is_room():
    why = available()
    if why:
        return f"SKIP {why}"
    site = Site()
    try:
        assert site.store()[0] == 0
        free = os.statvfs(site.disk.at).f_bavail * os.statvfs(site.disk.at).f_frsize
        ballast = site.disk.at / "ballast"
        run("fallocate", "-l", free - (1 << 20), ballast)
        slowest = site.refuses("full", {"disk-full"})
        ballast.unlink()
        site.serves_again("full")
        return f"slowest refusal {slowest * 1000:.0f} ms"
    finally:
        site.close()


def test_io_errors_of_every_kind_refuse_in_time_and_pass_without_a_restart():
    why = available() or (None if shutil.which("strace") else "strace is missing")
    if why:
        return f"SKIP {why}"
    site, notes = Site(), []
    try:
        assert site.store()[0] == 0
        incoming = [site.box.state / "incoming" / f"{n:016x}.part" for n in range(1, 200)]
        instances = [site.box.state / "instances", site.box.state / "instances" / "00000000"]
        kinds = (
            ("no file can be made", "openat", "EROFS", incoming), ("writing fails", "write", "EIO", incoming),
            ("syncing a file fails", "fdatasync", "EIO", incoming), ("renaming fails", "rename", "EIO", incoming),
            ("syncing a directory fails", "fsync", "EIO", instances),
            ("the index cannot be written", "pwrite64", "EIO", [site.box.state / "index.sqlite3-wal"]),
            ("the index cannot be synced", "fdatasync,fsync", "EIO", [site.box.state / "index.sqlite3-wal"]),
        )
        for what, calls, error, paths in kinds:
            with Injected(site.box.process.pid, calls, error, paths):
                slowest = site.refuses(what, {"storage-failing"})
            site.serves_again(what)
            notes.append(f"{what} {slowest * 1000:.0f} ms")
        assert site.box.stop() == 0
        return ", ".join(notes)
    finally:
        site.close()


def test_a_disk_that_turns_read_only_refuses_in_time_and_serves_after_it_is_mounted_anew():
    why = available()
    if why:
        return f"SKIP {why}"
    site = Site("commit=300,noatime,errors=remount-ro")
    try:
        stored = [site.store()[0] for _ in range(3)]
        assert stored == [0, 0, 0]
        trigger = pathlib.Path("/sys/fs/ext4", pathlib.Path(site.disk.mount.device).name, "trigger_fs_error")
        if not trigger.exists():
            return "SKIP this kernel cannot make ext4 fail on demand"
        trigger.write_text("1")
        slowest = site.refuses("read-only", {"storage-failing"})
        assert site.box.process.poll() is None
        site.box.stop()
        image, at = site.disk.image, site.disk.mount.at
        site.disk.mount.close()
        site.disk.mount = Mounted(image, at)
        site.box.start()
        site.serves_again("read-only")
        listed = sum(study["n_instances"] for study in site.box.studies())
        assert listed >= 4, f"{listed} of the 4 images that were acknowledged"
        return f"slowest refusal {slowest * 1000:.0f} ms"
    finally:
        site.close()


def idle_box_on_a_disk_that(how, within_s):
    """Nobody sends anything from the moment on at which the disk does `how`."""
    why = available(volatile=True)
    if why:
        return f"SKIP {why}"
    site = Site(disk=VolatileDisk)
    try:
        assert site.store()[0] == 0
        end = time.time() + 30
        while site.box.get("/api/v1/status")["lamp"] != "ready" and time.time() < end:
            time.sleep(0.2)
        before = site.box.get("/api/v1/status")
        codes = [cause["code"] for cause in before["causes"]]
        # A disk that hangs holds up whoever counts what is stored as well: then the page may know only that nobody answers any more.
        named = {"storage-failing"} if how == "eio" else {"storage-failing", "probe-silent"}
        assert not (named | {"disk-full"}) & set(codes), f"before the disk failed: {codes}"
        site.disk.fail(how)
        begin, end = time.time(), time.time() + within_s * crowd()
        while not named & set(codes) and time.time() < end:
            time.sleep(0.5)
            status = site.box.get("/api/v1/status")
            codes = [cause["code"] for cause in status["causes"]]
        took = time.time() - begin
        assert named & set(codes), f"after {took:.0f} s the page names {codes}"
        time.sleep(1)
        lamp = site.box.get("/api/v1/status")["lamp"]
        assert lamp == "fault", f"the lamp shows {lamp}"
        mounts = [line.split() for line in pathlib.Path("/proc/mounts").read_text().splitlines()]
        options = next(words[3] for words in mounts if words[1] == str(site.disk.at))
        note = f"fault after {took:.0f} s; /proc/mounts says {options.split(',')[0]}"
        if how == "hang":
            site.disk.fail("well")
            end = time.time() + 60 * crowd()
            while named & set(codes) and time.time() < end:
                time.sleep(0.5)
                codes = [cause["code"] for cause in site.box.get("/api/v1/status")["causes"]]
            assert not named & set(codes), f"the disk answers again and the page still names {codes}"
            site.serves_again("a disk that hung")
            note += "; over when it answered again"
        return note
    finally:
        site.disk.fail("eio")
        site.close()


def test_an_idle_box_on_a_disk_that_begins_to_fail_shows_fault_without_anybody_sending():
    # The check comes every 30 s.
    return idle_box_on_a_disk_that("eio", 45)


def test_an_idle_box_on_a_disk_that_stops_to_answer_shows_fault_until_it_answers():
    # The check comes every 30 s and gives the disk 30 s.
    return idle_box_on_a_disk_that("hang", 75)
