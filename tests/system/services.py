"""Services beside storage, with pynetdicom as the peer: procedure steps, availability notifications, storage commitment."""
import tempfile
import threading
import time

from appliance import Appliance, free_port, synthetic_studies

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.sop_class import (InstanceAvailabilityNotification, ModalityPerformedProcedureStep, StorageCommitmentPushModel,
                                  StorageCommitmentPushModelInstance)

SYNTAXES = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"]


def associate(box, *classes, handlers=(), title="MR1"):
    ae = AE(ae_title=title)
    for one in classes:
        ae.add_requested_context(one, SYNTAXES)
    association = ae.associate("127.0.0.1", box.dicom, ae_title="SCANSIDE", evt_handlers=list(handlers))
    assert association.is_established
    return association


def send(box, files):
    """Stores the files; gives the data sets without pixels."""
    sets = [pydicom.dcmread(path) for path in files]
    association = associate(box, *{s.SOPClassUID for s in sets})
    for s in sets:
        assert association.send_c_store(s).Status == 0
    association.release()
    return sets


def step(status, study, series=()):
    s = Dataset()
    s.PerformedProcedureStepStatus = status
    s.PerformedProcedureStepID = "P1"
    s.PatientName, s.PatientID = "DOE^JANE", "4711"
    if status == "IN PROGRESS":
        item = Dataset()
        item.StudyInstanceUID, item.AccessionNumber = study, "A1"
        s.ScheduledStepAttributesSequence = [item]
    s.PerformedSeriesSequence = []
    for uid, instances in series:
        item = Dataset()
        item.SeriesInstanceUID, item.SeriesDescription = uid, "t1"
        item.ReferencedImageSequence = [reference(i) for i in instances]
        item.ReferencedNonImageCompositeSOPInstanceSequence = []
        s.PerformedSeriesSequence.append(item)
    return s


def reference(instance):
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = instance
    return item


def commitment(instances):
    s = Dataset()
    s.TransactionUID = generate_uid()
    s.ReferencedSOPSequence = [reference(i) for i in instances]
    return s


def test_procedure_step_survives_kill_9_between_create_and_set():
    study, name, other = generate_uid(), generate_uid(), generate_uid()
    image = ("1.2.840.10008.5.1.4.1.1.4", generate_uid())
    with Appliance() as box:
        mpps = ModalityPerformedProcedureStep
        association = associate(box, mpps)
        assert association.send_n_create(step("IN PROGRESS", study), mpps, name)[0].Status == 0
        assert association.send_n_create(step("IN PROGRESS", study), mpps, name)[0].Status == 0x0111
        assert association.send_n_create(step("COMPLETED", study), mpps, generate_uid())[0].Status in (0x0106, 0x0120)
        assert association.send_n_set(step("COMPLETED", study), mpps, generate_uid())[0].Status == 0x0112
        assert association.send_n_create(step("IN PROGRESS", study), mpps, other)[0].Status == 0
        box.kill()
        box.start()
        assert "2 procedure steps of studies without a final verdict" in box.log_text()
        answers = []  # pynetdicom keeps the UID that an answer names to itself, so it is read from the message
        association = associate(box, mpps, handlers=[(evt.EVT_DIMSE_RECV, lambda event: answers.append(event.message.command_set))])
        assert association.send_n_set(step("IN PROGRESS", study, [(generate_uid(), [image])]), mpps, name)[0].Status == 0
        assert association.send_n_set(step("COMPLETED", study, [(generate_uid(), [image])]), mpps, name)[0].Status == 0
        status = association.send_n_set(step("IN PROGRESS", study), mpps, name)[0]
        assert (status.Status, status.ErrorID) == (0x0110, 0xA710), status
        assert association.send_n_set(step("DISCONTINUED", study), mpps, other)[0].Status == 0
        assert association.send_n_set(step("COMPLETED", study), mpps, other)[0].Status == 0x0110
        # Out of place: a step without a name gets one, and other operations are not offered.
        assert association.send_n_create(step("IN PROGRESS", study), mpps, None)[0].Status == 0
        made = answers[-1].AffectedSOPInstanceUID
        assert made.startswith("2.25."), answers[-1]
        assert association.send_n_set(step("DISCONTINUED", study), mpps, made)[0].Status == 0
        association.release()
        assert box.log_text().count("a modality reports a procedure step COMPLETED with 1 series and 1 instances") == 1
        assert "DOE" not in box.log_text()
        index = b"".join(p.read_bytes() for p in (box.folder / "state").glob("index.sqlite3*"))
        assert b"DOE^JANE" not in index and b"4711" not in index, "no patient data is kept"


def closings(box, study):
    """Why the study was closed, latest first; provisional looks aside."""
    verdicts = box.get(f"/api/v1/studies/{study}")["verdicts"]
    return [v["verdict"]["closed_because"] for v in verdicts if not v["provisional"]]


def wait_for_closing(box, study, timeout_s):
    end = time.time() + timeout_s
    while time.time() < end:
        if any(s["study_instance_uid"] == study for s in box.studies()) and (found := closings(box, study)):
            return found
        time.sleep(0.1)
    raise AssertionError(f"no final verdict within {timeout_s} s: {box.studies()}")


def test_completed_step_closes_its_study_and_one_in_progress_keeps_it_open():
    mpps, name = ModalityPerformedProcedureStep, generate_uid()
    with tempfile.TemporaryDirectory() as folder, Appliance(extra="[assemble]\nsettle_s = 2\nquiet_s = 4\nprovisional = false") as box:
        # The T1 alone: what the model needs, and not all that it can use, so without a word of the scanner the settle time would close it.
        t1 = [f for f in synthetic_studies(folder) if pydicom.dcmread(f, stop_before_pixels=True).get("ContrastBolusAgent")]
        first = pydicom.dcmread(t1[0], stop_before_pixels=True)
        t1 = [f for f in t1 if pydicom.dcmread(f, stop_before_pixels=True).StudyInstanceUID == first.StudyInstanceUID]
        study = first.StudyInstanceUID
        scanner = associate(box, mpps)
        assert scanner.send_n_create(step("IN PROGRESS", study), mpps, name)[0].Status == 0
        sets = send(box, t1)
        time.sleep(6)
        assert not closings(box, study), "quiet_s and settle_s have passed, but the scanner is still at it"
        images = [(s.SOPClassUID, s.SOPInstanceUID) for s in sets]
        began = time.time()
        done = step("COMPLETED", study, [(first.SeriesInstanceUID, images)])
        assert scanner.send_n_set(done, mpps, name)[0].Status == 0
        assert wait_for_closing(box, study, 20) == ["procedure-step-completed"]
        took = time.time() - began
        scanner.release()
    return f"final verdict {took:.1f} s after COMPLETED"


def test_availability_notification_is_taken_and_may_come_again():
    with Appliance() as box:
        note = Dataset()
        note.StudyInstanceUID, note.ReferencedPerformedProcedureStepSequence = generate_uid(), []
        series, sop = Dataset(), reference(("1.2.840.10008.5.1.4.1.1.4", generate_uid()))
        sop.InstanceAvailability, sop.RetrieveAETitle = "ONLINE", "PACS"
        series.SeriesInstanceUID, series.ReferencedSOPSequence = generate_uid(), [sop]
        note.ReferencedSeriesSequence = [series]
        association = associate(box, InstanceAvailabilityNotification)
        for _ in range(2):
            assert association.send_n_create(note, InstanceAvailabilityNotification, generate_uid())[0].Status == 0
        del note.StudyInstanceUID
        assert association.send_n_create(note, InstanceAvailabilityNotification, generate_uid())[0].Status == 0x0120
        association.release()
        assert box.log_text().count("a peer reports 1 instances as available") == 2


class Requester:
    """Takes N-EVENT-REPORTs, on the association that asked or on its own listener."""

    def __init__(self, status=0, port=None):
        self.reports, self.roles, self.port, self.status = [], [], port or free_port(), status
        self.lock = threading.Lock()
        self.server = None

    def handlers(self):
        return [(evt.EVT_N_EVENT_REPORT, self.on_report), (evt.EVT_REQUESTED, self.on_requested)]

    def on_report(self, event):
        with self.lock:
            self.reports.append((event.event_type, event.event_information, time.time()))
        return self.status, None

    def on_requested(self, event):
        roles = event.assoc.requestor.role_selection
        self.roles.append({uid: (r.scu_role, r.scp_role) for uid, r in roles.items()})

    def listen(self, title="MR1"):
        ae = AE(ae_title=title)
        ae.add_supported_context(StorageCommitmentPushModel, SYNTAXES, scu_role=False, scp_role=True)
        self.server = ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=self.handlers())

    def wait(self, n, timeout_s=30):
        end = time.time() + timeout_s
        while time.time() < end:
            if len(self.reports) >= n:
                return self.reports[n - 1]
            time.sleep(0.05)
        raise AssertionError(f"{n} reports did not come: {self.reports}")

    def close(self):
        if self.server:
            self.server.shutdown()


def peer_table(requester, title="MR1"):
    return f'storage_commitment = true\n[[dicom.peer]]\nae_title = "{title}"\naddresses = ["127.0.0.1"]\ncall = "127.0.0.1:{requester.port}"\n'


def names(information, keyword):
    return {str(item.ReferencedSOPInstanceUID) for item in information.get(keyword, [])}


def test_storage_commitment_is_not_negotiated_unless_the_site_turns_it_on():
    with Appliance() as box:
        ae = AE(ae_title="MR1")
        ae.add_requested_context(StorageCommitmentPushModel, SYNTAXES)
        association = ae.associate("127.0.0.1", box.dicom, ae_title="SCANSIDE")
        assert not association.is_established and not association.accepted_contexts


def test_storage_commitment_on_the_same_association():
    requester = Requester()
    with tempfile.TemporaryDirectory() as folder, Appliance(dicom_extra="storage_commitment = true") as box:
        sets = send(box, synthetic_studies(folder)[:20])
        association = associate(box, StorageCommitmentPushModel, handlers=requester.handlers())
        good = [(s.SOPClassUID, s.SOPInstanceUID) for s in sets]
        ask = commitment(good)
        assert association.send_n_action(ask, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)[0].Status == 0
        kind, answer, _ = requester.wait(1)
        assert kind == 1 and answer.TransactionUID == ask.TransactionUID
        assert names(answer, "ReferencedSOPSequence") == {i for _, i in good} and "FailedSOPSequence" not in answer
        unknown, conflict = generate_uid(), good[0][1]
        ask = commitment(good[1:] + [("1.2.840.10008.5.1.4.1.1.4", unknown), ("1.2.840.10008.5.1.4.1.1.2", conflict)])
        assert association.send_n_action(ask, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)[0].Status == 0
        kind, answer, _ = requester.wait(2)
        reasons = {str(i.ReferencedSOPInstanceUID): i.FailureReason for i in answer.FailedSOPSequence}
        assert kind == 2 and reasons == {unknown: 0x0112, conflict: 0x0119}, answer
        assert len(answer.ReferencedSOPSequence) == len(good) - 1
        assert association.send_n_action(ask, 2, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)[0].Status == 0x0123
        association.release()
        time.sleep(0.5)
        assert box.log_text().count("has taken the answer of its storage commitment") == 2, box.log_text()[-2000:]


def test_storage_commitment_of_twenty_thousand_instances():
    requester = Requester()
    with Appliance(dicom_extra="storage_commitment = true") as box:
        association = associate(box, StorageCommitmentPushModel, handlers=requester.handlers())
        root = generate_uid()[:50]
        ask = commitment([("1.2.840.10008.5.1.4.1.1.4", f"{root}.1{k:06}") for k in range(20_000)])
        begin = time.time()
        assert association.send_n_action(ask, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)[0].Status == 0
        answered = time.time() - begin
        kind, answer, _ = requester.wait(1, 120)
        assert kind == 2 and len(answer.FailedSOPSequence) == 20_000
        association.release()
        return f"answered after {answered:.1f} s, reported after {time.time() - begin:.1f} s"


def test_storage_commitment_on_a_new_association_with_roles():
    requester = Requester()
    requester.listen()
    try:
        with tempfile.TemporaryDirectory() as folder, Appliance(dicom_extra=peer_table(requester)) as box:
            sets = send(box, synthetic_studies(folder)[:5])
            association = associate(box, StorageCommitmentPushModel, handlers=[(evt.EVT_N_EVENT_REPORT, lambda event: (0x0110, None))])
            ask = commitment([(s.SOPClassUID, s.SOPInstanceUID) for s in sets])
            # On the same association the requester refuses the report; after a minute it is told on a new one. Sooner when it just leaves:
            assert association.send_n_action(ask, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)[0].Status == 0
            association.abort()
            kind, answer, _ = requester.wait(1, 90)
            assert kind == 1 and answer.TransactionUID == ask.TransactionUID and len(answer.ReferencedSOPSequence) == 5
            assert requester.roles == [{StorageCommitmentPushModel: (False, True)}], requester.roles
            end = time.time() + 10
            while "was told to MR1" not in box.log_text() and time.time() < end:
                time.sleep(0.1)
            assert "was told to MR1" in box.log_text()
    finally:
        requester.close()


def test_storage_commitment_is_told_after_kill_9_once_the_requester_is_back():
    requester = Requester()
    silent = threading.Event()
    with tempfile.TemporaryDirectory() as folder, Appliance(dicom_extra=peer_table(requester)) as box:
        sets = send(box, synthetic_studies(folder)[:5])

        def never(event):  # a requester that never answers
            silent.wait(60)
            return 0, None

        association = associate(box, StorageCommitmentPushModel, handlers=[(evt.EVT_N_EVENT_REPORT, never)])
        ask = commitment([(s.SOPClassUID, s.SOPInstanceUID) for s in sets])
        assert association.send_n_action(ask, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)[0].Status == 0
        time.sleep(0.5)
        association.abort()
        silent.set()
        # Nobody listens at its address: the first try fails, and is kept.
        end = time.time() + 20
        while "could not be told to MR1" not in box.log_text() and time.time() < end:
            time.sleep(0.1)
        assert "could not be told to MR1" in box.log_text(), box.log_text()[-2000:]
        box.kill()
        requester.listen()
        try:
            box.start()
            kind, answer, _ = requester.wait(1, 90)
            assert kind == 1 and answer.TransactionUID == ask.TransactionUID
        finally:
            requester.close()


def test_evicted_instances_are_not_committed_and_committed_ones_are_not_evicted():
    requester = Requester()
    table = "storage_commitment = true\n"
    with tempfile.TemporaryDirectory() as folder, Appliance(extra="[spool]\nmib_max = 256\n", dicom_extra=table) as box:
        sets = send(box, synthetic_studies(folder))
        box.wait_for_verdicts(2)
        studies = sorted({s.StudyInstanceUID for s in sets})
        kept = [(s.SOPClassUID, s.SOPInstanceUID) for s in sets if s.StudyInstanceUID == studies[0]]
        other = [(s.SOPClassUID, s.SOPInstanceUID) for s in sets if s.StudyInstanceUID == studies[1]]
        association = associate(box, StorageCommitmentPushModel, handlers=requester.handlers())
        action = (1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)
        assert association.send_n_action(commitment(kept), *action)[0].Status == 0
        assert requester.wait(1)[0] == 1
        association.release()
        # Large images fill the store: what is concluded and not committed makes room.
        filler = pydicom.dcmread(synthetic_studies(folder)[0])
        filler.Rows = filler.Columns = 4096
        filler.PixelData = bytes(2 * 4096 * 4096)
        statuses = []
        stores = associate(box, filler.SOPClassUID)
        filler.StudyInstanceUID = generate_uid()
        for _ in range(9):
            filler.SOPInstanceUID = generate_uid()
            filler.file_meta.MediaStorageSOPInstanceUID = filler.SOPInstanceUID
            statuses.append(stores.send_c_store(filler).Status)
        stores.release()
        assert 0xA700 in statuses, statuses
        association = associate(box, StorageCommitmentPushModel, handlers=requester.handlers())
        assert association.send_n_action(commitment(kept + other), *action)[0].Status == 0
        kind, answer, _ = requester.wait(2)
        association.release()
        assert kind == 2
        assert names(answer, "ReferencedSOPSequence") == {i for _, i in kept}, "the promise is kept while the store is full"
        assert names(answer, "FailedSOPSequence") == {i for _, i in other}, "evicted"


def test_roles_are_answered():
    with Appliance() as box:
        ae = AE(ae_title="MR1")
        contexts = [build_context("1.2.840.10008.5.1.4.1.1.4", SYNTAXES), build_context(ModalityPerformedProcedureStep, SYNTAXES)]
        roles = [build_role("1.2.840.10008.5.1.4.1.1.4", scu_role=True, scp_role=True)]
        association = ae.associate("127.0.0.1", box.dicom, contexts, ae_title="SCANSIDE", ext_neg=roles)
        assert association.is_established
        accepted = {c.abstract_syntax: (c.as_scu, c.as_scp) for c in association.accepted_contexts}
        association.release()
        assert accepted == {"1.2.840.10008.5.1.4.1.1.4": (True, False), ModalityPerformedProcedureStep: (True, False)}, accepted
