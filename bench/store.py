#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups with the official tool as it is, with the forum guide's script, and with this project.

All contenders take part in each round, in turn, so that what else the machine does hits all alike;
what counts are ratios. Needs root, for loop mounts. Settings, in the environment: BENCH_GB,
BENCH_ROUNDS, BENCH_DAYS, BENCH_REAL (0 leaves the real scrypt out), BENCH_DIR (where it works),
WYNG (wyng's program).
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]


def setting(name: str, default: float) -> float:
    """Read a number from the environment."""
    return float(os.environ.get(f"BENCH_{name}") or default)


@contextmanager
def btrfs(place: Path, size: int) -> Iterator[None]:
    """Mount a new Btrfs of size bytes, from a sparse file beside it."""
    image = place.with_suffix(".btrfs")
    with image.open("wb") as file:
        file.truncate(size)
    place.mkdir()
    subprocess.run(["mkfs.btrfs", "-q", image], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def measure(folder: Path) -> dict[str, Any]:
    """Measure everything, in an empty folder; give the raw data."""
    from rounds import Bench, say, versions  # noqa: PLC0415 - the report does without the lab

    data: dict[str, Any] = {
        "machine": {
            "cpus": os.cpu_count(),
            "kernel": platform.release(),
            "load": os.getloadavg(),
        },
        "versions": versions(),
    }
    total = int(setting("GB", 1.1) * 1e9)
    with btrfs(folder / "btrfs", 20 * total), btrfs(folder / "plain", 30 * total):
        bench = Bench(folder, total, os.environ.get("WYNG"))
        try:
            bench.engines(int(setting("ROUNDS", 3)), data)
            bench.rounds(int(setting("ROUNDS", 3)), data)
            bench.index(data)
            if setting("REAL", 1):
                bench.official(data)
            bench.days(int(setting("DAYS", 10)), data)
            bench.scattered(data)
        finally:
            bench.close()
    say("done")
    return data


def main() -> int:
    """Measure, keep the raw data, write the report and the chart."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="only report on these raw data")
    parser.add_argument("--out", type=Path, default=CHECKOUT / ".benchmarks/store")
    parser.add_argument("--strict", action="store_true", help="a missed target is exit status 1")
    options = parser.parse_args()
    import chart  # noqa: PLC0415 - what is needed at the end is missed at the beginning
    import targets  # noqa: PLC0415

    options.out.parent.mkdir(exist_ok=True)
    if options.data:
        data = json.loads(options.data.read_text())
    else:
        folder = Path(tempfile.mkdtemp(prefix="b", dir=os.environ.get("BENCH_DIR", "/var/tmp")))  # noqa: S108
        try:
            data = measure(folder)
        finally:
            shutil.rmtree(folder)
    options.out.with_suffix(".json").write_text(json.dumps(data, indent=1) + "\n")
    report = targets.report(data)
    options.out.with_suffix(".md").write_text(report)
    chart.draw(data, options.out)
    print(report)
    missed = [line for line in targets.lines(data) if line.verdict == "MISSED"]
    return 1 if missed and options.strict else 0


if __name__ == "__main__":
    sys.exit(main())
