"""Alerts over MQTT with a real broker: Debian's mosquitto, and its mosquitto_sub as the hospital's receiver. Then brokers that are none.

Each test starts a broker and a box of its own on loopback; they are skipped where mosquitto is not installed.
"""
import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import threading
import time

from appliance import Appliance, synthetic_studies
from broker import TOPIC, Broker, Subscriber, installed
from services import send
from tls import authority, signed, wait_for

# Quiet for longer than a crowded machine stalls a sender, for a study in two parts has two verdicts, and an alert of each.
SHORT = "[assemble]\nquiet_s = 4\nsettle_s = 1\nprovisional = false\n"


def needs_mosquitto(test):
    def wrapped():
        return test() if installed() else "SKIP mosquitto is not installed"
    wrapped.__name__, wrapped.__doc__ = test.__name__, test.__doc__
    return wrapped


def box_for(port, keys="", tables="", host="127.0.0.1", extra=SHORT):
    return Appliance(extra=f'{extra}[[alerts.mqtt]]\naddress = "{host}:{port}"\ntopic = "{TOPIC}"\ntimeout_s = 5\n{keys}\n{tables}')


def send_lesion(box):
    with tempfile.TemporaryDirectory() as folder:
        files = [path for path in synthetic_studies(folder) if "lesion" in str(path)]
        return send(box, files)[0].StudyInstanceUID


def connected(box):
    wait_for(lambda: "has let us in" in box.log_text())


@needs_mosquitto
def test_an_alert_reaches_a_subscriber_of_a_real_broker():
    with Broker() as broker, Subscriber(broker) as receiver, box_for(broker.port) as box:
        connected(box)
        wait_for(lambda: receiver.states() == ["online"])
        begin = time.time()
        study = send_lesion(box)
        topic, retained, quality, properties, alert = wait_for(receiver.alerts, 60)[0]
        took = time.time() - begin
        assert (topic, retained, quality) == (f"{TOPIC}/alert", False, 1)
        assert alert["study_instance_uid"] == study and alert["verdict"] == "flagged" and alert["accession_number"] is None, alert
        assert properties.startswith("idempotency-key:") and len(properties.split(":")[1]) == 32, properties
        wait_for(lambda: receiver.lamps()[-1] == "critical")
        lamps = receiver.lamps()
        wait_for(lambda: "Alert 1 delivered to mqtt:0" in box.log_text())
        each_once(receiver)
        addresses = {a["name"]: a["text"] for a in box.get("/api/v1/status")["addresses"]}
        assert addresses["MQTT broker 0"] == f"127.0.0.1:{broker.port}", addresses
    return f"{took:.1f} s from the first image to the subscriber, lamps said: {lamps}"


@needs_mosquitto
def test_the_broker_says_that_the_box_is_gone_and_that_it_was_stopped():
    with Broker() as broker, box_for(broker.port) as box:
        connected(box)
        with Subscriber(broker, f"{TOPIC}/status") as late:
            wait_for(lambda: late.states() == ["online"])
            assert late.got[0][1], "retained: who comes later knows it, too"
            box.kill()
            wait_for(lambda: late.states()[-1] == "offline", 5)
            box.start()
            wait_for(lambda: late.states()[-1] == "online")
            assert box.stop() == 0
            wait_for(lambda: late.states()[-1] == "stopped", 5)
            time.sleep(0.5)
            assert late.states()[-1] == "stopped", late.states()
        with Subscriber(broker, f"{TOPIC}/status") as later:
            wait_for(lambda: later.states() == ["stopped"])
            assert later.got[0][1]


def each_once(receiver):
    """No alert came twice; another verdict's alert has a key of its own."""
    keys = [message[3] for message in receiver.alerts()]
    assert keys and len(set(keys)) == len(keys), receiver.alerts()


@needs_mosquitto
def test_an_alert_waits_for_a_broker_that_is_down_and_arrives_once():
    broker = Broker()
    with box_for(broker.port) as box:
        wait_for(lambda: "No connection to the broker of mqtt:0" in box.log_text())
        send_lesion(box)
        wait_for(lambda: "to mqtt:0 failed: no connection" in box.log_text(), 60)
        wait_for(lambda: box.get("/api/v1/status")["outbox"]["n_waiting"] == 1)
        n_lost = box.log_text().count("No connection to the broker")
        assert n_lost == 1, "said once, not at each try"
        with broker, Subscriber(broker) as receiver:
            wait_for(receiver.alerts, 30)
            wait_for(lambda: "delivered to mqtt:0" in box.log_text())
            time.sleep(2)
            each_once(receiver)


@needs_mosquitto
def test_an_alert_that_nobody_hears_is_not_delivered_until_somebody_does():
    with Broker() as broker, box_for(broker.port) as box:
        connected(box)
        send_lesion(box)
        wait_for(lambda: f"nobody subscribes to {TOPIC}/alert at the broker" in box.log_text(), 60)
        assert "delivered to mqtt:0" not in box.log_text()
        with Subscriber(broker) as receiver:
            wait_for(receiver.alerts, 30)
            wait_for(lambda: "delivered to mqtt:0" in box.log_text())
            time.sleep(1)
            each_once(receiver)


@needs_mosquitto
def test_a_wrong_password_is_named_with_its_remedy():
    users = pathlib.Path(tempfile.mkdtemp(prefix="scanside-mqtt-"))
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(users / "users"), "scanside", "right"], check=True)
    # The broker lays its rights down before it reads the file.
    os.chmod(users, 0o755)
    os.chmod(users / "users", 0o644)
    (users / "password").write_text("wrong\n")
    with Broker(f"allow_anonymous false\npassword_file {users}/users") as broker:
        with box_for(broker.port, f'user = "scanside"\npassword_file = "{users}/password"') as box:
            wait_for(lambda: "No connection to the broker of mqtt:0" in box.log_text())
            line = [line for line in box.log_text().splitlines() if "No connection to the broker" in line][0]
            assert "password_file" in line and ("bad user name or password" in line or "not authorised" in line), line
            assert "wrong" not in box.log_text().replace("wrong with", ""), "the password is shown nowhere"
        (users / "password").write_text("right\n")
        with box_for(broker.port, f'user = "scanside"\npassword_file = "{users}/password"') as box:
            connected(box)
    shutil.rmtree(users)


@needs_mosquitto
def test_tls_trusts_whom_it_is_told_to_and_shows_its_certificate():
    folder = pathlib.Path(tempfile.mkdtemp(prefix="scanside-mqtt-"))
    authority(folder, "ca")
    authority(folder, "rogue")
    signed(folder, "ca", "broker", "serverAuth")
    signed(folder, "ca", "box", "clientAuth")
    subprocess.run(["chmod", "-R", "a+rX", str(folder)], check=True)
    lines = (f"allow_anonymous true\ncafile {folder}/ca.pem\ncertfile {folder}/broker.pem\nkeyfile {folder}/broker.key\n"
             "require_certificate true")
    ours = f'certificate_file = "{folder}/box.pem"\nkey_file = "{folder}/box.key"\n'

    def tls(ca, rest=ours):
        return f'[alerts.mqtt.tls]\nca_file = "{folder}/{ca}.pem"\n{rest}'

    with Broker(lines) as broker:
        receiving = ["--cafile", f"{folder}/ca.pem", "--cert", f"{folder}/box.pem", "--key", f"{folder}/box.key"]
        with box_for(broker.port, tables=tls("ca")) as box, Subscriber(broker, options=receiving) as receiver:
            connected(box)
            send_lesion(box)
            wait_for(receiver.alerts, 60)
        for ca, rest, because in (("rogue", ours, "give ca_file the authority that signed the peer's certificate"),
                                  ("ca", "", "certificate_file and key_file")):
            with box_for(broker.port, tables=tls(ca, rest)) as box:
                wait_for(lambda text=because: text in box.log_text())
                assert "has let us in" not in box.log_text()
        with box_for(broker.port) as box:
            wait_for(lambda: "No connection to the broker" in box.log_text())
            assert "does it want TLS" in box.log_text(), box.log_text()[-1000:]
    shutil.rmtree(folder)


class Impostor(threading.Thread):
    """A server that accepts whoever comes and does to each what `act` does with the socket."""

    def __init__(self, act):
        super().__init__(daemon=True)
        self.act, self.n_calls, self.listener = act, 0, socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.start()

    def run(self):
        while True:
            try:
                stream, _ = self.listener.accept()
            except OSError:
                return
            self.n_calls += 1
            threading.Thread(target=self.serve, args=(stream,), daemon=True).start()

    def serve(self, stream):
        with contextlib.suppress(OSError), stream:
            stream.settimeout(20)
            stream.recv(4096)
            self.act(stream)


LET_IN = bytes([0x20, 3, 0, 0, 0])


def random_bytes(stream):
    for _ in range(256):
        stream.sendall(os.urandom(4096))


def announce(stream):
    stream.sendall(LET_IN + bytes([0x40, 0xFF, 0xFF, 0xFF, 0x7F]))
    for _ in range(4096):
        stream.sendall(bytes(65536))


def flood(stream):
    stream.sendall(LET_IN + bytes([0x30, 0xFF, 0xFF, 0x7F]) + bytes(1 << 20))
    stream.recv(4096)


def drip(stream):
    stream.sendall(LET_IN + bytes([0xE0, 0xFF, 0x3F]))
    for _ in range(60):
        stream.sendall(b"\0")
        time.sleep(0.3)


def silence(stream):
    time.sleep(15)


def old(stream):
    stream.sendall(bytes([0x20, 2, 0, 1]))
    time.sleep(1)


def test_brokers_that_are_none_do_no_harm():
    acts = {random_bytes: "no MQTT 5.0 broker", announce: "announces a packet of 268435460 bytes", flood: "what nobody asked it for (PUBLISH)",
            drip: "over one packet", silence: "does not answer our greeting", old: "speaks MQTT 3.1.1 only"}
    impostors = {act: Impostor(act) for act in acts}
    blocks = [f'[[alerts.mqtt]]\naddress = "127.0.0.1:{impostor.port}"\ntopic = "{TOPIC}"\ntimeout_s = 5\n' for impostor in impostors.values()]
    with Appliance(extra=SHORT + "".join(blocks)) as box:
        before, _ = box.rss_mb()
        box.forget_peak()
        for channel, act in enumerate(acts):
            wait_for(lambda n=channel, text=acts[act]: any(f"mqtt:{n}:" in line and text in line for line in box.log_text().splitlines()), 30)
        _, peak = box.rss_mb()
        assert peak - before < 16, f"{before:.0f} MB became {peak:.0f} MB"
        study = send_lesion(box)
        assert box.wait_for_verdicts(1)[0]["study_instance_uid"] == study
        n_calls = [impostor.n_calls for impostor in impostors.values()]
        assert max(n_calls) < 60, n_calls
        for impostor in impostors.values():
            impostor.listener.close()
    return f"each dropped with its reason named; calls {n_calls}, memory {before:.0f} MB, at most {peak:.0f} MB"


@needs_mosquitto
def test_a_broker_that_stays_away_makes_the_lamp_say_degraded():
    with Broker() as broker:
        text = "[alerts]\nundelivered_s_max = 10\n"
        with box_for(broker.port, extra=SHORT + text) as box:
            connected(box)
            assert "alerts-undelivered" not in str(box.get("/api/v1/status")["causes"])
            broker.stop()
            cause = wait_for(lambda: [c for c in box.get("/api/v1/status")["causes"] if c["code"] == "alerts-undelivered"], 30)[0]
            details = " ".join(cause["details"])
            assert not cause["fault"] and "mqtt:0 has" in details and "no connection" in details, cause
            broker.start()
            wait_for(lambda: not box.get("/api/v1/status")["causes"], 60)


@needs_mosquitto
def test_two_boxes_of_one_client_id_are_told_so_and_leave_the_broker_in_peace():
    with Broker() as broker, box_for(broker.port) as one, box_for(broker.port) as two:
        wait_for(lambda: "has another client the client_id \"scanside-SCANSIDE\"" in one.log_text() + two.log_text())
        time.sleep(6)
        n_calls = (broker.folder / "log").read_text().count("New client connected")
        assert n_calls < 20, n_calls
    return f"{n_calls} calls in the first seconds"
