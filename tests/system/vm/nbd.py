#!/usr/bin/env python3
"""A disk with a volatile write cache for the emulator: an NBD server (fixed newstyle, doc/proto.md of nbd) on a Unix socket.

A write stays in memory until a FLUSH, or carries FUA. At the cut the platter (the image file) keeps what was flushed, and of the 512-byte
sectors that were not: none (`drop`), or a random half (`subset`), so that larger blocks are torn. Faults on demand: reads or writes
that fail with EIO, slow requests, and a disk that lies (it answers a flush and keeps nothing).

`Disk` runs the server as a process of its own (`nbd.py --serve IMAGE SOCKET`) and speaks to it in lines on its standard input.
"""
import errno
import os
import pathlib
import random
import socket
import struct
import subprocess
import sys
import threading
import time

SECTOR = 512
# How long the drive takes to empty its cache: as a good SD card does. A cut may fall into this time.
FLUSH_S = 0.004
REQUEST, REPLY = struct.Struct(">IHHQQI"), struct.Struct(">IIQ")
REQUEST_MAGIC, REPLY_MAGIC, OPTION_REPLY_MAGIC = 0x25609513, 0x67446698, 0x3E889045565A9
READ, WRITE, DISCONNECT, FLUSH = 0, 1, 2, 3
FUA, HAS_FLAGS, SEND_FLUSH, SEND_FUA = 1, 1, 4, 8
EXPORT_NAME, ABORT, INFO, GO = 1, 2, 6, 7
REQUEST_BYTES_MAX = 32 << 20


class Platter:
    """The image file and the sectors that are only in the drive's cache."""

    def __init__(self, path):
        self.file = os.open(path, os.O_RDWR)
        self.n_bytes = os.fstat(self.file).st_size
        self.cached, self.lock = {}, threading.Lock()
        self.fail_reads = self.fail_writes = self.lies = self.dead = False
        self.slow_s = 0.0
        # Bytes of the disk whose writes are counted, and the write there that is the last one before the plug is out (0: none).
        self.watched, self.n_watched, self.last_watched = range(0), 0, 0

    def read(self, at, n):
        data = bytearray(os.pread(self.file, n, at))
        if self.cached:
            for sector in range(at // SECTOR, (at + n) // SECTOR):
                kept = self.cached.get(sector)
                if kept is not None:
                    data[sector * SECTOR - at:(sector + 1) * SECTOR - at] = kept
        return bytes(data)

    def write(self, at, data, durable):
        for i in range(0, len(data), SECTOR):
            self.cached[(at + i) // SECTOR] = data[i:i + SECTOR]
        if durable and not self.lies:
            self.keep(range(at // SECTOR, (at + len(data)) // SECTOR))
        if at < self.watched.stop and at + len(data) > self.watched.start:
            self.n_watched += 1
            self.dead = self.n_watched == self.last_watched

    def keep(self, sectors):
        """Writes these sectors of the cache to the image, neighbours in one call."""
        run, begin = [], None
        for sector in sorted(sectors):
            if run and sector != begin + len(run):
                os.pwrite(self.file, b"".join(run), begin * SECTOR)
                run = []
            if not run:
                begin = sector
            run.append(self.cached.pop(sector))
        if run:
            os.pwrite(self.file, b"".join(run), begin * SECTOR)

    def flush(self):
        if not self.lies:
            self.keep(list(self.cached))

    def cut(self, mode, seed):
        """The plug is out: returns (sectors that were in the cache, of these kept, writes to the watched bytes)."""
        self.dead = True
        n, rng = len(self.cached), random.Random(seed)
        kept = [sector for sector in sorted(self.cached) if mode == "subset" and rng.random() < 0.5]
        self.keep(kept)
        self.cached.clear()
        os.fsync(self.file)
        return n, len(kept), self.n_watched


def exactly(connection, n):
    data = bytearray()
    while len(data) < n:
        part = connection.recv(min(n - len(data), 1 << 20))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


def negotiate(connection, n_bytes):
    """The handshake; whether the transmission begins."""
    flags = HAS_FLAGS | SEND_FLUSH | SEND_FUA
    connection.sendall(b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3))
    client_flags, = struct.unpack(">I", exactly(connection, 4))
    while True:
        _, option, length = struct.unpack(">QII", exactly(connection, 16))
        exactly(connection, length)
        answer = lambda kind, body=b"": connection.sendall(struct.pack(">QIII", OPTION_REPLY_MAGIC, option, kind, len(body)) + body)
        if option in (INFO, GO):
            answer(3, struct.pack(">HQH", 0, n_bytes, flags))
            answer(3, struct.pack(">HIII", 3, SECTOR, 4096, REQUEST_BYTES_MAX))
            answer(1)
            if option == GO:
                return True
        elif option == EXPORT_NAME:
            connection.sendall(struct.pack(">QH", n_bytes, flags) + (b"" if client_flags & 2 else bytes(124)))
            return True
        elif option == ABORT:
            answer(1)
            return False
        else:
            answer(0x80000001)


def serve(platter, connection):
    if not negotiate(connection, platter.n_bytes):
        return
    while True:
        _, flags, kind, handle, at, n = REQUEST.unpack(exactly(connection, REQUEST.size))
        data, out, error = exactly(connection, n) if kind == WRITE else b"", b"", 0
        if platter.slow_s:
            time.sleep(platter.slow_s)
        if kind == FLUSH:
            time.sleep(FLUSH_S)
        with platter.lock:
            if platter.dead:
                return
            if kind == READ:
                error = errno.EIO if platter.fail_reads else 0
                out = b"" if error else platter.read(at, n)
            elif kind in (WRITE, FLUSH):
                error = errno.EIO if platter.fail_writes else 0
                if not error and kind == WRITE:
                    platter.write(at, data, bool(flags & FUA))
                elif not error:
                    platter.flush()
            elif kind == DISCONNECT:
                return
            else:
                error = errno.EINVAL
        connection.sendall(REPLY.pack(REPLY_MAGIC, error, handle) + out)


def control(platter):
    for line in sys.stdin:
        words, answer = line.split(), "ok"
        if words[0] == "cut":
            # Waits for so many sectors that are in the cache alone: a cut while nothing is at stake proves nothing. Or for a write
            # where it watches, after which not even a flush comes through.
            end, platter.last_watched = time.monotonic() + float(words[4]), int(words[5])
            while time.monotonic() < end and not platter.dead and (len(platter.cached) < int(words[3]) or platter.n_watched < platter.last_watched):
                time.sleep(0.0005)
        with platter.lock:
            if words[0] == "cut":
                answer = "ok {} {} {}".format(*platter.cut(words[1], int(words[2])))
            elif words[0] == "fail":
                platter.fail_reads, platter.fail_writes = "reads" in words, "writes" in words
            elif words[0] == "slow":
                platter.slow_s = float(words[1])
            elif words[0] == "lie":
                platter.lies = words[1] == "on"
            elif words[0] == "watch":
                platter.watched, platter.n_watched = range(int(words[1]), int(words[2])), 0
        print(answer, flush=True)
        if platter.dead:
            os._exit(0)
    os._exit(0)


def main(image, path):
    platter = Platter(image)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(4)
    threading.Thread(target=control, args=(platter,), daemon=True).start()
    print("ready", flush=True)

    def one(connection):
        try:
            serve(platter, connection)
        except (EOFError, OSError):
            pass

    while True:
        threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()


class Disk:
    """The server as the test sees it: a `with` block around an image file."""

    def __init__(self, image, folder):
        self.image, self.path = pathlib.Path(image), pathlib.Path(folder) / "disk.socket"

    def __enter__(self):
        self.path.unlink(missing_ok=True)
        self.server = subprocess.Popen([sys.executable, __file__, "--serve", str(self.image), str(self.path)],
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.server.stdout.readline().strip() != "ready":
            raise RuntimeError("the disk server does not start")
        return self

    def __exit__(self, *_):
        self.server.kill()
        self.server.wait()
        for pipe in (self.server.stdin, self.server.stdout):
            pipe.close()

    @property
    def drive(self):
        """What QEMU calls it."""
        return f"file=nbd+unix:///?socket={self.path},format=raw,cache=writeback"

    def ask(self, *words):
        self.server.stdin.write(" ".join(map(str, words)) + "\n")
        self.server.stdin.flush()
        answer = self.server.stdout.readline().split()
        if answer[:1] != ["ok"]:
            raise RuntimeError(f"the disk server says {answer}")
        return [int(word) for word in answer[1:]]

    def watch(self, begin, n_bytes):
        """Counts the writes to these bytes from now on."""
        self.ask("watch", begin, begin + n_bytes)

    def cut(self, mode, seed, in_cache_min=0, wait_s=20, watched_nth=0):
        """Cuts the power as soon as so many sectors are in the cache alone, or right after that write to the watched bytes;
        (sectors that were in the cache alone, of these kept, writes to the watched bytes)."""
        return self.ask("cut", mode, seed, in_cache_min, wait_s, watched_nth)

    def fail(self, *what):
        """From now on `reads`, `writes`, both or nothing fail with EIO."""
        self.ask("fail", *what)

    def slow(self, seconds):
        self.ask("slow", seconds)

    def lie(self, on):
        self.ask("lie", "on" if on else "off")


if __name__ == "__main__" and sys.argv[1:2] == ["--serve"]:
    main(*sys.argv[2:4])
