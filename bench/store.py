#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups with the official tool as it is, with the forum guide's script, and with this project.

Contenders take turns, so that what else the machine does hits all alike; what counts are ratios.
Needs root, for mounts. Settings, in the environment: BENCH_GB (size of the largest volume, in GiB),
BENCH_ROUNDS, BENCH_DAYS, BENCH_QUBES (how many small ones there are), BENCH_REAL (0 leaves the real
scrypt out), BENCH_PARTS (some of PARTS), BENCH_DIR (where it works, and writes its results), WYNG
(wyng's program), QUBES_SRC (checkouts of Qubes OS, whose code then makes the backups; without them
the lab's does).
"""

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
DEFAULTS = {"gb": 2.0, "rounds": 5, "days": 10, "qubes": 60, "real": 1}
PARTS = "small engines rounds index official days scattered settings"


def settings() -> dict[str, float]:
    """Read the settings from the environment."""
    found = {key: os.environ.get(f"BENCH_{key.upper()}") for key in DEFAULTS}
    return {key: type(usual)(found[key] or usual) for key, usual in DEFAULTS.items()}


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


def keep(data: dict[str, Any], raw: Path) -> None:
    """Write the raw data; the load tells whether something else ran meanwhile."""
    data["machine"].setdefault("loads", []).append(os.getloadavg()[0])
    raw.write_text(json.dumps(data, indent=1) + "\n")


def measure(folder: Path, chosen: dict[str, float], raw: Path) -> dict[str, Any]:
    """Measure everything, in an empty folder; give the raw data, and keep them in a file, too."""
    import experiments  # noqa: PLC0415 -- the report does without the lab
    import small  # noqa: PLC0415
    from debian import Debian  # noqa: PLC0415
    from rounds import Bench  # noqa: PLC0415
    from timing import say  # noqa: PLC0415

    wyng = os.environ.get("WYNG") or None
    data: dict[str, Any] = {
        "machine": {
            "cpus": os.cpu_count(),
            "kernel": platform.release(),
            "load": os.getloadavg(),
        },
        "settings": chosen,
        "rounds": [],
        "days": {},
        "last": {},
    }
    size = int(chosen["gb"] * 1024) << 20
    rounds, days = int(chosen["rounds"]), int(chosen["days"])
    parts = (os.environ.get("BENCH_PARTS") or PARTS).split()
    with ExitStack() as ends:
        ends.enter_context(btrfs(folder / "btrfs", (1 << 30) + 8 * size))
        ends.enter_context(btrfs(folder / "plain", 20 << 30))
        qube = Debian(folder)
        ends.callback(qube.close)
        data["versions"] = experiments.versions(qube, wyng)
        if "small" in parts:
            small.measure(folder, qube, int(chosen["qubes"]), rounds, data)
            keep(data, raw)
        bench = Bench(folder, qube, chosen["gb"], wyng)
        ends.callback(bench.close)
        data["images"] = {volume.name: volume.size for volume in bench.volumes}
        steps: dict[str, Callable[[], None]] = {
            "engines": lambda: experiments.engines(bench, rounds, data),
            "rounds": lambda: bench.rounds(rounds, data),
            "index": lambda: experiments.index(bench, data),
            "official": lambda: experiments.official(bench, data) if chosen["real"] else None,
            "days": lambda: bench.days(days, data),
            "scattered": lambda: experiments.scattered(bench, data),
            "settings": lambda: experiments.settings(bench, data),
        }
        for name, step in steps.items():
            if name in parts:
                step()
                keep(data, raw)
    say("done")
    return data


def main() -> int:
    """Measure, keep the raw data, write the report and the chart."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--report", type=Path, metavar="FILE", help="only report on these raw data")
    parser.add_argument("--strict", action="store_true", help="a missed target is exit status 1")
    parser.add_argument("--page", type=Path, metavar="FILE", help="also put its tables there")
    options = parser.parse_args()
    import chart  # noqa: PLC0415 -- what is needed at the end is missed at the beginning
    import report  # noqa: PLC0415
    import targets  # noqa: PLC0415

    # on SIGTERM, too, unmount what is mounted
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    place = Path(os.environ.get("BENCH_DIR") or CHECKOUT / ".benchmarks").absolute()
    place.mkdir(parents=True, exist_ok=True)
    if options.report:
        data = json.loads(options.report.read_text())
        out = options.report.with_suffix("")
    else:
        out = place / "store"
        folder = Path(tempfile.mkdtemp(prefix="bench-", dir=place))
        try:
            data = measure(folder, settings(), out.with_suffix(".json"))
        finally:
            if f"{folder}/" in Path("/proc/mounts").read_text():
                print(f"{folder} is left: something in it is still mounted", file=sys.stderr)
            else:  # else this would remove what is mounted, such as /dev
                shutil.rmtree(folder)
    text = report.report(data)
    out.with_suffix(".md").write_text(text)
    if options.page:
        options.page.write_text(report.update(options.page.read_text(), text))
    chart.draw(data, out)
    print(text)
    missed = [line for line in targets.lines(data) if line.verdict == "MISSED"]
    return 1 if missed and options.strict else 0


if __name__ == "__main__":
    sys.exit(main())
