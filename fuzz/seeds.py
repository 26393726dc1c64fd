#!/usr/bin/env python3
"""Writes the seed corpora of the fuzz targets: nothing in -> fuzz/corpus/TARGET/seed-*, the same bytes each time, all of it synthetic.

    fuzz/seeds.py            standard library alone; with dcmtk's dcmcjpeg, dcmcrle and dcmcjpls and OpenJPEG's opj_compress also the compressed images of `prepare`

Seeds are what a well-behaved peer sends, and one step beside it. What fuzzing adds is minimised (`cargo fuzz cmin`) and named by its hash.
"""
import pathlib
import shutil
import struct
import subprocess
import tempfile
import zlib

HERE = pathlib.Path(__file__).resolve().parent
MR, ENHANCED, VERIFICATION = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.1.1"
IMPLICIT, EXPLICIT, DEFLATED, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
JPEG_LOSSLESS, JPEG_LS, RLE = "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.5"
LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}


def put(target, name, data):
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"seed-{name}").write_bytes(data)


def even(value, pad=b"\0"):
    value = value.encode() if isinstance(value, str) else value
    return value + pad * (len(value) % 2)


# Command sets (PS3.7 annex E) and PDUs (PS3.8 section 9.3)

def command(field, *, uid=MR, instance="1.2.3.4.5", message_id=7, data=True, extra=b"", to=0x0110):
    def element(number, value):
        return struct.pack("<HHI", 0, number, len(value)) + value
    body = (element(2, even(uid)) if uid else b"") + element(0x100, struct.pack("<H", field)) + element(to, struct.pack("<H", message_id))
    body += element(0x700, struct.pack("<H", 0)) if field == 1 else b""  # Priority: dcmtk aborts without it
    body += element(0x800, struct.pack("<H", 0 if data else 0x101)) + extra
    body += element(0x1000, even(instance)) if instance else b""
    return element(0, struct.pack("<I", len(body))) + body


def pdv(context, control, data):
    return struct.pack(">IBB", len(data) + 2, context, control) + data


def p_data(*pdvs):
    body = b"".join(pdvs)
    return struct.pack(">BBI", 4, 0, len(body)) + body


def store(data, size=64, context=1):
    chunks = [data[k : k + size] for k in range(0, len(data), size)] or [b""]
    pdus = [p_data(pdv(context, 3, command(1)))]
    return b"".join(pdus + [p_data(pdv(context, 2 if k + 1 == len(chunks) else 0, c)) for k, c in enumerate(chunks)])


def item(kind, body):
    return struct.pack(">BBH", kind, 0, len(body)) + body


def request(contexts, *, called="SCANSIDE", calling="MR1", version=1, user=b"", application="1.2.840.10008.3.1.1.1"):
    body = struct.pack(">HH16s16s32x", version, 0, called.encode().ljust(16), calling.encode().ljust(16)) + item(0x10, application.encode())
    for number, abstract, syntaxes in contexts:
        inner = item(0x30, abstract.encode()) + b"".join(item(0x40, s.encode()) for s in syntaxes)
        body += item(0x20, struct.pack(">BBBB", number, 0, 0, 0) + inner)
    body += item(0x50, item(0x51, struct.pack(">I", 16384)) + user)
    return struct.pack(">BBI", 1, 0, len(body)) + body


# Data sets (PS3.5 section 7) and files (PS3.10)

class Writer:
    def __init__(self, explicit=True, big=False):
        self.explicit, self.order, self.out = explicit, ">" if big else "<", b""

    def head(self, tag, vr, length):
        out = struct.pack(self.order + "HH", tag >> 16, tag & 0xFFFF)
        if self.explicit and tag >> 16 != 0xFFFE:
            if vr not in LONG:
                return out + vr + struct.pack(self.order + "H", length)
            out += vr + b"\0\0"
        return out + struct.pack(self.order + "I", length)

    def add(self, tag, vr, value):
        if isinstance(value, str):
            value = even(value, b"\0" if vr == b"UI" else b" ")
        elif isinstance(value, int):
            value = struct.pack(self.order + ("H" if vr == b"US" else "I"), value)
        elif isinstance(value, float):
            value = struct.pack(self.order + "d", value)
        self.out += self.head(tag, vr, len(value)) + value
        return self

    def sequence(self, tag, items, undefined=False):
        body = b""
        for inner in items:
            body += self.head(0xFFFEE000, b"  ", 0xFFFFFFFF if undefined else len(inner)) + inner
            body += self.head(0xFFFEE00D, b"  ", 0) if undefined else b""
        body += self.head(0xFFFEE0DD, b"  ", 0) if undefined else b""
        self.out += self.head(tag, b"SQ", 0xFFFFFFFF if undefined else len(body)) + body
        return self

    def like(self):
        return Writer(self.explicit, self.order == ">")


def image(w, *, n=4, pixels=None, frames=None, charset=None, sop_class=MR, bits=16):
    if charset:
        w.add(0x00080005, b"CS", charset)
    w.add(0x00080008, b"CS", "ORIGINAL\\PRIMARY\\M\\ND").add(0x00080016, b"UI", sop_class).add(0x00080018, b"UI", "1.2.3.4.5")
    w.add(0x00080050, b"SH", "A1").add(0x00080060, b"CS", "MR").add(0x0008103E, b"LO", "t1 mprage +C")
    w.add(0x00180010, b"LO", "Gadovist").add(0x00180020, b"CS", "GR\\IR").add(0x00180050, b"DS", "1.2").add(0x00180081, b"DS", "2.98")
    w.add(0x00190010, b"LO", "SIEMENS MR HEADER").add(0x0019100C, b"IS", "1000")
    w.add(0x0020000D, b"UI", "1.2.3").add(0x0020000E, b"UI", "1.2.3.4").add(0x00200011, b"IS", "5")
    w.add(0x00200032, b"DS", "-100.5\\-120\\33.25").add(0x00200037, b"DS", "1\\0\\0\\0\\1\\0").add(0x00280002, b"US", 1)
    w.add(0x00280004, b"CS", "MONOCHROME2")
    if frames:
        w.add(0x00280008, b"IS", str(frames))
    w.add(0x00280010, b"US", n).add(0x00280011, b"US", n).add(0x00280030, b"DS", "0.9\\0.8").add(0x00280100, b"US", bits)
    w.add(0x00280101, b"US", 12 if bits == 16 else bits).add(0x00280102, b"US", 11 if bits == 16 else bits - 1).add(0x00280103, b"US", 0)
    w.add(0x00281052, b"DS", "0").add(0x00281053, b"DS", "1")
    if pixels is not False:
        w.add(0x7FE00010, b"OW" if bits == 16 else b"OB", pixels or bytes(range(2 * n * n)) * (frames or 1))
    return w


def enhanced(w, undefined, n=3):
    inner = w.like
    shared = inner().sequence(0x00209116, [inner().add(0x00200037, b"DS", "1\\0\\0\\0\\0\\-1").out], undefined)
    shared.sequence(0x00289110, [inner().add(0x00180050, b"DS", "3").add(0x00280030, b"DS", "0.5\\0.6").out], undefined)
    shared.sequence(0x00189114, [inner().add(0x00189082, b"FD", 120.0).out], undefined)
    frames = []
    for k in range(n):
        frame = inner().sequence(0x00209111, [inner().add(0x00209056, b"SH", "1").add(0x00209128, b"UL", k + 1).out], undefined)
        frame.sequence(0x00209113, [inner().add(0x00200032, b"DS", f"-10\\{k}\\20").out], undefined)
        frame.sequence(0x00189117, [inner().add(0x00189087, b"FD", 500.0 * k).out], undefined)
        frames.append(frame.out)
    w.add(0x00080016, b"UI", ENHANCED).add(0x00080018, b"UI", "1.2.3.4.5").add(0x00080060, b"CS", "MR")
    w.add(0x0020000D, b"UI", "1.2.3").add(0x0020000E, b"UI", "1.2.3.4").add(0x00280002, b"US", 1).add(0x00280008, b"IS", str(n))
    w.add(0x00280010, b"US", 2).add(0x00280011, b"US", 2).add(0x00280100, b"US", 16)
    w.sequence(0x52009229, [shared.out], undefined).sequence(0x52009230, frames, undefined)
    return w.add(0x7FE00010, b"OW", bytes(8 * n))


def part10(syntax, data, preamble=True, sop_class=MR):
    meta = Writer().add(0x00020001, b"OB", b"\0\1").add(0x00020002, b"UI", sop_class).add(0x00020003, b"UI", "1.2.3.4.5")
    meta = meta.add(0x00020010, b"UI", syntax).add(0x00020012, b"UI", "1.2.3").out
    return (bytes(128) + b"DICM" if preamble else b"") + Writer().add(0x00020000, b"UL", len(meta)).out + meta + data


def deflate(data):
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    out = packer.compress(data) + packer.flush()
    return out + b"\0" * (len(out) % 2)


def encapsulated(w, fragments, offsets=b"", end=True):
    out = w.out + w.head(0x7FE00010, b"OB", 0xFFFFFFFF) + w.head(0xFFFEE000, b"  ", len(offsets)) + offsets
    for fragment in fragments:
        out += w.head(0xFFFEE000, b"  ", len(fragment)) + fragment
    return out + (w.head(0xFFFEE0DD, b"  ", 0) if end else b"")


def nested(w, depth):
    return nested_in(w.out, w, depth)


def nested_in(data, w, depth):
    return data + (w.head(0x0040A730, b"SQ", 0xFFFFFFFF) + w.head(0xFFFEE000, b"  ", 0xFFFFFFFF)) * depth


def pdu_seeds():
    data = image(Writer()).out
    put("pdu", "store", b"\x01" + store(data))
    put("pdu", "store-one-byte-pdus", b"\x00" + store(data[:40], 1))
    put("pdu", "echo", b"\x40" + p_data(pdv(1, 3, command(0x30, uid=VERIFICATION, instance=None, data=False))))
    echo = command(0x30, uid=VERIFICATION, instance=None, data=False)
    put("pdu", "command-in-three-fragments", b"\x07" + p_data(pdv(1, 1, echo[:13]), pdv(1, 1, echo[13:20]), pdv(1, 3, echo[20:])))
    put("pdu", "two-stores-one-context-each", b"\x02" + store(data[:100]) + store(data[:60], context=3) + b"\x05\0\0\0\0\x04\0\0\0\0")
    put("pdu", "store-without-data", b"\x03" + p_data(pdv(255, 3, command(1, data=False))))
    put("pdu", "find-with-identifier", b"\x03" + p_data(pdv(3, 3, command(0x20))) + p_data(pdv(3, 2, b"\x08\0\x52\0CS\0\0")))
    put("pdu", "n-create", b"\x03" + p_data(pdv(3, 3, command(0x140, uid="1.2.840.10008.3.1.2.3.3"))) + p_data(pdv(3, 2, b"")))
    put("pdu", "cancel", b"\x03" + p_data(pdv(3, 3, command(0xFFF, data=False, to=0x120))))
    put("pdu", "response-unasked", b"\x03" + p_data(pdv(1, 3, command(0x8001, data=False, to=0x120))))
    put("pdu", "four-gigabytes", b"\x03\x04\0\xff\xff\xff\xf0")
    put("pdu", "fragment-past-its-pdu", b"\x03" + struct.pack(">BBIIBB", 4, 0, 6, 100, 1, 3))
    put("pdu", "empty-fragment", b"\x03" + p_data(pdv(1, 1, b"")) * 3)
    put("pdu", "http", b"\x20GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    put("pdu", "abort", b"\x03\x07\0\0\0\0\x04\0\0\0\0")


def negotiate_seeds():
    plain = [(1, VERIFICATION, [IMPLICIT]), (3, MR, [EXPLICIT, IMPLICIT])]
    put("negotiate", "echo-and-mr", request(plain))
    put("negotiate", "compressed", request([(1, MR, [JPEG_LOSSLESS, JPEG_LS, RLE]), (3, ENHANCED, [JPEG_LS]), (5, ENHANCED, [EXPLICIT])]))
    put("negotiate", "jpeg-ls-alone", request([(1, MR, [JPEG_LS])]))
    put("negotiate", "all-contexts", request([(k, MR, [IMPLICIT]) for k in range(1, 256, 2)]))
    put("negotiate", "even-context", request([(2, MR, [IMPLICIT])]))
    put("negotiate", "repeated-context", request([(1, MR, [IMPLICIT]), (1, MR, [EXPLICIT])]))
    put("negotiate", "no-contexts", request([]))
    put("negotiate", "no-syntaxes", request([(1, MR, [])]))
    put("negotiate", "wrong-title", request(plain, called="OTHER"))
    put("negotiate", "version-two", request(plain, version=2))
    put("negotiate", "other-application", request(plain, application="1.2.3"))
    user = item(0x52, b"1.2.3.4") + item(0x55, b"OTHER_1") + item(0x53, struct.pack(">HH", 8, 8))
    user += item(0x54, struct.pack(">H", len(MR)) + MR.encode() + b"\1\0")
    user += item(0x56, struct.pack(">H", len(MR)) + MR.encode() + b"\x00\x03\x01\x01\x01")
    user += item(0x58, b"\x02\x01" + struct.pack(">H", 4) + b"user" + struct.pack(">H", 4) + b"pass")
    put("negotiate", "every-user-item", request(plain, user=user))
    put("negotiate", "cut", request(plain)[:90])
    put("negotiate", "giant-length", b"\x01\0\xff\xff\xff\xff" + bytes(64))
    put("negotiate", "item-past-its-end", request(plain)[:-40] + b"\x50\x00\xff\xff")
    put("negotiate", "release-first", b"\x05\0\0\0\0\x04\0\0\0\0")


def command_seeds():
    put("command", "store", command(1))
    put("command", "echo", command(0x30, uid=VERIFICATION, instance=None, data=False))
    put("command", "find", command(0x20, instance=None))
    put("command", "n-event-report", command(0x100, extra=struct.pack("<HHIH", 0, 0x1002, 2, 1)))
    put("command", "cancel", command(0xFFF, uid=None, instance=None, data=False, to=0x120))
    put("command", "response", command(0x8001, data=False, to=0x120))
    put("command", "move-originator", command(1, extra=struct.pack("<HHI", 0, 0x1030, 4) + b"MOVE" + struct.pack("<HHIH", 0, 0x1031, 2, 9)))
    put("command", "path-as-uid", command(1, instance="../../etc/passwd"))
    put("command", "giant-element", command(1)[:20] + struct.pack("<HHI", 0, 0x1000, 0xFFFFFFFE))
    put("command", "foreign-group", command(1) + struct.pack("<HHI", 8, 0x18, 0))
    put("command", "cut", command(1)[:50])


def part10_seeds():
    for name, syntax, writer in (("explicit", EXPLICIT, Writer()), ("implicit", IMPLICIT, Writer(False)), ("big", BIG, Writer(True, True))):
        put("part10", f"mr-{name}", part10(syntax, image(writer).out))
        put("part10", f"enhanced-{name}", part10(syntax, enhanced(writer.like(), name == "big").out))
    data = image(Writer()).out
    put("part10", "deflated", part10(DEFLATED, deflate(data)))
    put("part10", "deflate-bomb", part10(DEFLATED, deflate(image(Writer(), pixels=bytes(3 << 20)).out)))
    put("part10", "deflated-broken", part10(DEFLATED, deflate(data)[:100] + b"\xff" * 20))
    put("part10", "no-preamble", part10(EXPLICIT, data, preamble=False))
    put("part10", "bare-explicit", data)
    put("part10", "bare-implicit", image(Writer(False)).out)
    put("part10", "undefined-lengths", part10(EXPLICIT, enhanced(Writer(), True).out))
    head = image(Writer(), pixels=False)
    put("part10", "fragments", part10(JPEG_LOSSLESS, encapsulated(head, [b"\xff\xd8\xff\xd9"])))
    put("part10", "fragments-without-end", part10(JPEG_LOSSLESS, encapsulated(head, [b"\xff\xd8\xff\xd9"], end=False)))
    put("part10", "jpeg-ls", part10(JPEG_LS, encapsulated(head, [b"\xff\xd8\xff\xf7"], offsets=bytes(4))))
    put("part10", "nine-deep", part10(EXPLICIT, nested(image(Writer(), pixels=False), 9)))
    put("part10", "three-deep-defined", part10(EXPLICIT, Writer().sequence(
        0x00081140, [Writer().sequence(0x00081140, [Writer().sequence(0x00081140, [b""]).out]).out]).out + data))
    put("part10", "truncated-pixels", part10(EXPLICIT, data[:-10]))
    put("part10", "four-gigabyte-element", part10(EXPLICIT, head.out + Writer().head(0x7FE00010, b"OW", 0xFFFFFFFE) + bytes(16)))
    put("part10", "unknown-sequence", part10(EXPLICIT, data[:200] + Writer().head(0x00291020, b"UN", 0xFFFFFFFF)
        + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + struct.pack("<HHIHH", 0x0029, 0x10, 2, 1, 1)
        + struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)))
    put("part10", "odd-length-value", part10(EXPLICIT, data[:100].replace(b"ORIGINAL", b"ORIGINA") + data[100:]))
    put("part10", "path-as-uid", part10(EXPLICIT, data.replace(b"1.2.3.4.5\0", b"../../etc/")))
    put("part10", "same-uid-twice", part10(EXPLICIT, Writer().add(0x00080018, b"UI", "1.2.3").out + data))
    for charset, text in (("ISO_IR 192", "T1 \u00e9\u4e2d"), ("GB18030", None), ("\\ISO 2022 IR 87", None), ("\\ISO 2022 IR 149", None)):
        value = text.encode() if text else {"GB18030": "\u4e2d\u6587".encode("gb18030"), "\\ISO 2022 IR 87": b"\x1b$B;3ED\x1b(B",
                                           "\\ISO 2022 IR 149": b"\x1b$)C" + "\uae40".encode("euc-kr")}[charset]
        out = Writer().add(0x00080005, b"CS", charset).out + data.replace(b"t1 mprage +C", even(value, b" ").ljust(12)[:12])
        put("part10", "charset-" + charset.strip("\\").replace(" ", "-").lower(), part10(EXPLICIT, out))
    put("part10", "zero-padding", part10(EXPLICIT, data + bytes(8)))
    put("part10", "text-file", b"this is no DICOM file\n" * 10)


def prepare_seeds():
    for name, syntax, writer in (("explicit", EXPLICIT, Writer()), ("implicit", IMPLICIT, Writer(False)), ("big", BIG, Writer(True, True))):
        put("prepare", f"mr-{name}", part10(syntax, image(writer).out))
        put("prepare", f"enhanced-{name}", part10(syntax, enhanced(writer.like(), False).out))
    put("prepare", "deflated", part10(DEFLATED, deflate(image(Writer()).out)))
    put("prepare", "bits-32", part10(EXPLICIT, image(Writer(), bits=32, pixels=bytes(64)).out))
    put("prepare", "bits-8-two-frames", part10(EXPLICIT, image(Writer(), bits=8, pixels=bytes(32), frames=2).out))
    put("prepare", "sixty-deep", part10(EXPLICIT, nested(image(Writer(), pixels=False), 60)))
    # Found by fuzzing: depth that the header scan did not see.
    image_i = image(Writer(False), pixels=bytes(32)).out
    put("prepare", "depth-behind-padding", part10(IMPLICIT, nested_in(image_i + bytes(8), Writer(False), 70)))
    inner = struct.pack("<I", 0xFFFFFFFF) + (struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + Writer().head(0x0040A730, b"SQ", 0xFFFFFFFF)) * 70
    hidden = Writer().head(0x00291020, b"UN", 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    hidden += struct.pack("<HH", 0x0029, 0x1030) + b"SQ" + struct.pack("<H", 0) + inner.ljust(0x5153, b"\0")
    hidden += struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    put("prepare", "depth-in-unknown-value", part10(EXPLICIT, image(Writer(), pixels=False).out + hidden
        + Writer().add(0x7FE00010, b"OW", bytes(32)).out))
    # Programs: syntax, number of steps, the steps, the pixels (`prepare_targets.rs`).
    put("prepare", "program-native", b"D\x00\x06" + b"\x06\x02\x01\x00" + b"\x09\x02\x04\x00" + b"\x0a\x02\x04\x00" + b"\x0c\x02\x10\x00"
        + b"\x0d\x02\x0c\x00" + b"\x0e\x02\x0b\x00" + bytes(range(32)))
    put("prepare", "program-rle", b"D\x03\x06" + b"\x06\x02\x01\x00" + b"\x09\x02\x02\x00" + b"\x0a\x02\x02\x00" + b"\x0c\x02\x10\x00"
        + b"\x0d\x02\x0c\x00" + b"\x0e\x02\x0b\x00" + b"\x00\x00" + struct.pack("<16I", 2, 64, 69, *[0] * 13) + b"\x03abcd" + b"\xfd\x00")
    put("prepare", "program-deep", b"D\x00\x60" + b"\xc0" * 96)
    tools = {"dcmcjpeg": [("jpeg-lossless", []), ("jpeg-baseline", ["+eb"]), ("jpeg-extended", ["+ee"])], "dcmcrle": [("rle", [])],
             "dcmcjpls": [("jpeg-ls", [])]}
    with tempfile.TemporaryDirectory() as folder:
        for tool, kinds in tools.items():
            if not shutil.which(tool):
                print(f"{tool} is not installed: its seeds are left as they are")
                continue
            for name, options in kinds:
                bits = 8 if name == "jpeg-baseline" else 16
                pixels = bytes((k * 7) % 200 for k in range(64)) if bits == 8 else struct.pack("<64H", *[(k * 61) % 4096 for k in range(64)])
                pathlib.Path(folder, "in").write_bytes(part10(EXPLICIT, image(Writer(), n=8, bits=bits, pixels=pixels).out))
                subprocess.run([tool, *options, "+un", f"{folder}/in", f"{folder}/out"], check=True, stderr=subprocess.DEVNULL)
                data = pathlib.Path(folder, "out").read_bytes()
                put("prepare", name, data)
        if shutil.which("opj_compress"):
            pathlib.Path(folder, "in.rawl").write_bytes(struct.pack("<64H", *[(k * 61) % 4096 for k in range(64)]))
            subprocess.run(["opj_compress", "-i", f"{folder}/in.rawl", "-F", "8,8,1,12,u", "-n", "2", "-o", f"{folder}/out.j2k"],
                           check=True, stdout=subprocess.DEVNULL)
            stream = even(pathlib.Path(folder, "out.j2k").read_bytes())
            head = image(Writer(), n=8, pixels=False)
            put("prepare", "jpeg-2000", part10("1.2.840.10008.1.2.4.90", encapsulated(head, [stream])))
            put("prepare", "jpeg-2000-two-fragments", part10("1.2.840.10008.1.2.4.91", encapsulated(head, [stream[:40], stream[40:]])))


def config_seeds():
    example = HERE.parent / "docs" / "config.example.toml"
    lines = [line for line in example.read_text().splitlines() if line.strip() and not line.startswith("# ")]
    put("config", "example", ("\n".join(lines) + "\n").encode())
    put("config", "empty", b"")
    put("config", "faults", b'[dicom]\nae_titel = "X"\nlisten = 104\npeers = ["10.0.0.0/33"]\n[nowhere]\na = 1\n')
    put("config", "webhook", b'[[alerts.webhook]]\nurl = "https://hook.example/a"\nsecret_file = "/run/secret"\non = ["flagged"]\n')
    put("config", "unicode", '[dicom]\nae_title = "\u00c4\\u0000"\nlisten = "[::1]:104"\n'.encode())
    put("config", "dates-and-floats", b"[assemble]\nquiet_s = 1979-05-27\nsettle_s = nan\ndeadline_s = 0x_\n")


if __name__ == "__main__":
    for seeds in (pdu_seeds, negotiate_seeds, command_seeds, part10_seeds, prepare_seeds, config_seeds):
        seeds()
    files = [p for p in (HERE / "corpus").rglob("seed-*")]
    print(f"{len(files)} seeds, {sum(p.stat().st_size for p in files)} bytes")
