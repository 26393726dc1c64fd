#!/usr/bin/env python3
"""The appliance's bill of materials: packages, crates and models in -> CycloneDX 1.5 JSON on stdout, the same bytes each time.

Debian packages of which a file is in the root (and the kernel and boot loader), with licences from their copyright files; the crates
that the arm64 program is linked from (`cargo metadata`; without cargo all of Cargo.lock, which then says so); the models by sha256.
"""

import argparse
import datetime
import hashlib
import json
import re
import subprocess
import sys
import tomllib
import uuid
from pathlib import Path
from urllib.parse import quote


def debian_licences(stage: Path, name: str) -> list[dict]:
    """Names of the licences in a package's copyright file, if it is machine-readable (Debian's DEP-5)."""
    file = stage / "usr/share/doc" / name / "copyright"
    if not file.is_file():
        return []
    text = file.read_text(errors="replace")
    if "copyright-format" not in text[:400]:
        return []
    names = sorted({line.strip() for line in re.findall(r"^License:[ \t]*(\S.*)$", text, re.M)})
    return [{"license": {"name": name}} for name in names[:32]]


def debian(name: str, version: str, arch: str, sha256: str, licences: list[dict]) -> dict:
    purl = f"pkg:deb/debian/{quote(name)}@{quote(version, safe='')}?arch={arch}&distro=debian-12"
    component = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    component["hashes"] = [{"alg": "SHA-256", "content": sha256}]
    if licences:
        component["licenses"] = licences
    return component


def debian_packages(stage: Path, base: Path) -> list[dict]:
    """Packages that left a file in the root, and those of which single files are taken."""
    present = set()
    for line in (base / "files.txt").read_text().splitlines():
        name, path = line.split(" ", 1)
        if name not in present and not path.startswith("/usr/share/doc/"):
            target = stage / path.lstrip("/")
            if target.is_symlink() or target.is_file():
                present.add(name)
    components = []
    for line in (base / "debs.txt").read_text().splitlines():
        name, version, arch, sha256 = line.split()
        if name in present:
            components.append(debian(name, version, arch, sha256, debian_licences(stage, name)))
    for deb in sorted((base / "parts").glob("*.deb")):
        name, version, arch = deb.stem.split("_")
        if name == "bash" and not (stage / "usr/bin/bash").exists():
            continue
        version = version.replace("%3a", ":")
        components.append(debian(name, version, arch, hashlib.sha256(deb.read_bytes()).hexdigest(), []))
    return components


def crate(name: str, version: str, checksum: str | None, licence: str | None) -> dict:
    purl = f"pkg:cargo/{name}@{version}"
    component = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    if checksum:
        component["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    if licence:
        component["licenses"] = [{"expression": licence.replace("/", " OR ")}]
    return component


def linked_crates(repo: Path) -> dict[tuple[str, str], str | None] | None:
    """(name, version) -> licence of every crate that is linked into the program on arm64; None without cargo or its sources."""
    command = ["cargo", "metadata", "--format-version=1", "--locked", "--offline", "--filter-platform=aarch64-unknown-linux-gnu", "--features=rppal"]
    try:
        done = subprocess.run(command, cwd=repo, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    data = json.loads(done.stdout)
    packages = {package["id"]: package for package in data["packages"]}
    nodes = {node["id"]: node for node in data["resolve"]["nodes"]}
    todo, seen = [data["resolve"]["root"]], set()
    while todo:
        one = todo.pop()
        if one in seen:
            continue
        seen.add(one)
        todo += [dep["pkg"] for dep in nodes[one]["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"])]
    return {(packages[one]["name"], packages[one]["version"]): packages[one].get("license") for one in seen}


def crates(repo: Path) -> list[dict]:
    lock = tomllib.loads((repo / "Cargo.lock").read_text())["package"]
    linked = linked_crates(repo)
    if linked is None:
        print("warning: no cargo here: the SBOM lists all of Cargo.lock, without licences", file=sys.stderr)
        linked = {(one["name"], one["version"]): None for one in lock}
    checksums = {(one["name"], one["version"]): one.get("checksum") for one in lock}
    return [crate(name, version, checksums.get((name, version)), licence) for (name, version), licence in sorted(linked.items()) if name != "scanside"]


def models(stage: Path) -> list[dict]:
    components = []
    for file in sorted((stage / "usr/share/scanside/models").glob("*/*.onnx")):
        manifest = tomllib.loads((file.parent / "manifest.toml").read_text())
        version = str(manifest.get("version") or manifest.get("model", {}).get("version") or "unknown")
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        components.append({
            "type": "machine-learning-model", "bom-ref": f"model:{file.parent.name}/{file.name}", "name": f"{file.parent.name}/{file.name}",
            "version": version, "hashes": [{"alg": "SHA-256", "content": sha256}],
        })
    return components


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("repo", "base", "stage"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("version", "board", "epoch"):
        parser.add_argument(f"--{name}", required=True)
    args = parser.parse_args()
    product = {"type": "firmware", "bom-ref": "scanside-image", "name": f"scanside-{args.board}", "version": args.version}
    program = {
        "type": "application", "bom-ref": "scanside", "name": "scanside", "version": args.version, "licenses": [{"license": {"id": "Apache-2.0"}}],
        "hashes": [{"alg": "SHA-256", "content": hashlib.sha256((args.stage / "usr/bin/scanside").read_bytes()).hexdigest()}],
    }
    components = [program, *debian_packages(args.stage, args.base), *crates(args.repo), *models(args.stage)]
    refs = sorted({one["bom-ref"] for one in components})
    bom = {
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "serialNumber": "urn:uuid:" + str(uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([args.board, args.version, components], sort_keys=True))),
        "metadata": {"timestamp": datetime.datetime.fromtimestamp(int(args.epoch), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "component": product},
        "components": components,
        "dependencies": [{"ref": "scanside-image", "dependsOn": refs}],
    }
    json.dump(bom, sys.stdout, indent=1, sort_keys=True)
    print()


if __name__ == "__main__":
    main()
