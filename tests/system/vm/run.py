#!/usr/bin/env python3
"""The appliance on an emulated box, without hardware: its lamps are seen, and its button is pressed, from outside the guest.

    tests/system/vm/run.py --image DIR [--seeds N] [--first-seed N] [--long] [--list] [CASE ...]

DIR: what board/image builds for qemu-virt with the test shell. Without CASE every case but those marked long. One line per case,
then the run's figures; exit status 1 when one failed. Needs qemu-system-aarch64 (7.2 or later; 10.0.2 is tested), qemu-img, dcmtk, mtools,
rauc, and for the power cuts root (loop mounts). $SCANSIDE is a scanside for this machine: it writes the synthetic studies.
"""
import argparse
import pathlib
import signal
import sys
import time
import traceback

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import cases_boards  # noqa: E402
import cases_disk  # noqa: E402
import cases_faults  # noqa: E402
import cases_lamps  # noqa: E402
import cases_power  # noqa: E402
import cases_update  # noqa: E402
import selftest  # noqa: E402
from scene import Scene  # noqa: E402

MODULES = (selftest, cases_lamps, cases_faults, cases_disk, cases_update, cases_power, cases_boards)


class Skip(Exception):
    """The case cannot be run here, or has nothing to look at in this image."""


def cases():
    """{name: (function, whether it runs only with --long)} in order."""
    return {name: (case, name in module.LONG) for module in MODULES for name, case in module.CASES.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image", type=pathlib.Path)
    parser.add_argument("--seeds", type=int, help="power cuts (3; with --long 20)")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--keep", type=pathlib.Path, metavar="FOLDER", help="work there and leave everything; a snapshot of the same image is used again")
    parser.add_argument("--minutes", type=float, help="begin no further case after this long, and name what was left out")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("case", nargs="*")
    args = parser.parse_args()
    known = cases()
    if args.list:
        for name, (case, long) in known.items():
            print(f"{name:20} {'(long) ' if long else ''}{' '.join(case.__doc__.split())}")
        return 0
    unknown = [name for name in args.case if name not in known]
    if unknown or args.image is None:
        parser.error(f"no case {', '.join(unknown)}; there are {', '.join(known)}" if unknown else "--image is missing")
    wanted = args.case or [name for name, (_, long) in known.items() if args.long or not long]
    n_seeds = args.seeds or (20 if args.long else 3)
    scene = Scene(args.image, range(args.first_seed, args.first_seed + n_seeds), args.long, args.keep)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an exception: the emulator and the folder go, too
    counts, begin = {"ok": 0, "FAIL": 0, "skip": 0, "left": 0}, time.monotonic()
    try:
        for name in wanted:
            since = time.monotonic()
            if args.minutes and since - begin > 60 * args.minutes:
                counts["left"] += 1
                print(f"left {name}: not begun, the {args.minutes:g} minutes are over", flush=True)
                continue
            try:
                note = str(known[name][0](scene) or "")
                word = "skip" if note.startswith("SKIP") else "ok"
                print(f"{word:4} {name} ({time.monotonic() - since:.1f} s) {note}", flush=True)
            except Exception:  # a failed case must not hide the next one
                word = "FAIL"
                print(f"FAIL {name} ({time.monotonic() - since:.1f} s)\n{traceback.format_exc()}{scene.last_words()}", flush=True)
            counts[word] += 1
    finally:
        scene.close()
    for what, figures in scene.figures.items():
        print(f"figure: {what}: " + ", ".join(f"{key} {value:.1f}" if isinstance(value, float) else f"{key} {value}" for key, value in figures.items()))
    print(f"{counts['ok']} passed, {counts['FAIL']} failed, {counts['skip']} skipped, {counts['left']} not begun in {(time.monotonic() - begin) / 60:.1f} min")
    return 1 if counts["FAIL"] else 0


if __name__ == "__main__":
    sys.exit(main())
