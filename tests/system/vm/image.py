"""What `board/image/build` leaves in its folder, as the system test needs it: the disk, the firmware, how the box listens, its updates."""
import json
import pathlib
import re
import subprocess

from qemu import Failed

# Debian's qemu-efi-aarch64; the second name is that of other distributions.
FIRMWARES = ("/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd", "/usr/share/edk2/aarch64/QEMU_EFI.fd")


class Image:
    """`disk`: the raw disk image with the test shell."""

    dicom_port, web_port, web_is_secure = 11112, 8080, False
    web_extra, board_extra = "plain_text_off_loopback = true", ""
    own_secret = "chgrp -R scanside /etc/scanside/secrets; chmod 750 /etc/scanside/secrets; chmod 640 /etc/scanside/secrets/webhook"
    compatible = "scanside-qemu-virt"

    def __init__(self, folder):
        self.folder = pathlib.Path(folder).resolve()
        self.disk = self.folder / "scanside-qemu-virt-test.img"
        if not self.disk.exists():
            raise SystemExit(f"{self.disk} is missing: board/image/build --board qemu-virt --test-shell --out {folder}")
        self.keys = self.folder / "keys"
        self.state_in_data = "scanside"

    def signer(self):
        """(certificate, key) with which the image's updates are signed."""
        return self.keys / "signer.pem", self.keys / "signer.key"

    def boot(self, folder):
        """Options of the emulator that boot the disk: firmware, as a device tree machine."""
        firmware = next((path for path in FIRMWARES if pathlib.Path(path).exists()), None)
        if firmware is None:
            raise Failed("no UEFI firmware for aarch64: apt-get install qemu-efi-aarch64")
        return ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={firmware}"]

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
