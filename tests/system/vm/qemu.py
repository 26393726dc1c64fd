"""One emulated box: an emulator process, its QMP and qtest sockets, its console and its forwarded ports.

`Machine` is a `with` block: the emulator never outlives it. Time is the host's `time.monotonic()` everywhere.
"""
import ctypes
import json
import os
import pathlib
import signal
import socket
import subprocess
import threading
import time

PROGRAM = os.environ.get("QEMU", "qemu-system-aarch64")
MONITOR_TIMEOUT_S = 60
# The board of the product's own test: qemu-virt. `net` is the network that `forward` and `reach` describe.
VIRT = ("-M", "virt,acpi=off", "-cpu", "cortex-a76", "-smp", "2", "-m", "1024")
# In this order: it says where on the bus each is, and a snapshot has that in it.
VIRT_DEVICES = ("i6300esb", "virtio-net-pci,netdev=net,id=nic,romfile=", "virtio-rng-pci", "qemu-xhci,id=usb")


class Failed(AssertionError):
    """The box did not do what was promised, or the emulator would not play."""


def die_with_parent():
    """For a child before it becomes another program: it is killed when the test ends, however that ends (prctl(2), PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Deadline:
    """So many seconds of a box that gets the processor that it asks for. On a crowded host the emulator gets less, and time is longer:
    over when the seconds have passed AND the emulator has either had its share of them as CPU time, or five times the seconds."""

    SHARE, STRETCH = 0.6, 5

    def __init__(self, seconds, machine=None):
        self.seconds, self.machine, self.began = seconds, machine, time.monotonic()
        self.cpu_began = machine.cpu_s() if machine else 0.0

    def over(self):
        passed = time.monotonic() - self.began
        if passed < self.seconds or not self.machine:
            return passed >= self.seconds
        return passed > self.STRETCH * self.seconds or self.machine.cpu_s() - self.cpu_began > self.SHARE * self.seconds

    def __str__(self):
        return f"after {time.monotonic() - self.began:.0f} s"


def wait_until(what, seconds, check, every_s=0.2, machine=None):
    """Calls `check` until it returns something true, and returns that. `machine`: whose time counts, and whose end ends the wait."""
    deadline = Deadline(seconds, machine)
    while True:
        found = check()
        if found:
            return found
        if deadline.over():
            raise Failed(f"{deadline}: {what}")
        if machine:
            machine.check_alive()
        time.sleep(every_s)


class Monitor:
    """QMP, the machine protocol of QEMU's monitor: commands in, answers out; events are kept with their time of arrival."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        self.reader = self.socket.makefile("r")
        self.events, self.answers, self.ready = [], [], threading.Condition()
        json.loads(self.reader.readline())  # the greeting
        threading.Thread(target=self._read, daemon=True).start()
        self("qmp_capabilities")

    def _read(self):
        try:
            for line in self.reader:
                message = json.loads(line)
                with self.ready:
                    if "event" in message:
                        self.events.append((time.monotonic(), message["event"], message.get("data", {})))
                        del self.events[:-10_000]
                    else:
                        self.answers.append(message)
                    self.ready.notify_all()
        except (OSError, ValueError):
            pass
        with self.ready:
            self.answers.append({"error": {"desc": "the emulator has ended"}})
            self.ready.notify_all()

    def __call__(self, command, **arguments):
        with self.ready:
            self.answers.clear()
            self.socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
            if not self.ready.wait_for(lambda: self.answers, MONITOR_TIMEOUT_S):
                raise Failed(f"the emulator's monitor does not answer {command}")
            answer = self.answers.pop(0)
        if "error" in answer:
            raise Failed(f"{command}: {answer['error']['desc']}")
        return answer["return"]

    def human(self, line):
        """A command that has no QMP form, such as savevm. What it prints is an error."""
        return self("human-monitor-command", **{"command-line": line}).strip()

    def wait_event(self, names, since, seconds):
        """The first event of `names` at or after `since`."""
        with self.ready:
            found = []

            def look():
                found[:] = [event for event in self.events if event[1] in names and event[0] >= since]
                return found

            if not self.ready.wait_for(look, seconds):
                raise Failed(f"no event {'/'.join(names)} in {seconds:.0f} s")
            return found[0]

    def close(self):
        self.socket.close()


class Machine:
    """A running emulator.

    `drives`: options of `-drive` with the device's, as pairs; `forward`: {name: guest port}, the host's ports are then in `port[name]`;
    `reach`: {guest address: host command's arguments}, see `relay.py`. `boot`: the options that say what is booted. `board`, `devices`:
    the computer itself. A drive without a device is one that the board has a place for, such as an SD card.
    """

    def __init__(self, folder, boot, drives, forward, reach=None, extra=(), loadvm=None, paused=False, board=VIRT, devices=VIRT_DEVICES):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = {name: free_port() for name in forward}
        net = "user,id=net,restrict=on" if forward or reach else ""
        for name, guest in forward.items():
            net += f",hostfwd=tcp:127.0.0.1:{self.port[name]}-:{guest}"
        for address, command in (reach or {}).items():
            net += f",guestfwd=tcp:{address}-cmd:{command}"
        self.arguments = [
            PROGRAM, *board, "-accel", "tcg,thread=multi", "-display", "none", "-nodefaults", "-action", "watchdog=reset",
            "-serial", f"file:{self.folder}/console", "-qmp", f"unix:{self.folder}/qmp,server=on,wait=off",
            "-qtest", f"unix:{self.folder}/qtest,server=on,wait=off", "-qtest-log", "/dev/null",
        ]
        if net:
            self.arguments += ["-netdev", net]
        for device in devices:
            self.arguments += ["-device", device]
        self.arguments += boot
        for drive, device in drives:
            self.arguments += ["-drive", drive, *(["-device", device] if device else [])]
        if loadvm:
            self.arguments += ["-loadvm", loadvm]
        if paused:
            self.arguments += ["-S"]
        self.arguments += extra
        self.process = None

    def __enter__(self):
        for name in ("qmp", "qtest", "console"):
            (self.folder / name).unlink(missing_ok=True)
        self.began = time.monotonic()
        with open(self.folder / "emulator.log", "w") as log:
            self.process = subprocess.Popen(self.arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, preexec_fn=die_with_parent)
        try:
            wait_until("the emulator opens no monitor", 60, (self.folder / "qmp").exists, 0.05, self)
            time.sleep(0.1)
            self.monitor = Monitor(self.folder / "qmp")
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        """Pulls the plug: the emulator is killed."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if hasattr(self, "monitor"):
            self.monitor.close()

    def check_alive(self):
        if self.process.poll() is not None:
            raise Failed(f"the emulator ended: {(self.folder / 'emulator.log').read_text()[-500:]}\n{self.console()[-1500:]}")

    def console(self):
        """What the box printed on its serial console so far."""
        try:
            return (self.folder / "console").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def wait_console(self, text, seconds, since=0):
        """Waits for `text` on the console, from character `since` on."""
        wait_until(f"the console does not say {text!r}; it ends with {self.console()[-800:]!r}", seconds, lambda: text in self.console()[since:],
                   0.2, self)

    def cpu_s(self):
        """CPU seconds of the emulator so far: what a boot costs whatever else the host does."""
        self.check_alive()
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def wall_s(self):
        return time.monotonic() - self.began

    def save(self, name):
        said = self.monitor.human(f"savevm {name}")
        if said:
            raise Failed(f"savevm: {said}")

    def set_link(self, up):
        self.monitor("set_link", name="nic", up=up)

    def plug_stick(self, image, name="stick"):
        """Plugs a USB stick in that holds `image`, read-only for the box."""
        self.monitor("blockdev-add", **{"driver": "raw", "node-name": name, "read-only": True, "file": {"driver": "file", "filename": str(image)}})
        self.monitor("device_add", driver="usb-storage", id=f"usb-{name}", drive=name, bus="usb.0")

    def unplug_stick(self, name="stick"):
        self.monitor("device_del", id=f"usb-{name}")
