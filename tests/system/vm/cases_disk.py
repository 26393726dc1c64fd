"""Cases about the disk while the box runs: full, failing, damaged. And the factory reset."""
import random
import subprocess
import sys
import time

import nbd
import scene as scenes
from qemu import Failed, wait_until

sys.path.insert(0, str(scenes.HERE.parent))
from wire import Association, Instance, new_uid  # noqa: E402

# How long the box may take to notice by itself that its disk fails.
NOTICE_S = 60
RESOURCES = 0xA700
STATE, DATA = "/var/lib/scanside", "/data"


def store_one(box, rng):
    """The status of one stored image of noise."""
    association = Association(box.machine.port["dicom"], timeout_s=60)
    try:
        return association.store(Instance(new_uid(), new_uid(), 1, rng))
    finally:
        association.socket.close()


def full(scene):
    """A full disk: new images are refused with 0xA700 and the lamp says so; when there is room again the box recovers by itself."""
    rng = random.Random(6)
    with scene.snapshot_box() as box:
        assert store_one(box, rng) == 0
        box.shell(f"df -k {DATA}; free=$(df -k {DATA} | awk 'END {{print $4}}'); fallocate -l $((free - 1024))k {DATA}/ballast")
        status = wait_until("an image is still accepted", 60, lambda: refused(box, rng), 0.5, machine=box.machine)
        assert status == RESOURCES, f"refused with 0x{status:04X}"
        # dcmtk reads the same.
        said = subprocess.run(["storescu", "-d", "-aec", "SCANSIDE", "127.0.0.1", str(box.machine.port["dicom"]), str(scene.studies()["plain"][0])],
                              capture_output=True, text=True, timeout=120)
        assert "0xa700" in (said.stdout + said.stderr).lower(), (said.stdout + said.stderr)[-500:]
        name, _ = box.lamps.wait(("fault", "degraded"), 60)
        causes = box.causes()
        assert {"disk-full", "disk-nearly-full"} & set(causes), causes
        box.shell(f"rm {DATA}/ballast")
        freed = time.monotonic()
        wait_until("still refused after there is room", 60, lambda: store_one(box, rng) == 0, 1, machine=box.machine)
        box.lamps.wait(("ready", "indeterminate"), 90)
        return f"refused with 0xA700, the lamps show {name} ({', '.join(causes)}); accepted again {time.monotonic() - freed:.0f} s after there was room"


def refused(box, rng):
    try:
        return store_one(box, rng)
    except OSError as error:
        raise Failed(f"the association ended instead of an answer: {error}") from error


def errors(scene):
    """Writes to the disk fail, then reads, while nobody sends: the box finds out by itself and shows fault, though the mount still says rw."""
    notes = []
    for what in ("writes", "reads"):
        with scene.failing_box() as (box, disk):
            box.lamps.wait("ready", 60)
            disk.fail(what)
            at = time.monotonic()
            name, since = box.lamps.wait(("fault", "dark"), NOTICE_S)
            note = f"{what} fail: {name} after {since - at:.0f} s"
            if what == "writes":
                mounted = box.shell(f"grep ' {DATA} ' /proc/mounts", check=False)
                note += f" (mount says {mounted.split()[3].split(',')[0] if len(mounted.split()) > 3 else 'nothing'})"
            scene.figures[f"disk {what} fail"] = {"lamp": name, "after_s": since - at}
            notes.append(note)
            disk.fail()
    return "; ".join(notes)


def damage(path, image, how, seed):
    """Damages the data partition of a raw disk."""
    begin, n_bytes = image.partition(path, "data")
    rng = random.Random(seed)
    with open(path, "r+b") as disk:
        if how == "superblock":
            disk.seek(begin)
            disk.write(bytes(4096))
        elif how == "start":
            disk.seek(begin)
            disk.write(rng.randbytes(16 << 20))
        else:  # blocks: one in a hundred of the first 256 MiB, where the metadata is
            for block in rng.sample(range(min(n_bytes, 256 << 20) // 4096), 655):
                disk.seek(begin + block * 4096)
                disk.write(rng.randbytes(4096))


def damaged_by(scene, how, seed=15):
    path = scene.raw_disk("damaged")
    damage(path, scene.image, how, seed)
    with scene.box(f"file={path},format=raw") as box:
        name, _ = box.lamps.wait(("ready", "degraded", "fault"), scenes.BOOT_S)
        after_s = box.machine.wall_s()
        if name == "fault":
            # It may first say so and then find its way; what counts is what it does with images meanwhile.
            time.sleep(15)
            name = box.lamps.state() or box.lamps.describe()
        # Where the site's configuration went with the rest, the box is one from the factory: another claim code, no plain DICOM.
        lost = scene.image.claim_code(box.machine.console()) != scene.claim_code
        try:
            if lost:
                box.claim_code = scene.image.claim_code(box.machine.console())
                box.over_tls("storescu", scene.studies()["plain"][0])
                status = "0x0000"
                assert name == "degraded" and "data-lost" in box.causes(), f"configuration and studies are lost, and the lamps show {name}"
                assert "are lost" in box.machine.console(), "nobody is told that configuration and studies are lost"
            else:
                status = f"0x{store_one(box, random.Random(seed)):04X}"
        except (OSError, Failed) as error:
            status = f"no association ({error})"
        if name in ("ready", "degraded"):
            assert status == "0x0000", f"the lamps show {name}, yet an image got {status}"
        elif name == "fault":
            assert status != "0x0000" or box.causes(), "fault is shown, yet an image was accepted and no cause is named"
        else:
            raise Failed(f"the lamps show {name}")
        what = "configuration and studies lost, which the console says, " if lost else ""
        return f"{how} destroyed (seed {seed}): {what}{name} after {after_s:.0f} s, an image gets {status}" + (f" ({', '.join(box.causes())})" if name != "ready" else "")


def damaged(scene):
    """The data partition is damaged from outside (superblock, or random blocks): the box comes up and is honest: repaired and ready, or fault."""
    return "; ".join(damaged_by(scene, how) for how in (("superblock", "blocks") if scene.long else ("blocks",)))


def damaged_badly(scene):
    """The first 16 MiB of the data partition are noise, then other random blocks: the box still comes up and is honest."""
    return "; ".join([damaged_by(scene, "start"), *(damaged_by(scene, "blocks", seed) for seed in (16, 17))])


def factory_reset(scene):
    """Holding the button for 5 s does nothing; holding it for 10 s wipes data and configuration, and the box comes back as from the factory."""
    with scene.snapshot_box() as box:
        box.send(scene.studies()["plain"][:3])
        box.lamps.press(5)
        time.sleep(5)
        assert box.answers() and len(box.studies()) == 1, "5 s already did something"
        n_console = len(box.machine.console())
        at = box.lamps.press(10.6)
        box.machine.monitor.wait_event(("RESET", "GUEST_RESET", "SHUTDOWN"), at, 120)
        wait_until("the box does not come back", scenes.BOOT_S, box.has_shell, 2, box.machine)
        name, _ = box.lamps.wait(("ready", "degraded"), 240)
        left = box.shell(f"find {STATE}/instances -name '*.dcm' 2>/dev/null | wc -l")
        assert left == "0", f"{left} images are left"
        secret = box.shell("cat /etc/scanside/secrets/webhook 2>/dev/null", check=False)
        assert scenes.SECRET.decode() not in secret, "the site's secret is left"
        claim = scene.image.claim_code(box.machine.console()[n_console:])
        assert claim != scene.claim_code, "the claim code is the old one"
        return f"5 s: nothing; 10 s: wiped, {name} {time.monotonic() - at:.0f} s after the press, with a new claim code"


CASES = {"full": full, "errors": errors, "factory_reset": factory_reset, "damaged": damaged, "damaged_badly": damaged_badly}
LONG = {"damaged", "damaged_badly", "factory_reset"}
