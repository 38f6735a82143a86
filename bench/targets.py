# SPDX-License-Identifier: GPL-3.0-or-later
"""The targets of bench/store.py, as ratios within one run."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from operator import sub
from typing import Any

Data = dict[str, Any]
MIB = 1 << 20
INDEX = 512  # MiB of memory per TB


@dataclass(frozen=True)
class Line:
    """A target: what, the figure (None when it wasn't measured), and the most it may be."""

    what: str
    value: float | None
    most: float
    unit: str = ""

    @property
    def verdict(self) -> str:
        """Whether it was met, in a word."""
        if self.value is None:
            return "not measured"
        return "met" if self.value <= self.most else "MISSED"

    def cells(self) -> list[str]:
        """Return the row of the table."""
        shown = "-" if self.value is None else f"{self.value:.3f}{self.unit}"
        return [self.what, shown, f"{self.most:.4g}{self.unit}", self.verdict]


def median(data: Data, name: str, key: str) -> float | None:
    """Return the median over the rounds; None when it wasn't measured."""
    found = [row[name][key] for row in data["rounds"] if key in row.get(name, {})]
    return float(statistics.median(found)) if found else None


def ratio(value: float | None, other: float | None) -> float | None:
    """Divide; None when one of them is missing."""
    return value / other if value is not None and other else None


def lines(data: Data) -> Iterator[Line]:
    """Compute all targets of a run."""
    for engine, most in (("restic", 0.02), ("borg", 0.01)):
        name = f"ours-{engine}"
        sizes = [(row[name]["size_first"], row[name]["size_unchanged"]) for row in data["rounds"]]
        growth = statistics.median((after / before - 1) * 100 for before, after in sizes)
        yield Line(f"growth of an unchanged backup, {engine}", growth, most, " %")
    yield from _scattered(data)
    first = [median(data, f"{kind}-restic", "size_first") for kind in ("ours", "guide")]
    yield Line("first repository, restic / the guide's", ratio(*first), 1)
    for engine, times in data.get("engines", {}).items():
        for ours, alone in (("put", "store"), ("get", "dump")):
            found = statistics.median(times[ours]) / statistics.median(times[alone])
            yield Line(f"time of `{ours}`, {engine} / {engine} alone", found, 1.05)
    for engine in ("restic", "borg"):
        for key in ("first", "unchanged"):
            pair = [median(data, f"{kind}-{engine}", key) for kind in ("ours", "guide")]
            what = f"time of a whole backup ({key}), {engine} / the guide's script"
            yield Line(what, ratio(*pair), 1.2)
    real = data.get("official", {}).get("none", {}).get("seconds")
    for engine in ("restic", "borg"):
        for key in ("first", "unchanged"):
            found_ratio = ratio(median(data, f"ours-{engine}", key), real)
            what = f"time of a whole backup ({key}), {engine} / official, not compressed"
            yield Line(what, found_ratio, 0.1)


def growth_scattered(data: Data, name: str) -> float | None:
    """Return the median of the bytes that scattered changes added, None if not measured."""
    row = data.get("scattered", {}).get(name)
    return statistics.median(map(sub, row["second"], row["first"])) if row else None


def first_scattered(data: Data, name: str) -> float | None:
    """Return the median size of the repository before them, None if not measured."""
    row = data.get("scattered", {}).get(name)
    return statistics.median(row["first"]) if row else None


def _scattered(data: Data) -> Iterator[Line]:
    wyng = growth_scattered(data, "wyng")
    guide = first_scattered(data, "guide-borg")
    for name, most, size in (("borg", 1.35, 1.08), ("borg-small", 1.0, 1.12)):
        title = "borg" if name == "borg" else "borg, small chunks"
        grown = ratio(growth_scattered(data, f"ours-{name}"), wyng)
        yield Line(f"growth after scattered changes, {title} / wyng", grown, most)
        first = first_scattered(data, f"ours-{name}")
        yield Line(f"first repository, {title} / the guide's", ratio(first, guide), size)
    for key, when in (("held", ""), ("peak", ", while they grow")):
        taken = data.get("index", {}).get("ours-borg", {}).get(key)
        yield Line(f"memory of borg's indexes for 1 TB{when}", ratio(taken, MIB), INDEX, " MiB")
    pair = [growth_scattered(data, f"{kind}-restic") for kind in ("ours", "raw")]
    yield Line("growth after scattered changes, restic / restic on the image", ratio(*pair), 1)
