# SPDX-License-Identifier: GPL-3.0-or-later
"""The targets of bench/store.py, as ratios within one run."""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import sub
from typing import Any

Data = dict[str, Any]
Picker = Callable[[list[float]], float]
ENGINES = ("restic", "borg")
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


def last(data: Data, name: str) -> Data:
    """Return the row of the last round in which a contender took part."""
    return next((row[name] for row in data["rounds"][::-1] if name in row), {})


def lines(data: Data) -> Iterator[Line]:
    """Compute all targets of a run."""
    for engine in ENGINES:
        name = f"ours-{engine}"
        rows = [row[name] for row in data["rounds"]]
        grown = [(row["size_unchanged"] / row["size_first"] - 1) * 100 for row in rows]
        growth = statistics.median(grown) if grown else None
        yield Line(f"growth of an unchanged backup, {engine}", growth, 0.005, " %")
    yield from _scattered(data)
    first = [median(data, f"{kind}-restic", "size_first") for kind in ("ours", "guide")]
    yield Line("first repository, restic / the guide's", ratio(*first), 1)
    small = data.get("small", {})
    for found, what in ((data, "corpus"), (small, f"{small.get('qubes', 60)} qubes")):
        yield from _engines(found.get("engines", {}), what)
    for engine in ENGINES:
        cpu = against(data.get("engines", {}).get(engine), "cpu")
        yield Line(f"dedup-store's CPU / {engine}'s, unchanged", cpu, 0.35)
    yield from _one(small)
    for engine in ENGINES:
        for key in ("first", "unchanged"):
            pair = [median(data, f"{kind}-{engine}", key) for kind in ("ours", "guide")]
            what = f"time of a whole backup ({key}), {engine} / the guide's script"
            yield Line(what, ratio(*pair), 1.15)
    real = data.get("official", {}).get("none", {}).get("seconds")
    for engine in ENGINES:
        for key in ("first", "unchanged"):
            found_ratio = ratio(median(data, f"ours-{engine}", key), real)
            what = f"time of a whole backup ({key}), {engine} / official, not compressed"
            yield Line(what, found_ratio, 0.1)


def against(rows: Data | None, key: str, pick: Picker = statistics.median) -> float | None:
    """Divide what ours took by what the engine alone did, None if not measured.

    Args:
        rows: as engines.compare makes them for an engine.
        key: of the measurement.
        pick: chooses from several of them.
    """
    if not rows or not rows["ours"][key]:
        return None
    return pick(rows["ours"][key]) / pick(rows["raw"][key])


def _engines(found: Data, stream: str) -> Iterator[Line]:
    for engine in ENGINES:
        rows = found.get(engine)
        for key in ("first", "unchanged"):
            what = f"time of `put` ({key}), {stream}, {engine} / {engine} alone"
            yield Line(what, against(rows, key), 1.1)
        what = f"time of `get`, {stream}, {engine} / {engine} alone"
        yield Line(what, against(rows, "restore"), 1.05)


def share_read(row: Data) -> float:
    """Return how many bytes a restore of one qube read for each byte stored."""
    return float(row["read"] / row["stored"])


def _one(small: Data) -> Iterator[Line]:
    for engine in ENGINES:
        rows = small.get("one", {}).get(engine, [])
        what = f"one qube of {small.get('qubes', 60)}, {engine}"
        share = statistics.median(map(share_read, rows)) if rows else None
        yield Line(f"{what}: bytes read / stored", share, 1.2)
        first = statistics.median(row["first"] for row in rows) if rows else None
        yield Line(f"{what}: first byte", first, 3, " s")


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
    for name, most, size in (("borg", 1.2, 1.08), ("borg-small", 0.85, 1.12)):
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
