#!/usr/bin/env python3
"""Every dependency carries a licence that deny.toml allows (for machines without cargo-deny). Exit status 1 names those that do not."""
import json
import pathlib
import re
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[2]
allowed = set(tomllib.loads((ROOT / "deny.toml").read_text())["licenses"]["allow"])
packages = json.loads(subprocess.run(["cargo", "metadata", "--format-version", "1", "--locked"], cwd=ROOT, capture_output=True, check=True).stdout)["packages"]


def permitted(expression):
    """SPDX expression: an OR needs one allowed side, an AND both. `/` is the old spelling of OR."""
    expression = expression.replace("/", " OR ").replace("(", " ( ").replace(")", " ) ")
    expression = re.sub(r"(\S+) WITH (\S+)", lambda m: repr(f"{m[1]} WITH {m[2]}").replace(" ", "\0"), expression)
    words = []
    for word in expression.split():
        name = word.replace("\0", " ").strip("'")
        words.append(word.lower() if word in ("OR", "AND") else word if word in "()" else str(name in allowed))
    return eval(" ".join(words), {"__builtins__": {}})  # only True, False, or, and, parentheses


bad = [f'{p["name"]} {p["version"]}: {p["license"]}' for p in packages if not p["license"] or not permitted(p["license"])]
print(f"{len(packages)} packages, {len(bad)} with a licence that deny.toml does not allow")
print("\n".join(bad))
sys.exit(bool(bad))
