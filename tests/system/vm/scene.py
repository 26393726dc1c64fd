"""What the cases share: one cold boot of the image with its snapshot, the receivers of alerts, the studies, copies of the disk.

The first boot is configured as a site would: a USB stick with config.toml and the claim code that the box printed on its console.
Cases that start from the snapshot run on a copy of the disk each, so that none sees what another did.
"""
import contextlib
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import appliance  # noqa: E402  (the receiver and the program of the tests beside this folder)
import broker  # noqa: E402
import nbd  # noqa: E402
from box import Box  # noqa: E402
from image import Image  # noqa: E402
from qemu import Failed, Machine, wait_until  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
HOOK_ADDRESS, SECRET = "10.0.2.100:9000", b"system test of the box"
BROKER_ADDRESS = "10.0.2.101:1883"
# Larger than the image: the first boot must grow the data partition.
DISK_MIB = 3072
BOOT_S = 420

# Short times, so that a verdict does not wait for images that never come. No listener and no login is named: the box's own rules hold.
CONFIG = """\
[dicom]
plain = true
[assemble]
settle_s = 1
quiet_s = 4
provisional = false
[board]
profile = "qemu-virt"
keeper = "/run/scanside-keeper/lamp.sock"
[[alerts.webhook]]
url = "http://{hook}/hook"
secret_file = "credential:webhook"
on = ["flagged", "indeterminate", "not_flagged"]
timeout_s = 30
"""
# Where the host has a broker.
CONFIG_MQTT = f"""\
[[alerts.mqtt]]
address = "{BROKER_ADDRESS}"
topic = "{broker.TOPIC}"
timeout_s = 30
"""


def run(*command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if done.returncode:
        raise Failed(f"{' '.join(map(str, command))}: {done.stderr.strip()[-500:]}")
    return done.stdout


class Scene:
    """The run's fixture. `figures`: what the run measured, printed at the end."""

    def __init__(self, image_folder, seeds, long, keep=None):
        """`keep`: a folder that outlives the run; its snapshot is used again while the image is the same."""
        self.image, self.seeds, self.long, self.keep = Image(image_folder), seeds, long, keep
        self.folder = pathlib.Path(keep or tempfile.mkdtemp(prefix="scanside-vm-")).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.hook = appliance.Hook(SECRET)
        # A real broker with a subscriber, where mosquitto is installed; else None.
        self.broker = self.heard = None
        if broker.installed():
            self.broker = broker.Broker().start()
            self.heard = broker.Subscriber(self.broker)
        self.figures, self.prepared, self.claim_code, self._studies, self.n_machines = {}, False, None, None, 0

    def close(self):
        self.hook.shutdown()
        self.hook.server_close()
        if self.broker:
            self.heard.__exit__()
            self.broker.__exit__()
        if not self.keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def last_words(self):
        """The end of the latest machine's console and journal, for a failed case."""
        folder, out = self.folder / f"machine{self.n_machines}", ""
        for name, n_bytes in (("console", 800), ("journal", 6000)):
            text = (folder / name).read_text(errors="replace")[-n_bytes:] if (folder / name).exists() else ""
            out += "".join(f"    {name}: {line}\n" for line in text.splitlines() if line.strip())
        return out

    # -- machines

    def box(self, drive, loadvm=None):
        """A box on the disk that `drive` (options of -drive) names."""
        self.n_machines += 1
        folder = self.folder / f"machine{self.n_machines}"
        shutil.rmtree(folder, ignore_errors=True)
        forward = {"dicom": self.image.dicom_port, "web": self.image.web_port, "shell": 2323, "tls": 2762}
        relay = f"{sys.executable} {HERE / 'relay.py'}"
        reach = {HOOK_ADDRESS: f"{relay} {self.hook.server_address[1]}"}
        if self.broker:
            reach[BROKER_ADDRESS] = f"{relay} {self.broker.port}"
        drives = [(f"if=none,id=disk,{drive}", "virtio-blk-pci,drive=disk,romfile=,bootindex=0")]
        return Box(Machine(folder, self.image.boot(), drives, forward, reach, loadvm=loadvm), self.claim_code)

    def other_box(self, boot, drives, forward, board, devices, chip=None):
        """A box that is not qemu-virt, from its product image."""
        self.n_machines += 1
        folder = self.folder / f"machine{self.n_machines}"
        shutil.rmtree(folder, ignore_errors=True)
        return Box(Machine(folder, boot, drives, forward, board=board, devices=devices), chip=chip)

    def overlay(self, name, image=None, mib=DISK_MIB):
        """A fresh, writable disk on top of the image."""
        path = self.folder / f"{name}.qcow2"
        path.unlink(missing_ok=True)
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", image or self.image.disk, "-F", "raw", path, f"{mib}M")
        return path

    def raw_disk(self, name, used=True):
        """The disk as a plain file: as it was when the snapshot was taken (`used`), or as it comes from the factory."""
        path = self.folder / f"{name}.raw"
        if used:
            self.prepare()
            run("qemu-img", "convert", "-O", "raw", self.folder / "used.qcow2", path)
        else:
            run("cp", "--sparse=always", self.image.disk, path)
            run("truncate", "-s", f"{DISK_MIB}M", path)
        return path

    def copy(self, name):
        self.prepare()
        copy = self.folder / "case.qcow2"
        run("cp", "--sparse=always", "--reflink=auto", self.folder / f"{name}.qcow2", copy)
        return copy

    @contextlib.contextmanager
    def snapshot_box(self, name="ready"):
        """A box that continues from a snapshot, on a copy of its disk, its clock set as a time server would."""
        with self.box(f"file={self.copy(name)},format=qcow2", loadvm=name) as box:
            box.shell(f"date -s @{time.time():.0f}")
            yield box

    @contextlib.contextmanager
    def failing_box(self):
        """As `snapshot_box`, with a disk whose reads and writes can be made to fail: (box, disk)."""
        copy = self.copy("ready")
        run("truncate", "-s", "+2G", copy)  # a network disk does not grow
        with nbd.Disk(copy, self.folder) as disk:
            drive = f"driver=qcow2,file.driver=nbd,file.server.type=unix,file.server.path={disk.path}"
            with self.box(drive, loadvm="ready") as box:
                yield box, disk

    # -- the cold boot

    def prepare(self):
        """Boots the image for the first time, configures it, takes the snapshot `ready`. Once a run."""
        if self.prepared or self.remembered():
            return
        for old in self.folder.glob("*.qcow2"):
            old.unlink()
        shutil.rmtree(self.folder / "bundles", ignore_errors=True)
        disk = self.overlay("ready")
        with self.box(f"file={disk},format=qcow2") as box:
            box.lamps.wait(("ready", "degraded"), BOOT_S)
            figures = {"wall_s": box.machine.wall_s() - 2.2, "cpu_s": box.machine.cpu_s(), "lamp": box.lamps.describe()}
            self.figures["cold boot to ready"] = figures
            self.claim_code = self.image.claim_code(box.machine.console())
            wait_until("the running version is not confirmed", 240, lambda: box.shell("cat /data/rauc/confirmed-A 2>/dev/null", check=False), 2, box.machine)
            self.configure(box)
            box.shell("sync")
            box.machine.save("ready")
            box.machine.monitor("stop")
        # The state beside the snapshot, for cases that need a used disk but really boot.
        run("cp", "--sparse=always", disk, self.folder / "used.qcow2")
        run("qemu-img", "snapshot", "-d", "ready", self.folder / "used.qcow2")
        self.prepared = True
        known = {"image": self.image.stamp(), "mqtt": bool(self.broker)}
        self.notes.write_text(json.dumps({**known, "claim_code": self.claim_code, "boot": self.figures["cold boot to ready"]}))

    @property
    def notes(self):
        return self.folder / "prepared.json"

    def remembered(self):
        """Whether this folder holds the snapshot of an earlier run of the same image."""
        try:
            known = json.loads(self.notes.read_text())
        except (OSError, ValueError):
            return False
        if known["image"] != self.image.stamp() or known.get("mqtt", False) != bool(self.broker):
            return False
        self.claim_code, self.prepared = known["claim_code"], True
        self.figures["cold boot to ready"] = {**known["boot"], "of": "an earlier run"}
        return True

    def configure(self, box):
        # The hook's secret has no way in by stick: the shell puts it where IT would.
        box.shell(f"mkdir -p -m 0700 /etc/scanside/secrets; umask 077; printf %s {SECRET.decode()!r} > /etc/scanside/secrets/webhook")
        config = CONFIG.format(hook=HOOK_ADDRESS) + (CONFIG_MQTT if self.broker else "")
        for attempt in (1, 2, 3):
            said = self.offer(box, {"config.toml": config.encode(), "claim-code": self.claim_code.encode() + b"\n"})
            if said.endswith("is in force"):
                break
            # On a crowded host an emulated service may need longer than the box waits for it: it takes the file back, as it should.
            if "taken back" not in said or attempt == 3:
                raise Failed(said)
        box.lamps.wait("ready", 120)
        box.claim_code = self.claim_code
        box.wait_ready(60)

    def offer(self, box, files):
        """Plugs a stick with a configuration in; what the box's console says of it."""
        since = len(box.machine.console())
        stick = box.plug_stick(self.folder, files)
        try:
            box.machine.wait_console("USB stick: config.toml", 240, since)
            box.machine.wait_console("\n", 10, since + box.machine.console()[since:].index("USB stick: config.toml"))
        finally:
            box.machine.unplug_stick(stick)
        return [line for line in box.machine.console()[since:].splitlines() if "USB stick: config.toml" in line][-1].strip()

    # -- studies

    def studies(self):
        """{"lesion": files of the T1 series after contrast agent, the one that the model needs, "plain": the same without a lesion}"""
        if self._studies is None:
            folder = self.folder / "studies"
            appliance.synthetic_studies(folder)
            self._studies = {name: sorted((folder / f"demo-{name}").glob("*-01-*.dcm")) for name in ("lesion", "plain")}
        return self._studies

