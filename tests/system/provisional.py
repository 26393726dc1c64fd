"""The provisional alert: the series that the model needs comes first, the alert follows while the rest of the study still arrives."""
import tempfile
import time

from appliance import Appliance, Hook, synthetic_studies

import pydicom
from pydicom.uid import generate_uid
from pynetdicom import AE

MR = "1.2.840.10008.5.1.4.1.1.4"
# How many series follow, and the scanner's pace: an image each so many seconds.
N_FURTHER = 5
PACE_S = 0.1


def lesion_study(folder):
    """The flagged demonstration study: its T1 series after contrast agent, and the other one."""
    data = [pydicom.dcmread(path) for path in synthetic_studies(folder)]
    data = [d for d in data if d.AccessionNumber == "SYN0001"]
    t1 = [d for d in data if d.get("ContrastBolusAgent")]
    return t1, [d for d in data if not d.get("ContrastBolusAgent")]


def copies(series, number):
    """The same images as another series."""
    uid, out = generate_uid(), []
    for data in series:
        one = pydicom.Dataset.from_json(data.to_json())
        one.SeriesInstanceUID, one.SOPInstanceUID, one.SeriesNumber = uid, generate_uid(), number
        one.file_meta = pydicom.dataset.FileMetaDataset()
        one.file_meta.MediaStorageSOPClassUID, one.file_meta.MediaStorageSOPInstanceUID = MR, one.SOPInstanceUID
        one.file_meta.TransferSyntaxUID = data.file_meta.TransferSyntaxUID
        out.append(one)
    return out


def associate(box):
    ae = AE(ae_title="MR1")
    ae.add_requested_context(MR)
    association = ae.associate("127.0.0.1", box.dicom, ae_title="SCANSIDE")
    assert association.is_established
    return association


def store(association, series, pace_s=0.0):
    for data in series:
        assert association.send_c_store(data).Status == 0x0000
        time.sleep(pace_s)


def wait_for(what, condition, timeout_s):
    end = time.time() + timeout_s
    while time.time() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"{what} did not come within {timeout_s} s")


def final_verdict(box, uid, n_instances, timeout_s=180):
    """The study's detail once a final verdict has seen so many instances."""
    def look():
        listed = [s for s in box.studies() if s["study_instance_uid"] == uid and s["verdict"] and not s["provisional"]]
        detail = box.get(f"/api/v1/studies/{uid}") if listed else None
        return detail if detail and detail["verdicts"][0]["n_instances"] >= n_instances else None
    return wait_for(f"the final verdict on {n_instances} images", look, timeout_s)


def test_provisional_alert_comes_while_the_study_still_arrives():
    hook = Hook(b"provisional system test")
    with tempfile.TemporaryDirectory() as folder, Appliance(hook) as box:
        t1, other = lesion_study(folder)
        uid = t1[0].StudyInstanceUID
        association = associate(box)
        store(association, t1, PACE_S / 4)
        t1_ended = time.time()
        n_sent, alert_s, n_at_alert = len(t1), None, None
        for series in [other] + [copies(other, 10 + n) for n in range(N_FURTHER - 1)]:
            for data in series:
                store(association, [data], PACE_S)
                n_sent += 1
                if hook.received and alert_s is None:
                    alert_s, n_at_alert = time.time() - t1_ended, n_sent
        if alert_s is None:  # a slow machine: the scanner keeps its association open
            wait_for("the provisional alert", lambda: hook.received, 180)
            alert_s, n_at_alert = time.time() - t1_ended, n_sent
        good, _, alert = hook.received[0]
        assert good and alert["verdict"] == "flagged" and alert["provisional"], alert
        assert alert["closed_because"] == "required-series-arrived" and alert["study_instance_uid"] == uid, alert
        listed = next(s for s in box.studies() if s["study_instance_uid"] == uid)
        assert listed["state"] == "pending" and listed["provisional"], listed
        assert box.get("/api/v1/status")["lamp"] in ("critical", "suspicious")
        association.release()
        detail = final_verdict(box, uid, n_sent)
        final, first = detail["verdicts"][0], detail["verdicts"][-1]
        assert first["provisional"] and not final["provisional"], detail["verdicts"]
        assert final["verdict"]["supersedes"] and final["verdict"]["verdict"] == "flagged", final
        order = [None, "suspicious", "critical"]
        rose = order.index(final["verdict"]["urgency"]) > order.index(alert["urgency"])
        time.sleep(3)
        assert len(hook.received) == (2 if rose else 1), [body for _, _, body in hook.received]
        return (f"alert {alert_s:.1f} s after the last T1 image ({first['verdict']['timing_ms']['infer']} ms of it the network), "
                f"with {n_at_alert} of {n_sent} images sent; final verdict: {final['verdict']['urgency']}")


def test_a_study_that_was_whole_at_its_provisional_look_is_read_once():
    with tempfile.TemporaryDirectory() as folder, Appliance(extra="[assemble]\nsettle_s = 8") as box:
        t1, _ = lesion_study(folder)
        association = associate(box)
        store(association, t1)
        association.release()
        detail = final_verdict(box, t1[0].StudyInstanceUID, len(t1))
        final, first = (verdict["verdict"] for verdict in detail["verdicts"])
        assert first["provisional"] and not final["provisional"] and final["closed_because"] == "required-roles-complete", detail
        same = ("verdict", "urgency", "score", "findings", "series", "model")
        assert all(final[key] == first[key] for key in same), (first, final)
        assert final["timing_ms"]["infer"] == first["timing_ms"]["infer"], "the network did not run again"
        return f"provisional {first['timing_ms']['last_instance_to_alert']} ms after the last image, final {final['timing_ms']['last_instance_to_alert']} ms"


def test_provisional_alert_survives_a_kill_and_is_not_sent_twice():
    hook = Hook(b"provisional kill test")
    with tempfile.TemporaryDirectory() as folder:
        box = Appliance(hook, extra="[assemble]\nquiet_s = 20\nsettle_s = 3")
        t1, other = lesion_study(folder)
        with box:
            association = associate(box)
            store(association, t1 + other[:3])
            wait_for("the provisional alert", lambda: hook.received, 180)
            box.kill()
        with box:
            association = associate(box)
            store(association, other[3:])
            association.release()
            detail = final_verdict(box, t1[0].StudyInstanceUID, len(t1) + len(other))
            assert detail["verdicts"][-1]["provisional"] and detail["verdicts"][0]["verdict"]["verdict"] == "flagged"
            time.sleep(3)
            told = [body["urgency"] for _, _, body in hook.received]
            assert len(told) == len(set(told)), told
            return f"{len(detail['verdicts'])} verdicts, alerts: {told}"


def test_studies_that_come_again_have_one_stated_behaviour():
    with tempfile.TemporaryDirectory() as folder, Appliance(extra="[assemble]\nquiet_s = 8\nsettle_s = 2") as box:
        t1, other = lesion_study(folder)
        uid, n = t1[0].StudyInstanceUID, len(t1) + len(other)

        def send(series):
            association = associate(box)
            store(association, series)
            association.release()

        scanner, pacs = associate(box), associate(box)  # the same study twice at the same time
        for data in t1 + other:
            store(scanner, [data])
            store(pacs, [data])
        scanner.release()
        pacs.release()
        first = final_verdict(box, uid, n)
        n_verdicts = len(first["verdicts"])
        assert first["n_instances"] == n and first["n_conflicts"] == 0, first
        send(t1 + other)  # and again, after the verdict
        time.sleep(12)
        assert len(box.get(f"/api/v1/studies/{uid}")["verdicts"]) == n_verdicts, "a copy makes no verdict"
        changed = pydicom.Dataset.from_json(t1[40].to_json())  # a known UID with other content
        changed.file_meta = t1[40].file_meta
        changed.PixelData = bytes(len(t1[40].PixelData))
        send([changed])
        send(copies(other, 30))  # the study goes on
        detail = final_verdict(box, uid, n + len(other))
        latest = detail["verdicts"][0]
        assert latest["supersedes"] and latest["verdict"]["verdict"] == first["verdict"]["verdict"], latest
        codes = [note["code"] for note in latest["verdict"]["quality"]]
        assert detail["n_conflicts"] == 1 and "conflicting-images" in codes, codes
        return f"{n_verdicts} verdict(s), then one more for {len(other)} later images; notes {codes}"
