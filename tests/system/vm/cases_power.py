"""Power cuts of the whole box: what was acknowledged is found after the next boot. With controls that must lose something.

The disk is `nbd.py`'s: at the cut all that was not flushed is dropped, or a random half of its sectors kept. The emulator is killed, what the
platter holds is judged on this machine (index, files, hashes: the judge of tests/system/power_cut.py), and the box boots from it. Every
boot is a true one: a snapshot would bring the memory back.
"""
import contextlib
import pathlib
import random
import sys
import tempfile
import time

import scene as scenes
from bundles import NEW_VERSION
from cases_update import bundles_of, slot, starts, version, wait_choice
from nbd import Disk
from qemu import Failed, wait_until

sys.path.insert(0, str(scenes.HERE.parent))
import disks  # noqa: E402
import power_cut  # noqa: E402
from wire import Senders  # noqa: E402

SENDERS, WARM_UP = 2, 6
# So many sectors at least are in the drive's cache alone when the plug is pulled; how long the test waits for such a moment.
AT_STAKE, AT_STAKE_S = (1, 40, 150), 20
# Writes to the boot loader's partition from the stick to the new version's word that it is healthy (36 were counted); how long they take.
ESP_WRITES, UPDATE_S = 36, 300
# What a box may show that has just come up with studies of noise in its store.
ALIVE = ("ready", "degraded", "indeterminate", "working", "suspicious")
# Turns the syncs of the service into nothing: systemd's filter answers them with success before the kernel sees them. Only a list of what is
# denied takes numbers, so the unit's own list of what is allowed goes first.
NO_SYNC = "[Service]\\nSystemCallFilter=\\nSystemCallFilter=~fsync:0 fdatasync:0 sync_file_range:0 syncfs:0 msync:0\\n"


class Told:
    """What peers were told in all rounds on one disk, in the shape that `power_cut.judge` takes."""

    def __init__(self):
        self.instances, self.sent = {}, {}
        self.verdicts, self.acknowledgements, self.alerts = set(), set(), set()

    def add(self, senders):
        new = senders.snapshot()
        self.instances.update(new)
        self.sent.update(senders.sent)
        return len(new)


@contextlib.contextmanager
def mounted_data(scene, platter):
    """The data partition of a raw disk, a copy of it, mounted: ext4 replays its journal. Yields the service's state folder."""
    begin, n_bytes = scene.image.partition(platter, "data")
    with tempfile.TemporaryDirectory(dir=scene.folder) as folder:
        copy = pathlib.Path(folder) / "data"
        scenes.run("dd", f"if={platter}", f"of={copy}", "bs=1M", f"skip={begin}", f"count={n_bytes}", "iflag=skip_bytes,count_bytes", "conv=sparse")
        with disks.Mounted(copy, pathlib.Path(folder) / "mnt") as mounted:
            yield mounted.at / scene.image.state_in_data


def boot_on(scene, disk):
    return scene.box(disk.drive)


def send_and_cut(box, disk, rng, mode, seed, told):
    """Lets two scanners send and pulls the plug: (acknowledged in this round, (sectors at stake, kept))."""
    senders = Senders(box.machine.port["dicom"], SENDERS, rng)
    try:
        wait_until("nothing is acknowledged", 120, lambda: senders.n_acknowledged >= WARM_UP, 0.05, machine=box.machine)
        due = senders.n_acknowledged + rng.randint(5, 40)
        wait_until("no acknowledgements any more", 120, lambda: senders.n_acknowledged >= due, 0.005, machine=box.machine)
        time.sleep(rng.random() * 0.2)
        *at_stake, _ = disk.cut(mode, seed, rng.choice(AT_STAKE), AT_STAKE_S)
    finally:
        box.machine.end()
        senders.stop()
    return told.add(senders), at_stake


def judged(scene, platter, told):
    with mounted_data(scene, platter) as state:
        return power_cut.judge(state, told)


def one_round(scene, platter, seed, told):
    """Boots, sends, cuts: (faults that the judge found, acknowledged in this round, (sectors at stake, kept), mode)."""
    rng = random.Random(seed)
    mode = ("drop", "subset")[seed % 2]  # both, however few seeds
    with Disk(platter, scene.folder) as disk, boot_on(scene, disk) as box:
        box.lamps.wait(ALIVE, scenes.BOOT_S)
        box.wait_ready(120)
        n_acknowledged, at_stake = send_and_cut(box, disk, rng, mode, seed, told)
    return judged(scene, platter, told), n_acknowledged, at_stake, mode


def lost_of(faults, told):
    """How many acknowledged images are lost or torn; all of them where the index cannot be read."""
    if any(what.startswith("the index") for what in faults):
        return len(told.instances)
    return sum(n for what, n in faults.items() if what.startswith("acknowledged"))


def check_box(box, told):
    """The box that booted on what was left: it lists every study with at least the acknowledged images, and takes new ones."""
    box.wait_ready(scenes.BOOT_S)
    listed = {study["study_instance_uid"]: study["n_instances"] for study in box.studies()}
    counts = {}
    for study, _ in told.instances.values():
        counts[study] = counts.get(study, 0) + 1
    short = {study: (listed.get(study, 0), n) for study, n in counts.items() if listed.get(study, 0) < n}
    assert not short, f"the box lists fewer images than it acknowledged (listed, acknowledged): {short}"
    return sum(counts.values())


def needs_root():
    why = disks.available()
    return f"SKIP {why}" if why else None


def power(scene):
    """The plug is pulled while two scanners send: every acknowledged image is there, whole, after the next boot; nothing is torn."""
    why = needs_root()
    if why:
        return why
    platter = scene.raw_disk("platter")
    sums, told = {"cuts": 0, "acknowledged": 0, "lost": 0, "sectors at stake": 0, "kept": 0}, Told()
    for seed in scene.seeds:
        faults, n_acknowledged, (at_stake, kept), mode = one_round(scene, platter, seed, told)
        lost = lost_of(faults, told)
        print(f"     power: seed {seed} ({mode}): {n_acknowledged} acknowledged, {len(told.instances) - lost} of {len(told.instances)} found whole so far; "
              f"{at_stake} sectors at stake, {kept} kept; {faults or 'nothing lost'}", flush=True)
        for key, n in zip(sums, (1, n_acknowledged, lost, at_stake, kept)):
            sums[key] += n
        assert not faults, f"seed {seed}: {faults}"
    # The box itself, after the last cut: all that was acknowledged in any round.
    with Disk(platter, scene.folder) as disk, boot_on(scene, disk) as box:
        n = check_box(box, told)
        name, _ = box.lamps.wait(ALIVE, 240)
    scene.figures["power cuts"] = sums
    return f"{sums['cuts']} cuts, {sums['acknowledged']} images acknowledged, {n - sums['lost']} found; the box lists all {n} after the last boot, the lamps show {name}"


def power_control(scene):
    """The same cut with the service's syncs turned into nothing must lose acknowledged images, else the test has no teeth."""
    return control(scene, "syncs left out")


def power_lie(scene):
    """The same cut on a disk that answers a flush and keeps nothing must lose acknowledged images."""
    return control(scene, "disk that lies")


def control(scene, how):
    """From the snapshot, for what is judged is the platter, not the next boot."""
    why = needs_root()
    if why:
        return why
    seed, told = scene.seeds[0], Told()
    with scene.failing_box() as (box, disk):
        if how == "syncs left out":
            # A reload keeps PID 1 from its watchdog for longer than the box allows, on an emulated processor.
            box.shell("busctl set-property org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager RuntimeWatchdogUSec t 120000000; mkdir -p /run/systemd/system/scanside.service.d; "
                      f"printf '{NO_SYNC}' > /run/systemd/system/scanside.service.d/90-test.conf; systemctl daemon-reload; systemctl restart scanside", 300)
            box.wait_ready(120)
        else:
            disk.lie(True)
        _, (at_stake, _) = send_and_cut(box, disk, random.Random(seed), "drop", seed, told)
    platter = scene.folder / "platter-control.raw"
    scenes.run("qemu-img", "convert", "-O", "raw", scene.folder / "case.qcow2", platter)
    faults = judged(scene, platter, told)
    platter.unlink()
    lost = lost_of(faults, told)
    assert lost, f"{how}, seed {seed}: {len(told.instances)} acknowledged, {at_stake} sectors dropped, and nothing is lost ({faults}): no teeth"
    scene.figures[f"control: {how}"] = {"acknowledged": len(told.instances), "lost": lost, "sectors dropped": at_stake}
    return f"{how}, seed {seed}: {lost} of {len(told.instances)} acknowledged images lost, {at_stake} sectors dropped: detected, as it must be"


def power_update(scene):
    """The plug is pulled in an update: the box always boots one of the two versions, and can go on choosing between them."""
    bundle, notes = bundles_of(scene).make("good"), []
    for seed in scene.seeds:
        rng, platter = random.Random(seed), scene.raw_disk("platter-update")
        with Disk(platter, scene.folder) as disk:
            with boot_on(scene, disk) as box:
                box.wait_ready(scenes.BOOT_S)
                old = version(box)
                begin, n_bytes = scene.image.partition(platter, "esp")
                disk.watch(begin, n_bytes)
                box.plug_stick(scene.folder, {"update.raucb": bundle})
                wait_until("the update does not begin", 120, lambda: installing(box), 0.5, machine=box.machine)
                how = rng.choice(("drop", "subset"))
                if seed % 3 == 0:
                    # While the slot is written.
                    wait_s = rng.uniform(0, 25)
                    time.sleep(wait_s)
                    at_stake, kept, n_writes = disk.cut(how, seed, 1, 5)
                    moment = f"{wait_s:.0f} s into the update"
                else:
                    # Where the choice of the slot is rewritten: by the updater, the boot loader and the new version that finds itself healthy.
                    nth = rng.randint(1, ESP_WRITES)
                    at_stake, kept, n_writes = disk.cut(how, seed, 0, UPDATE_S, nth)
                    moment = f"at the write to the boot loader's partition that was to be number {nth}"
                tried = starts(box.machine.console())
                box.machine.end()
        with Disk(platter, scene.folder) as disk, boot_on(scene, disk) as box:
            wait_until("the box does not boot", 2 * scenes.BOOT_S, box.has_shell, 2, box.machine)
            name, _ = box.lamps.wait(("ready", "degraded"), scenes.BOOT_S)
            box.wait_ready(120)
            now, where = version(box), slot(box)
            assert (now, where) in ((old, "A"), (NEW_VERSION, "B")), (now, where)
            wait_choice(box)
            notes.append(f"seed {seed}: cut {moment} ({how}, {n_writes} writes there, {at_stake} sectors at stake, {kept} kept, slots started {tried}): boots {now} from {where}, {name}")
            print(f"     power_update: {notes[-1]}", flush=True)
        platter.unlink()
    scene.figures["power cuts in an update"] = {"cuts": len(notes)}
    return f"{len(notes)} cuts, each boots one of the two versions"


def installing(box):
    try:
        text = box.shell("cat /proc/loadavg >/dev/null; rauc status --output-format=shell >/dev/null 2>&1; busctl get-property de.pengutronix.rauc / "
                         "de.pengutronix.rauc.Installer Operation", 30, check=False)
    except Failed:
        return True  # it has restarted already
    return "installing" in text


CASES = {"power": power, "power_control": power_control, "power_lie": power_lie, "power_update": power_update}
LONG = {"power_lie", "power_update"}
