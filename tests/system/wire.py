"""A C-STORE sender of a hundred lines: so fast that the receiver is what is measured, and it knows each byte that it sent.

PS3.8 section 9.3 (PDUs), PS3.7 section 9.3.1 (C-STORE), explicit VR little endian throughout. Used by the power cuts and the kills.
"""
import hashlib
import itertools
import os
import random
import socket
import struct
import threading

MR_IMAGE, EXPLICIT_LE = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.1.2.1"
_NOISE = os.urandom(3 << 20)
_SERIAL = itertools.count(1)
_ROOT = f"2.25.{int.from_bytes(os.urandom(8), 'big')}"


def new_uid():
    return f"{_ROOT}.{next(_SERIAL)}"


def _padded(text, with_byte=b"\0"):
    data = text.encode()
    return data + with_byte * (len(data) % 2)


def _element(group, element, vr, value):
    if vr in (b"OW", b"OB"):
        return struct.pack("<HH2sHI", group, element, vr, 0, len(value)) + value
    return struct.pack("<HH2sH", group, element, vr, len(value)) + value


class Instance:
    """An MR image of noise: its UIDs, its data set and what that hashes to."""

    SIDES = (64, 96, 128, 192, 256)

    def __init__(self, study, series, number, rng):
        self.study, self.sop = study, new_uid()
        side = rng.choice(self.SIDES)
        begin = rng.randrange(len(_NOISE) - 2 * side * side)
        u16 = lambda value: struct.pack("<H", value)
        self.data_set = b"".join((
            _element(0x0008, 0x0016, b"UI", _padded(MR_IMAGE)), _element(0x0008, 0x0018, b"UI", _padded(self.sop)),
            _element(0x0008, 0x0060, b"CS", b"MR"), _element(0x0020, 0x000D, b"UI", _padded(study)),
            _element(0x0020, 0x000E, b"UI", _padded(series)), _element(0x0020, 0x0013, b"IS", _padded(str(number), b" ")),
            _element(0x0028, 0x0002, b"US", u16(1)), _element(0x0028, 0x0004, b"CS", b"MONOCHROME2 "), _element(0x0028, 0x0010, b"US", u16(side)),
            _element(0x0028, 0x0011, b"US", u16(side)), _element(0x0028, 0x0100, b"US", u16(16)), _element(0x0028, 0x0101, b"US", u16(12)),
            _element(0x0028, 0x0102, b"US", u16(11)), _element(0x0028, 0x0103, b"US", u16(0)),
            _element(0x7FE0, 0x0010, b"OW", _NOISE[begin:begin + 2 * side * side]),
        ))
        self.sha256 = hashlib.sha256(self.data_set).digest()


class Association:
    """An association that stores MR images. Everything that goes wrong is an OSError."""

    def __init__(self, port, timeout_s=60, calling="CUTTER"):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        item = lambda kind, body: struct.pack(">BBH", kind, 0, len(body)) + body
        context = item(0x20, bytes((1, 0, 0, 0)) + item(0x30, MR_IMAGE.encode()) + item(0x40, EXPLICIT_LE.encode()))
        user = item(0x50, item(0x51, struct.pack(">I", 16384)) + item(0x52, _ROOT.encode()))
        titles = b"SCANSIDE".ljust(16) + calling.encode().ljust(16)
        body = struct.pack(">HH", 1, 0) + titles + bytes(32) + item(0x10, b"1.2.840.10008.3.1.1.1") + context + user
        self.socket.sendall(struct.pack(">BBI", 1, 0, len(body)) + body)
        kind, body = self._pdu()
        if kind != 2:
            raise OSError(f"the association was not accepted: PDU type {kind}")
        self.pdu_length_max = self._their_maximum(body) or 131072
        self.message_id = 0

    @staticmethod
    def _their_maximum(body):
        at = 68
        while at + 4 <= len(body):
            kind, _, length = struct.unpack_from(">BBH", body, at)
            if kind == 0x50:
                found = body.find(b"\x51\0\0\4", at + 4)
                return struct.unpack_from(">I", body, found + 4)[0] if found > 0 else 0
            at += 4 + length
        return 0

    def _exactly(self, n):
        data = b""
        while len(data) < n:
            part = self.socket.recv(n - len(data))
            if not part:
                raise OSError("closed by the box")
            data += part
        return data

    def _pdu(self):
        kind, _, length = struct.unpack(">BBI", self._exactly(6))
        return kind, self._exactly(length)

    def store(self, instance):
        """Sends it; returns the status."""
        self.message_id = self.message_id % 65535 + 1
        implicit = lambda element, value: struct.pack("<HHI", 0, element, len(value)) + value
        command = b"".join((
            implicit(0x0002, _padded(MR_IMAGE)), implicit(0x0100, struct.pack("<H", 1)), implicit(0x0110, struct.pack("<H", self.message_id)),
            implicit(0x0700, struct.pack("<H", 0)), implicit(0x0800, struct.pack("<H", 0)), implicit(0x1000, _padded(instance.sop)),
        ))
        command = implicit(0x0000, struct.pack("<I", len(command))) + command
        out, step = [self._p_data(command, 0x03)], self.pdu_length_max - 6
        for at in range(0, len(instance.data_set), step):
            part = instance.data_set[at:at + step]
            out.append(self._p_data(part, 0x02 if at + step >= len(instance.data_set) else 0x00))
        self.socket.sendall(b"".join(out))
        kind, body = self._pdu()
        if kind != 4:
            raise OSError(f"PDU type {kind} instead of an answer")
        at = body.find(b"\0\0\0\x09\2\0\0\0")
        return struct.unpack_from("<H", body, at + 8)[0]

    @staticmethod
    def _p_data(part, control):
        return struct.pack(">BBIIBB", 4, 0, len(part) + 6, len(part) + 2, 1, control) + part

    def release(self):
        self.socket.sendall(struct.pack(">BBII", 5, 0, 4, 0))
        self._pdu()
        self.socket.close()


class Senders:
    """Scanners that never rest: each sends one small study after the other; `acknowledged` holds what was answered 0x0000, by SOP UID.

    `on_acknowledged(n)` runs in the sender's own thread, before it does anything else. After `pause()` no message is under way.
    """

    def __init__(self, port, n, rng, instances_per_study=12, on_acknowledged=lambda n: None, stay=True, make=Instance, remember=True):
        self.port, self.per_study, self.on_acknowledged, self.stay = port, instances_per_study, on_acknowledged, stay
        self.make, self.remember, self.n_acknowledged = make, remember, 0
        self.lock, self.acknowledged, self.sent, self.refused, self.errors = threading.Lock(), {}, {}, {}, []
        self.gate, self.stopped, self.n_busy = threading.Event(), False, 0
        self.gate.set()
        self.idle = threading.Condition(self.lock)
        self.threads = [threading.Thread(target=self._send, args=(random.Random(rng.getrandbits(32)),), daemon=True) for _ in range(n)]
        for thread in self.threads:
            thread.start()

    def _send(self, rng):
        while not self.stopped:
            try:
                association = Association(self.port)
                study, series = new_uid(), new_uid()
                for number in range(1, self.per_study + 1):
                    self.gate.wait()
                    if self.stopped:
                        return
                    instance = self.make(study, series, number, rng)
                    with self.lock:
                        self.n_busy += 1
                        if self.remember:
                            self.sent[instance.sop] = instance.sha256
                    try:
                        status = association.store(instance)
                        with self.lock:
                            if status != 0:
                                self.refused[instance.sop] = status
                            else:
                                self.n_acknowledged += 1
                                if self.remember:
                                    self.acknowledged[instance.sop] = (study, instance.sha256)
                            n = self.n_acknowledged
                        self.on_acknowledged(n)
                    finally:
                        with self.lock:
                            self.n_busy -= 1
                            self.idle.notify_all()
                association.release()
            except OSError as error:
                with self.lock:
                    self.errors.append(str(error))
                if not self.stay:
                    return

    def pause(self):
        self.gate.clear()
        with self.lock:
            self.idle.wait_for(lambda: self.n_busy == 0, timeout=60)

    def go_on(self):
        self.gate.set()

    def stop(self):
        self.stopped = True
        self.gate.set()
        for thread in self.threads:
            thread.join(timeout=60)

    def snapshot(self):
        with self.lock:
            return dict(self.acknowledged)
