"""The NPU's engine with the real runtime library (ONNX Runtime's own CPU provider stands in for a device): admitted, killed, hanging, re-admitted."""
import importlib.util
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

from appliance import ROOT, Appliance, program, synthetic_studies
from peers import by_study

ENGINE = "ort/CPU"


def runtime_library():
    """The library inside the onnxruntime package, without importing it."""
    spec = importlib.util.find_spec("onnxruntime")
    assert spec, "onnxruntime is not installed: tests/system/requirements.txt"
    found = sorted((pathlib.Path(spec.origin).parent / "capi").glob("libonnxruntime.so.1.*"))
    assert found, f"no libonnxruntime.so beside {spec.origin}"
    return found[0]


def configuration(library=None):
    return (f'[assemble]\nquiet_s = 2\nsettle_s = 1\n[infer]\nengine = "npu"\n[infer.npu]\nruntime_library = "{library or runtime_library()}"\n'
            'provider = "CPU"\n')


def wait_for(what, look, timeout_s):
    end = time.time() + timeout_s
    while time.time() < end:
        found = look()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what} did not come within {timeout_s} s")


def serves_on_npu(box):
    status = box.get("/api/v1/status")
    return status["versions"]["model"]["engine"] == ENGINE and status["device_state"] == "ready"


def lost(box):
    """The condition's details, when the box is degraded for a lost NPU."""
    status = box.get("/api/v1/status")
    found = [cause["details"] for cause in status["causes"] if cause["code"] == "npu-lost"]
    return found and status["device_state"] == "degraded" and found[0]


def worker_pid(box):
    children = pathlib.Path(f"/proc/{box.process.pid}/task").glob("*/children")
    for pid in (pid for path in children for pid in path.read_text().split()):
        if b"npu-worker" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes():
            return int(pid)
    return None


def cpu_ticks(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def is_inferring(box):
    return any(item["stage"] == "inferring" for item in box.get("/api/v1/status")["work"])


def verdict_of(box, uid):
    answer = box.get(f"/api/v1/studies/{uid}")
    return answer.get("verdict") if isinstance(answer.get("verdict"), dict) else answer


def by_uid(lines):
    return {v["study_instance_uid"]: v for v in (json.loads(line) for line in lines.splitlines() if line.startswith("{"))}


def essence(verdict):
    return verdict["verdict"], verdict["urgency"], [reason["code"] for reason in verdict["reasons"]]


def send(box, files):
    subprocess.run([program(), "send", *map(str, files), "--to", f"127.0.0.1:{box.dicom}"], check=True, stdout=subprocess.DEVNULL)


def test_npu_engine_with_the_real_runtime_gives_the_processors_verdicts():
    with tempfile.TemporaryDirectory() as folder:
        files = synthetic_studies(folder)
        answer = subprocess.run([program(), "triage", folder, "--json"], check=True, capture_output=True, text=True, cwd=ROOT)
        wanted = by_uid(answer.stdout)
        with Appliance(extra=configuration()) as box:
            wait_for("the NPU", lambda: serves_on_npu(box), 60)
            send(box, files)
            box.wait_for_verdicts(len(wanted))
            for uid, expected in wanted.items():
                verdict = verdict_of(box, uid)
                assert essence(verdict) == essence(expected), (uid, essence(verdict), essence(expected))
                assert (verdict["model"]["engine"], verdict["model"]["precision"]) == (ENGINE, "int8-qdq"), verdict["model"]
                assert expected["model"]["engine"] == "tract"
                if expected["score"] is not None:
                    assert abs(verdict["score"] - expected["score"]) < 0.05, (verdict["score"], expected["score"])
            assert "NpuAdmitted" in box.log_text()
        return f"{len(wanted)} studies"


def test_kill_9_of_the_npu_worker_in_a_study_costs_the_npu_and_no_study():
    with tempfile.TemporaryDirectory() as folder, Appliance(extra=configuration()) as box:
        first, second = list(by_study(synthetic_studies(folder)).items())[:2]
        wait_for("the NPU", lambda: serves_on_npu(box), 60)
        pid = worker_pid(box)
        begin = cpu_ticks(pid)
        send(box, first[1])
        wait_for("a study in the worker", lambda: is_inferring(box) and cpu_ticks(pid) > begin + 3, 60)
        os.kill(pid, signal.SIGKILL)
        box.wait_for_verdicts(1, timeout_s=30)
        assert verdict_of(box, first[0])["model"]["engine"] == "tract"
        details = wait_for("degraded", lambda: lost(box), 10)
        assert "signal: 9" in details[0], details
        assert "NpuBenched" in box.log_text()
        # Benched: the next study is the processor's, too.
        send(box, second[1])
        box.wait_for_verdicts(2, timeout_s=30)
        assert verdict_of(box, second[0])["model"]["engine"] == "tract"
        begin = time.time()
        wait_for("ready again", lambda: serves_on_npu(box), 120)
        assert "NpuReadmitted" in box.log_text() and worker_pid(box) != pid
        return f"re-admitted {time.time() - begin:.0f} s later"


def test_a_hanging_npu_worker_is_killed_by_its_deadline_and_the_verdict_follows():
    with tempfile.TemporaryDirectory() as folder, Appliance(extra=configuration()) as box:
        uid, files = next(iter(by_study(synthetic_studies(folder)).items()))
        wait_for("the NPU", lambda: serves_on_npu(box), 60)
        pid = worker_pid(box)
        os.kill(pid, signal.SIGSTOP)
        send(box, files)
        box.wait_for_verdicts(1, timeout_s=60)
        assert verdict_of(box, uid)["model"]["engine"] == "tract"
        details = wait_for("degraded", lambda: lost(box), 10)
        assert "no answer within" in details[0], details
        wait_for("the worker's end", lambda: not pathlib.Path(f"/proc/{pid}").exists(), 10)
        return details[0]


def test_an_npu_without_its_library_degrades_the_box_and_stops_nothing():
    with tempfile.TemporaryDirectory() as folder, Appliance(extra=configuration("/no/such/libonnxruntime.so")) as box:
        uid, files = next(iter(by_study(synthetic_studies(folder)).items()))
        details = wait_for("degraded", lambda: lost(box), 20)
        assert "/no/such/libonnxruntime.so" in details[0], details
        send(box, files)
        box.wait_for_verdicts(1)
        assert verdict_of(box, uid)["model"]["engine"] == "tract"
        assert "NpuRefused" in box.log_text()


def test_the_npu_worker_ends_with_the_service_even_by_kill_9():
    box = Appliance(extra=configuration()).start()
    wait_for("the NPU", lambda: serves_on_npu(box), 60)
    pid = worker_pid(box)
    box.kill()
    wait_for("the worker's end", lambda: not pathlib.Path(f"/proc/{pid}").exists(), 10)


def test_the_npu_worker_opens_no_internet_socket():
    if not shutil.which("strace"):
        return "SKIP strace is not installed"
    with tempfile.TemporaryDirectory() as folder:
        trace = pathlib.Path(folder) / "trace"
        command = [program(), "model", "verify", "--models", str(ROOT / "models"), "--runtime", str(runtime_library())]
        subprocess.run(["strace", "-f", "-e", "trace=network,execve", "-o", str(trace), *command], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        text = trace.read_text()
        assert '"npu-worker"' in text and "socketpair(AF_UNIX" in text, "the trace saw the worker start"
        assert "AF_INET" not in text and "connect(" not in text, [line for line in text.splitlines() if "AF_INET" in line or "connect(" in line]
