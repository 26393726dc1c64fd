"""The lines of the box's GPIO chip, seen and driven from outside: QEMU's qtest protocol on the PL061 of `-M virt`, or on a Pi's GPIO block.

Each edge is stamped with the host's clock when its message arrives. The chip's register is read 20 times a second as well: a reset
or a loaded snapshot changes lines without a message.
"""
import socket
import threading
import time

POLL_S = 0.05


class Pl061:
    """The chip at 0x0903_0000 of `-M virt`; the lamps are on its lines 0 to 2, the button on 5. GPIODATA with all eight mask bits, and
    GPIODIR (ARM DDI 0190B, 3.3.1 and 3.3.2)."""

    types = ("pl061",)
    line_of = {n: n for n in range(8)}
    data, direction = 0x9030000 + 0x3FC, 0x9030000 + 0x400

    def levels(self, read):
        """Levels of the lines, as bits; an input counts as low."""
        return read(self.data) & read(self.direction)


class Pi4Gpio:
    """The GPIO block of a BCM2711 at 0xFE20_0000: red, yellow and green on pins 17, 27 and 22 (board/rpi-lamps.dtso). GPFSEL has three bits a pin,
    1 is an output; GPLEV0 its level (BCM2711 ARM Peripherals, chapter 5)."""

    types = ("bcm2838_gpio", "bcm2838-gpio")
    line_of = {17: 0, 27: 1, 22: 2}
    select, set, level = 0xFE200000, 0xFE20001C, 0xFE200034
    button = 23

    def levels(self, read):
        level = read(self.level)
        lit = {line: level >> pin & 1 and read(self.select + pin // 10 * 4) >> pin % 10 * 3 & 7 == 1 for pin, line in self.line_of.items()}
        return sum(bool(on) << line for line, on in lit.items())


def chip_path(monitor, types):
    """The chip's path in QEMU's object tree."""
    stack = []
    for line in monitor.human("info qom-tree").splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        stack = stack[:depth] + [line.strip().split(" ")[0].lstrip("/")]
        if any(f"({name})" in line for name in types):
            return "/" + "/".join(stack).lstrip("/")
    raise AssertionError(f"the machine has no {types[0]}")


class Lines:
    """`edges`: (time, line, level), oldest first. Lines that are inputs count as low."""

    def __init__(self, socket_path, monitor, chip):
        self.chip = chip
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(socket_path))
        self.edges, self.levels, self.answers = [], [False] * 8, []
        self.changed, self.asking, self.closed = threading.Condition(), threading.Lock(), False
        threading.Thread(target=self._read, daemon=True).start()
        self.path = chip_path(monitor, chip.types)
        self.ask(f"irq_intercept_out {self.path}")
        self.poll()
        threading.Thread(target=self._poll, daemon=True).start()

    def _read(self):
        try:
            for line in self.socket.makefile("r"):
                now = time.monotonic()
                word = line.split()
                with self.changed:
                    if word and word[0] == "IRQ":
                        self._note(now, self.chip.line_of.get(int(word[2])), word[1] == "raise")
                    else:
                        self.answers.append((now, line.strip()))
                    self.changed.notify_all()
        except OSError:
            pass
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def _note(self, now, line, level):
        if line is not None and self.levels[line] != level:
            self.levels[line] = level
            self.edges.append((now, line, level))

    def ask(self, command):
        """One command of the protocol; its answer without the leading OK."""
        with self.asking, self.changed:
            self.answers.clear()
            self.socket.sendall(command.encode() + b"\n")
            self.changed.wait_for(lambda: self.answers or self.closed, 30)
            if not self.answers:
                raise OSError(f"no answer to {command!r}")
            answer = self.answers[0][1]
        if not answer.startswith("OK"):
            raise AssertionError(f"{command!r}: {answer}")
        return answer[2:].strip()

    def poll(self):
        # Messages and answers come in one order: what the register says differently was never told as an edge.
        lit = self.chip.levels(lambda address: int(self.ask(f"readl {address:#x}"), 16))
        with self.changed:
            for line in range(8):
                self._note(time.monotonic(), line, bool(lit >> line & 1))

    def _poll(self):
        while not self.closed:
            try:
                self.poll()
            except (OSError, AssertionError):
                return
            time.sleep(POLL_S)

    def drive(self, line, level):
        """Sets an input line of the chip, as a button does."""
        self.ask(f"set_irq_in {self.path} unnamed-gpio-in {line} {int(level)}")

    def snapshot(self):
        with self.changed:
            return list(self.edges)

    def close(self):
        self.closed = True
        self.socket.close()
