#!/usr/bin/env python3
"""The fault table: hostile peers, floods and a full disk in -> one row per fault with what happened, and whether it keeps the bars.

    tests/system/faults.py [--peers] [--flood-mb 300] [--only NAME ...] [--markdown]

Runs each fault against `scanside serve`, and with --peers also against dcmtk's storescp, Orthanc and pynetdicom's storescp where they are
installed. Bars (each checked after each fault): the process is up; C-ECHO answered within 1 s; memory grew by 16 MB at most; the peer had an
answer, an abort or a closed connection within 5 s; what is not whole is never answered 0x0000. Exit status 1 when ours misses one.
"""
import argparse
import contextlib
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

from appliance import ROOT, Appliance, free_port, program, synthetic_studies

sys.path.insert(0, str(ROOT / "fuzz"))
import seeds  # noqa: E402  (the wire formats of the fuzz targets' seeds)

MR, CT, ECHO = seeds.MR, "1.2.840.10008.5.1.4.1.1.2", seeds.VERIFICATION
ANSWER_S, ECHO_S, GROWTH_MB = 5.0, 1.0, 16.0
KINDS = {2: "accepted", 3: "rejected", 4: "data", 6: "released", 7: "A-ABORT"}


class Row(Exception):
    """A bar that was missed: the text says which."""


class Box:
    """Ours, as a target."""

    name, ae = "scanside", "SCANSIDE"

    def __init__(self, dicom_extra="", extra=""):
        self.box = Appliance(dicom_extra=dicom_extra, extra=extra)

    def start(self):
        self.box.start()
        self.port, self.process = self.box.dicom, self.box.process
        return self

    def files(self):
        return len(self.box.stored_files())

    def partials(self):
        return [p for p in (self.box.folder / "state").rglob("*") if p.is_file() and p.parent.name == "incoming"]

    def stop(self):
        self.box.stop()


class Other:
    """A peer of the table: its command with PORT, AE and DIR put in."""

    def __init__(self, name, command, ae="SCANSIDE"):
        self.name, self.command, self.ae = name, command, ae

    def start(self):
        self.folder, self.port = pathlib.Path(tempfile.mkdtemp(prefix="scanside-peer-")), free_port()
        if self.name == "Orthanc":
            (self.folder / "orthanc.json").write_text(
                '{"StorageDirectory":"%s/db","IndexDirectory":"%s/db","DicomPort":%d,"HttpPort":%d,"DicomAet":"%s","Plugins":[],'
                '"RemoteAccessAllowed":false,"AuthenticationEnabled":false,"DicomAlwaysAllowStore":true}'
                % (self.folder, self.folder, self.port, free_port(), self.ae))
        command = [part.replace("PORT", str(self.port)).replace("AE", self.ae).replace("DIR", str(self.folder)) for part in self.command]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                time.sleep(0.3)
                return self
            time.sleep(0.1)
        raise AssertionError(f"{self.name} did not start")

    def files(self):
        return sum(1 for p in self.folder.rglob("*") if p.is_file() and p.stat().st_size > 1000 and p.suffix not in (".json", ".db"))

    def partials(self):
        return []

    def stop(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait()


class Peer:
    """One connection that can say anything."""

    def __init__(self, target, contexts=((1, MR, [seeds.EXPLICIT]),), called=None, associate=True):
        self.socket = socket.create_connection(("127.0.0.1", target.port), timeout=ANSWER_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reply = None
        if associate:
            self.socket.sendall(seeds.request(list(contexts), called=called or target.ae))
            self.reply = self.pdu()

    def pdu(self, timeout=ANSWER_S):
        """(type, body); None when the peer closed; "silence" when nothing came in time."""
        self.socket.settimeout(timeout)
        try:
            head = self._exactly(6)
            return head and (head[0], self._exactly(struct.unpack(">I", head[2:])[0]))
        except TimeoutError:
            return "silence"
        except OSError:
            return None

    def _exactly(self, n):
        data = b""
        while len(data) < n:
            chunk = self.socket.recv(n - len(data))
            if not chunk:
                return None
            data += chunk
        return data

    def accepted(self):
        return isinstance(self.reply, tuple) and self.reply[0] == 2

    def results(self):
        """Result of each presentation context (PS3.8 table 9-18)."""
        at, out = 68, {}
        body = self.reply[1]
        while at + 4 <= len(body):
            kind, length = body[at], struct.unpack(">H", body[at + 2 : at + 4])[0]
            if kind == 0x21:
                out[body[at + 4]] = body[at + 6]
            at += 4 + length
        return out

    def outcome(self, timeout=ANSWER_S):
        """("status", code) or (what came instead, None)."""
        came = self.pdu(timeout)
        if came is None:
            return "closed", None
        if came == "silence":
            return "silence", None
        kind, body = came
        if kind != 4 or body is None:
            return KINDS.get(kind, f"PDU {kind}"), None
        at = body.find(struct.pack("<HHI", 0, 0x0900, 2))
        return "status", struct.unpack("<H", body[at + 8 : at + 10])[0]

    def store(self, data, instance="1.2.3.4.5", sop_class=MR, timeout=ANSWER_S):
        self.socket.sendall(seeds.p_data(seeds.pdv(1, 3, seeds.command(1, uid=sop_class, instance=instance))))
        chunks = [data[k : k + 16000] for k in range(0, len(data), 16000)]
        with contextlib.suppress(OSError):
            for k, chunk in enumerate(chunks):
                self.socket.sendall(seeds.p_data(seeds.pdv(1, 2 if k + 1 == len(chunks) else 0, chunk)))
        return self.outcome(timeout)

    def flood(self, head, n_mb, block=b"\0" * (1 << 16)):
        """Sends up to `n_mb` after `head`; how much went before the peer cut it, in MB."""
        sent, end = 0, time.time() + 45
        try:
            self.socket.sendall(head)
            while sent < n_mb << 20 and time.time() < end:
                self.socket.sendall(block)
                sent += len(block)
        except OSError:
            pass
        return sent / (1 << 20)

    def close(self):
        self.socket.close()


def image(instance="1.2.3.4.5", n=64, byte=7):
    return seeds.image(seeds.Writer(), n=n, pixels=bytes([byte]) * (2 * n * n)).out.replace(b"1.2.3.4.5\0", instance.encode().ljust(10, b"\0")[:10])


def said(outcome):
    kind, status = outcome
    return f"0x{status:04X}" if kind == "status" else kind


def refused(outcome):
    """An answer came, and it is not success."""
    if outcome[0] == "silence":
        raise Row(f"no answer in {ANSWER_S:.0f} s")
    if outcome == ("status", 0):
        raise Row("answered 0x0000")
    return said(outcome)


def success(outcome):
    if outcome != ("status", 0):
        raise Row(f"expected 0x0000, got {said(outcome)}")
    return "0x0000"


def ends(peer):
    """The connection ends, in whatever way."""
    begin = time.time()
    outcome = peer.outcome()
    if outcome[0] == "silence":
        raise Row(f"left open, no answer in {ANSWER_S:.0f} s")
    return f"{said(outcome)} after {time.time() - begin:.1f} s"


# The faults. Each takes the target and the size of floods, and says what happened, or raises Row.

def random_bytes(target, _):
    peer = Peer(target, associate=False)
    with contextlib.suppress(OSError):
        peer.socket.sendall(os.urandom(4096).replace(b"\x01", b"\x99"))
    return ends(peer)


def http_get(target, _):
    peer = Peer(target, associate=False)
    peer.socket.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    return ends(peer)


def associate_of_4_gb(target, mb):
    peer = Peer(target, associate=False)
    sent = peer.flood(struct.pack(">BBI", 1, 0, 0xFFFFFFFF), mb)
    if sent >= mb:
        raise Row(f"took {sent:.0f} MB")
    return f"cut after {sent:.1f} MB"


def p_data_of_4_gb(target, mb):
    peer = Peer(target)
    sent = peer.flood(struct.pack(">BBI", 4, 0, 0xFFFFFFF0), mb)
    if sent >= mb:
        raise Row(f"took {sent:.0f} MB")
    return f"cut after {sent:.1f} MB"


def endless_command(target, mb):
    peer = Peer(target)
    sent = peer.flood(b"", mb, seeds.p_data(seeds.pdv(1, 1, bytes(16000))) * 4)
    if sent >= mb:
        raise Row(f"took {sent:.0f} MB")
    return f"cut after {sent:.1f} MB"


def random_data_set(target, _):
    return refused(Peer(target).store(os.urandom(5000)))


def truncated_pixels(target, _):
    return refused(Peer(target).store(image()[:-1000]))


def pixels_shorter_than_the_image(target, _):
    data = seeds.image(seeds.Writer(), n=64, pixels=bytes(100)).out
    return refused(Peer(target).store(data))


def element_of_4_gb(target, _):
    head = seeds.image(seeds.Writer(), pixels=False)
    return refused(Peer(target).store(head.out + head.head(0x7FE00010, b"OW", 0xFFFFFFFE) + bytes(3000)))


def nested_100_000_deep(target, _):
    head = seeds.image(seeds.Writer(), pixels=False)
    return refused(Peer(target).store(seeds.nested(head, 100_000), timeout=ANSWER_S))


def nested_behind_padding(target, _):
    return refused(Peer(target).store(seeds.nested_in(image() + bytes(12), seeds.Writer(), 100_000), timeout=ANSWER_S))


def path_traversal(target, _):
    uid = "../../../../tmp/owned"
    outcome = Peer(target).store(image().replace(b"1.2.3.4.5\0", uid.encode()[:10]), instance=uid)
    if os.path.exists("/tmp/owned"):
        raise Row("wrote outside its folder")
    return refused(outcome) if target.name == "scanside" else said(outcome)


def command_is_not_the_data_set(target, _):
    before = target.files()
    uid = refused(Peer(target).store(image(), instance="1.2.9.9.9"))
    other = refused(Peer(target, contexts=((1, CT, [seeds.EXPLICIT]),)).store(image(), sop_class=CT))
    if target.files() != before:
        raise Row("left a file behind")
    return f"UID {uid}, class {other}"


def unsupported_class(target, _):
    peer = Peer(target, contexts=((1, "1.2.840.10008.5.1.4.1.1.77.1.4.9", [seeds.EXPLICIT]), (3, MR, [seeds.EXPLICIT])))
    results = peer.results()
    if results.get(1) != 3 or results.get(3) != 0:
        raise Row(f"results {results}")
    return "result 3, the other context works"


def reset_in_a_data_set(target, _):
    peer, before = Peer(target), target.files()
    peer.socket.sendall(seeds.p_data(seeds.pdv(1, 3, seeds.command(1))) + seeds.p_data(seeds.pdv(1, 0, image()[:4000])))
    time.sleep(0.2)
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    time.sleep(0.5)
    if target.files() != before or target.partials():
        raise Row("a partial file is left")
    return "nothing left"


def wrong_called_title(target, _):
    reply = Peer(target, called="SOMEBODY").reply
    if not isinstance(reply, tuple) or reply[0] != 3:
        raise Row("accepted")
    result, source, reason = reply[1][1], reply[1][2], reply[1][3]
    if (result, source, reason) != (1, 1, 7):
        raise Row(f"rejected with {(result, source, reason)}")
    return "rejected 1/1/7"


def same_uid_other_pixels(target, _):
    first = success(Peer(target).store(image("1.2.3.4.7", byte=1), instance="1.2.3.4.7"))
    kept = list((target.box.folder / "state").rglob("*.dcm")) if target.name == "scanside" else []
    bytes_before = {p: p.read_bytes() for p in kept}
    second = said(Peer(target).store(image("1.2.3.4.7", byte=2), instance="1.2.3.4.7"))
    if any(not p.exists() or p.read_bytes() != data for p, data in bytes_before.items()):
        raise Row("the first was overwritten")
    again = f", evidence kept beside ({target.files()} files)" if target.name == "scanside" else ""
    return f"{first}, then {second}{again}"


def associations_at_once(target, _):
    peers = [Peer(target) for _ in range(64)]
    n = sum(peer.accepted() for peer in peers)
    if n < 64:
        raise Row(f"{n} of 64 accepted")
    outcomes = [peer.store(image(f"1.2.4.{100 + k}"), instance=f"1.2.4.{100 + k}") for k, peer in enumerate(peers)]
    good = sum(outcome == ("status", 0) for outcome in outcomes)
    for peer in peers:
        peer.close()
    if good < 64:
        raise Row(f"{good} of 64 stored")
    return "64 accepted, 64 stored"


def idle_and_dripping(target, _):
    idle = [socket.create_connection(("127.0.0.1", target.port), timeout=5) for _ in range(200)]
    for s in idle[:40]:
        s.sendall(b"\x01")
    begin = time.time()
    outcome = Peer(target).store(image("1.2.5.6.7"), instance="1.2.5.6.7")
    took = time.time() - begin
    for s in idle:
        s.close()
    success(outcome)
    if took > ECHO_S:
        raise Row(f"a store beside them took {took:.1f} s")
    return f"a store beside them in {took:.2f} s"


def idle_association(target, _):
    # Ours runs with idle_timeout_s = 3 and request_timeout_s = 3 here; the others with their defaults, so up to 65 s.
    wait = 6 if target.name == "scanside" else 65
    quiet, silent = Peer(target), Peer(target, associate=False)
    begin = time.time()
    first = quiet.outcome(wait)
    closed = time.time() - begin
    if first[0] == "silence":
        raise Row(f"an idle association stays open for more than {wait} s")
    second = silent.outcome(wait)
    if second[0] == "silence":
        raise Row(f"a connection without a request stays open for more than {wait} s")
    return f"association: {said(first)} after {closed:.1f} s; no request: {said(second)}"


def connect_and_close(target, _):
    for _ in range(100):
        Peer(target, associate=False).close()
    return "100 times"


FAULTS = [random_bytes, http_get, associate_of_4_gb, p_data_of_4_gb, endless_command, random_data_set, truncated_pixels,
          pixels_shorter_than_the_image, element_of_4_gb, nested_100_000_deep, nested_behind_padding, path_traversal, command_is_not_the_data_set,
          unsupported_class, reset_in_a_data_set, wrong_called_title, same_uid_other_pixels, associations_at_once, idle_and_dripping,
          idle_association, connect_and_close]


def rss_mb(process, peak):
    with contextlib.suppress(OSError):
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
        values = dict(line.split(":", 1) for line in status.splitlines())
        return int(values["VmHWM" if peak else "VmRSS"].split()[0]) / 1024
    return 0.0


def echo_s(target):
    begin = time.time()
    with contextlib.suppress(OSError):
        peer = Peer(target, contexts=((1, ECHO, [seeds.IMPLICIT]),))
        if peer.accepted():
            peer.socket.sendall(seeds.p_data(seeds.pdv(1, 3, seeds.command(0x30, uid=ECHO, instance=None, data=False))))
            if peer.outcome() == ("status", 0):
                peer.close()
                return time.time() - begin
    return None


def run(fault, target, flood_mb):
    """(kept the bars, what happened)."""
    with contextlib.suppress(OSError):
        pathlib.Path(f"/proc/{target.process.pid}/clear_refs").write_text("5")
    before = rss_mb(target.process, False)
    missed, note = [], ""
    try:
        note = fault(target, flood_mb)
    except Row as row:
        missed.append(str(row))
    except OSError as error:
        missed.append(f"connection failed ({type(error).__name__})")
    if target.process.poll() is not None:
        return False, "; ".join([*missed, f"THE PROCESS DIED ({target.process.returncode})"])
    took, grown = echo_s(target), rss_mb(target.process, True) - before
    if took is None or took > ECHO_S:
        missed.append("no echo afterwards" if took is None else f"echo afterwards took {took:.1f} s")
    if grown > GROWTH_MB:
        missed.append(f"memory +{grown:.0f} MB")
    facts = [note] if note else []
    facts += [f"echo {took:.2f} s"] if took is not None and took <= ECHO_S else []
    return not missed, "; ".join(missed + facts + ([f"+{grown:.1f} MB"] if grown <= GROWTH_MB else []))


def disk_full(make_target):
    """A state folder on a small file system: 0xA700 at once when it is full, no partials, and room again needs no restart."""
    folder = tempfile.mkdtemp(prefix="scanside-disk-")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], stderr=subprocess.DEVNULL).returncode:
        return None, "SKIP: no right to mount a file system"
    try:
        target = make_target(pathlib.Path(folder))
        filler = pathlib.Path(folder, "filler")
        free = os.statvfs(folder)
        keep = 18 << 20
        filler.write_bytes(bytes(max(free.f_bavail * free.f_frsize - keep, 0)))
        statuses, slowest, stored = [], 0.0, 0
        try:
            for k in range(40):
                begin = time.time()
                uid = f"1.2.6.{100 + k}"
                outcome = Peer(target).store(image(uid, n=500), instance=uid)
                slowest = max(slowest, time.time() - begin)
                statuses.append(said(outcome))
                stored += outcome == ("status", 0)
            bad = sorted({s for s in statuses if s not in ("0x0000", "0xA700")})
            if bad or "0xA700" not in statuses:
                return False, f"answers {sorted(set(statuses))}"
            if target.partials() or target.files() != stored:
                return False, f"{len(target.partials())} partial files, {target.files()} files for {stored} acknowledged"
            filler.unlink()
            again = Peer(target).store(image("1.2.6.999", n=64), instance="1.2.6.999")
            if again != ("status", 0):
                return False, f"room again, but {said(again)}"
            if target.process.poll() is not None or echo_s(target) is None:
                return False, "does not serve any more"
            return True, f"{stored} stored, then 0xA700 x{statuses.count('0xA700')} (slowest {slowest:.2f} s), no partials; room again: 0x0000"
        finally:
            target.stop()
    finally:
        subprocess.run(["umount", "-l", folder])


def ours_on(folder):
    target = Box(extra="[spool]\nmib_max = 256\nfree_mib_min = 16")
    state = target.box.folder / "state"
    state.symlink_to(folder)
    return target.start()


DICOM_EXTRA = "associations_max = 80\nassociations_per_peer_max = 80\nidle_timeout_s = 3\nrequest_timeout_s = 3"


def others():
    found = []
    if shutil.which("storescp"):
        found.append(Other("dcmtk", ["storescp", "--fork", "-aet", "AE", "-od", "DIR", "PORT"]))
    if orthanc := shutil.which("Orthanc") or shutil.which("/usr/sbin/Orthanc"):
        found.append(Other("Orthanc", [orthanc, "DIR/orthanc.json"]))
    found.append(Other("pynetdicom", [sys.executable, "-m", "pynetdicom", "storescp", "-aet", "AE", "-od", "DIR", "PORT"]))
    return found


def table(flood_mb=300, peers=False, only=()):
    """{fault: {target: (kept, text)}}"""
    rows = {}
    for target in [Box(DICOM_EXTRA), *(others() if peers else [])]:
        running = target.start()
        for fault in FAULTS:
            name = fault.__name__
            if only and name not in only:
                continue
            if running.process.poll() is not None:
                running = target.start()  # a peer that the last fault killed
            rows.setdefault(name, {})[target.name] = run(fault, running, flood_mb)
            print(f"{target.name:10} {name:32} {'ok' if rows[name][target.name][0] else 'MISSED'}  {rows[name][target.name][1]}", flush=True)
        running.stop()
    if not only or "disk_full" in only:
        rows["disk_full"] = {"scanside": disk_full(ours_on)}
        print(f"{'scanside':10} {'disk_full':32} {rows['disk_full']['scanside']}", flush=True)
    return rows


def markdown(rows):
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    out = ["| fault | " + " | ".join(names) + " |", "| --- |" + " --- |" * len(names)]
    for fault, row in rows.items():
        cells = [("" if kept else "**missed** " if kept is False else "") + text for kept, text in (row.get(n, (None, "-")) for n in names)]
        out.append(f"| {fault.replace('_', ' ')} | " + " | ".join(cells) + " |")
    return "\n".join(out)


def test_fault_table_has_no_missed_bar():
    rows = table(flood_mb=40)
    missed = {fault: row["scanside"][1] for fault, row in rows.items() if row["scanside"][0] is False}
    assert not missed, missed
    return f"{len(rows)} faults"


def hide_depth(data, levels=50_000):
    """A file with a private value in which dicom-rs sees that many nested sequences, and a reader that keeps to PS3.5 section 6.2.2 one long value."""
    length = 0x000F5153  # its first bytes are "SQ"
    level = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + seeds.Writer().head(0x0040A730, b"SQ", 0xFFFFFFFF)
    value = (struct.pack("<I", 0xFFFFFFFF) + level * levels)[:length].ljust(length, b"\0")
    hidden = seeds.Writer().head(0x00291020, b"UN", 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    hidden += struct.pack("<HHI", 0x0029, 0x1030, length) + value + struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    at = data.rfind(struct.pack("<HH", 0x7FE0, 0x0010))
    return data[:at] + hidden + data[at:]


def test_depth_hidden_in_private_values_costs_one_study_and_not_the_service():
    with tempfile.TemporaryDirectory() as folder, Appliance(extra="[assemble]\nquiet_s = 3\nsettle_s = 1") as box:
        files = synthetic_studies(pathlib.Path(folder) / "in")
        files = [path for path in files if path.parent == files[0].parent]
        for path in files:
            path.write_bytes(hide_depth(path.read_bytes()))
        to = ["--to", f"127.0.0.1:{box.dicom}", "--aet", "HOSTILE", "--aec", "SCANSIDE"]
        subprocess.run([program(), "send", *map(str, files), *to], check=True, stdout=subprocess.DEVNULL)
        [study] = box.wait_for_verdicts(1)
        assert study["verdict"] == "indeterminate", study
        assert box.process.poll() is None, "the service died"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--flood-mb", type=int, default=300)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args()
    rows = table(args.flood_mb, args.peers, args.only)
    if args.markdown:
        print(markdown(rows))
    return 1 if any(row.get("scanside", (True,))[0] is False for row in rows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
