"""Other people's senders deliver a study; verdict, lamp and signed webhook follow."""
import json
import pathlib
import shutil
import subprocess
import tempfile
import time

from appliance import ROOT, Appliance, Hook, free_port, program, synthetic_studies

import pydicom
from pynetdicom import AE, StoragePresentationContexts


def by_study(files):
    studies = {}
    for path in files:
        uid = pydicom.dcmread(path, stop_before_pixels=True).StudyInstanceUID
        studies.setdefault(uid, []).append(path)
    return studies


def test_demo_ends_with_both_verdicts():
    run = subprocess.run([program(), "demo", "--exit"], capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "not_flagged" in run.stdout and "flagged" in run.stdout.replace("not_flagged", ""), run.stdout


def test_dcmtk_senders_get_verdict_lamp_and_signed_webhook():
    hook = Hook(b"system test secret")
    with tempfile.TemporaryDirectory() as folder, Appliance(hook) as box:
        studies = by_study(synthetic_studies(folder))
        assert subprocess.run(["echoscu", "-aec", "SCANSIDE", "127.0.0.1", str(box.dicom)]).returncode == 0
        for sender, (uid, files) in zip((["storescu"], ["dcmsend", "-v"]), studies.items()):
            run = subprocess.run([*sender, "-aec", "SCANSIDE", "127.0.0.1", str(box.dicom), *map(str, files)], capture_output=True, text=True)
            assert run.returncode == 0, run.stderr
        done = {s["study_instance_uid"]: s for s in box.wait_for_verdicts(2)}
        assert sorted(s["verdict"] for s in done.values()) == ["flagged", "not_flagged"], done
        for uid, files in studies.items():
            assert done[uid]["n_instances"] == len(files)
        lamp = box.get("/api/v1/status")["lamp"]
        lamp = lamp["state"] if isinstance(lamp, dict) else lamp
        assert lamp in ("critical", "suspicious"), lamp
        end = time.time() + 20
        told = lambda: {body["study_instance_uid"] for _, _, body in hook.received}
        while told() != set(studies) and time.time() < end:
            time.sleep(0.1)
        assert told() == set(studies) and all(good for good, _, _ in hook.received), hook.received
        # A study has one notice; a second one only where a provisional alert rose.
        said = [(body["study_instance_uid"], body["verdict"], body["urgency"]) for _, _, body in hook.received]
        assert len(said) == len(set(said)), said
        flagged = next(uid for uid, s in done.items() if s["verdict"] == "flagged")
        subprocess.run(
            ["curl", "-sS", "--fail-with-body", "-X", "POST", "-H", "Content-Type: application/json", "-H", "X-Scanside-Request: 1",
             "-d", json.dumps({"by": "system test"}), f"http://127.0.0.1:{box.web}/api/v1/studies/{flagged}/acknowledge"],
            check=True, stdout=subprocess.DEVNULL)
        time.sleep(1.0)
        lamp = box.get("/api/v1/status")["lamp"]
        lamp = lamp["state"] if isinstance(lamp, dict) else lamp
        assert lamp == "ready", lamp


def test_pynetdicom_with_small_pdus_and_interleaved_studies():
    with tempfile.TemporaryDirectory() as folder, Appliance() as box:
        studies = by_study(synthetic_studies(folder))
        ae = AE(ae_title="MR1")
        ae.requested_contexts = StoragePresentationContexts[:100]
        ae.add_requested_context("1.2.840.10008.5.1.4.1.1.4")
        association = ae.associate("127.0.0.1", box.dicom, ae_title="SCANSIDE", max_pdu=4096)
        assert association.is_established
        mixed = [p for pair in zip(*studies.values()) for p in pair]
        mixed += [p for files in studies.values() for p in files if p not in set(mixed)]
        for path in mixed:
            assert association.send_c_store(pydicom.dcmread(path)).Status == 0x0000
        association.release()
        done = box.wait_for_verdicts(2)
        assert sorted(s["verdict"] for s in done) == ["flagged", "not_flagged"], done


def test_orthanc_forwards_to_us():
    orthanc = shutil.which("Orthanc") or shutil.which("/usr/sbin/Orthanc")
    if not orthanc:
        return "SKIP: Orthanc is not installed"
    with tempfile.TemporaryDirectory() as folder, Appliance() as box:
        files = synthetic_studies(pathlib.Path(folder) / "studies")
        dicom, http = free_port(), free_port()
        config = {
            "StorageDirectory": f"{folder}/db", "IndexDirectory": f"{folder}/db", "DicomPort": dicom, "HttpPort": http, "DicomAet": "ROUTER",
            "RemoteAccessAllowed": False, "AuthenticationEnabled": False, "Plugins": [],
            "DicomModalities": {"box": ["SCANSIDE", "127.0.0.1", box.dicom]},
        }
        path = pathlib.Path(folder) / "orthanc.json"
        path.write_text(json.dumps(config))
        router = subprocess.Popen([orthanc, str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            for _ in range(100):
                if subprocess.run(["curl", "-s", "-o", "/dev/null", f"http://127.0.0.1:{http}/system"]).returncode == 0:
                    break
                time.sleep(0.2)
            subprocess.run(["dcmsend", "127.0.0.1", str(dicom), "-aec", "ROUTER", *map(str, files)], check=True)
            ids = json.loads(subprocess.run(["curl", "-s", f"http://127.0.0.1:{http}/studies"], capture_output=True).stdout)
            assert len(ids) == 2
            sent = subprocess.run(
                ["curl", "-s", "--fail-with-body", "-X", "POST", f"http://127.0.0.1:{http}/modalities/box/store", "-d", json.dumps(ids)],
                capture_output=True, text=True)
            assert sent.returncode == 0, sent.stdout
            done = box.wait_for_verdicts(2)
            assert sorted(s["verdict"] for s in done) == ["flagged", "not_flagged"], done
        finally:
            router.terminate()
            router.wait()


def test_dead_webhook_receiver_gets_its_alert_once_it_is_back():
    hook = Hook(b"another system test secret")
    hook.refuse = True
    with tempfile.TemporaryDirectory() as folder, Appliance(hook) as box:
        files = synthetic_studies(folder)
        subprocess.run(["dcmsend", "-aec", "SCANSIDE", "127.0.0.1", str(box.dicom), *map(str, files)], check=True)
        box.wait_for_verdicts(2)
        time.sleep(2)
        assert not hook.received
        hook.refuse = False
        end = time.time() + 60
        while len({body["study_instance_uid"] for _, _, body in hook.received}) < 2 and time.time() < end:
            time.sleep(0.2)
        assert len({key for _, key, _ in hook.received}) == len(hook.received) >= 2, hook.received
