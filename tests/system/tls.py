"""DICOM over TLS with other people's programs: openssl makes the certificates, dcmtk sends, old and hostile clients are turned away.

`python tests/system/tls.py` measures what TLS costs: storescu with and without it, the same images, one round after the other.
"""
import os
import pathlib
import shutil
import socket
import struct
import subprocess
import tempfile
import time

from appliance import Appliance, free_port, program, synthetic_studies

STALLED = 50


def openssl(*args, cwd):
    run = subprocess.run(["openssl", *map(str, args)], cwd=cwd, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


def authority(folder, name):
    """An authority: NAME.pem and NAME.key, as README tells hospital IT to make them."""
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", 3650,
            "-subj", f"/CN={name}", cwd=folder)


def signed(folder, by, name, usage, days=365):
    """A certificate NAME.pem with its key NAME.key, signed by an authority."""
    openssl("req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}", cwd=folder)
    (folder / f"{name}.ext").write_text(f"basicConstraints=CA:FALSE\nextendedKeyUsage={usage}\nsubjectAltName=DNS:localhost,IP:127.0.0.1\n")
    openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{by}.pem", "-CAkey", f"{by}.key", "-CAcreateserial", "-days", days,
            "-extfile", f"{name}.ext", "-out", f"{name}.pem", cwd=folder)


class TlsBox(Appliance):
    """An appliance with both listeners; clients need a certificate of the authority `ca`."""

    def __init__(self, folder, keys='client_ca_file = "{0}/ca.pem"'):
        self.tls = free_port()
        super().__init__(dicom_extra=(
            f'[dicom.tls]\nlisten = "127.0.0.1:{self.tls}"\ncertificate_file = "{folder}/box.pem"\nkey_file = "{folder}/box.key"\n'
            + keys.format(folder)))


def site():
    folder = pathlib.Path(tempfile.mkdtemp(prefix="scanside-tls-"))
    authority(folder, "ca")
    signed(folder, "ca", "box", "serverAuth")
    signed(folder, "ca", "mr1", "clientAuth")
    return folder


def echo(box, folder, client="mr1", trusted="ca"):
    """dcmtk's echoscu over TLS; whether it was answered, and how long that took."""
    who = ["+tls", f"{folder}/{client}.key", f"{folder}/{client}.pem"] if client else ["+tla"]
    begin = time.time()
    run = subprocess.run(["echoscu", *who, "+cf", f"{folder}/{trusted}.pem", "-aec", "SCANSIDE", "127.0.0.1", str(box.tls)],
                         capture_output=True, text=True, timeout=60)
    return run.returncode == 0, time.time() - begin


def causes(box):
    return {cause["code"]: cause for cause in box.get("/api/v1/status")["causes"]}


def wait_for(what, timeout_s=15):
    end = time.time() + timeout_s
    while time.time() < end:
        found = what()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError("did not come")


def test_dcmtk_sends_over_tls_and_strangers_are_refused():
    folder = site()
    authority(folder, "rogue")
    signed(folder, "rogue", "mr2", "clientAuth")
    signed(folder, "ca", "old", "clientAuth", days=-1)
    with tempfile.TemporaryDirectory() as studies, TlsBox(folder) as box:
        files = synthetic_studies(studies)
        run = subprocess.run(["storescu", "+tls", f"{folder}/mr1.key", f"{folder}/mr1.pem", "+cf", f"{folder}/ca.pem", "-aec", "SCANSIDE",
                              "127.0.0.1", str(box.tls), *map(str, files)], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        done = box.wait_for_verdicts(2)
        assert sum(s["n_instances"] for s in done) == len(files), done
        ours = [program(), "send", str(files[0]), "--to", f"localhost:{box.tls}", "--tls-ca", f"{folder}/ca.pem"]
        known = subprocess.run([*ours, "--tls-cert", f"{folder}/mr1.pem", "--tls-key", f"{folder}/mr1.key"], capture_output=True, text=True)
        assert known.returncode == 0 and "1 of 1 files stored" in known.stdout, known.stderr
        unknown = subprocess.run(ours, capture_output=True, text=True)
        assert unknown.returncode == 1 and "no association" in unknown.stderr, unknown.stderr
        for client, trusted, because in ((None, "ca", "showed no certificate"), ("mr2", "ca", "no authority in dicom.tls.client_ca_file"),
                                         ("old", "ca", "its certificate has ended"), ("mr1", "rogue", "does not trust the certificate of this box")):
            good, took = echo(box, folder, client, trusted)
            assert not good and took < 10, (client, took)
            wait_for(lambda text=because: text in box.log_text())
        plain = subprocess.run(["echoscu", "-to", "5", "-ta", "5", "-aec", "SCANSIDE", "127.0.0.1", str(box.tls)], capture_output=True)
        assert plain.returncode != 0
        wait_for(lambda: "it does not speak TLS" in box.log_text())
        assert echo(box, folder)[0], "and the right one still gets in"
    shutil.rmtree(folder)


def test_old_versions_and_weak_suites_are_refused():
    folder = site()
    with TlsBox(folder) as box:
        def handshake(*args):
            run = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{box.tls}", "-cert", f"{folder}/mr1.pem", "-key",
                                  f"{folder}/mr1.key", "-CAfile", f"{folder}/ca.pem", *args], input="", capture_output=True, text=True, timeout=20)
            # It ends with 1 as soon as the handshake fails.
            return run.returncode == 0 and "Cipher is (NONE)" not in run.stdout
        everything = "ALL:COMPLEMENTOFALL:@SECLEVEL=0"
        assert handshake("-tls1_3") and handshake("-tls1_2"), "what is good is taken"
        refused = [["-tls1_1", "-cipher", everything], ["-tls1", "-cipher", everything]]
        refused += [["-tls1_2", "-cipher", f"{suite}:@SECLEVEL=0"] for suite in
                    ("AES128-SHA", "AES256-SHA256", "AES128-GCM-SHA256", "ECDHE-RSA-AES128-SHA", "ECDHE-RSA-AES256-SHA384", "DHE-RSA-AES128-GCM-SHA256")]
        for args in refused:
            assert not handshake(*args), args
        assert "Secure Renegotiation IS NOT" not in subprocess.run(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{box.tls}", "-tls1_2", "-cert", f"{folder}/mr1.pem", "-key", f"{folder}/mr1.key"],
            input="", capture_output=True, text=True, timeout=20).stdout
        # A client that asks for renegotiation in the middle (R) is told no, and waits until it is cut off; where it is granted it ends with 0.
        try:
            run = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{box.tls}", "-tls1_2", "-cert", f"{folder}/mr1.pem", "-key",
                                  f"{folder}/mr1.key"], input="R\n", capture_output=True, text=True, timeout=3)
            assert run.returncode != 0, run.stdout[-500:]
        except subprocess.TimeoutExpired:
            pass
        assert echo(box, folder)[0]
    shutil.rmtree(folder)


def test_stalled_handshakes_and_junk_cost_no_memory_and_keep_nobody_out():
    folder = site()
    with TlsBox(folder) as box:
        assert echo(box, folder)[0]
        before, _ = box.rss_mb()
        held = []
        for n in range(STALLED + 200):
            s = socket.create_connection(("127.0.0.1", box.tls))
            if n % 2:
                s.sendall(bytes([22, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3]))  # half a ClientHello
            held.append(s)
        good, took = echo(box, folder)
        assert good and took < 2, took
        for n in range(30):  # declared lengths, junk, a hello that never ends
            with socket.create_connection(("127.0.0.1", box.tls)) as s:
                s.settimeout(5)
                junk = (os.urandom(4096), bytes([22, 3, 3, 0xFF, 0xFF]), b"\x01\x00" + struct.pack(">I", 0xFFFFFFFF) + bytes(64))[n % 3]
                try:
                    s.sendall(junk)
                    for _ in range(200):
                        s.sendall(bytes([22, 3, 1, 0x40, 0]) + bytes(0x4000))
                except OSError:
                    continue
        good, again = echo(box, folder)
        assert good and again < 2, again
        after, _ = box.rss_mb()
        assert after - before < 16, f"{before:.0f} MB became {after:.0f} MB"
        for s in held:
            s.close()
    shutil.rmtree(folder)
    return f"echo in {took:.2f} s beside {STALLED + 200} stalled handshakes, RSS {before:.0f} -> {after:.0f} MB"


def test_certificates_change_without_a_restart_and_the_page_says_what_is_wrong():
    folder = site()
    with TlsBox(folder) as box:
        def fingerprint_served():
            shown = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{box.tls}", "-cert", f"{folder}/mr1.pem", "-key",
                                    f"{folder}/mr1.key"], input="", capture_output=True, text=True).stdout
            return openssl_fingerprint(shown)

        def openssl_fingerprint(pem):
            return subprocess.run(["openssl", "x509", "-noout", "-fingerprint", "-sha256"], input=pem, capture_output=True, text=True).stdout

        first = fingerprint_served()
        assert first and not [code for code in causes(box) if code.startswith("certificate")]
        signed(folder, "ca", "new", "serverAuth", days=20)
        os.replace(folder / "new.pem", folder / "box.pem")
        os.replace(folder / "new.key", folder / "box.key")
        wait_for(lambda: fingerprint_served() not in (first, ""))
        second = fingerprint_served()
        expiring = wait_for(lambda: causes(box).get("certificate-expiring"))
        assert not expiring["fault"] and "in 19 days" in " ".join(expiring["details"]), expiring
        (folder / "box.pem").write_text("broken")
        refused = wait_for(lambda: causes(box).get("certificate-not-loaded"))
        assert "box.pem" in " ".join(refused["details"]), refused
        assert fingerprint_served() == second and echo(box, folder)[0], "the one before still serves"
        signed(folder, "ca", "gone", "serverAuth", days=-1)
        os.replace(folder / "gone.key", folder / "box.key")
        os.replace(folder / "gone.pem", folder / "box.pem")
        unusable = wait_for(lambda: causes(box).get("certificate-unusable"))
        assert unusable["fault"], unusable
        wait_for(lambda: box.get("/api/v1/status")["lamp"] in ("fault", {"state": "fault"}) or "fault" in str(box.get("/api/v1/status")["lamp"]))
        signed(folder, "ca", "good", "serverAuth")
        os.replace(folder / "good.key", folder / "box.key")
        os.replace(folder / "good.pem", folder / "box.pem")
        wait_for(lambda: not [code for code in causes(box) if code.startswith("certificate")])
        assert echo(box, folder)[0]
    shutil.rmtree(folder)


def test_pinned_scanner_needs_no_authority():
    folder = site()
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "scanner.key", "-out", "scanner.pem", "-days", 365, "-subj", "/CN=CT7", cwd=folder)
    pin = openssl("x509", "-noout", "-fingerprint", "-sha256", "-in", "scanner.pem", cwd=folder).split("=")[1].strip()
    with TlsBox(folder, f'client_certificates_sha256 = ["{pin}"]') as box:
        assert echo(box, folder, "scanner")[0]
        assert not echo(box, folder, "mr1")[0]
        wait_for(lambda: "none of those in dicom.tls.client_certificates_sha256" in box.log_text())
    shutil.rmtree(folder)


def cost(rounds=4, n=150):
    """CPU of the receiver for each instance of 0.5 MB, plain and under TLS with client certificates, in alternating rounds."""
    import bench_ingest
    folder = site()
    with tempfile.TemporaryDirectory() as images:
        images = pathlib.Path(images)
        bench_ingest.make(images, n, 1)
        files = [str(p) for p in sorted(images.rglob("*.dcm"))]
        print("| round | plain instances/s | plain CPU ms | TLS instances/s | TLS CPU ms |\n| --- | --- | --- | --- | --- |")
        for number in range(rounds):
            row = []
            for tls in (False, True):
                with TlsBox(folder) as box:
                    secure = ["+tls", f"{folder}/mr1.key", f"{folder}/mr1.pem", "+cf", f"{folder}/ca.pem"] if tls else []
                    before, begin = bench_ingest.cpu_s(box.process.pid), time.time()
                    subprocess.run(["storescu", *secure, "-xe", "-aec", "SCANSIDE", "127.0.0.1", str(box.tls if tls else box.dicom), *files],
                                   check=True, env=dict(os.environ, TCP_NODELAY="1"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                    took, cpu = time.time() - begin, bench_ingest.cpu_s(box.process.pid) - before
                    assert len(box.stored_files()) == n
                shutil.rmtree(box.folder)
                row += [f"{n / took:.0f}", f"{cpu / n * 1000:.2f}"]
            print(f"| {number + 1} | {' | '.join(row)} |", flush=True)
    shutil.rmtree(folder)


if __name__ == "__main__":
    cost()
