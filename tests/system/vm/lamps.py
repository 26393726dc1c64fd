"""What a person in the room would say of the lamps: edges of three lines in -> the state's name out. And the button.

Only the light counts: rates, duty cycles and which lights burn, after DESIGN.md section 4 and IEC 60601-1-8 (high priority red 1.4-2.8 Hz,
medium priority yellow 0.4-0.8 Hz). `classify` is pure; `Lamps` waits on live lines.
"""
import time

from qemu import Deadline, Failed
from qtest import Lines, Pl061

RED, YELLOW, GREEN, BUZZER, BUTTON = 0, 1, 2, 4, 5
COLOURS = ("red", "yellow", "green")
# How long one has to look to be sure, s. A steady green is told from the working pulse (lit 1.5 s of 2 s) after 1.5 s and some.
LOOK_S = {
    "dark": 1.2, "ready": 2.2, "degraded": 2.2, "critical": 2.2, "fault": 3.3, "working": 4.6, "suspicious": 4.6, "indeterminate": 8.6,
    "all-flash": 2.2,
}
SAFE = ("fault", "dark", "all-flash")


def burning(edges, line, begin, end):
    """[(from, to)] in which `line` was lit between `begin` and `end`."""
    level, since, spans = False, begin, []
    for at, which, now in edges:
        if which != line or now == level:
            continue
        if level and at > begin:
            spans.append((max(since, begin), min(at, end)))
        level, since = now, at
        if at >= end:
            level = False
            break
    if level and since < end:
        spans.append((max(since, begin), end))
    return [(a, b) for a, b in spans if b > a]


def lit_s(spans):
    return sum(b - a for a, b in spans)


def rate_hz(spans, begin):
    """Rising edges per second, from the first seen to the last; 0 where fewer than two were seen."""
    rises = [a for a, _ in spans if a > begin]
    return (len(rises) - 1) / (rises[-1] - rises[0]) if len(rises) > 1 else 0.0


def overlap_s(one, other):
    return sum(max(0.0, min(b, d) - max(a, c)) for a, b in one for c, d in other)


def classify(edges, begin, end):
    """The state that the lights showed between `begin` and `end`, or a sentence that begins with `unclear`."""
    spans = [burning(edges, line, begin, end) for line in (RED, YELLOW, GREEN)]
    share = [lit_s(s) / (end - begin) for s in spans]
    rate = [rate_hz(s, begin) for s in spans]
    dark, steady = (lambda x: x < 0.01), (lambda x: x > 0.99)
    blinks = lambda n, low, high: low <= rate[n] <= high and 0.15 < share[n] < 0.85
    if all(map(dark, share)):
        return "dark"
    if dark(share[RED]) and steady(share[GREEN]):
        if dark(share[YELLOW]):
            return "ready"
        if steady(share[YELLOW]):
            return "degraded"
    if blinks(RED, 1.4, 2.8) and dark(share[YELLOW]) and dark(share[GREEN]):
        return "critical"
    together = overlap_s(spans[RED], spans[YELLOW])
    if blinks(RED, 0.7, 1.4) and blinks(YELLOW, 0.7, 1.4) and dark(share[GREEN]) and together < 0.15 * (end - begin) and share[RED] + share[YELLOW] > 0.8:
        return "fault"
    if all(0.15 < s < 0.85 for s in share) and min(rate) > 1.4 and overlap_s(spans[RED], spans[GREEN]) > 0.6 * lit_s(spans[RED]):
        return "all-flash"
    if dark(share[RED]) and dark(share[YELLOW]) and 0.3 <= rate[GREEN] <= 0.8 and 0.55 < share[GREEN] < 0.9:
        return "working"
    if dark(share[RED]) and dark(share[GREEN]):
        if blinks(YELLOW, 0.4, 0.8) and share[YELLOW] < 0.7:
            return "suspicious"
        dips = [c - b for (_, b), (c, _) in zip(spans[YELLOW], spans[YELLOW][1:])]
        if share[YELLOW] > 0.8 and dips and max(dips) < 0.45:
            return "indeterminate"
    seen = ", ".join(f"{name} lit {100 * s:.0f} % at {r:.2f} Hz" for name, s, r in zip(COLOURS, share, rate) if s > 0)
    return f"unclear ({seen})"


class Lamps:
    """The box's front: three lights and a button."""

    def __init__(self, machine, chip=None):
        self.machine = machine
        self.lines = Lines(machine.folder / "qtest", machine.monitor, chip or Pl061())
        self.since = time.monotonic()

    def state(self, names=tuple(LOOK_S)):
        """The state shown just now: whichever of `names` describes the last seconds that it needs."""
        now, edges = time.monotonic(), self.lines.snapshot()
        for name in names:
            if now - self.since >= LOOK_S[name] and classify(edges, now - LOOK_S[name], now) == name:
                return name
        return None

    def wait(self, names, seconds):
        """Waits until one of `names` is shown; returns (name, when it began)."""
        names = (names,) if isinstance(names, str) else tuple(names)
        deadline = Deadline(seconds, self.machine)
        while True:
            name = self.state(names)
            if name:
                return name, self.began(name)
            if deadline.over():
                raise Failed(f"{deadline} the lamps show {self.describe()}, not {' or '.join(names)}")
            self.machine.check_alive()
            time.sleep(0.1)

    def began(self, name):
        """When the state that is shown now began: the edge after which nothing else was shown."""
        edges = self.lines.snapshot()
        now = time.monotonic()
        begin = now - LOOK_S[name]
        for at in reversed([at for at, _, _ in edges if at < begin]):
            if classify(edges, at + 0.001, at + 0.001 + LOOK_S[name]) != name:
                break
            begin = at
        return begin

    def describe(self, seconds=8.6):
        now = time.monotonic()
        name = self.state()
        return name or classify(self.lines.snapshot(), max(self.since, now - seconds), now)

    def green_until(self, begin, end):
        """When a green light was last seen between `begin` and `end`; `begin` where none was."""
        spans = burning(self.lines.snapshot(), GREEN, begin, end)
        return spans[-1][1] if spans else begin

    def green_out(self, since):
        """When the green light first went out after `since`; `None` while it has not."""
        return next((at for at, line, level in self.lines.snapshot() if line == GREEN and not level and at >= since), None)

    def press(self, seconds=0.3):
        """Presses the button for so long; returns when it was pressed."""
        at = time.monotonic()
        self.lines.drive(BUTTON, True)
        time.sleep(seconds)
        self.lines.drive(BUTTON, False)
        return at

    def close(self):
        self.lines.close()
