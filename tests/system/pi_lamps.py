#!/usr/bin/env python3
"""Lamps and button of a Raspberry Pi without one: each driver on an emulated Pi, every pin seen and the button pressed from outside.

    tests/system/pi_lamps.py --binary SCANSIDE [--machine raspi3b|raspi4b] [--cache DIR] [--keep]

SCANSIDE is the program for aarch64, built with --features rppal (.ci/cross); a scanside-keeper beside it is used to leave the board.
Debian's stock kernel and device tree boot on `qemu-system-aarch64 -M raspi3b`, then on `-M raspi4b` (QEMU 9 and later; older: skipped),
each once, from an initrd with busybox, the program and its libraries, which is built here from Debian's packages (downloaded into
--cache; needs apt, dpkg-deb, dtc). In one boot:

1. gpiochip and rppal: `scanside board show`, `board test`; then a green lamp whose program is killed with -9; then the board is left.
2. leds-gpio is loaded: the pins are LEDs of the kernel from here on, by board/rpi-lamps.dtso. led-class the same way; then the bytes that
   it writes when it leaves a board are written by hand.
3. the kernel panics.

What the pins do is read from outside the guest: edges by qtest (irq_intercept_out of the GPIO block), levels and directions from its
registers, also by qtest. The model has no input lines; the button is pressed by writing the level register from outside. In the profiles of
the test yellow is lit by a low pin (gpiochip, rppal), so that polarity is seen, too.
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGES = ["busybox-static:arm64", "libc6:arm64", "libgcc-s1:arm64"]
MODULES = ["leds-gpio", "ledtrig-timer", "ledtrig-pattern"]
# name: device tree, GPIO registers, first serial port, label of the chip, first line that is an input for the button.
MACHINES = {
    "raspi3b": ("bcm2837-rpi-3-b.dtb", 0x3F200000, 0x3F201000, "pinctrl-bcm2835"),
    "raspi4b": ("bcm2711-rpi-4-b.dtb", 0xFE200000, 0xFE201000, "pinctrl-bcm2711"),
}
# Parts of a Raspberry Pi 4 that QEMU models (and the kernel needs); it aborts at the first register of another.
MODELLED = re.compile(
    r"timer@7e003000|cprman|mailbox@7e00b880|gpio@|serial@7e201000|aux@|local_intc|interrupt-controller@40041000|dma@|firmware|power"
)
RED, YELLOW, GREEN, BUTTON = 17, 27, 22, 23
GPSET0, GPCLR0, GPLEV0 = 0x1C, 0x28, 0x34
# Lights that are shorter than this are the moment between two writes of one frame, ms; the shortest that is meant takes 160.
GLIMPSE_MS = 60
POLL_S = 0.04
# From here on the emulator may miss flashes (`Crowd`): where it did, order and polarity are what is left to ask for.
CROWDED = 2
# `board show` shows each lamp for 4 s: ready, working, degraded, indeterminate, suspicious, fault, critical; R, Y, G, D (yellow and
# green), dots for dark. A lamp may be seen for a moment of its next turn. A host that stands still for longer than one of the
# two dips (160 ms) or one flash of critical (250 ms) takes it away: frames that come too late are skipped, as on a real box.
ALL_LAMPS = re.compile(r"\.?G\.G\.G?DY(\.Y){2,4}(RY){4}(R\.){6,9}")
# What is left where flashes were missed.
ORDER = re.compile(r"\.?(G\.?)+D(Y\.?)+(RY)+(R\.?)+")

INIT = r"""#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys
echo 1 > /proc/sys/kernel/sysrq
# Through a pipe: on a terminal the line would be drawn anew with each frame.
board() { { scanside board "$@" --profiles-dir /boards < /dev/null; echo "=== RC $3 $?"; } 2>&1 | cat; }
killed() {
    scanside board show --profile $1 --profiles-dir /boards --lamp ready --seconds 60 > /dev/null 2>&1 & sleep 5
    echo "=== LIT $1"; sleep 2
    kill -9 $(pidof scanside); sleep 1
    echo "=== KILLED $1"; sleep 2
}
echo "=== BOOTED $(uname -r)"
for driver in gpiochip rppal led-class; do
    if [ $driver = led-class ]; then
        for module in $(cat /modules/order); do insmod /modules/$module || echo "=== NO $module"; done
    fi
    echo "=== CASE $driver"; board show --profile $driver; sleep 1
    echo "=== SHOWN $driver"; board test --profile $driver; sleep 1
    killed $driver
    if [ -x /bin/scanside-keeper ]; then scanside-keeper --profile $driver --profiles-dir /boards --leave
    else board show --profile $driver --lamp ready --seconds 1 > /dev/null; fi
    echo "=== LEFT $driver"; sleep 5
    echo "=== END $driver"
done
echo "=== PATTERN"
for led in red yellow; do echo pattern > /sys/class/leds/scanside:$led/trigger; done
echo PATTERN_RED > /sys/class/leds/scanside:red/pattern; echo PATTERN_YELLOW > /sys/class/leds/scanside:yellow/pattern
sleep 5; echo "=== END pattern"
for led in red yellow; do echo none > /sys/class/leds/scanside:$led/trigger; done
echo 1 > /sys/class/leds/scanside:green/brightness
echo "=== PANIC"; sleep 1
echo c > /proc/sysrq-trigger
"""

PROFILE = """
name = "{driver}"
driver = "{driver}"
{chip}
[lamps.red]
{address[red]}
[lamps.yellow]
{address[yellow]}
{inverted}
[lamps.green]
{address[green]}
[button]
{button}
[limits]
temperature_warn_c = 80.0
memory_available_bytes_min = 67108864
memory_process_bytes_max = 268435456
"""


class Skip(Exception):
    pass


def run(*command, **more):
    done = subprocess.run([str(part) for part in command], capture_output=True, **more)
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def profile(driver, label):
    """A profile of the test: the addresses are those of board/rpi4.toml, the chip the one of this machine."""
    pins = {"red": RED, "yellow": YELLOW, "green": GREEN}
    if driver == "led-class":
        address = {colour: f'led = "scanside:{colour}"' for colour in pins}
    elif driver == "gpiochip":
        # One by number, the others by name.
        address = {colour: f"line = {pin}" if colour == "red" else f'line = "GPIO{pin}"' for colour, pin in pins.items()}
    else:
        address = {colour: f"pin = {pin}" for colour, pin in pins.items()}
    return PROFILE.format(
        driver=driver,
        chip="" if driver == "rppal" else f'chip = "{label}"',
        address=address,
        inverted="" if driver == "led-class" else "active_low = true",
        button=f"pin = {BUTTON}" if driver == "rppal" else f'line = "GPIO{BUTTON}"',
    )


class Parts:
    """Kernel, device trees and libraries from Debian's packages, unpacked once into the cache."""

    def __init__(self, cache):
        self.cache = pathlib.Path(cache)
        self.tree = self.cache / "tree"
        debs = self.cache / "debs"
        if not (self.tree / "done").exists():
            depends = run("apt-cache", "depends", "linux-image-arm64:arm64").decode()
            kernel = re.search(r"Depends: (linux-image-\S+)", depends)
            if not kernel:
                raise Skip("apt knows no arm64 kernel: dpkg --add-architecture arm64 && apt-get update")
            debs.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(self.tree, ignore_errors=True)
            for package in [kernel[1], *PACKAGES]:
                name = package.split(":")[0]
                if not list(debs.glob(f"{name}_*_arm64.deb")):
                    run("apt-get", "download", "-q", package, cwd=debs)
                run("dpkg-deb", "-x", next(debs.glob(f"{name}_*_arm64.deb")), self.tree)
            (self.tree / "done").touch()
        self.kernel = next(self.tree.glob("boot/vmlinuz-*"))
        self.version = self.kernel.name.removeprefix("vmlinuz-")

    def modules(self):
        """Files of the modules, each after those that it needs."""
        base = self.tree / "lib/modules" / self.version
        if not (base / "modules.dep").exists():
            run("depmod", "-b", self.tree, self.version)
        depends = dict(line.split(":", 1) for line in (base / "modules.dep").read_text().splitlines())
        path = {pathlib.Path(name).name.split(".")[0].replace("_", "-"): name for name in depends}
        order = []
        for name in MODULES:
            for file in [*reversed(depends[path[name]].split()), path[name]]:
                if file not in order:
                    order.append(file)
        return [base / file for file in order]

    def library(self, name):
        for folder in ("lib/aarch64-linux-gnu", "usr/lib/aarch64-linux-gnu", "lib"):
            if (self.tree / folder / name).exists():
                return self.tree / folder / name
        raise RuntimeError(f"the program needs {name}, which is in none of {PACKAGES}")

    def device_tree(self, machine, folder):
        """The board's device tree with the lamps of board/rpi-lamps.dtso."""
        tree = folder / "board.dtb"
        shutil.copy(next(self.tree.glob(f"usr/lib/linux-image-*/broadcom/{MACHINES[machine][0]}")), tree)
        # What a firmware's device tree brings: the name that the overlay asks for.
        run("fdtput", "-c", tree, "/__symbols__")
        run("fdtput", "-t", "s", tree, "/__symbols__", "gpio", "/soc/gpio@7e200000")
        if machine == "raspi4b":
            for bus in ("/soc", "/scb"):
                for node in run("fdtget", "-l", tree, bus).decode().split():
                    if not MODELLED.match(node):
                        run("fdtput", "-t", "s", tree, f"{bus}/{node}", "status", "disabled")
        overlay, merged = folder / "lamps.dtbo", folder / "merged.dtb"
        run("dtc", "-@", "-q", "-O", "dtb", "-o", overlay, ROOT / "board/rpi-lamps.dtso")
        run("fdtoverlay", "-i", tree, "-o", merged, overlay)
        return merged

    def initrd(self, machine, binary, folder):
        root = folder / "root"
        for name in ("bin", "dev", "proc", "sys", "lib", "modules", "boards", "tmp"):
            (root / name).mkdir(parents=True)
        shutil.copy(next(self.tree.glob("bin/busybox")), root / "bin")
        shutil.copy(binary, root / "bin/scanside")
        keeper = pathlib.Path(binary).with_name("scanside-keeper")
        if keeper.exists():
            shutil.copy(keeper, root / "bin/scanside-keeper")
        needed = run("readelf", "-d", binary).decode()
        for name in {*re.findall(r"NEEDED.*\[(.*)\]", needed), "ld-linux-aarch64.so.1"}:
            shutil.copy(self.library(name), root / "lib" / name)
        names = []
        for file in self.modules():
            plain = file.name.removesuffix(".xz")
            (root / "modules" / plain).write_bytes(run("xz", "-dc", file) if file.suffix == ".xz" else file.read_bytes())
            names.append(plain)
        (root / "modules/order").write_text("\n".join(names))
        for driver in ("gpiochip", "rppal", "led-class"):
            (root / f"boards/{driver}.toml").write_text(profile(driver, MACHINES[machine][3]))
        init = INIT.replace("PATTERN_RED", "1 500 1 0 0 500 0 0").replace("PATTERN_YELLOW", "0 500 0 0 1 500 1 0")
        (root / "init").write_text(init)
        (root / "init").chmod(0o755)
        files = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
        packed = run("cpio", "-o", "-H", "newc", "--quiet", "-R", "0:0", cwd=root, input=files.encode())
        (folder / "initrd").write_bytes(packed)
        return folder / "initrd"


class Pi:
    """A running machine: its pins, its button, what it prints."""

    def __init__(self, machine, parts, binary, folder):
        _, self.gpio, serial, _ = MACHINES[machine]
        self.folder = folder
        self.printed_file = [folder / "serial0", folder / "serial1"]
        append = f"console=ttyAMA0 earlycon=pl011,{serial:#x} iomem=relaxed panic=60 loglevel=3 nokaslr mitigations=off"
        command = ["qemu-system-aarch64", "-M", machine, "-display", "none", "-nodefaults", "-accel", "tcg,thread=multi", "-no-reboot"]
        command += ["-kernel", parts.kernel, "-dtb", parts.device_tree(machine, folder), "-initrd", parts.initrd(machine, binary, folder)]
        command += ["-append", append, "-qtest-log", "/dev/null"]
        for file in self.printed_file:
            command += ["-serial", f"file:{file}"]
        for name in ("qmp", "qtest"):
            command += [f"-{name}", f"unix:{folder / name},server=on,wait=off"]
        self.started = time.time()
        log = open(folder / "qemu.log", "w")
        self.process = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.crowd = Crowd(self.process.pid)
        self.events, self.levels, self.inverted = [], {}, True
        self.replies, self.news, self.asking = [], threading.Condition(), threading.Lock()
        try:
            self.qmp = self.connect("qmp").makefile("rw")
            self.qmp.readline()
            self.ask("qmp_capabilities")
            self.qtest = self.connect("qtest")
            threading.Thread(target=self.read_qtest, daemon=True).start()
            self.tell(f"irq_intercept_out {self.gpio_path()}")
            # Nobody presses it yet: the pull-up of the real board.
            self.press(False)
            threading.Thread(target=self.poll, daemon=True).start()
        except BaseException:
            self.process.kill()
            raise

    def connect(self, name):
        for _ in range(100):
            if self.process.poll() is not None:
                raise RuntimeError("QEMU ended: " + (self.folder / "qemu.log").read_text())
            try:
                connection = socket.socket(socket.AF_UNIX)
                connection.connect(str(self.folder / name))
                return connection
            except OSError:
                time.sleep(0.1)
        raise RuntimeError(f"QEMU's {name} socket does not answer")

    def ask(self, execute, **arguments):
        self.qmp.write(json.dumps({"execute": execute, "arguments": arguments}) + "\n")
        self.qmp.flush()
        while True:
            answer = json.loads(self.qmp.readline())
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise RuntimeError(f"{execute}: {answer['error']}")

    def gpio_path(self):
        stack = []
        for line in self.ask("human-monitor-command", **{"command-line": "info qom-tree"}).splitlines():
            depth = (len(line) - len(line.lstrip())) // 2
            stack = stack[:depth] + [line.split()[0].lstrip("/")]
            if re.search(r"\((bcm2835_gpio|bcm2838.gpio)\)", line):
                return "/" + "/".join(stack).lstrip("/")
        raise RuntimeError("this machine has no GPIO block")

    def read_qtest(self):
        for line in self.qtest.makefile("r"):
            now, words = time.time(), line.split()
            with self.news:
                if words[:1] == ["IRQ"]:
                    self.note(now, int(words[2]), words[1] == "raise")
                else:
                    self.replies.append(line)
                self.news.notify_all()

    def note(self, now, pin, high):
        if pin in (RED, YELLOW, GREEN) and self.levels.get(pin) != high:
            self.levels[pin] = high
            self.events.append((now, pin, high))

    def poll(self):
        """Notes what qtest does not tell: it reports a line when the model drives it otherwise than the last time, and the model drives nothing
        when a pin becomes an input (a lit lamp whose program is killed) or an output. An input is a dark lamp."""
        while True:
            time.sleep(POLL_S)
            try:
                n_before, level = len(self.events), self.register(GPLEV0)
                high = {pin: bool(level >> pin & 1) if self.is_output(pin) else pin == YELLOW and self.inverted for pin in (RED, YELLOW, GREEN)}
            except (RuntimeError, OSError):
                return  # it has ended
            with self.news:
                # What was told meanwhile is newer than what was read.
                if len(self.events) == n_before:
                    for pin in high:
                        self.note(time.time(), pin, high[pin])

    def tell(self, text):
        with self.asking, self.news:
            self.replies.clear()
            self.qtest.sendall((text + "\n").encode())
            if not self.news.wait_for(lambda: self.replies, 30) or not self.replies[0].startswith("OK"):
                raise RuntimeError(f"qtest: {text}: {self.replies}")
            return self.replies[0].split()[1:]

    def register(self, offset):
        return int(self.tell(f"readl {self.gpio + offset:#x}")[0], 16)

    def level(self, pin):
        return self.register(GPLEV0) >> pin & 1

    def is_output(self, pin):
        return self.register(pin // 10 * 4) >> (pin % 10 * 3) & 7 == 1

    def press(self, down):
        self.tell(f"writel {self.gpio + (GPCLR0 if down else GPSET0):#x} {1 << BUTTON:#x}")

    def printed(self):
        return "".join(file.read_text(errors="replace") for file in self.printed_file if file.exists()).replace("\r", "")

    def wait_for(self, text, seconds):
        begin = time.time()
        while text not in self.printed():
            if time.time() > begin + seconds * self.crowd.factor(begin) or self.process.poll() is not None:
                raise AssertionError(f"no {text!r} within {seconds} s; the end of what it printed:\n{self.printed()[-1500:]}")
            time.sleep(0.05)
        return time.time()

    def rises(self, pin, since, until):
        with self.news:
            return [when for when, which, high in self.events if which == pin and high and since < when < until]

    def letters(self, since, until, inverted):
        """What the lamps showed, and for how long each, ms; all dark at `since`."""
        lit, spans, at = set(), [], since
        names = {(): ".", (RED,): "R", (YELLOW,): "Y", (GREEN,): "G", (GREEN, YELLOW): "D"}
        with self.news:
            events = [event for event in self.events if since <= event[0] < until and event[1] in (RED, YELLOW, GREEN)]
        for when, pin, high in [*events, (until, RED, None)]:
            letter = names.get(tuple(sorted(lit)), "?")
            if (when - at) * 1000 >= GLIMPSE_MS:
                if spans and spans[-1][0] == letter:
                    spans[-1][1] += (when - at) * 1000
                else:
                    spans.append([letter, (when - at) * 1000])
            at = when
            lit = lit | {pin} if high != (pin == YELLOW and inverted) else lit - {pin}
        return "".join(letter for letter, _ in spans), spans


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


class Crowd:
    """How much longer the emulator takes on this host than it would alone: (time on a processor + time in wait for one) / time on one, summed
    over its threads (proc(5), schedstat). The load average would not do: with a better priority the emulator has what it needs at any load."""

    PERIOD_S, LATELY_S = 0.5, 20

    def __init__(self, pid):
        self.pid, self.samples = pid, []
        threading.Thread(target=self.sample, daemon=True).start()

    def sample(self):
        while True:
            try:
                stats = [(task / "schedstat").read_text().split() for task in pathlib.Path(f"/proc/{self.pid}/task").iterdir()]
            except OSError:
                return  # it has ended
            self.samples.append((time.time(), sum(int(stat[0]) for stat in stats), sum(int(stat[1]) for stat in stats)))
            time.sleep(self.PERIOD_S)

    def factor(self, since=None):
        """Since that moment, or lately; at least 1."""
        since = time.time() - self.LATELY_S if since is None else since
        seen = [sample for sample in list(self.samples) if sample[0] >= since - self.PERIOD_S]
        if len(seen) < 2 or seen[-1][1] <= seen[0][1]:
            return 1.0
        ran, waited = seen[-1][1] - seen[0][1], seen[-1][2] - seen[0][2]
        return max(1.0, (ran + waited) / ran)


def rate_hz(spans, letter):
    """The rate of the last stretch of flashes of `letter`: by the median of its periods."""
    starts = [sum(length for _, length in spans[:idx]) for idx, span in enumerate(spans) if span[0] == letter][-7:]
    return 1000 / statistics.median(later - sooner for sooner, later in zip(starts, starts[1:]))


def check_lamps(pi, driver):
    start = pi.wait_for(f"=== CASE {driver}", 120)
    pi.inverted = driver != "led-class"
    while driver != "led-class" and not pi.rises(GREEN, start, time.time()):
        assert time.time() < start + 20 * pi.crowd.factor(start), f"{driver}: green does not burn; it printed {pi.printed()[-600:]}"
        time.sleep(0.05)
    end = pi.wait_for(f"=== SHOWN {driver}", 120)
    shown, spans = pi.letters(start, end, inverted=driver != "led-class")
    lengths = " ".join(f"{letter}{length:.0f}" for letter, length in spans)
    rate, crowd = rate_hz(spans, "R"), pi.crowd.factor(start)
    doubt = ""
    if not (ALL_LAMPS.fullmatch(shown) and 1.8 < rate < 2.2):
        assert crowd >= CROWDED and ORDER.fullmatch(shown), f"{driver}: the pins showed {lengths}; it printed {pi.printed()[-600:]}"
        doubt = f" (the emulator got 1/{crowd:.1f} of what it needed: only order and polarity were asked for)"
    print(f"  {driver}: 7 lamps in order and polarity ({shown}), critical at {rate:.2f} Hz{doubt}", flush=True)


def check_button(pi, driver):
    end = time.time() + 90 * pi.crowd.factor()
    while pi.printed().count("Press the button") <= pi.presses:
        assert f"=== RC {driver}" not in pi.printed().split(f"=== SHOWN {driver}")[1] and time.time() < end, pi.printed()[-1500:]
        time.sleep(0.05)
    pi.presses += 1
    time.sleep(0.5)
    pi.press(True)
    end = time.time() + 2 * pi.crowd.factor()
    while time.time() < end and not re.search("button: pressed", pi.printed().split(f"=== SHOWN {driver}")[1], re.IGNORECASE):
        time.sleep(0.1)
    pi.press(False)
    pi.wait_for(f"=== LIT {driver}", 60)
    printed = pi.printed().split(f"=== SHOWN {driver}")[1]
    assert re.search("button: pressed", printed, re.IGNORECASE), printed
    status = re.search(rf"=== RC {driver} (\d+)", printed)[1]
    # The one thing that an overloaded host may do to an emulated Pi.
    assert status == "0" or "unevenly" in printed, printed
    frames = re.search(r"Frames: .*", printed)
    print(f"    button pressed; {frames[0] if frames else 'no figures'}", flush=True)


def check_death(pi, driver):
    pi.wait_for(f"=== LIT {driver}", 40)
    time.sleep(0.5)
    assert pi.level(GREEN) == 1 and pi.is_output(GREEN), f"{driver}: the green lamp is not lit"
    pi.wait_for(f"=== KILLED {driver}", 30)
    time.sleep(0.5)
    # As the drivers' headers say: Debian's kernel makes a released line an input; the others keep their level.
    kept = pi.is_output(GREEN) and pi.level(GREEN) == 1
    assert kept == (driver != "gpiochip"), f"{driver}: after kill -9 green {'is' if kept else 'is not'} still lit"
    left = pi.wait_for(f"=== LEFT {driver}", 30)
    time.sleep(0.3)
    assert not (pi.is_output(GREEN) and pi.level(GREEN)), f"{driver}: a board that was left is green"
    end = pi.wait_for(f"=== END {driver}", 30)
    left += 0.3  # what is polled comes that late
    reds, yellows = pi.rises(RED, left, end), pi.rises(YELLOW, left, end)
    drawn = len(reds) >= 3 and len(yellows) >= 3
    assert drawn or not reds + yellows, f"{driver}: after it was left red rose {len(reds)} times, yellow {len(yellows)}"
    assert drawn or driver != "led-class" or not pi.has_keeper, "the kernel draws no fault"
    print(f"    after kill -9 green is {'still lit' if kept else 'not driven any more'}; left, the board is "
          f"{f'a fault that the kernel draws at {rate_of(reds):.2f} Hz' if drawn else 'dark'}", flush=True)


def rate_of(times):
    return (len(times) - 1) / (times[-1] - times[0])


def check_pattern(pi):
    """The bytes that the driver writes when it leaves a board, on a real kernel."""
    start = pi.wait_for("=== PATTERN", 30) + 0.3
    end = pi.wait_for("=== END pattern", 30)
    reds, yellows = pi.rises(RED, start, end), pi.rises(YELLOW, start, end)
    assert len(reds) >= 3 and len(yellows) >= 3, (reds, yellows)
    gap = min(yellow for yellow in yellows if yellow > reds[0]) - reds[0]
    assert 0.9 < rate_of(reds) < 1.1 and 0.4 < gap < 0.6 or pi.crowd.factor(start) >= CROWDED, (rate_of(reds), gap)
    print(f"  trigger pattern: red at {rate_of(reds):.2f} Hz, yellow {gap * 1000:.0f} ms after red", flush=True)


def check_panic(pi):
    start = pi.wait_for("=== PANIC", 30) + 1
    end = start + 60 * pi.crowd.factor()
    while time.time() < end:
        rises = [pi.rises(pin, start, time.time()) for pin in (RED, YELLOW, GREEN)]
        if min(map(len, rises)) >= 10:
            first_s = rises[2][0] - start
            print(f"  kernel panic: all three lamps blink at {rate_of(rises[2]):.1f} Hz, first {first_s:.1f} s after the crash", flush=True)
            return
        time.sleep(0.2)
    raise AssertionError(f"after a panic the lamps rose {[len(times) for times in rises]} times")


def check_machine(machine, parts, binary, keep):
    version = int(re.search(r"version (\d+)", run("qemu-system-aarch64", "--version").decode())[1])
    if machine == "raspi4b" and version < 9:
        raise Skip(f"QEMU {version} has no raspi4b (9 and later have)")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="pi-lamps-"))
    pi = Pi(machine, parts, binary, folder)
    try:
        booted = pi.wait_for("=== BOOTED", 300) - pi.started
        print(f"{machine}: {re.search('=== BOOTED (.*)', pi.printed())[1]} up after {booted:.0f} s, "
              f"{cpu_seconds(pi.process.pid):.0f} CPU s", flush=True)
        pi.presses = 0
        pi.has_keeper = pathlib.Path(binary).with_name("scanside-keeper").exists()
        for driver in ("gpiochip", "rppal", "led-class"):
            for check in (check_lamps, check_button, check_death):
                check(pi, driver)
        check_pattern(pi)
        check_panic(pi)
        print(f"{machine}: all seen in {time.time() - pi.started:.0f} s, {cpu_seconds(pi.process.pid):.0f} CPU s; "
              f"for each second on a processor the emulator waited {pi.crowd.factor(0) - 1:.2f} s for one", flush=True)
    finally:
        pi.process.kill()
        pi.process.wait()
        if keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--binary", required=True, help="scanside for aarch64, with the feature rppal")
    arguments.add_argument("--machine", choices=MACHINES, help="only this one")
    arguments.add_argument("--cache", default=ROOT / "target/vm-cache", help="where packages are kept")
    arguments.add_argument("--keep", action="store_true", help="keep the folder of the run")
    chosen = arguments.parse_args()
    for program in ("qemu-system-aarch64", "dtc", "fdtoverlay", "cpio", "depmod", "readelf"):
        if shutil.which(program) is None:
            print(f"skipped: {program} is missing (qemu-system-arm, device-tree-compiler, cpio, kmod, binutils)")
            return 0
    failed = 0
    try:
        parts = Parts(chosen.cache)
    except Skip as why:
        print(f"skipped: {why}")
        return 0
    for machine in [chosen.machine] if chosen.machine else MACHINES:
        try:
            check_machine(machine, parts, chosen.binary, chosen.keep)
        except Skip as why:
            print(f"{machine}: skipped: {why}")
        except (AssertionError, RuntimeError) as error:
            print(f"{machine}: FAILED: {error}")
            failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
