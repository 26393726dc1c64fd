"""Cases about what the room sees: boot, a flagged study, the button."""
import time

from qemu import Failed, wait_until

# From the last acknowledged image to the red light; on a processor of a box it is about 3 s, an emulated one is many times slower.
LAMP_S_MAX = 90
ALERT_S_MAX = 60


def boot(scene):
    """A box from the factory boots, shows ready by itself, and takes a site's configuration from a USB stick with the claim code."""
    scene.prepare()
    figures = scene.figures["cold boot to ready"]
    return f"ready light after {figures['wall_s']:.0f} s, {figures['cpu_s']:.0f} CPU s of the emulator; the lamps showed {figures['lamp']}"


def flagged(scene):
    """A flagged study sent by dcmtk lights red at 2 Hz; the alert reaches a receiver on the network, signed, and a subscriber of the hospital's broker."""
    files = scene.studies()["lesion"]
    with scene.snapshot_box() as box:
        n_before, n_published = len(scene.hook.received), len(published(scene))
        cpu = box.machine.cpu_s()
        begin = time.monotonic()
        box.send(files)
        sent = time.monotonic()
        _, lit = box.lamps.wait("critical", LAMP_S_MAX)
        wait_until("no alert came", ALERT_S_MAX, lambda: len(scene.hook.received) > n_before, 0.1, box.machine)
        alerted = time.monotonic()
        at_broker = at_subscriber(scene, n_published, box) if scene.broker else None
        good, _, alert = scene.hook.received[n_before]
        assert good, "the alert's signature is wrong"
        study = one_study(box)
        assert (study["verdict"], study["urgency"]) == ("flagged", "critical"), study
        assert study["study_instance_uid"] in str(alert), alert
        assert study["n_instances"] == len(files), study
        red = box.lamps.lines.snapshot()
        scene.figures["flagged study"] = {
            "images": len(files), "sending_s": sent - begin, "last image to lamp_s": lit - sent, "last image to alert_s": alerted - sent,
            "last image to alert over MQTT_s": at_broker - sent if at_broker else "no mosquitto here",
            "cpu_s": box.machine.cpu_s() - cpu, "red edges seen": sum(1 for _, line, _ in red if line == 0),
        }
        box.machine.save("flagged")
    (scene.folder / "case.qcow2").rename(scene.folder / "flagged.qcow2")
    mqtt = f"at the broker's subscriber after {at_broker - sent:.1f} s" if at_broker else "not over MQTT: no mosquitto here"
    return (f"red at 2 Hz {lit - sent:.1f} s after the last of {len(files)} images, alert at the webhook's receiver after "
            f"{alerted - sent:.1f} s, {mqtt}")


def published(scene):
    return scene.heard.alerts() if scene.broker else []


def at_subscriber(scene, n_before, box):
    """When the alert came to the host's subscriber. The connection of the snapshot is dead, which the box finds out when it publishes."""
    wait_until("no alert came to the broker's subscriber", ALERT_S_MAX, lambda: len(published(scene)) > n_before, 0.1, box.machine)
    message = published(scene)[n_before]
    assert message[4]["study_instance_uid"] == one_study(box)["study_instance_uid"], message
    return scene.heard.came_at[scene.heard.got.index(message)]


def one_study(box):
    studies = box.studies()
    assert len(studies) == 1, studies
    return studies[0]


def button(scene):
    """The button acknowledges: the red light ends at once, the record says that it was the button, and stays."""
    if not (scene.folder / "flagged.qcow2").exists():
        flagged(scene)
    with scene.snapshot_box("flagged") as box:
        box.lamps.wait("critical", 20)
        assert one_study(box)["needs_acknowledgement"]
        pressed = box.lamps.press(0.3)
        name, since = box.lamps.wait(("ready", "degraded"), 20)
        wait_until("the acknowledgement is not recorded", 20, lambda: not one_study(box)["needs_acknowledgement"], machine=box.machine)
        study = one_study(box)
        assert study["acknowledged_by"] and "button" in study["acknowledged_by"].lower(), study["acknowledged_by"]
        assert study["verdict"] == "flagged", "the record must stay"
        time.sleep(6)
        if box.lamps.state(("critical", "suspicious")):
            raise Failed("the alarm came back after it was acknowledged")
        delay = since - pressed
        scene.figures["button"] = {"press to lamp_s": delay}
        return f"acknowledged by {study['acknowledged_by']!r}, the lamps show {name} {delay:.1f} s after the press"


CASES = {"boot": boot, "flagged": flagged, "button": button}
LONG = set()
