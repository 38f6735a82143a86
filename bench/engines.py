# SPDX-License-Identifier: GPL-3.0-or-later
"""The comparison of put and get with the engine alone, which gets the same stream."""

from pathlib import Path
from typing import Any

import timing
from contenders import Contender
from debian import Debian
from timing import say

Data = dict[str, Any]
NAMES = ("restic", "borg")


def pair(engine: str, folder: Path, qube: Debian) -> tuple[Contender, Contender]:
    """Make two empty repositories in folder: ours, and one of the engine alone."""
    ours = Contender(f"ours-{engine}", folder / "e-ours", qube)
    alone = Contender(f"raw-{engine}", folder / "e-alone", qube, like=ours)
    ours.make()
    alone.make()
    return ours, alone


def compare(folder: Path, qube: Debian, stream: Path, count: int) -> Data:
    """Time them in turn: first, unchanged, read back.

    Args:
        folder: for the repositories.
        qube: where the programs run.
        stream: a backup, as a file.
        count: rounds.

    Returns:
        By engine and kind of contender (`ours`, `raw`) the seconds of `first`, `unchanged` and
        `restore`, and as `cpu` those of CPU of the unchanged ones (see timing.Spent).

    Raises:
        SystemExit: something else came back than was stored.
    """
    found: Data = {}
    for engine in NAMES:
        keys = ("first", "unchanged", "cpu", "restore")
        found[engine] = {kind: {key: [] for key in keys} for kind in ("ours", "raw")}
        for number in range(count):
            say(f"{stream.name}: {engine} alone, round {number + 1} of {count}")
            takers = pair(engine, folder, qube)
            for taker in takers if number % 2 == 0 else takers[::-1]:
                _measure(taker, stream, found[engine][taker.kind])
                if number == 0:
                    timing.compare(taker, stream)
            for taker in takers:
                taker.remove()
    return found


def _measure(taker: Contender, stream: Path, row: dict[str, list[float]]) -> None:
    row["first"].append(timing.feed(taker, stream).seconds)
    unchanged = timing.feed(taker, stream)
    row["unchanged"].append(unchanged.seconds)
    row["cpu"].append(unchanged.cpu)
    for _ in range(2):  # it is short, so twice
        seconds, length = timing.restore(taker)
        row["restore"].append(seconds)
        if length != stream.stat().st_size:
            raise SystemExit(f"{taker.name} gave back {length} bytes")
