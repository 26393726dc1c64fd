"""What `board/image/build` leaves in its folder, as the system test needs it: the disk, the firmware, how the box listens, its updates."""
import json
import pathlib
import re
import subprocess

from qemu import Failed

TEST_DISK, PRODUCT_DISK, FIRMWARE, DEVICETREE = "scanside-qemu-virt-test.img", "scanside-qemu-virt.img", "QEMU_EFI.fd", "scanside-qemu-virt.dtb"


class Image:
    """`disk`: the raw disk image with the test shell."""

    dicom_port, web_port, web_is_secure = 11112, 8080, False
    web_extra, board_extra = "plain_text_off_loopback = true", ""
    own_secret = "chgrp -R scanside /etc/scanside/secrets; chmod 750 /etc/scanside/secrets; chmod 640 /etc/scanside/secrets/webhook"
    compatible = "scanside-qemu-virt"

    def __init__(self, folder):
        self.folder = pathlib.Path(folder).resolve()
        self.disk = next((self.folder / name for name in (TEST_DISK, PRODUCT_DISK) if (self.folder / name).exists()), None)
        if self.disk is None:
            raise SystemExit(f"{self.folder / TEST_DISK} is missing: board/image/build --board qemu-virt --test-shell --out {folder}")
        self.keys = self.folder / "keys"
        self.state_in_data = "scanside"

    def signer(self):
        """(certificate, key) with which the image's updates are signed."""
        return self.keys / "signer.pem", self.keys / "signer.key"

    def boot(self):
        """Options of the emulator that boot the disk by its own boot loader: UEFI firmware, and the board's device tree."""
        return ["-bios", str(self.folder / FIRMWARE), "-dtb", str(self.folder / DEVICETREE)]

    @staticmethod
    def claim_code(console):
        found = re.search(r"claim[ -]code[^A-Z0-9\n]*((?:[A-Z0-9]{2,}-?)+)", console, re.IGNORECASE)
        if not found:
            raise Failed(f"the claim code is not on the console: {console[-2000:]}")
        return found.group(1)

    def partition(self, disk, label):
        """(first byte, bytes) of the partition with this GPT label on a raw disk."""

        table = json.loads(subprocess.run(["sfdisk", "--json", str(disk)], check=True, capture_output=True, text=True).stdout)["partitiontable"]
        for entry in table["partitions"]:
            if entry.get("name") == label:
                return entry["start"] * 512, entry["size"] * 512
        raise Failed(f"{disk} has no partition {label}")
