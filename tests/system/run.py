#!/usr/bin/env python3
"""System tests: the release program against other people's tools (dcmtk, pynetdicom, Orthanc), hostile peers and a pulled plug.

    tests/system/run.py [NAME ...]       needs the packages of tests/system/requirements.txt and Debian's dcmtk (orthanc and mosquitto are optional)

Prints one line per test and ends with `N passed, N failed, N skipped`. Exit status 1 when one failed.
"""
import inspect
import sys
import time
import traceback

import bad_input
import disk_faults
import faults
import interop
import lamp
import mqtt
import npu
import pacs
import peers
import plug
import power_cut
import provisional
import services
import tls

MODULES = (
    peers,
    interop,
    plug,
    power_cut,
    disk_faults,
    bad_input,
    faults,
    lamp,
    mqtt,
    npu,
    pacs,
    provisional,
    services,
    tls,
)


def main():
    tests = {n: f for m in MODULES for n, f in inspect.getmembers(m, inspect.isfunction) if n.startswith("test_")}
    wanted = sys.argv[1:] or list(tests)
    passed = failed = skipped = 0
    for name in wanted:
        begin = time.time()
        try:
            note = tests[name]() or ""
            if str(note).startswith("SKIP"):
                skipped += 1
            else:
                passed += 1
            print(f"{'skip' if str(note).startswith('SKIP') else 'ok':4} {name} ({time.time() - begin:.1f} s) {note}", flush=True)
        except Exception:  # a failed test must not hide the next one
            failed += 1
            print(f"FAIL {name} ({time.time() - begin:.1f} s)\n{traceback.format_exc()}", flush=True)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
