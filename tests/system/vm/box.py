"""The box as its surroundings see it: lamps, button, DICOM, the page's interface, sticks, and the test image's root shell.

A `Box` is a running `Machine` with everything around it. The shell (TCP 2323) exists in test images only; cases use it to break things
and to look, never to do what the product has its own way for.
"""
import http.client
import json
import pathlib
import socket
import ssl
import subprocess
import time
import urllib.parse

from lamps import Lamps
from qemu import Deadline, Failed, Machine, wait_until

SHELL_TIMEOUT_S = 120
MARK = "__scanside_mark__"


class Box:
    """A machine, its lamps and its interfaces. A `with` block."""

    def __init__(self, machine: Machine, claim_code=None, chip=None):
        """`chip`: where its lamps are, if not on qemu-virt's PL061; `False`: nowhere."""
        self.machine, self.claim_code, self.cookie, self.chip = machine, claim_code, None, chip

    def __enter__(self):
        self.machine.__enter__()
        try:
            self.lamps = Lamps(self.machine, self.chip) if self.chip is not False else None
        except BaseException:
            self.machine.end()
            raise
        return self

    def __exit__(self, kind, *_):
        if kind is not None and issubclass(kind, Exception):
            self.keep_journal()
        self.machine.end()
        if self.lamps:
            self.lamps.close()

    def keep_journal(self):
        """What the box wrote lately, for whoever reads that a case failed. A product image tells nobody."""
        if "shell" not in self.machine.port:
            return
        try:
            said = self.shell("journalctl -n 25 --no-pager -o short-monotonic | grep -v testshell; "
                              "journalctl --namespace=scanside -n 12 --no-pager -o short-monotonic", 20, check=False)
        except Failed as error:
            said = str(error)
        (self.machine.folder / "journal").write_text(said)

    # -- the shell of a test image

    def shell(self, command, timeout_s=SHELL_TIMEOUT_S, check=True, on_mark=None):
        """Runs it as root; returns what it printed. `on_mark(time)` is called when the command prints the line `$MARK`."""
        deadline = Deadline(timeout_s, self.machine)
        text = f"export MARK={MARK}\n( {command}\n) 2>&1\necho {MARK}rc=$?\nexit\n"
        try:
            with socket.create_connection(("127.0.0.1", self.machine.port["shell"]), timeout=timeout_s) as link:
                link.sendall(text.encode())
                out = b""
                link.settimeout(1)
                while True:
                    try:
                        part = link.recv(65536)
                    except TimeoutError:
                        if deadline.over():
                            raise
                        continue
                    if not part:
                        break
                    out += part
                    if on_mark and f"{MARK}\n".encode() in out:
                        on_mark(time.monotonic())
                        on_mark = None
        except OSError as error:
            raise Failed(f"the test shell ({command[:80]!r}): {error}") from error
        said, found, status = out.decode(errors="replace").partition(f"{MARK}rc=")
        said = said.replace(f"{MARK}\n", "")
        if not found:
            raise Failed(f"the test shell ended in {command[:80]!r}: {said[-500:]}")
        if check and status.split()[0] != "0":
            raise Failed(f"{command!r} in the box: status {status.split()[0]}: {said[-1000:].strip()}")
        return said.strip()

    def has_shell(self):
        try:
            return self.shell("echo here", 10) == "here"
        except Failed:
            return False

    # -- the page's interface

    def ask(self, method, path, body=None, kind="application/json", timeout_s=20):
        """(HTTP status, headers, body) of one request over TLS. The certificate is the box's own, made at its first boot: nobody vouches for it."""
        link = http.client.HTTPSConnection("127.0.0.1", self.machine.port["web"], timeout=timeout_s, context=ssl._create_unverified_context())
        headers = {"X-Scanside-Request": "1", "Content-Type": kind, **({"Cookie": self.cookie} if self.cookie else {})}
        try:
            link.request(method, path, body, headers)
            answer = link.getresponse()
            return answer.status, answer.headers, answer.read()
        except http.client.HTTPException as error:
            raise OSError(f"{method} {path}: {error!r}") from error
        finally:
            link.close()

    def log_in(self):
        """As a person does with the code from the console."""
        status, headers, body = self.ask("POST", "/login", urllib.parse.urlencode({"code": self.claim_code}), "application/x-www-form-urlencoded")
        if "Set-Cookie" not in headers:
            raise Failed(f"the login with the claim code is refused: {status} {body[-300:]!r}")
        self.cookie = headers["Set-Cookie"].split(";")[0]

    def get(self, path, timeout_s=20, post=None):
        """(HTTP status, parsed JSON); logs in where the box asks for it."""
        body = None if post is None else json.dumps(post)
        for attempt in (1, 2):
            status, _, answer = self.ask("POST" if body else "GET", path, body, timeout_s=timeout_s)
            if status not in (401, 403) or not self.claim_code or attempt == 2:
                break
            self.cookie = None
            self.log_in()
        try:
            return status, json.loads(answer)
        except ValueError:
            return status, {}

    def answers(self):
        """Whether /healthz says 200."""
        try:
            return self.get("/healthz", 10)[0] == 200
        except (OSError, ValueError):
            return False

    def causes(self):
        """The codes of what the box says is wrong with it."""
        try:
            return [cause["code"] for cause in self.get("/api/v1/status")[1].get("causes", [])]
        except (OSError, ValueError):
            return []

    def studies(self):
        answer = self.get("/api/v1/studies")[1]
        return answer["studies"] if isinstance(answer, dict) else answer

    def shown(self):
        """What the lamps show, in words."""
        return self.lamps.describe() if self.lamps else "nothing: there are none"

    def settle(self, seconds=120):
        """Waits for every study's verdict, acknowledges what asks for it, and waits for the ready light."""
        done = lambda: all(study["verdict"] and not study["provisional"] for study in self.studies())
        wait_until("no verdict", seconds, done, 0.5, self.machine)
        for study in self.studies():
            if study["needs_acknowledgement"]:
                self.get(f"/api/v1/studies/{study['study_instance_uid']}/acknowledge", post={"by": "test"})
        self.lamps.wait(("ready", "degraded"), seconds)

    def wait_ready(self, seconds, why="the service does not answer"):
        wait_until(f"{why}; the lamps show {self.shown()}", seconds, self.answers, 0.3, self.machine)

    # -- DICOM, with dcmtk

    def send(self, files, check=True):
        """Stores the files with dcmtk's dcmsend; returns what it printed."""
        command = ["dcmsend", "-v", "-aec", "SCANSIDE", "-aet", "SCANNER", "-to", "120", "-ta", "120", "-td", "120", "--no-halt",
                   "127.0.0.1", str(self.machine.port["dicom"]), *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        said = done.stdout + done.stderr
        if check and (done.returncode or f"with status SUCCESS : {len(files)}" not in " ".join(said.split())):
            raise Failed(f"dcmsend: status {done.returncode}: {said[-800:]}")
        return said

    def echo(self):
        """Whether dcmtk's echoscu is answered."""
        command = ["echoscu", "-aec", "SCANSIDE", "-to", "10", "-ta", "10", "-td", "10", "127.0.0.1", str(self.machine.port["dicom"])]
        return subprocess.run(command, capture_output=True, timeout=60).returncode == 0

    def over_tls(self, program, *more):
        """Runs one of dcmtk's programs against port 2762. The certificate is the box's own: nobody vouches for it."""
        command = [program, "-v", "+tla", "-ic", "-aec", "SCANSIDE", "-to", "60", "-ta", "60", "-td", "60", "127.0.0.1", str(self.machine.port["tls"]),
                   *map(str, more)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise Failed(f"{program} over TLS: status {done.returncode}: {(done.stdout + done.stderr)[-800:]}")

    # -- sticks

    def plug_stick(self, folder, files):
        """Plugs a FAT stick with the label SCANSIDE in; `files`: {name: bytes or a path}. Returns its name for `unplug_stick`."""
        name = f"stick{int(time.monotonic() * 1000) % 1_000_000}"
        self.machine.plug_stick(make_stick(pathlib.Path(folder) / f"{name}.img", files), name)
        return name


def make_stick(image, files):
    """A USB stick's image: FAT, label SCANSIDE, made with mtools."""
    contents = {name: pathlib.Path(data).read_bytes() if isinstance(data, (str, pathlib.Path)) else data for name, data in files.items()}
    mib = 40 + sum(map(len, contents.values())) // 1_000_000 * 11 // 10
    with open(image, "wb") as file:
        file.truncate(mib << 20)
    subprocess.run(["mkfs.vfat", "-F", "32", "-n", "SCANSIDE", str(image)], check=True, capture_output=True)
    for name, data in contents.items():
        subprocess.run(["mcopy", "-i", str(image), "-", f"::{name}"], input=data, check=True, capture_output=True)
    return image
