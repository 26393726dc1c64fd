"""Update bundles for the cases: made from the image's own slot, changed, and signed as asked.

The root is unpacked, one thing is changed, and packed again; the boot partition is taken as it is. Needs root (owners in the root file system).
"""
import pathlib
import re
import shutil
import subprocess

from qemu import Failed

NEW_VERSION = "99.0.0"


def run(*command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if done.returncode:
        raise Failed(f"{' '.join(map(str, command))}: {(done.stderr or done.stdout).strip()[-800:]}")
    return done.stdout


class Bundles:
    """Makes bundles in `folder` on demand; each kind once."""

    def __init__(self, image, folder):
        self.image, self.folder = image, pathlib.Path(folder)
        self.folder.mkdir(exist_ok=True)

    def part(self, label):
        path = self.folder / f"{label}.img"
        if not path.exists():
            begin, n_bytes = self.image.partition(self.image.disk, label)
            run("dd", f"if={self.image.disk}", f"of={path}", "bs=1M", f"skip={begin}", f"count={n_bytes}", "iflag=skip_bytes,count_bytes", "conv=sparse")
        return path

    def root(self, kind):
        """The root of a version that works (`good`) or whose service cannot start (`broken`)."""
        path = self.folder / f"root-{kind}.squashfs"
        if path.exists():
            return path
        stage = self.folder / "stage"
        shutil.rmtree(stage, ignore_errors=True)
        run("unsquashfs", "-quiet", "-no-progress", "-d", stage, self.part("root-a"))
        release = stage / "usr/lib/os-release"
        old = re.search(r'^VERSION_ID="?([^"\n]*)', release.read_text(), re.MULTILINE).group(1)
        text = re.sub(r"(^(?:VERSION_ID|IMAGE_VERSION|PRETTY_NAME)=.*)" + re.escape(old), rf"\g<1>{NEW_VERSION}", release.read_text(), flags=re.MULTILINE)
        release.write_text(text)
        if kind == "broken":
            program = stage / "usr/bin/scanside"
            program.rename(program.with_suffix(".real"))
            # Everything but the service works, as in a version with a fault in its start.
            program.write_text('#!/bin/sh\n[ "$1" != serve ] || exit 1\nexec /usr/bin/scanside.real "$@"\n')
            program.chmod(0o755)
        run("mksquashfs", stage, path, "-noappend", "-comp", "zstd", "-Xcompression-level", "1", "-quiet", "-no-progress")
        shutil.rmtree(stage)
        return path

    def stranger(self):
        """A signing key that nobody trusts: (certificate, key)."""
        certificate, key = self.folder / "stranger.pem", self.folder / "stranger.key"
        if not key.exists():
            run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "3650", "-subj", "/CN=stranger",
                "-addext", "keyUsage=critical,digitalSignature", "-addext", "extendedKeyUsage=codeSigning")
        return certificate, key

    def make(self, kind, signed_by="ours"):
        """Path of a bundle: `kind` good or broken, `signed_by` ours or stranger."""
        path = self.folder / f"{kind}-{signed_by}.raucb"
        if path.exists():
            return path
        content = self.folder / "content"
        shutil.rmtree(content, ignore_errors=True)
        content.mkdir()
        shutil.copy(self.root(kind), content / "root.img")
        shutil.copy(self.part("boot-a"), content / "boot.img")
        manifest = (f"[update]\ncompatible={self.image.compatible}\nversion={NEW_VERSION}\n\n[bundle]\nformat=verity\n\n"
                    f"[image.rootfs]\nfilename=root.img\n\n[image.boot]\nfilename=boot.img\n")
        (content / "manifest.raucm").write_text(manifest)
        certificate, key = self.image.signer() if signed_by == "ours" else self.stranger()
        run("rauc", "bundle", f"--cert={certificate}", f"--key={key}", content, path)
        shutil.rmtree(content)
        return path

    def altered(self):
        """The good bundle with one bit of its payload turned."""
        path = self.folder / "altered.raucb"
        shutil.copy(self.make("good"), path)
        with open(path, "r+b") as file:
            file.seek(path.stat().st_size // 2)
            byte = file.read(1)[0]
            file.seek(-1, 1)
            file.write(bytes((byte ^ 0x10,)))
        return path
