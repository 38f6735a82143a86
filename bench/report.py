# SPDX-License-Identifier: GPL-3.0-or-later
"""The tables of bench/store.py, in Markdown."""

import re
import statistics
from typing import Any

import targets
from contenders import CHUNKS, TITLES
from targets import MIB, median

Data = dict[str, Any]
MB = 1e6
Cell = float | None
_TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)
PAIRED = {
    "first": "`put`, first",
    "unchanged": "`put`, unchanged",
    "cpu": "CPU of that",
    "restore": "`get`",
}


def report(data: Data) -> str:
    """Write the report."""
    machine, settings = data["machine"], data["settings"]
    own = "qubes" in data["versions"]
    maker = "Qubes' own code" if own else "the lab's `qvm-backup`"
    sizes = ", ".join(f"{size / MIB:.0f}" for size in data["images"].values())
    parts = [
        f"Volumes of {sizes} MiB, a stream of {data.get('stream', 0) / 1e9:.2f} GB;"
        f" {len(data['rounds'])} rounds, {settings['days']} days; {machine['cpus']} processors"
        f"{_load(machine)};"
        f" {', '.join(version.split(' compiled')[0] for version in data['versions'].values())};"
        f" backups made by {maker}. Times are medians of the rounds, in seconds,"
        " and cover the whole backup; sizes are in MB (10^6 bytes).",
        _table(
            ["target", "this run", "at most", ""], [line.cells() for line in targets.lines(data)]
        ),
        _times(data),
        _sizes(data),
        _engines(data),
        _one(data),
        _scattered(data),
        _index(data),
        _choices(data),
        _notes(data),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def update(page: str, text: str) -> str:
    """Put a report's tables into a page, in place of those whose head begins alike."""
    new = {table.split("|")[1]: table for table in _TABLE.findall(text)}
    return _TABLE.sub(lambda table: new.get(table[0].split("|")[1], table[0]), page)


def _load(machine: Data) -> str:
    loads = machine.get("loads", [])
    if not loads:
        return ""
    return f" (load average while they measured: {min(loads):.1f} to {max(loads):.1f})"


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def _seconds(value: Cell) -> str:
    return "-" if value is None else f"{value:.1f}"


def _mb(value: Cell) -> str:
    return "-" if value is None else f"{value / MB:.1f}"


def names(data: Data) -> list[str]:
    """Return the names of all that took part, the official tool first."""
    found = [row for row in data["rounds"][:1] for row in row]
    return [f"official-{key}" for key in data.get("official", {})] + found


def _times(data: Data) -> str:
    rows = []
    for name in names(data):
        if name.startswith("official-"):
            found = data["official"][name.partition("-")[2]]
            cells = [_seconds(found["seconds"]), "the same", "the same", "-", "-"]
            rows.append([TITLES[name], *cells, _mb(found["bytes"])])
            continue
        days = [day["seconds"] for day in data["days"].get(name, [])]
        last = data["last"].get(name, {})
        figures = [median(data, name, key) for key in ("first", "unchanged")]
        figures += [statistics.median(days) if days else None]
        figures += [median(data, name, "restore"), last.get("restore")]
        sent = _mb(median(data, name, "sent")) if name != "wyng" else "-"
        rows.append([TITLES[name], *map(_seconds, figures), sent])
    count = data["settings"]["days"]
    head = ["seconds", "first backup", "unchanged", "after a day", "restore"]
    return _table([*head, f"restore after {count} days", "sent, MB"], rows)


def _sizes(data: Data) -> str:
    rows = []
    for name in names(data):
        if name.startswith("official-"):
            whole = data["official"][name.partition("-")[2]]["bytes"]
            rows.append([TITLES[name], _mb(whole), *["the same again"] * 3, "-"])
            continue
        first = median(data, name, "size_first")
        last = targets.last(data, name)
        unchanged = last["size_unchanged"] - last["size_first"]
        days = [day["size"] - last["size_unchanged"] for day in data["days"].get(name, [])]
        day = [days[0], days[-1] if len(days) == data["settings"]["days"] else None] if days else []
        pruned = data["last"].get(name, {}).get("pruned")
        grown = [*map(_mb, day)] if day else ["-", "-"]
        rows.append([TITLES[name], _mb(first), f"{unchanged / MB:.3f}", *grown, _mb(pruned)])
    count = data["settings"]["days"]
    head = ["repository, MB", "first backup", "+ unchanged", "+ one day"]
    return _table([*head, f"+ {count} days", "after prune"], rows)


def _engines(data: Data) -> str:
    rows = []
    small = data.get("small", {})
    for found, stream in ((data, "corpus"), (small, f"{small.get('qubes')} qubes")):
        for engine, times in found.get("engines", {}).items():
            for key, title in PAIRED.items():
                if not times["ours"][key]:
                    continue
                figures = [
                    f"{statistics.median(times[kind][key]):.2f} ({min(times[kind][key]):.2f})"
                    for kind in ("ours", "raw")
                ]
                ratios = [targets.against(times, key, pick) for pick in (statistics.median, min)]
                middle, best = (f"{ratio:.3f}" for ratio in ratios if ratio is not None)
                what = f"{title}, {stream}, {engine}"
                rows.append([what, *figures, f"{middle} ({best})"])
    head = ["the same bytes, median (least) seconds", "dedup-store", "the engine alone", "ratio"]
    return _table(head, rows) if rows else ""


def _one(data: Data) -> str:
    small = data.get("small", {})
    rows = []
    for engine, found in small.get("one", {}).items():
        middle = {key: statistics.median(row[key] for row in found) for key in found[0]}
        times = [f"{middle[key]:.2f}" for key in ("first", "whole")]
        sizes = [f"{middle[key] / MB:.3f}" for key in ("read", "stored")]
        shares = [targets.share_read(row) for row in found]
        share = f"{statistics.median(shares):.3f} ({max(shares):.3f})"
        rows.append([engine, *times, *sizes, share])
    what = f"one qube of {small.get('qubes')} restored, medians"
    head = [what, "first byte, s", "whole, s", "read, MB", "stored, MB", "read / stored (most)"]
    return _table(head, rows) if rows else ""


def _scattered(data: Data) -> str:
    found = data.get("scattered")
    if not found:
        return ""
    rows = []
    for name, row in found.items():
        if isinstance(row, dict):
            grown = [
                after - before for before, after in zip(row["first"], row["second"], strict=True)
            ]
            spread = f"{_mb(min(grown))} to {_mb(max(grown))}" if grown[1:] else "-"
            cells = [targets.first_scattered(data, name), targets.growth_scattered(data, name)]
            rows.append([TITLES[name], *map(_mb, cells), spread])
    what = f"{found['changed'] / MB:.0f} MB of scattered changes in {found['image'] / MIB:.0f} MiB"
    return _table([f"{what}, MB", "first backup", "+ changed", "from least to most"], rows)


def _index(data: Data) -> str:
    settings = {"guide-borg": "borg's own, 19,23,21"}
    settings |= {f"ours-{name}": f"{TITLES[f'ours-{name}']}, {CHUNKS[name]}" for name in CHUNKS}
    rows = [
        [settings[name], f"{row['mean'] / 1024:.0f} KiB", f"{row['chunks'] / 1e6:.2f} million"]
        + [f"{row[key] / MIB:.0f} MiB" for key in ("held", "peak")]
        for name, row in data.get("index", {}).items()
    ]
    head = ["borg's indexes for 1 TB of data", "mean chunk", "chunks", "filled", "peak"]
    return _table(head, rows) if rows else ""


def _choices(data: Data) -> str:
    rows = [
        [
            row["engine"],
            f"`{row['setting']}`" if row["setting"] else "none",
            _seconds(row["seconds"]),
            _mb(row["size"]),
        ]
        for row in data.get("choices", [])
    ]
    head = ["`put` of the stream, once", "setting", "seconds", "repository, MB"]
    return _table(head, rows) if rows else ""


def _notes(data: Data) -> str:
    count = len(data["rounds"])
    notes = []
    if "debian" in data["versions"]:
        notes.append(
            "The engines, and `dedup-store` with its Python, ran in a root of Debian 13, with the"
            " packages that a backup template has. Repositories that are compared cut at the same"
            " places (same polynomial of restic's, same key of borg's)."
        )
    notes += [
        "This project's borg has its chunk setting `medium` unless set otherwise; on the images,"
        " restic and borg are set as this project sets them. What was stored last was read back"
        " after the prune, and compared with what went in, for every contender but the engines"
        " alone, which took part in the first of the days only.",
        "Files on Btrfs: what the file system had allocated, not compressed. A volume shares blocks"
        " with the backup before only up to the first place where blocks of zeros came or went, as"
        " the official archive leaves them out, and what follows moves.",
    ]
    once = [name for name in names(data) if len(_rows(data, name)) == 1]
    if count > 1 and once:
        notes.append(
            f"Times of {count} rounds: those of the guide's script, and of this project with restic"
            " and borg. The other contenders took part in the first round only."
        )
    if "wyng" in names(data):
        notes.append(
            "wyng has its defaults (encrypted, zstd), and reads only what changed since its"
            " snapshots; its restore writes files. It stores no settings of qubes."
        )
    if "small" in data:
        notes.append(
            "CPU: of the process dedup-store or of the engine alone, user and system, without child"
            " processes (/proc/PID/stat when it has ended), for the unchanged stream. One qube: the"
            " first byte is that of its volume. Read: what all processes of the restore read from"
            " files of the repository, as strace counts it; the engine's cache is as the backup"
            " left it. Stored: what the same volume takes in a repository of the engine's own."
        )
    return "\n\n".join(notes)


def _rows(data: Data, name: str) -> list[Data]:
    return [row[name] for row in data["rounds"] if name in row]
