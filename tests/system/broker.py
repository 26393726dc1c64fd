"""A hospital's MQTT broker and a receiver behind it: Debian's mosquitto and mosquitto_sub, on loopback. Used by mqtt.py and by vm/."""
import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import threading
import time

from appliance import free_port

# What the box's topics begin with in these tests.
TOPIC = "scanside/mr2"


def program():
    """Debian keeps it where only root's PATH leads."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def installed():
    return program() is not None and shutil.which("mosquitto_sub") is not None


class Broker:
    """mosquitto on a loopback port that stays the same when it is started again; nothing outlives it."""

    def __init__(self, lines="allow_anonymous true", port=None):
        self.folder, self.port, self.process = pathlib.Path(tempfile.mkdtemp(prefix="scanside-mqtt-")), port or free_port(), None
        (self.folder / "conf").write_text(f"listener {self.port} 127.0.0.1\nuser {os.environ.get('USER', 'root')}\n{lines}\n")

    def start(self):
        log = open(self.folder / "log", "ab")
        self.process = subprocess.Popen([program(), "-v", "-c", str(self.folder / "conf")], stdout=log, stderr=log)
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return self
            assert self.process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.05)
        raise AssertionError("mosquitto does not listen")

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait(timeout=10)
            self.process = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class Subscriber:
    """mosquitto_sub with quality of service 1; what it got: (topic, retained, quality, user properties, content), and when each came."""

    def __init__(self, broker, topic="#", options=()):
        command = ["mosquitto_sub", "-V", "5", "-h", "127.0.0.1", "-p", str(broker.port), "-q", "1", "-t", topic, "-F", "%t|%r|%q|%P|%p", *options]
        self.process, self.got = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True), []
        self.came_at = []
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            topic, retained, quality, properties, content = line.rstrip("\n").split("|", 4)
            self.came_at.append(time.monotonic())
            self.got.append((topic, retained == "1", int(quality), properties, json.loads(content)))

    def alerts(self):
        return [message for message in self.got if message[0] == f"{TOPIC}/alert"]

    def states(self):
        return [message[4]["state"] for message in self.got if message[0] == f"{TOPIC}/status"]

    def lamps(self):
        return [message[4].get("lamp") for message in self.got if message[0] == f"{TOPIC}/status"]

    def __enter__(self):
        time.sleep(0.3)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
