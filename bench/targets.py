# SPDX-License-Identifier: GPL-3.0-or-later
"""What bench/store.py is to reach, as ratios within one run, and the tables of its report."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Data = dict[str, Any]
MB = 1e6
INDEX = 512 * (1 << 20)  # bytes of memory per TB


@dataclass(frozen=True)
class Line:
    """A target: what, the figure (None when it wasn't measured), the most it may be, and how."""

    what: str
    value: float | None
    most: float
    unit: str = ""

    @property
    def verdict(self) -> str:
        """Tell whether it was met."""
        if self.value is None:
            return "not measured"
        return "met" if self.value <= self.most else "MISSED"

    def cells(self) -> list[str]:
        """Give the row of the table."""
        shown = "-" if self.value is None else f"{self.value:.3f}{self.unit}"
        return [self.what, shown, f"at most {self.most:.3g}{self.unit}", self.verdict]


def median(data: Data, name: str, key: str) -> float:
    """Give the median over the rounds."""
    return float(statistics.median(row[name][key] for row in data["rounds"]))


def lines(data: Data) -> Iterator[Line]:
    """Compute all targets of a run."""
    for engine, most in (("restic", 0.02), ("borg", 0.01)):
        row = data["rounds"][0][f"ours-{engine}"]
        growth = (row["size_unchanged"] / row["size_first"] - 1) * 100
        yield Line(f"growth of an unchanged backup, {engine}", growth, most, " %")
    yield from _scattered(data)
    first = median(data, "ours-restic", "size_first") / median(data, "guide-restic", "size_first")
    yield Line("first repository, restic / the guide's", first, 1)
    for engine, times in data["engines"].items():
        for ours, alone in (("put", "store"), ("get", "dump")):
            ratio = statistics.median(times[ours]) / statistics.median(times[alone])
            yield Line(f"time of {ours}, {engine} / the engine alone", ratio, 1.05)
    for engine in ("restic", "borg"):
        ours, guide = f"ours-{engine}", f"guide-{engine}"
        for key in ("first", "unchanged"):
            ratio = median(data, ours, key) / median(data, guide, key)
            yield Line(f"time of a whole backup ({key}), {engine} / the guide's", ratio, 1.2)
    for engine in ("restic", "borg"):
        ratio = None
        if data.get("official"):
            seconds = data["official"]["none"]["seconds"]
            ratio = median(data, f"ours-{engine}", "first") / seconds
        what = f"time of a whole backup, {engine} / real scrypt without compression"
        yield Line(what, ratio, 0.1)


def _scattered(data: Data) -> Iterator[Line]:
    found = data["scattered"]
    growth = {
        name: row["second"] - row["first"] for name, row in found.items() if isinstance(row, dict)
    }
    wyng = growth.get("wyng")
    guide = found["guide-borg"]["first"]
    for name, most, size in (("borg", 1.35, 1.08), ("borg-small", 1.0, 1.12)):
        ours = f"ours-{name}"
        ratio = growth[ours] / wyng if wyng else None
        yield Line(f"growth after scattered changes, {name} / wyng's", ratio, most)
        yield Line(f"first repository, {name} / the guide's", found[ours]["first"] / guide, size)
    held = data["index"]["borg"]["held"] / (1 << 20)
    yield Line("memory of borg's index per TB, default setting", held, INDEX / (1 << 20), " MiB")
    ratio = growth["ours-restic"] / growth["raw-restic"]
    yield Line("growth after scattered changes, restic / restic on the image", ratio, 1)


def report(data: Data) -> str:
    """Write the report, in Markdown."""
    machine, sent = data["machine"], data["sent"] / 1e9
    rounds, days = len(data["rounds"]), len(next(iter(data["days"].values()), []))
    parts = [
        f"A stream of {sent:.2f} GB, {rounds} rounds, {days} days, on {machine['cpus']} cores;"
        f" {data['versions']['restic'].split(' compiled')[0]}, {data['versions']['borg']}."
        " Times are medians of the rounds, in seconds; sizes are in MB (10^6 bytes).",
        _table(["target", "this run", "wanted", ""], [line.cells() for line in lines(data)]),
        _contenders(data),
        _scattered_table(data),
        _index_table(data),
        _settings_table(data),
    ]
    return "\n\n".join(parts) + "\n"


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def _mb(value: float | None) -> str:
    return "-" if value is None else f"{value / MB:.1f}"


def _contenders(data: Data) -> str:
    rows = []
    for name in data["rounds"][0]:
        seconds = [
            f"{median(data, name, key):.1f}" if key in data["rounds"][0][name] else "-"
            for key in ("first", "unchanged", "restore")
        ]
        row = data["rounds"][0][name]
        first, days = row["size_first"], [day["size"] for day in data["days"].get(name, [])]
        growth = [row["size_unchanged"] - first]
        growth += (
            [days[0] - row["size_unchanged"], days[-1] - row["size_unchanged"]] if days else []
        )
        pruned = data["last"].get(name, {}).get("pruned")
        sizes = [_mb(first), f"{growth[0] / MB:.3f}", *map(_mb, growth[1:]), _mb(pruned)]
        rows.append([name, *seconds, *sizes])
    for name, row in data.get("official", {}).items():
        title = f"official, real scrypt, compression {name}"
        rows.append([title, f"{row['seconds']:.1f}", "the same", "-", _mb(row["bytes"]), "all"])
        rows[-1] += ["all", "all", "-"]
    head = ["contender", "first backup", "unchanged", "restore", "size", "+ unchanged"]
    return _table([*head, "+ one day", "+ all days", "after prune"], rows)


def _scattered_table(data: Data) -> str:
    found = data["scattered"]
    rows = [
        [name, _mb(row["first"]), _mb(row["second"] - row["first"])]
        for name, row in found.items()
        if isinstance(row, dict)
    ]
    title = f"{found['changed'] / MB:.0f} MB of scattered writes in an image of"
    head = [f"{title} {found['image'] / MB:.0f} MB", "size", "+ changed"]
    return _table(head, rows)


def _index_table(data: Data) -> str:
    rows = [
        [name, f"{row['mean'] / 1024:.0f} KiB", f"{row['chunks'] / 1e6:.2f} million"]
        + [f"{row[key] / (1 << 20):.0f} MiB" for key in ("held", "peak")]
        for name, row in data["index"].items()
    ]
    head = ["borg's indexes for 1 TB", "mean chunk", "chunks", "held", "peak while it grows"]
    return _table(head, rows)


def _settings_table(data: Data) -> str:
    rows = [
        [
            row["engine"],
            f"`{row['setting']}`" if row["setting"] else "as it is",
            f"{row['seconds']:.1f}",
            _mb(row["size"]),
        ]
        for row in data["settings"]
    ]
    return _table(["engine", "setting in the profile", "seconds of `put`", "size"], rows)
