"""Other people's tools in their odd corners: compressions, folders, movers, verifiers; each ends with the verdict or the answer that the contract names."""
import json
import pathlib
import shutil
import subprocess
import tempfile
import time

from appliance import ROOT, Appliance, free_port, program, synthetic_studies

import pydicom
from pydicom.uid import JPEGLSLossless
from pynetdicom import AE
from pynetdicom.sop_class import MRImageStorage


def one_study(folder):
    """The files of one demonstration study."""
    files = synthetic_studies(folder)
    uid = pydicom.dcmread(files[0], stop_before_pixels=True).StudyInstanceUID
    return [p for p in files if pydicom.dcmread(p, stop_before_pixels=True).StudyInstanceUID == uid]


def triage(folder):
    run = subprocess.run([program(), "triage", str(folder), "--json"], capture_output=True, text=True, cwd=ROOT)
    return [json.loads(line) for line in run.stdout.splitlines()]


def test_jpeg_ls_alone_is_kept_and_said_to_be_indeterminate():
    if not shutil.which("dcmcjpls"):
        return "SKIP: dcmcjpls is not installed"
    with tempfile.TemporaryDirectory() as folder, Appliance(extra="[assemble]\nquiet_s = 3\nsettle_s = 1") as box:
        ae = AE(ae_title="MR1")
        ae.add_requested_context(MRImageStorage, [JPEGLSLossless])
        association = ae.associate("127.0.0.1", box.dicom, ae_title="SCANSIDE")
        assert association.is_established and [str(c.transfer_syntax[0]) for c in association.accepted_contexts] == [str(JPEGLSLossless)]
        files = one_study(pathlib.Path(folder) / "in")
        for path in files:
            subprocess.run(["dcmcjpls", "+un", str(path), f"{folder}/packed.dcm"], check=True, stderr=subprocess.DEVNULL)
            assert association.send_c_store(f"{folder}/packed.dcm").Status == 0x0000
        association.release()
        [study] = box.wait_for_verdicts(1)
        verdict = box.get(f"/api/v1/studies/{study['study_instance_uid']}")
        verdict = verdict.get("verdict", verdict)
        assert verdict["verdict"] == "indeterminate", verdict
        text = " ".join(reason["text"] for reason in verdict["reasons"])
        assert "JPEG-LS" in text and "uncompressed, JPEG lossless or JPEG 2000" in text, text
        assert len(box.stored_files()) == len(files)


def test_folders_of_every_encoding_give_the_same_verdict():
    with tempfile.TemporaryDirectory() as folder:
        files = one_study(pathlib.Path(folder) / "in")
        kinds = {"implicit": ["dcmconv", "+ti"], "big-endian": ["dcmconv", "+tb"], "deflated": ["dcmconv", "+td"], "no-meta": ["dcmconv", "-F", "+te"],
                 "rle": ["dcmcrle"], "jpeg-lossless": ["dcmcjpeg"], "no-preamble": None}
        want = triage(pathlib.Path(folder) / "in")
        want = next(v["verdict"] for v in want if v["study_instance_uid"] == pydicom.dcmread(files[0]).StudyInstanceUID)
        for kind, command in kinds.items():
            out = pathlib.Path(folder) / kind
            out.mkdir()
            for k, path in enumerate(files):
                if command is None:
                    (out / f"{k}").write_bytes(path.read_bytes()[132:])
                else:
                    extra = ["+un"] if command[0] in ("dcmcrle", "dcmcjpeg") else []
                    subprocess.run([*command, *extra, str(path), str(out / f"{k}")], check=True, stderr=subprocess.DEVNULL)
            got = triage(out)
            assert [v["verdict"] for v in got] == [want], (kind, got)
        return f"{len(kinds)} kinds: {want}"


def test_pynetdicom_with_odd_lengths_and_an_operations_window():
    from pynetdicom.pdu_primitives import AsynchronousOperationsWindowNegotiation

    with tempfile.TemporaryDirectory() as folder, Appliance() as box:
        path = one_study(folder)[0]
        for length in (0, 4097, 16382, 131072):
            ae = AE(ae_title="MR1")
            ae.maximum_pdu_size = length
            ae.add_requested_context(MRImageStorage)
            window = AsynchronousOperationsWindowNegotiation()
            window.maximum_number_operations_invoked, window.maximum_number_operations_performed = 8, 8
            association = ae.associate("127.0.0.1", box.dicom, ae_title="SCANSIDE", max_pdu=length, ext_neg=[window])
            assert association.is_established, length
            answered = [type(item).__name__ for item in association.acceptor.user_information]
            assert "AsynchronousOperationsWindowNegotiation" not in answered, answered
            for _ in range(2):
                assert association.send_c_store(str(path)).Status == 0x0000, length
            association.release()


def test_dcmtk_clients_in_their_modes():
    with tempfile.TemporaryDirectory() as folder, Appliance() as box:
        files = one_study(folder)[:6]
        to = ["-aec", "SCANSIDE", "127.0.0.1", str(box.dicom)]
        assert subprocess.run(["echoscu", "--repeat", "5", *to]).returncode == 0
        for options in (["-xi"], ["-xe"], ["-xb"], ["-xd"], ["-xs"], ["-xr"], ["-xv"], ["--max-pdu", "4096"], ["--max-pdu", "131072"],
                        ["--max-send-pdu", "4096"], ["+C"]):
            run = subprocess.run(["storescu", *options, *to, *map(str, files)], capture_output=True, text=True)
            assert run.returncode == 0, (options, run.stderr[-500:])
        run = subprocess.run(["dcmsend", "--max-pdu", "4096", *to, *map(str, files)], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        # The same instance in another encoding is other content: the first stays, the others are kept as evidence beside it.
        kept = [path for path in box.stored_files() if path.parent.name != "conflicts"]
        assert len(kept) == len(files), "the same instances, however they came"


def test_orthanc_moves_a_study_to_us_for_movescu():
    orthanc = shutil.which("Orthanc") or shutil.which("/usr/sbin/Orthanc")
    if not orthanc or not shutil.which("movescu"):
        return "SKIP: Orthanc or movescu is not installed"
    with tempfile.TemporaryDirectory() as folder, Appliance() as box:
        files = one_study(pathlib.Path(folder) / "studies")
        dicom, http = free_port(), free_port()
        path = pathlib.Path(folder) / "orthanc.json"
        path.write_text(json.dumps({
            "StorageDirectory": f"{folder}/db", "IndexDirectory": f"{folder}/db", "DicomPort": dicom, "HttpPort": http, "DicomAet": "PACS", "Plugins": [],
            "RemoteAccessAllowed": False, "AuthenticationEnabled": False, "DicomAlwaysAllowStore": True, "DicomAlwaysAllowMove": True,
            "DicomModalities": {"box": ["SCANSIDE", "127.0.0.1", box.dicom], "caller": {"AET": "MOVER", "Host": "127.0.0.1", "Port": free_port()}}}))
        pacs = subprocess.Popen([orthanc, str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            for _ in range(150):
                if subprocess.run(["curl", "-s", "-o", "/dev/null", f"http://127.0.0.1:{http}/system"]).returncode == 0:
                    break
                time.sleep(0.2)
            subprocess.run(["dcmsend", "127.0.0.1", str(dicom), "-aec", "PACS", *map(str, files)], check=True)
            uid = pydicom.dcmread(files[0], stop_before_pixels=True).StudyInstanceUID
            moved = subprocess.run(["movescu", "-S", "-aet", "MOVER", "-aec", "PACS", "-aem", "SCANSIDE", "-k", "QueryRetrieveLevel=STUDY",
                                    "-k", f"StudyInstanceUID={uid}", "127.0.0.1", str(dicom)], capture_output=True, text=True)
            assert moved.returncode == 0, moved.stderr
            end = time.time() + 30
            while len(box.stored_files()) < len(files) and time.time() < end:
                time.sleep(0.2)
            assert len(box.stored_files()) == len(files)
        finally:
            pacs.terminate()
            pacs.wait()
