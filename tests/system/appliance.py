"""The appliance as a peer sees it: start `scanside serve`, talk to it, stop it or pull its plug. Used by the system tests."""
import hashlib
import hmac
import http.server
import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request

import pynetdicom_race  # noqa: F401  (mends the peer)

ROOT = pathlib.Path(__file__).resolve().parents[2]


def program():
    """The program under test: $SCANSIDE, else the release build."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return os.environ.get("SCANSIDE", str(target / "release" / "scanside"))


GIVEN = set()


def free_port():
    """A port that nobody listens on; never the same twice."""
    while True:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        if port not in GIVEN:
            GIVEN.add(port)
            return port


class Hook(http.server.ThreadingHTTPServer):
    """A webhook receiver that checks signatures and keeps what came."""

    daemon_threads = True

    def __init__(self, secret):
        self.secret, self.received, self.refuse = secret, [], False
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                stamp = self.headers["X-Scanside-Timestamp"]
                want = "sha256=" + hmac.new(hook.secret, stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
                good = hmac.compare_digest(want, self.headers["X-Scanside-Signature"])
                if not hook.refuse:
                    hook.received.append((good, self.headers["Idempotency-Key"], json.loads(body)))
                self.send_response(503 if hook.refuse else 204)
                self.end_headers()

            def log_message(self, *args):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/hook"


class Appliance:
    """`scanside serve` on free loopback ports with a state folder of its own."""

    def __init__(self, hook=None, extra="", dicom_extra="", state=None, wrapper=()):
        """`state`: the state folder, if not one of its own; `wrapper`: a command that runs the program given after it."""
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="scanside-system-"))
        self.state, self.wrapper = pathlib.Path(state or self.folder / "state"), list(wrapper)
        self.dicom, self.web = free_port(), free_port()
        text = f'[dicom]\nlisten = "127.0.0.1:{self.dicom}"\n{dicom_extra}\n[web]\nlisten = "127.0.0.1:{self.web}"\n{extra}\n'
        if hook is not None:
            secret = self.folder / "secret"
            secret.write_bytes(hook.secret)
            secret.chmod(0o600)
            text += f'[[alerts.webhook]]\nurl = "{hook.url}"\nsecret_file = "{secret}"\n'
        (self.folder / "config.toml").write_text(text)
        self.process = None

    def start(self, timeout_s=60):
        env = dict(os.environ, STATE_DIRECTORY=str(self.state))
        self.log = open(self.folder / "log.txt", "ab")
        self.process = subprocess.Popen(
            [*self.wrapper, program(), "serve", "--config", str(self.folder / "config.toml")], env=env, stdout=self.log, stderr=self.log, cwd=ROOT
        )
        end = time.time() + timeout_s
        while time.time() < end:
            if self.process.poll() is not None:
                raise AssertionError(f"serve ended with {self.process.returncode}: {self.log_text()[-2000:]}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.web}/healthz", timeout=2) as answer:
                    if answer.status == 200:
                        return self
            except OSError:
                time.sleep(0.05)
        raise AssertionError("not ready: " + self.log_text()[-2000:])

    def log_text(self):
        return (self.folder / "log.txt").read_text(errors="replace")

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=30)
        return self.process.returncode

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.web}{path}", timeout=10) as answer:
            return json.loads(answer.read())

    def studies(self):
        answer = self.get("/api/v1/studies")
        return answer["studies"] if isinstance(answer, dict) else answer

    def wait_for_verdicts(self, n, timeout_s=120):
        end = time.time() + timeout_s
        while time.time() < end:
            done = [s for s in self.studies() if s["verdict"] and not s["provisional"]]
            if len(done) >= n:
                return done
            time.sleep(0.2)
        raise AssertionError(f"{n} verdicts did not come: {self.studies()}")

    def forget_peak(self):
        """The peak memory counts from now on: the model's self-test at the start has the highest one."""
        pathlib.Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def rss_mb(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        values = dict(line.split(":", 1) for line in status.splitlines())
        return int(values["VmRSS"].split()[0]) / 1024, int(values["VmHWM"].split()[0]) / 1024

    def stored_files(self):
        return [p for p in self.state.rglob("*") if p.is_file() and p.suffix == ".dcm"]

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()


def synthetic_studies(folder):
    """The two demonstration studies as files."""
    subprocess.run([program(), "demo", "--write-studies", str(folder)], check=True, stdout=subprocess.DEVNULL)
    return sorted(pathlib.Path(folder).rglob("*.dcm"))
