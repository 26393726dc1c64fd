"""What `board/image/build` leaves in its folder, as the system test needs it: the disk, the firmware, how the box listens, its updates."""
import functools
import json
import pathlib
import re
import subprocess

from qemu import Failed

FIRMWARES = (pathlib.Path("/usr/share/qemu-efi-aarch64/QEMU_EFI.fd"), pathlib.Path("/usr/share/edk2/aarch64/QEMU_EFI.fd"))
TEST_DISK, PRODUCT_DISK, FIRMWARE, DEVICETREE = "scanside-qemu-virt-test.img", "scanside-qemu-virt.img", "QEMU_EFI.fd", "scanside-qemu-virt.dtb"


class Image:
    """`disk`: the raw disk image with the test shell."""

    # systemd's sockets (systemd/scanside-*.socket).
    dicom_port, web_port = 104, 443
    compatible = "scanside-qemu-virt"

    def __init__(self, folder):
        self.folder = pathlib.Path(folder).resolve()
        if not any(self.folder.glob("scanside-*.img")):
            raise SystemExit(f"{self.folder / TEST_DISK} is missing: board/image/build --board qemu-virt --test-shell --out {folder}")
        self.keys = self.folder / "keys"
        self.state_in_data = "scanside"

    @functools.cached_property
    def disk(self):
        for name in (TEST_DISK, PRODUCT_DISK):
            if (self.folder / name).exists():
                return self.folder / name
        raise Failed(f"{self.folder / TEST_DISK} is missing: board/image/build --board qemu-virt --test-shell --out {self.folder}")

    def product(self, board):
        """The product image of another board, `None` where it was not built."""
        path = self.folder / f"scanside-{board}.img"
        return path if path.exists() else None

    def stamp(self):
        """What tells one build from another."""
        found = self.disk.stat()
        return f"{self.disk} {found.st_size} {found.st_mtime_ns}"

    def signer(self):
        """(certificate, key) with which the image's updates are signed."""
        return self.keys / "signer.pem", self.keys / "signer.key"

    def firmware(self):
        """Options of the emulator that give it UEFI firmware, which starts a disk's own boot loader."""
        firmware = next((path for path in (self.folder / FIRMWARE, *FIRMWARES) if path.exists()), None)
        if firmware is None:
            raise Failed("no UEFI firmware for aarch64: apt-get install qemu-efi-aarch64")
        return ["-bios", str(firmware)]

    def tree(self):
        """Options that give it the device tree with our lamps."""
        return ["-dtb", str(self.folder / DEVICETREE)]

    def boot(self):
        return [*self.firmware(), *self.tree()]

    @staticmethod
    def claim_code(console):
        found = re.findall(r"claim code +((?:[2-9A-HJ-NP-Z]{4}-){3}[2-9A-HJ-NP-Z]{4})", console)
        if not found:
            raise Failed(f"the claim code is not on the console: {console[-1500:]}")
        return found[-1]

    def take(self, disk, label, name, into):
        """Copies a file out of a FAT partition of a raw disk; returns the copy's path."""
        begin, _ = self.partition(disk, label)
        path = pathlib.Path(into) / pathlib.Path(name).name
        subprocess.run(["mcopy", "-n", "-o", "-i", f"{disk}@@{begin}", f"::{name}", str(path)], check=True, capture_output=True)
        return path

    def partition(self, disk, label):
        """(first byte, bytes) of the partition with this GPT label on a raw disk."""
        table = json.loads(subprocess.run(["sfdisk", "--json", str(disk)], check=True, capture_output=True, text=True).stdout)["partitiontable"]
        for entry in table["partitions"]:
            if entry.get("name") == label:
                return entry["start"] * 512, entry["size"] * 512
        raise Failed(f"{disk} has no partition {label}")
