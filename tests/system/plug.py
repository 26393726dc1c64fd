"""Pull the plug: kill -9 in the middle of a transfer; whatever was acknowledged is there afterwards, and the verdict follows."""
import tempfile
import threading
import time

from appliance import Appliance, synthetic_studies

import pydicom
from pynetdicom import AE


def send(box, files, acknowledged, stop):
    ae = AE(ae_title="MR1")
    ae.add_requested_context("1.2.840.10008.5.1.4.1.1.4")
    association = ae.associate("127.0.0.1", box.dicom, ae_title="SCANSIDE")
    for path in files:
        if stop.is_set() or not association.is_established:
            return
        data = pydicom.dcmread(path)
        try:
            status = association.send_c_store(data)
        except (RuntimeError, ValueError, OSError):
            return
        if "Status" in status and status.Status == 0x0000:
            acknowledged.append(data.SOPInstanceUID)
    association.release()


def test_kill_9_in_the_middle_of_a_transfer_loses_nothing_acknowledged():
    with tempfile.TemporaryDirectory() as folder:
        files = synthetic_studies(folder)
        box = Appliance()
        box.start()
        acknowledged, stop = [], threading.Event()
        sent_from = 0
        for fraction in (0.15, 0.4, 0.7):
            target = int(len(files) * fraction)
            thread = threading.Thread(target=send, args=(box, files[sent_from:], acknowledged, stop))
            thread.start()
            end = time.time() + 60
            while len(acknowledged) < target and time.time() < end:
                time.sleep(0.005)
            box.kill()
            thread.join(timeout=60)
            stored = {pydicom.dcmread(p, stop_before_pixels=True).SOPInstanceUID for p in box.stored_files()}
            missing = set(acknowledged) - stored
            assert not missing, f"{len(missing)} of {len(acknowledged)} acknowledged instances are gone"
            for path in box.stored_files():
                assert len(pydicom.dcmread(path).PixelData) > 0
            begin = time.time()
            box.start()
            ready_s = time.time() - begin
            sent_from = max(0, len(acknowledged) - 3)  # a scanner repeats what it is not sure of
        send(box, files[sent_from:], acknowledged, stop)
        done = box.wait_for_verdicts(2, timeout_s=180)
        assert sum(s["n_instances"] for s in done) == len(files), done
        assert sorted(s["verdict"] for s in done) == ["flagged", "not_flagged"], done
        box.stop()
        return f"ready again in {ready_s:.2f} s, {len(files)} instances, 3 kills"


def test_a_study_that_was_whole_before_the_kill_gets_its_verdict_after_it():
    with tempfile.TemporaryDirectory() as folder:
        files = synthetic_studies(folder)
        box = Appliance(extra="[assemble]\nquiet_s = 3\nsettle_s = 2")
        box.start()
        acknowledged = []
        send(box, files, acknowledged, threading.Event())
        box.kill()  # at once: the verdict is most likely not out yet
        assert len(acknowledged) == len(files)
        box.start()
        done = box.wait_for_verdicts(2)
        assert sorted(s["verdict"] for s in done) == ["flagged", "not_flagged"], done
        assert box.stop() == 0
