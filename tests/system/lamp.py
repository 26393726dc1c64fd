"""The dead man's chain from outside: the real service with the lamp keeper on a folder that looks like /sys/class/leds.

Whatever happens to the service (kill -9, SIGSTOP, a runtime or an inference that stands still), the lamp shows fault or is dark within two
seconds, never a stale green. Single threads are stopped by ptrace, as a deadlock would stop them, without any hook in the program.
"""
import contextlib
import ctypes
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import threading
import time

from appliance import Appliance, program, synthetic_studies

LIMIT_S = 2.0
LEDS = ("red", "yellow", "green")


def keeper_program():
    """The keeper beside the program under test: $SCANSIDE_KEEPER, else `scanside-keeper` in its folder."""
    beside = pathlib.Path(program()).with_name("scanside-keeper")
    return os.environ.get("SCANSIDE_KEEPER", str(beside))


class Lamps:
    """A keeper on a folder of LEDs; a thread samples what burns, with its time."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="scanside-lamps-"))
        for led in LEDS:
            (self.folder / f"scanside:{led}").mkdir()
            for name, text in (("max_brightness", "1\n"), ("brightness", "0\n"), ("trigger", "none\n")):
                (self.folder / f"scanside:{led}" / name).write_text(text)
        self.socket = self.folder / "lamp.sock"
        self.log = open(self.folder / "keeper.log", "ab")
        self.samples, self.ended = [], False
        self.start()
        threading.Thread(target=self._sample, daemon=True).start()

    def start(self):
        self.process = subprocess.Popen(
            [keeper_program(), "--profile", "led-class", "--leds-dir", str(self.folder), "--socket", str(self.socket)],
            stdout=self.log, stderr=self.log,
        )
        wait(lambda: self.socket.exists(), 10, "the keeper's socket")

    def leave(self):
        """What the unit's stop hook does."""
        subprocess.run([keeper_program(), "--profile", "led-class", "--leds-dir", str(self.folder), "--leave"], check=True)

    def lights(self):
        return tuple((self.folder / f"scanside:{led}" / "brightness").read_text()[:1] == "1" for led in LEDS)

    def _sample(self):
        while not self.ended:
            self.samples.append((time.monotonic(), self.lights()))
            time.sleep(0.01)

    def green(self):
        red, _, green = self.lights()
        return green and not red

    def until_not_green(self, since, timeout_s=6.0):
        """Seconds from `since` to the last moment with a green light; waits until it has been away for 1.5 s."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            greens = [at for at, (_, _, green) in self.samples if green and at >= since]
            last = greens[-1] if greens else since
            if time.monotonic() - last > 1.5:
                return last - since
            time.sleep(0.05)
        raise AssertionError(f"still green {timeout_s} s later")

    def shows_fault(self, timeout_s=3.0):
        """Red and yellow in turns, no green."""
        end, seen = time.monotonic() + timeout_s, set()
        while time.monotonic() < end:
            seen.add(self.lights())
            if any(green for _, _, green in seen):
                seen.clear()
            if {(True, False, False), (False, True, False)} <= seen:
                return True
            time.sleep(0.01)
        return False

    def until_fault(self, since, timeout_s=6.0):
        """Seconds from `since` to the first of the lights of a fault that follow each other; what was shown before may have been green or not."""
        if not self.shows_fault(timeout_s):
            raise AssertionError(f"no fault {timeout_s} s later")
        shown = [(at, lights) for at, lights in self.samples if at >= since]
        others = [at for at, lights in shown if lights not in ((True, False, False), (False, True, False))]
        return (others[-1] if others else since) - since

    def stop(self):
        self.ended = True
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def wait(what, timeout_s, name):
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if what():
            return
        time.sleep(0.02)
    raise AssertionError(f"{name}: not within {timeout_s} s")


def runs(pid, name):
    """Whether a thread of that name computes just now."""
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            comm, state = (task / "stat").read_text().split("(", 1)[1].rsplit(")", 1)
            if comm.startswith(name) and state.split()[0] == "R":
                return True
    return False


class Stopped:
    """Threads of a process, stopped one by one (ptrace), as a deadlock stops them; the rest of the process goes on."""

    SEIZE, INTERRUPT, DETACH, WALL = 0x4206, 0x4207, 17, 0x40000000

    def __init__(self, pid, names):
        libc = ctypes.CDLL(None, use_errno=True)
        libc.ptrace.argtypes = [ctypes.c_long] * 4
        self.ptrace, self.tids, self.ready, self.go_on = libc.ptrace, [], threading.Event(), threading.Event()
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                if any((task / "comm").read_text().strip().startswith(name) for name in names):
                    self.tids.append(int(task.name))
        # ptrace belongs to the thread that called it: one thread stops them and lets them go.
        self.thread = threading.Thread(target=self._hold)

    def _hold(self):
        held = []
        for tid in self.tids:
            if self.ptrace(self.SEIZE, tid, 0, 0) == 0 and self.ptrace(self.INTERRUPT, tid, 0, 0) == 0:
                os.waitpid(tid, self.WALL)
                held.append(tid)
        self.n_held = len(held)
        self.ready.set()
        self.go_on.wait()
        for tid in held:
            self.ptrace(self.DETACH, tid, 0, 0)

    def __enter__(self):
        self.thread.start()
        self.ready.wait()
        return self

    def __exit__(self, *_):
        self.go_on.set()
        self.thread.join()


@contextlib.contextmanager
def box():
    lamps = Lamps()
    appliance = Appliance(extra=f'[board]\nkeeper = "{lamps.socket}"')
    try:
        appliance.start()
        wait(lamps.green, 20, "green")
        yield lamps, appliance
    finally:
        with contextlib.suppress(Exception):
            appliance.process.send_signal(signal.SIGCONT)
            appliance.stop()
        lamps.stop()


def test_lamp_shows_fault_when_the_service_is_killed():
    with box() as (lamps, appliance):
        at = time.monotonic()
        appliance.kill()
        took = lamps.until_not_green(at)
        assert took < LIMIT_S and lamps.shows_fault(), took
        appliance.start()
        wait(lamps.green, 20, "green after the restart")
        return f"no green {took * 1000:.0f} ms after kill -9"


def test_lamp_shows_fault_while_the_service_is_stopped_and_recovers():
    with box() as (lamps, appliance):
        at = time.monotonic()
        appliance.process.send_signal(signal.SIGSTOP)
        took = lamps.until_not_green(at)
        assert took < LIMIT_S and lamps.shows_fault(), took
        appliance.process.send_signal(signal.SIGCONT)
        wait(lamps.green, 10, "green again")
        return f"no green {took * 1000:.0f} ms after SIGSTOP"


def test_lamp_is_dark_after_an_orderly_stop_and_green_after_the_next_start():
    with box() as (lamps, appliance):
        at = time.monotonic()
        appliance.stop()
        assert lamps.until_not_green(at) < LIMIT_S and lamps.lights() == (False, False, False), lamps.lights()
        appliance.start()
        wait(lamps.green, 20, "green")


def test_lamp_shows_fault_when_the_async_runtime_stands_still():
    with box() as (lamps, appliance):
        at = time.monotonic()
        # Every thread that could poll a task, the main one as well; the lamp's own thread goes on.
        with Stopped(appliance.process.pid, ("tokio", "scanside")) as stopped:
            assert stopped.n_held >= 2, "the runtime's threads were found"
            took = lamps.until_not_green(at)
            assert took < LIMIT_S and lamps.shows_fault(), took
        wait(lamps.green, 10, "green again")
        return f"no green {took * 1000:.0f} ms after {stopped.n_held} threads stood still"


def test_lamp_shows_fault_when_inference_stands_still_and_recovers():
    with box() as (lamps, appliance):
        folder = tempfile.mkdtemp(prefix="scanside-lamp-")
        # The one without a lesion: an unacknowledged finding would win over the fault, and red it is then.
        files = [path for path in synthetic_studies(folder) if "lesion" not in path.parent.name]
        assert files, "a study without a lesion"
        subprocess.Popen(
            [program(), "send", *map(str, files), "--to", f"127.0.0.1:{appliance.dicom}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ).wait()
        wait(lambda: runs(appliance.process.pid, "infer"), 30, "the network runs")
        at = time.monotonic()
        # The worker and whatever threads its convolutions have just now; the conductor, and the pipeline that waits for it, go on.
        with Stopped(appliance.process.pid, ("infer",)):
            took = lamps.until_fault(at)
            status = appliance.get("/api/v1/status")
        assert took < LIMIT_S, took
        assert "inference-stuck" in str(status), status
        done = appliance.wait_for_verdicts(1)
        wait(lambda: "inference-stuck" not in str(appliance.get("/api/v1/status")["causes"]), 10, "the condition is over")
        assert "study in work" in appliance.log_text(), "the journal names it"
        return f"fault {took * 1000:.0f} ms after the threads stood still; {len(done)} verdicts after they went on"


def test_lamp_keeper_that_dies_is_a_warning_and_the_service_finds_the_next_one():
    with box() as (lamps, appliance):
        lamps.process.kill()
        lamps.process.wait()
        lamps.leave()
        assert lamps.lights() == (False, False, False)
        failing = lambda: "lamp-failing" in str(appliance.get("/api/v1/status")["causes"])  # noqa: E731
        wait(failing, 10, "the page says that the lamp fails")
        lamps.start()
        wait(lamps.green, 10, "green")
        wait(lambda: not failing(), 10, "the condition is over")
