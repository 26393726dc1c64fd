"""A study that misses its T1 after contrast agent gets it from a PACS (dcmqrscp, Orthanc, pynetdicom), and waits for no PACS too long."""
import json
import pathlib
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request

from appliance import Appliance, Hook, free_port, synthetic_studies

import pydicom
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    MRImageStorage, StudyRootQueryRetrieveInformationModelFind, StudyRootQueryRetrieveInformationModelMove, Verification)

QUIET_S = 4


def lesion_study(folder):
    """UID of the study with the lesion, its T1 files and its FLAIR files."""
    files = [p for p in synthetic_studies(folder) if "lesion" in p.name]
    t1 = [p for p in files if "-01-" in p.name]
    flair = [p for p in files if "-02-" in p.name]
    assert (len(t1), len(flair)) == (88, 44)
    return pydicom.dcmread(t1[0], stop_before_pixels=True).StudyInstanceUID, t1, flair


def box_with(port, hook=None, **keys):
    keys = {"wait_s": 30, "timeout_s": 20, **keys}
    lines = "\n".join(f"{key} = {value}" for key, value in keys.items())
    extra = f'[assemble]\nquiet_s = {QUIET_S}\nsettle_s = 1\n[pacs]\nae_title = "PACS"\naddress = "127.0.0.1:{port}"\n{lines}\n'
    return Appliance(hook, extra)


def send(port, files, called="SCANSIDE"):
    subprocess.run(["dcmsend", "-aec", called, "127.0.0.1", str(port), *map(str, files)], check=True)


def wait_until(done, what, timeout_s=60):
    begin = time.time()
    while time.time() < begin + timeout_s:
        if done():
            return time.time() - begin
        time.sleep(0.1)
    raise AssertionError(f"{what} did not happen in {timeout_s} s")


def verdict_of(box, uid):
    return next((s["verdict"] for s in box.studies() if s["study_instance_uid"] == uid), None)


def wait_for(box, uid, verdict, timeout_s=60):
    return wait_until(lambda: verdict_of(box, uid) == verdict, f"{verdict} ({box.studies()})", timeout_s)


def pacs_cause(box):
    """What the status says about the PACS; None while all is well."""
    return next((cause for cause in box.get("/api/v1/status")["causes"] if cause["code"] == "pacs-unreachable"), None)


class DcmQrScp:
    """dcmtk's archive, which knows the box (or not) as a move destination."""

    def __init__(self, folder, box_port, files=(), knows_us=True, port=None):
        self.folder, self.box_port, self.knows_us = pathlib.Path(folder), box_port, knows_us
        (self.folder / "archive").mkdir()
        if files:  # over another port: whoever watches `port` finds the archive complete, or nobody
            self.start(free_port())
            send(self.port, files, "PACS")
            self.stop()
        self.start(port or free_port())

    def start(self, port):
        self.port = port
        known = f"box = (SCANSIDE, 127.0.0.1, {self.box_port})\n" if self.knows_us else ""
        config = self.folder / "dcmqrscp.cfg"
        config.write_text(
            f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 16\nHostTable BEGIN\n{known}HostTable END\n"
            f"VendorTable BEGIN\nVendorTable END\nAETable BEGIN\nPACS {self.folder / 'archive'} RW (200, 1024mb) ANY\nAETable END\n")
        with open(self.folder / "dcmqrscp.log", "ab") as log:
            self.process = subprocess.Popen(["dcmqrscp", "-v", "-c", str(config)], stdout=log, stderr=log, cwd=self.folder)
        wait_until(lambda: subprocess.run(["echoscu", "-aec", "PACS", "127.0.0.1", str(port)], stderr=subprocess.DEVNULL).returncode == 0,
                   "dcmqrscp", 20)

    def stop(self):
        self.process.terminate()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class ScriptedPacs:
    """pynetdicom as a PACS that holds `files`, is slow, and counts what it is asked."""

    def __init__(self, files, delay_s=0.0):
        self.box_port, self.delay_s, self.n_find, self.n_move = None, delay_s, 0, 0
        self.data = [pydicom.dcmread(p) for p in files]
        ae = AE(ae_title="PACS")
        for sop_class in (StudyRootQueryRetrieveInformationModelFind, StudyRootQueryRetrieveInformationModelMove, Verification):
            ae.add_supported_context(sop_class)
        ae.requested_contexts = []
        ae.add_requested_context(MRImageStorage)
        self.asked = []
        self.server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, self.find), (evt.EVT_C_MOVE, self.move)])
        self.port = self.server.server_address[1]

    def find(self, event):
        self.n_find += 1
        self.asked.append({element.tag.group for element in event.identifier})
        time.sleep(self.delay_s)
        for uid in sorted({d.SeriesInstanceUID for d in self.data if d.StudyInstanceUID == event.identifier.StudyInstanceUID}):
            answer = pydicom.Dataset()
            answer.QueryRetrieveLevel, answer.Modality = "SERIES", "MR"
            answer.StudyInstanceUID, answer.SeriesInstanceUID = event.identifier.StudyInstanceUID, uid
            answer.NumberOfSeriesRelatedInstances = sum(d.SeriesInstanceUID == uid for d in self.data)
            yield 0xFF00, answer

    def move(self, event):
        self.n_move += 1
        found = [d for d in self.data if d.SeriesInstanceUID == event.identifier.SeriesInstanceUID]
        yield "127.0.0.1", self.box_port
        yield len(found)
        for data in found:
            yield 0xFF00, data

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()


def test_missing_t1_comes_from_dcmqrscp_and_nobody_is_alarmed_before():
    hook = Hook(b"pacs system test secret")
    with tempfile.TemporaryDirectory() as folder:
        uid, t1, flair = lesion_study(f"{folder}/studies")
        port = free_port()
        with box_with(port, hook) as box, DcmQrScp(folder, box.dicom, t1 + flair, port=port):
            assert any(f"127.0.0.1:{port}" in a["text"] and "PACS" in a["name"] for a in box.get("/api/v1/status")["addresses"])
            send(box.dicom, flair)
            took = wait_until(lambda: verdict_of(box, uid) is not None, "a verdict")
            verdict = box.get(f"/api/v1/studies/{uid}")["verdict"]
            assert (verdict["verdict"], verdict["supersedes"]) == ("flagged", None), verdict
            assert {s["role"] for s in verdict["series"] if s["used"]} == {"t1_post", "flair"}, verdict["series"]
            study, = [s for s in box.studies() if s["study_instance_uid"] == uid]
            assert study["n_instances"] == 132, study
            wait_until(lambda: hook.received, "the alert", 20)
            assert [body["verdict"] for _, _, body in hook.received] == ["flagged"], hook.received
            wait_until(lambda: pacs_cause(box) is None, "the PACS was seen", 20)
            return f"flagged {took:.1f} s after the FLAIR"


def test_half_a_series_is_completed_from_orthanc():
    orthanc = shutil.which("Orthanc") or shutil.which("/usr/sbin/Orthanc")
    if not orthanc:
        return "SKIP: Orthanc is not installed"
    with tempfile.TemporaryDirectory() as folder:
        uid, t1, flair = lesion_study(f"{folder}/studies")
        port, http = free_port(), free_port()
        with box_with(port) as box:
            config = {
                "StorageDirectory": f"{folder}/db", "IndexDirectory": f"{folder}/db", "DicomPort": port, "HttpPort": http, "DicomAet": "PACS",
                "RemoteAccessAllowed": False, "AuthenticationEnabled": False, "Plugins": [],
                "DicomAlwaysAllowFind": True, "DicomAlwaysAllowMove": True, "DicomModalities": {"box": ["SCANSIDE", "127.0.0.1", box.dicom]},
            }
            path = pathlib.Path(folder) / "orthanc.json"
            path.write_text(json.dumps(config))
            process = subprocess.Popen([orthanc, str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                wait_until(lambda: subprocess.run(["echoscu", "-aec", "PACS", "127.0.0.1", str(port)], stderr=subprocess.DEVNULL).returncode == 0,
                           "Orthanc", 30)
                send(port, t1 + flair, "PACS")
                send(box.dicom, flair + t1[::2])
                wait_until(lambda: verdict_of(box, uid) is not None, "a verdict")
                verdict = box.get(f"/api/v1/studies/{uid}")["verdict"]
                assert (verdict["verdict"], verdict["supersedes"]) == ("flagged", None), verdict
                study, = [s for s in box.studies() if s["study_instance_uid"] == uid]
                assert study["n_instances"] == 132, study
            finally:
                process.terminate()
                process.wait()


def test_pacs_that_is_down_holds_nothing_up_and_is_asked_again_when_it_is_back():
    with tempfile.TemporaryDirectory() as folder:
        uid, t1, flair = lesion_study(f"{folder}/studies")
        port = free_port()
        with box_with(port) as box:
            wait_until(lambda: f"127.0.0.1:{port}" in str(pacs_cause(box)), "the condition", 10)
            assert box.get("/api/v1/status")["device_state"] == "degraded"
            send(box.dicom, flair)
            took = wait_for(box, uid, "indeterminate", QUIET_S + 20)
            with DcmQrScp(folder, box.dicom, t1 + flair, port=port):
                wait_for(box, uid, "flagged", 60)
                wait_until(lambda: pacs_cause(box) is None, "the end of the condition", 10)
                assert box.get(f"/api/v1/studies/{uid}")["verdict"]["supersedes"] is not None
            return f"indeterminate after {took:.1f} s without the PACS"


def test_pacs_that_does_not_know_our_title_is_named_with_the_remedy():
    with tempfile.TemporaryDirectory() as folder:
        uid, t1, flair = lesion_study(f"{folder}/studies")
        port = free_port()
        with box_with(port) as box, DcmQrScp(folder, box.dicom, t1 + flair, knows_us=False, port=port):
            send(box.dicom, flair)
            wait_for(box, uid, "indeterminate", QUIET_S + 20)
            wait_until(lambda: all(words in str(pacs_cause(box)) for words in ("does not know our AE title", "0xA801")), "the condition", 10)


def test_silent_pacs_delays_a_study_by_wait_s_alone():
    with tempfile.TemporaryDirectory() as folder, socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(16)
        kept = []
        threading.Thread(target=lambda: [kept.append(deaf.accept()) for _ in range(16)], daemon=True).start()
        uid, _, flair = lesion_study(f"{folder}/studies")
        with box_with(deaf.getsockname()[1], wait_s=6, timeout_s=60) as box:
            send(box.dicom, flair)
            wait_until(lambda: any(item["stage"] == "fetching" for item in box.get("/api/v1/status")["work"]), "fetching", QUIET_S + 10)
            begin = time.time()
            with urllib.request.urlopen(f"http://127.0.0.1:{box.web}/", timeout=10) as page:
                assert "fetching from the PACS" in page.read().decode()
            wait_for(box, uid, "indeterminate", 30)
            took = time.time() - begin
            assert took < 6 + 8, took
            assert "FetchOverdue" in box.log_text()
            return f"held for {took:.1f} s, with wait_s = 6"


def test_slow_pacs_is_not_waited_for_and_its_images_are_looked_at_all_the_same():
    with tempfile.TemporaryDirectory() as folder:
        uid, t1, flair = lesion_study(f"{folder}/studies")
        with ScriptedPacs(t1 + flair, delay_s=12) as pacs:
            box = box_with(pacs.port, wait_s=3)
            pacs.box_port = box.dicom
            with box:
                send(box.dicom, flair)
                wait_for(box, uid, "indeterminate", QUIET_S + 20)
                wait_for(box, uid, "flagged", 60)
                assert (pacs.n_find, pacs.n_move) == (1, 1), (pacs.n_find, pacs.n_move)
                assert all(0x0010 not in groups for groups in pacs.asked), "no patient data is asked for"


def test_pacs_that_has_nothing_or_too_little_is_asked_once():
    with tempfile.TemporaryDirectory() as folder:
        uid, t1, flair = lesion_study(f"{folder}/studies")
        port = free_port()
        with box_with(port) as box, DcmQrScp(folder, box.dicom, port=port):
            send(box.dicom, flair)
            took = wait_for(box, uid, "indeterminate", QUIET_S + 20)
            assert "NothingFetched" in box.log_text() and pacs_cause(box) is None
        # A T1 with holes there: it is sent, reopens the study, is not enough, and that is the end of it.
        with ScriptedPacs(t1[::3] + flair) as pacs:
            box = box_with(pacs.port)
            pacs.box_port = box.dicom
            with box:
                send(box.dicom, flair)
                wait_until(lambda: verdict_of(box, uid) is not None, "a verdict", 60)
                time.sleep(2 * QUIET_S)
                assert (pacs.n_find, pacs.n_move) == (1, 1), (pacs.n_find, pacs.n_move)
                study, = [s for s in box.studies() if s["study_instance_uid"] == uid]
                assert study["n_instances"] == len(t1[::3]) + len(flair), study
        return f"indeterminate {took:.1f} s after the FLAIR where the PACS has nothing"
