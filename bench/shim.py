#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a chunk takes: the shim, the guide's script, the real scrypt, in turns.

A chunk goes in through a pipe and into a file (enc), and from a file into a file (dec), with the
prompts answered on a terminal as Qubes does. Runs alternate, so that what else the machine does
hits all programs alike; what counts is the ratio of the medians. Backups write to /tmp, in dom0
a tmpfs; restores write below the user's home: so both kinds of filesystem are measured.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))
from testing.shim.driver import (  # noqa: E402 -- needs the path
    CONFIRM,
    ENTER,
    MEMBER,
    Call,
    Root,
    line,
)

GUIDE = CHECKOUT / "lab/guide-scrypt"
AIMS = {  # program, action, compared with: the most that the ratio of times may be
    ("shim", "enc", "guide"): 2.0,
    ("shim", "dec", "guide"): 2.5,
    ("shim", "enc", "real"): 0.1,
    ("shim", "dec", "real"): 0.1,
}
Times = dict[str, list[float]]


@contextmanager
def clock(times: list[float]) -> Iterator[None]:
    """Add the seconds that the body took to times."""
    start = time.perf_counter()
    yield
    times.append(time.perf_counter() - start)


def encode(program: Path, target: Path, chunk: bytes, times: list[float]) -> None:
    """Encode chunk into target, from a pipe."""
    with clock(times):
        call = Call([program, "enc", "-", target], stdin=subprocess.PIPE)
        for prompt in (ENTER, CONFIRM):
            call.expect(prompt)
            call.answer(line(b"ordinary") if program.name == "scrypt.bak" else line())
        view = memoryview(chunk)
        while call.process.stdin and view:
            view = view[call.process.stdin.write(view[: 1 << 20]) :]
        result = call.finish()
    if result.status or result.stderr:
        raise SystemExit(f"{program}: {result}")


def decode(program: Path, source: Path, target: Path, times: list[float]) -> None:
    """Decode source into target."""
    with clock(times):
        call = Call([program, "dec", "-f", source, target])
        call.expect(ENTER)
        call.answer(line(b"ordinary") if program.name == "scrypt.bak" else line())
        result = call.finish()
    if result.status or result.stderr:
        raise SystemExit(f"{program}: {result}")


def measure(folder: Path, chunk: bytes, rounds: int, real_rounds: int) -> Times:
    """Measure all programs on the filesystem of folder; return the seconds of each run."""
    root = Root(folder)
    programs = {"shim": root.scrypt, "guide": GUIDE, "real": root.real}
    times: Times = {f"{name} {action}": [] for name in programs for action in ("enc", "dec")}
    for turn in range(rounds + 1):  # the first one only warms up
        for name, program in programs.items():
            if name == "real" and not 1 <= turn <= real_rounds:
                continue
            stored, out = root.work / MEMBER, root.work / "out"
            encode(program, stored, chunk, times[f"{name} enc"])
            decode(program, stored, out, times[f"{name} dec"])
            if out.read_bytes() != chunk:
                raise SystemExit(f"{program}: what it restored differs")
            stored.unlink()
            out.unlink()
            if turn == 0:
                times[f"{name} enc"].clear()
                times[f"{name} dec"].clear()
    return times


def filesystem(folder: Path) -> str:
    """Return the type of the folder's filesystem."""
    argv = ["stat", "--file-system", "--format=%T", str(folder)]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


def report(name: str, times: Times) -> bool:
    """Print medians and ratios; return whether all aims were met."""
    medians = {key: statistics.median(values) for key, values in times.items()}
    print(f"{name}: medians in ms:", end="")
    print(*(f" {key} {value * 1000:.0f}" for key, value in medians.items()), sep=",")
    met = True
    for (program, action, other), most in AIMS.items():
        ratio = medians[f"{program} {action}"] / medians[f"{other} {action}"]
        met &= ratio <= most
        verdict = "met" if ratio <= most else "MISSED"
        print(f"  {action}: {program} / {other} = {ratio:.3f}, at most {most}: {verdict}")
    return met


def main() -> int:
    """Measure on each folder's filesystem, keep all times, print the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, action="append", help="where to write; repeatable")
    parser.add_argument("--size", type=int, default=100, help="MiB of a chunk; Qubes' are 100")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--real-runs", type=int, default=9, help="the real scrypt takes seconds")
    parser.add_argument("--json", type=Path, default=CHECKOUT / ".benchmarks/shim.json")
    parser.add_argument("--strict", action="store_true", help="a missed aim is exit status 1")
    options = parser.parse_args()
    chunk = os.urandom(options.size << 20)
    folders = options.folder or [Path("/dev/shm"), CHECKOUT / ".benchmarks"]  # noqa: S108
    machine = {"cpus": os.cpu_count(), "kernel": platform.release(), "load": os.getloadavg()}
    seconds: dict[str, Times] = {}
    met = True
    for folder in folders:
        folder.mkdir(exist_ok=True)
        shown = folder.relative_to(CHECKOUT) if folder.is_relative_to(CHECKOUT) else folder
        name = f"{filesystem(folder)} ({shown})"
        place = Path(tempfile.mkdtemp(prefix="bench-", dir=folder))
        try:
            times = measure(place, chunk, options.runs, options.real_runs)
        finally:
            shutil.rmtree(place)
        seconds[name] = times
        met &= report(name, times)
    options.json.parent.mkdir(exist_ok=True)
    result = {"machine": machine, "MiB": options.size, "seconds": seconds}
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(f"all times: {options.json}")
    return 0 if met or not options.strict else 1


if __name__ == "__main__":
    sys.exit(main())
