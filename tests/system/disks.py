"""Disks that can be cut off: an ext4 file system on a loop device whose "platter" can be photographed at any moment.

`LoopDisk`: the platter is the backing file. What the file system has not sent down yet is lost; what it has sent survives.
`VolatileDisk`: the backing file is served by a small FUSE server in a process of its own (`python disks.py --serve`, the raw protocol of
/dev/fuse) which keeps each write in memory until a flush reaches it, as a drive with a volatile write cache does: the file system's
barrier becomes the loop driver's FLUSH, that an fsync of the backing file, that FUSE_FSYNC here. At the cut it keeps none of the
unflushed 512-byte sectors, or a random half of them. It can also begin to fail: every read, write and flush ends with EIO, or none is
answered.

Both mount with commit=300: the file system's own timer must not save what the program forgot to sync. Needs root, loop devices, /dev/fuse.
"""
import ctypes
import os
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time

SECTOR = 512
# How long the volatile drive takes to empty its cache: as a good SD card does.
FLUSH_S = 0.004


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.stdout.strip()


def available(volatile=False):
    """Why there is no such disk on this machine, or `None`."""
    if os.geteuid() != 0:
        return "needs root for loop mounts"
    for path in ("/dev/loop-control",) + (("/dev/fuse",) if volatile else ()):
        if not os.path.exists(path):
            return f"{path} is missing"
    if shutil.which("mkfs.ext4") is None:
        return "mkfs.ext4 is missing"
    try:
        with LoopDisk(8):
            return None
    except (RuntimeError, OSError) as error:
        return f"loop mounts do not work here: {error}"


def scratch():
    """Where images lie: memory where there is a large tmpfs, so that the machine's own disk does not slow 100 copies down."""
    shm = pathlib.Path("/dev/shm")
    try:
        free = shutil.disk_usage(shm).free
    except OSError:
        free = 0
    return str(shm) if free > 4 << 30 else None


class Mounted:
    """An image on a loop device, mounted. Unmounting may be asked for twice."""

    def __init__(self, image, at, options="commit=300,noatime", direct=False):
        self.at = pathlib.Path(at)
        self.at.mkdir(exist_ok=True)
        self.device = run("losetup", "--find", "--show", *(["--direct-io=on"] if direct else []), image)
        self.mounted = False
        try:
            run("mount", "-t", "ext4", "-o", options, self.device, self.at)
            self.mounted = True
        except RuntimeError:
            self.close()
            raise

    def remount(self, options):
        run("mount", "-o", f"remount,{options}", self.at)

    def close(self):
        if self.mounted:
            self.mounted = False
            for _ in range(50):  # a process that was just killed may hold it for a moment
                if subprocess.run(["umount", str(self.at)], capture_output=True).returncode == 0:
                    break
                time.sleep(0.1)
            else:
                subprocess.run(["umount", "-l", str(self.at)], capture_output=True)
        if self.device:
            subprocess.run(["losetup", "-d", self.device], capture_output=True)
            self.device = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class LoopDisk:
    """ext4 on a loop device; `photograph` copies what has reached the backing file."""

    kind = "loop"

    def __init__(self, mib):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="scanside-disk-", dir=scratch()))
        self.mount = None
        try:
            self.image = self._make_image(mib)
            run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.image)
            self.mount = Mounted(self.image, self.folder / "mnt", direct=self.kind == "volatile")
            self.at = self.mount.at
            run("sync", "-f", self.at)
        except BaseException:
            self.close()
            raise

    def _make_image(self, mib):
        image = self.folder / "disk"
        with open(image, "wb") as file:
            file.truncate(mib << 20)
        return image

    def photograph(self, to, rng):
        """Copies the platter to the file `to`; returns (sectors that were in flight, of these kept)."""
        # The process is stopped; a journal commit that it had begun may still be on its way. The copy waits for it, which can only help
        # the program, and is then a picture of one moment.
        stat, before, since = pathlib.Path("/sys/block", pathlib.Path(self.mount.device).name, "stat"), None, time.time()
        end = since + 2
        while time.time() < end:
            now = stat.read_text()
            if now != before or int(now.split()[8]) > 0:
                before, since = now, time.time()
            elif time.time() - since > 0.02:
                break
            time.sleep(0.002)
        run("cp", "--sparse=always", self.image, to)
        return 0, 0

    def close(self):
        if self.mount:
            self.mount.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class VolatileDisk(LoopDisk):
    """As `LoopDisk`, on a drive with a volatile write cache."""

    kind = "volatile"

    def _make_image(self, mib):
        self.fuse_at = self.folder / "fuse"
        self.fuse_at.mkdir()
        self.server = subprocess.Popen(
            [sys.executable, __file__, "--serve", self.fuse_at, str(mib << 20), str(self.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        answer = self.server.stdout.readline().strip()
        if answer != "ready":
            raise RuntimeError(f"the FUSE server says {answer!r}")
        return self.fuse_at / "disk"

    def _ask(self, line):
        self.server.stdin.write(line + "\n")
        self.server.stdin.flush()
        answer = self.server.stdout.readline().split()
        if not answer or answer[0] != "ok":
            raise RuntimeError(f"the FUSE server says {answer!r}")
        return [int(word) for word in answer[1:]]

    def photograph(self, to, rng):
        mode = rng.choice(("drop", "subset"))
        pending, kept = self._ask(f"photograph {mode} {rng.getrandbits(32)} {to}")
        return pending, kept

    def fail(self, how):
        """`eio`: every read, write and flush fails from now on; `hang`: none is answered; `well`: it works again."""
        self._ask(f"fail {how}")

    def flushes(self):
        """Flushes that have reached the drive."""
        return self._ask("flushes")[0]

    def close(self):
        if self.mount:
            self.mount.close()
        if getattr(self, "server", None):
            subprocess.run(["umount", str(self.fuse_at)], capture_output=True)
            self.server.stdin.close()
            try:
                self.server.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.server.kill()
                self.server.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class Drive:
    """The drive behind the FUSE file: what reads see, what is durable, and the writes between the two."""

    def __init__(self, n_bytes, folder):
        self.n_bytes, self.lock, self.pending, self.n_flushes = n_bytes, threading.Lock(), [], 0
        self.state = "well"
        self.now, self.durable = (open(os.path.join(folder, name), "w+b", buffering=0) for name in ("now", "durable"))
        self.durable_path = os.path.join(folder, "durable")
        for file in (self.now, self.durable):
            os.ftruncate(file.fileno(), n_bytes)

    def read(self, at, n):
        return os.pread(self.now.fileno(), n, at)

    def write(self, at, data):
        with self.lock:
            os.pwrite(self.now.fileno(), data, at)
            self.pending.append((at, data))

    def flush(self):
        time.sleep(FLUSH_S)  # what is being flushed may be lost in this time, or half of it
        with self.lock:
            for at, data in self.pending:
                os.pwrite(self.durable.fileno(), data, at)
            self.pending = []
            self.n_flushes += 1

    def photograph(self, mode, seed, to):
        with self.lock:
            pending, rng = list(self.pending), random.Random(seed)
            run("cp", "--sparse=always", self.durable_path, to)
        n_sectors = n_kept = 0
        with open(to, "r+b", buffering=0) as out:
            for at, data in pending:
                for i in range(0, len(data), SECTOR):
                    n_sectors += 1
                    if mode == "subset" and rng.random() < 0.5:
                        n_kept += 1
                        os.pwrite(out.fileno(), data[i:i + SECTOR], at + i)
        return n_sectors, n_kept


# The kernel's FUSE protocol, version 7.31 (include/uapi/linux/fuse.h): opcode numbers and the structs' layouts.
LOOKUP, FORGET, GETATTR, SETATTR, OPEN, READ, WRITE, STATFS, RELEASE, FSYNC, FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR, ACCESS, INTERRUPT, DESTROY, BATCH_FORGET = (
    1, 2, 3, 4, 14, 15, 16, 17, 18, 20, 25, 26, 27, 28, 29, 34, 36, 38, 42)
ENOENT, EIO, ENOSYS = 2, 5, 38
IN_HEADER, OUT_HEADER = struct.Struct("<IIQQIIII"), struct.Struct("<IiQ")
WRITE_MAX = 1 << 20
FOPEN_DIRECT_IO, BIG_WRITES, MAX_PAGES = 1, 1 << 5, 1 << 22
ROOT_NODE, DISK_NODE = 1, 2


def attributes(node, n_bytes):
    mode, size = (0o40700, 0) if node == ROOT_NODE else (0o100600, n_bytes)
    return struct.pack("<QQQQQQIIIIIIIIII", node, size, size // SECTOR, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def answer(drive, opcode, node, body):
    """The reply to one request: bytes, or a negative error number, or `None` where the kernel wants none."""
    if opcode in (READ, WRITE, FSYNC):
        while drive.state == "hang":
            time.sleep(0.1)
        if drive.state == "eio":
            return -EIO
    timeless = struct.pack("<QII", 3600, 0, 0)
    if opcode == INIT:
        _, minor, readahead, _ = struct.unpack_from("<IIII", body)
        return struct.pack("<IIIIHHIIHH32x", 7, min(minor, 31), readahead, BIG_WRITES | MAX_PAGES, 16, 12, WRITE_MAX, 1, WRITE_MAX // 4096, 0)
    if opcode == LOOKUP:
        if body.rstrip(b"\0") != b"disk":
            return -ENOENT
        return struct.pack("<QQQQII", DISK_NODE, 0, 3600, 3600, 0, 0) + attributes(DISK_NODE, drive.n_bytes)
    if opcode in (GETATTR, SETATTR):
        return timeless + attributes(node, drive.n_bytes)
    if opcode in (OPEN, OPENDIR):
        return struct.pack("<QII", 1, FOPEN_DIRECT_IO, 0)
    if opcode == READ:
        _, at, n = struct.unpack_from("<QQI", body)
        return drive.read(at, n)
    if opcode == WRITE:
        _, at, n = struct.unpack_from("<QQI", body)
        drive.write(at, body[40:40 + n])
        return struct.pack("<II", n, 0)
    if opcode == FSYNC:
        drive.flush()
        return b""
    if opcode == STATFS:
        return struct.pack("<QQQQQIIII24x", drive.n_bytes // 4096, 0, 0, 2, 0, 4096, 255, 4096, 0)
    if opcode in (RELEASE, RELEASEDIR, FLUSH, ACCESS, DESTROY, READDIR):
        return b""  # an empty listing is enough: the one file is known by its name
    if opcode in (FORGET, BATCH_FORGET, INTERRUPT):
        return None
    return -ENOSYS


def serve(at, n_bytes, folder):
    fd = os.open("/dev/fuse", os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other,max_read={WRITE_MAX}".encode()
    if libc.mount(b"scanside-disk", os.fsencode(at), b"fuse", 0, options) != 0:
        print(f"mount: {os.strerror(ctypes.get_errno())}", flush=True)
        return
    drive = Drive(n_bytes, folder)

    def control():
        print("ready", flush=True)
        for line in sys.stdin:
            match line.split():
                case ["photograph", mode, seed, to]:
                    print("ok", *drive.photograph(mode, int(seed), to), flush=True)
                case ["flushes"]:
                    print("ok", drive.n_flushes, flush=True)
                case ["fail", how]:
                    drive.state = how
                    print("ok", flush=True)
        drive.state = "eio" if drive.state == "hang" else drive.state  # the asker is gone: nothing may wait for ever

    threading.Thread(target=control, daemon=True).start()
    while True:
        try:
            request = os.read(fd, WRITE_MAX + 4096)
        except FileNotFoundError:  # interrupted before it was read
            continue
        except OSError:  # unmounted
            return
        _, opcode, unique, node, *_ = IN_HEADER.unpack_from(request)
        reply = answer(drive, opcode, node, request[IN_HEADER.size:])
        if reply is None:
            continue
        error, data = (reply, b"") if isinstance(reply, int) else (0, reply)
        try:
            os.write(fd, OUT_HEADER.pack(OUT_HEADER.size + len(data), error, unique) + data)
        except FileNotFoundError:  # the asker is gone
            pass


if __name__ == "__main__" and sys.argv[1:2] == ["--serve"]:
    serve(sys.argv[2], int(sys.argv[3]), sys.argv[4])
