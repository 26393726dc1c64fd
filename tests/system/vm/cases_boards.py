"""Cases about the other boards' product images: no test shell, so each is judged as its owner would: console, page, DICOM over TLS, lamps.

generic-arm64 boots on QEMU's `-M virt` as a server or a board with UEFI does, once with each kind of disk and network card, with ACPI and with
a device tree. rpi boots on `-M raspi4b`: kernel, initrd, command line, device tree and overlay are the image's own, the image is the SD
card. What runs before the kernel on a Pi (its firmware, U-Boot, GRUB) does not run in QEMU.
"""
import re
import sys
import time

import scene as scenes
from qemu import Failed, wait_until
from qtest import Pi4Gpio

sys.path.insert(0, str(scenes.HERE.parent))
import pi_lamps  # noqa: E402  (which parts of a Pi 4 QEMU has)

# With ACPI this machine has no GPIO chip.
ACPI = ("-M", "virt", "-cpu", "cortex-a76", "-smp", "2", "-m", "1024")
TREE = ("-M", "virt,acpi=off", *ACPI[2:])
PORTS = {"web": 443, "tls": 2762, "dicom": 104}


def missing(board):
    return f"SKIP no scanside-{board}.img beside the other image: board/image/build --board {board}"


def slot_cfg(scene, image, into):
    """(kernel, initrd, command line) of slot A, as GRUB would hand them over."""
    text = scene.image.take(image, "boot-a", "slot.cfg", into).read_text()
    line = re.search(r'^linux "\$boot/vmlinuz" (.*)$', text, re.MULTILINE).group(1).replace("$slot", "A")
    return scene.image.take(image, "boot-a", "vmlinuz", into), scene.image.take(image, "boot-a", "initrd.img", into), line


def claimed(scene, box, seconds):
    """Waits for the claim code on the serial console; says how long that took."""
    try:
        box.machine.wait_console("claim code", seconds)
    except Failed as error:
        raise Failed(f"{error}; the lamps show {box.shown()}") from error
    time.sleep(0.5)
    box.claim_code = scene.image.claim_code(box.machine.console())
    return f"claim code after {box.machine.wall_s():.0f} s"


def healthy(scene, box):
    """What the page and the DICOM port say of a box with the factory's configuration: the causes that it names."""
    wait_until(f"/healthz does not say 200, but names {box.causes()}", scenes.BOOT_S, box.answers, 1, box.machine)
    ready_s, cpu_s = box.machine.wall_s(), box.machine.cpu_s()
    box.over_tls("echoscu")
    file = scene.studies()["plain"][0]
    box.over_tls("storescu", file)
    wait_until("the image that was acknowledged is not listed", 60, box.studies, 1, box.machine)
    # Plain text is the site's decision, and no site has taken it.
    assert not box.echo(), "port 104 answers with the factory's configuration"
    return ready_s, cpu_s, box.causes()


def generic(scene, what, disk, nic, board=ACPI, boot=(), lamps=False):
    image = scene.image.product("generic-arm64")
    if image is None:
        return missing("generic-arm64")
    drives = [(f"if=none,id=disk,format=qcow2,file={scene.overlay('generic', image)}", disk)]
    devices = (*(["ich9-ahci,id=ahci"] if "ahci" in disk else []), f"{nic},netdev=net,romfile=", "virtio-rng-pci")
    with scene.other_box([*scene.image.firmware(), *boot], drives, PORTS, board, devices, None if lamps else False) as box:
        told = claimed(scene, box, scenes.BOOT_S)
        ready_s, cpu_s, causes = healthy(scene, box)
        shown = box.lamps.wait(("ready", "degraded", "indeterminate"), 120)[0] if lamps else box.shown()
        # Without lamps a box works, and says that nobody will see them.
        assert ("lamp-failing" in causes) != lamps, f"with{'' if lamps else 'out'} lamps health names {causes}"
        scene.figures[f"generic-arm64: {what}"] = {"healthy after_s": ready_s, "cpu_s": cpu_s}
        said = f"health names {', '.join(causes) or 'nothing'}"
        return f"{what}: {told}, healthy after {ready_s:.0f} s ({cpu_s:.0f} CPU s), C-ECHO and C-STORE over TLS; the lamps show {shown}; {said}"


def generic_virtio(scene):
    """The generic image boots by UEFI on a computer with ACPI, without lamps: claim code on the serial port, healthy, images over TLS."""
    return generic(scene, "ACPI, virtio, no lamps", "virtio-blk-pci,drive=disk,bootindex=0", "virtio-net-pci")


def generic_nvme(scene):
    """The same from an NVMe disk with an Intel network card (e1000e)."""
    return generic(scene, "ACPI, NVMe, e1000e", "nvme,drive=disk,serial=1,bootindex=0", "e1000e")


def generic_sata(scene):
    """The same from a SATA disk with another card (igb). EDK2 for `-M virt` has no AHCI driver: it is given the image's kernel and initrd."""
    image = scene.image.product("generic-arm64")
    if image is None:
        return missing("generic-arm64")
    kernel, initrd, line = slot_cfg(scene, image, scene.folder)
    boot = ["-kernel", str(kernel), "-initrd", str(initrd), "-append", line]
    return generic(scene, "ACPI, SATA, igb", "ide-hd,drive=disk,bus=ahci.0", "igb", boot=boot)


def generic_lamps(scene):
    """A board with a device tree and lamps on it as LEDs of the kernel: the same image lights them."""
    return generic(scene, "device tree, virtio, LEDs", "virtio-blk-pci,drive=disk,bootindex=0", "virtio-net-pci", TREE, scene.image.tree(), lamps=True)


def pi_tree(scene, image, folder):
    """The image's device tree of the Pi 4 with the image's overlay, put together as the firmware does; parts that QEMU lacks are switched off."""
    tree = scene.image.take(image, "esp", "bcm2711-rpi-4-b.dtb", folder)
    overlay = scene.image.take(image, "esp", "overlays/scanside-lamps.dtbo", folder)
    merged = folder / "merged.dtb"
    scenes.run("fdtoverlay", "-i", tree, "-o", merged, overlay)
    for bus in ("/soc", "/scb"):
        for node in scenes.run("fdtget", "-l", merged, bus).split():
            if not pi_lamps.MODELLED.match(node):
                scenes.run("fdtput", "-t", "s", merged, f"{bus}/{node}", "status", "disabled")
    # QEMU puts the card where a Pi 4 has its WiFi chip. The slot's own controller waits for two supplies that hang on the firmware's GPIO
    # expander, which QEMU does not model.
    slot = "/soc/mmc@7e300000"
    scenes.run("fdtput", "-t", "s", merged, slot, "status", "okay")
    scenes.run("fdtput", "-d", merged, slot, "mmc-pwrseq")
    scenes.run("fdtput", "-r", merged, f"{slot}/wifi@1")
    # The port that stands in for the mini UART is Bluetooth's on a Pi 4, and no terminal.
    scenes.run("fdtput", "-r", merged, "/soc/serial@7e201000/bluetooth")
    return merged


def pi_card(scene, image):
    """The image as a card of 2 GiB whose data partition is formatted already: a new box's wipe drops its blocks, and QEMU's card writes each of
    them, 512 bytes at a time, for minutes."""
    path = scene.folder / "pi.raw"
    scenes.run("cp", "--sparse=always", image, path)
    scenes.run("truncate", "-s", "2G", path)
    begin, n_bytes = scene.image.partition(image, "data")
    scenes.run("mke2fs", "-q", "-F", "-t", "ext4", "-L", "data", "-E", f"offset={begin}", path, f"{n_bytes // 1024}k")
    esp, _ = scene.image.partition(image, "esp")
    scenes.run("mdel", "-i", f"{path}@@{esp}", "::EFI/scanside/factory-reset")
    return path


def pi(scene):
    """The Pi's image on an emulated Pi 4: root and data on the SD card, claim code on the serial port, and the lamps on the header's pins."""
    image = scene.image.product("rpi")
    if image is None:
        return missing("rpi")
    folder = scene.folder / "pi"
    folder.mkdir(exist_ok=True)
    kernel, initrd, line = slot_cfg(scene, image, folder)
    # QEMU's model of the mini UART interrupts for ever once its terminal is opened: the console is the other port. And QEMU takes the start of
    # the watchdog for a reset.
    assert "console=ttyS1,115200" in line, line
    line = line.replace("console=ttyS1,115200", "console=ttyAMA0") + " modprobe.blacklist=bcm2835_wdt"
    boot = ["-kernel", str(kernel), "-initrd", str(initrd), "-dtb", str(pi_tree(scene, image, folder)), "-append", line]
    drives = [(f"if=sd,format=raw,file={pi_card(scene, image)}", None)]
    with scene.other_box(boot, drives, {}, ("-M", "raspi4b"), (), Pi4Gpio()) as box:
        box.lamps.lines.ask(f"writel {Pi4Gpio.set:#x} {1 << Pi4Gpio.button:#x}")
        told = claimed(scene, box, 2 * scenes.BOOT_S)
        shown, _ = box.lamps.wait(("ready", "degraded"), scenes.BOOT_S)
        ready_s, cpu_s = box.machine.wall_s(), box.machine.cpu_s()
        scene.figures["rpi on raspi4b"] = {"lamp": shown, "after_s": ready_s, "cpu_s": cpu_s}
        return f"{told}, the lamps on GPIO 17, 27 and 22 show {shown} after {ready_s:.0f} s ({cpu_s:.0f} CPU s)"


CASES = {"generic_virtio": generic_virtio, "generic_nvme": generic_nvme, "generic_sata": generic_sata, "generic_lamps": generic_lamps, "pi": pi}
LONG = set(CASES)
