#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure what borg's indexes take in memory; for the system's Python, which has borg's modules.

`borg create` on a local repository holds two: the repository's (borg/repository.py, NSIndex) and
the cache's (borg/cache.py, ChunkIndex). Prints JSON, in bytes: what both take when
they are filled, and the peak, while a larger table is made of a full one.
"""

import importlib
import json
import os
import sys
from pathlib import Path

HASHINDEX = importlib.import_module("borg.hashindex")  # has no types


def resident(key: str) -> int:
    """Return this process's resident size in bytes, now (VmRSS) or at its peak (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"no {key}")


def main() -> None:
    """Fill both indexes with as many entries as the argument says."""
    count = int(sys.argv[1])
    before = resident("VmRSS")
    chunks, segments = HASHINDEX.ChunkIndex(), HASHINDEX.NSIndex()
    for number in range(count):
        key = os.urandom(32)
        chunks[key] = 1, 300_000, 200_000
        segments[key] = number // 2000, number % 2000
    held, peak = resident("VmRSS") - before, resident("VmHWM") - before
    print(json.dumps({"held": held, "peak": peak}))


if __name__ == "__main__":
    main()
