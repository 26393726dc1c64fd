"""Cases about updates: signed bundles on a USB stick, the other slot, and the way back."""
import re
import time

import scene as scenes
from bundles import NEW_VERSION, Bundles
from qemu import Failed, wait_until

INSTALL_S = 300
REFUSE_S = 90


def bundles_of(scene):
    scene.prepare()  # which empties a kept folder of another image
    return Bundles(scene.image, scene.folder / "bundles")


def version(box):
    return box.shell(". /etc/os-release; echo $VERSION_ID")


def slot(box):
    return box.shell("sed -n 's/.*scanside.slot=\\([AB]\\).*/\\1/p' /proc/cmdline")


def slot_states(box):
    """{"A": "good", "B": "bad"} as the updater says."""
    text = box.shell("rauc status --detailed --output-format=shell")
    names = re.findall(r"RAUC_SLOT_BOOTNAME_\d+='?([AB])", text) or re.findall(r"BOOTNAME_\d+=.?([AB])", text)
    states = re.findall(r"RAUC_SLOT_BOOT_STATUS_\d+='?(good|bad)", text) or re.findall(r"BOOT_STATUS_\d+=.?(good|bad)", text)
    return dict(zip(names, states)), text


def starts(console):
    """What the boot loader said: the slots that it tried, in order."""
    return re.findall(r"scanside: slot ([AB]), try (\d)", console)


def wait_slot(box, want, seconds):
    """Waits until the box runs from that slot and its lamp shows ready."""
    def there():
        try:
            return slot(box) == want
        except Failed:
            return False
    wait_until(f"slot {want} does not run; the loader tried {starts(box.machine.console())}", seconds, there, 2, box.machine)
    box.lamps.wait(("ready", "degraded"), 240)
    box.wait_ready(60)


def wait_good(box, name):
    states = wait_until(f"slot {name} is not marked good", 120, lambda: slot_states(box)[0].get(name) == "good" and slot_states(box)[0], 2, machine=box.machine)
    return states


def wait_choice(box):
    """The boot loader's choice is a file that can be read and written, and what runs is confirmed in it."""
    def confirmed():
        text = box.shell("grub-editenv /boot/efi/EFI/scanside/grubenv list", check=False)
        return "ORDER=" in text and f"{slot(box)}_TRY=0" in text and text
    return wait_until("the running version is not confirmed to the boot loader", 240, confirmed, 2, machine=box.machine)


def torn_choice(scene):
    """The plug was pulled while the boot loader's choice was rewritten and left it empty: the box starts by its copy, and an update still works."""
    platter, bundle = scene.raw_disk("platter-torn"), bundles_of(scene).make("good")
    begin, _ = scene.image.partition(platter, "esp")
    empty = scene.folder / "empty"
    empty.write_bytes(b"")
    scenes.run("mcopy", "-n", "-o", "-i", f"{platter}@@{begin}", empty, "::EFI/scanside/grubenv")
    with scene.box(f"file={platter},format=raw") as box:
        box.wait_ready(scenes.BOOT_S)
        choice = " ".join(wait_choice(box).split())
        plugged = time.monotonic()
        stick = box.plug_stick(scene.folder, {"update.raucb": bundle})
        box.machine.monitor.wait_event(("RESET",), plugged, INSTALL_S)
        box.machine.unplug_stick(stick)
        wait_slot(box, "B", scenes.BOOT_S)
    platter.unlink()
    return f"starts by the copy, which is the choice again ({choice}); updated after that"


def update(scene):
    """A signed bundle on a stick is installed into the other slot; the box starts it, finds it healthy, marks it good, and keeps its studies."""
    bundle = bundles_of(scene).make("good")
    with scene.snapshot_box() as box:
        old = version(box)
        box.send(scene.studies()["plain"][:3])
        box.settle()
        plugged = time.monotonic()
        stick = box.plug_stick(scene.folder, {"update.raucb": bundle})
        reset, _, _ = box.machine.monitor.wait_event(("RESET",), plugged, INSTALL_S)
        box.machine.unplug_stick(stick)
        wait_slot(box, "B", scenes.BOOT_S)
        ready = time.monotonic()
        assert version(box) == NEW_VERSION, version(box)
        states = wait_good(box, "B")
        assert sum(study["n_instances"] for study in box.studies()) == 3, "studies are lost"
        scene.figures["update"] = {"stick to restart_s": reset - plugged, "restart to ready_s": ready - reset, "log": said(box)}
        return f"{old} to {NEW_VERSION}: restart {reset - plugged:.0f} s after the stick, ready after {ready - reset:.0f} s more; slots {states}"


def said(box):
    lines = [line.strip() for line in box.machine.console().splitlines() if re.search(r"scanside: slot|USB stick|given up", line)]
    return " | ".join(line[-110:] for line in lines[-8:])


def broken_update(scene):
    """A signed version whose service cannot start is given up by the box itself: it returns to the old slot, which is ready."""
    bundle = bundles_of(scene).make("broken")
    with scene.snapshot_box() as box:
        old = version(box)
        n_console, plugged = len(box.machine.console()), time.monotonic()
        stick = box.plug_stick(scene.folder, {"update.raucb": bundle})
        reset, _, _ = box.machine.monitor.wait_event(("RESET",), plugged, INSTALL_S)
        box.machine.unplug_stick(stick)
        wait_until("slot B was never tried", 120, lambda: "B" in [name for name, _ in starts(box.machine.console()[n_console:])], 1, box.machine)
        seen = []

        def back():
            tried = starts(box.machine.console()[n_console:])
            if tried != seen:
                seen[:] = tried
            return tried and tried[-1][0] == "A"

        wait_until(f"the box does not go back; the loader tried {seen}", 900, back, 1, box.machine)
        wait_slot(box, "A", scenes.BOOT_S)
        back_s = time.monotonic() - reset
        assert version(box) == old, version(box)
        scene.figures["rollback"] = {"restart to old version ready_s": back_s, "loader": " ".join(a + b for a, b in seen), "log": said(box)}
        return f"the loader tried {' '.join(a + b for a, b in seen)}; {old} ready again {back_s:.0f} s after the restart"


def refused(scene):
    """A bundle signed by another key, and an altered one, are refused; the running version goes on unharmed and stays the one to start."""
    notes = []
    for what, bundle in (("another key", bundles_of(scene).make("good", "stranger")), ("altered", bundles_of(scene).altered())):
        with scene.snapshot_box() as box:
            before, n_console = slot_states(box)[0], len(box.machine.console())
            plugged = time.monotonic()
            stick = box.plug_stick(scene.folder, {"update.raucb": bundle})
            why = wait_until(f"{what}: nobody says that it was refused", REFUSE_S, lambda: refusal(box.machine.console()[n_console:]), 1, machine=box.machine)
            box.machine.unplug_stick(stick)
            time.sleep(3)
            assert slot(box) == "A" and not starts(box.machine.console()[n_console:]), "the box started again"
            after = slot_states(box)[0]
            # A bundle that turns out altered while it is written may leave the other slot bad; it must never be the one to start.
            assert after.get("A") == "good", (before, after)
            first = box.shell("rauc status --output-format=shell | sed -n \"s/^RAUC_BOOT_PRIMARY=//p\"").strip("'\"")
            assert first in ("A", "rootfs.0", ""), first
            box.lamps.wait(("ready", "degraded"), 60)
            box.wait_ready(30)
            notes.append(f"{what}: refused after {time.monotonic() - plugged:.0f} s ({why})")
    return "; ".join(notes)


def refusal(console):
    found = re.findall(r"USB stick: (update.*refused.*)", console)
    return found[-1].strip() if found else ""


CASES = {"update": update, "broken_update": broken_update, "refused": refused, "torn_choice": torn_choice}
LONG = {"torn_choice"}
