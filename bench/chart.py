# SPDX-License-Identifier: GPL-3.0-or-later
"""The chart of bench/store.py, as SVG and PNG."""

import statistics
from pathlib import Path
from typing import Any

import matplotlib as mpl
from contenders import TITLES
from report import names
from targets import last, median

Data = dict[str, Any]
KINDS = {"official": "#7f7f7f", "guide": "#c1666b", "ours": "#2e6f95", "raw": "#9a9a9a"}
KINDS["wyng"] = "#8a6fae"
CUT_OFF = ("official-", "ours-directory")  # they would leave the others no room
SMALL = {"ours": "this project, ", "raw": "the engine alone, "}
SHADES = (1.0, 0.62, 0.3)  # of a contender's colour, by stage


def draw(data: Data, target: Path) -> None:
    """Write target.svg and target.png.

    Args:
        data: as bench/store.py keeps it.
        target: path without its ending.
    """
    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 -- after the backend is chosen

    mpl.rcParams.update({"svg.hashsalt": "dedup-backup", "font.size": 9})
    shown = names(data)[::-1]
    small = data.get("small")
    heights = [0.8 + 0.46 * len(shown)] * bool(shown) + [2.6] * bool(small)
    figure, rows = plt.subplots(
        len(heights),
        2,
        figsize=(11, 0.8 + sum(heights)),
        height_ratios=heights,
        layout="constrained",
        squeeze=False,
    )
    if shown:
        _sizes(rows[0][0], data, shown)
        _times(rows[0][1], data, shown)
        _name(rows[0], [TITLES[name] for name in shown])
    if small:
        bars = [f"{kind}-{engine}" for engine in small["engines"] for kind in ("ours", "raw")][::-1]
        _pairs(rows[-1][0], small, bars)
        _one(rows[-1][1], small, bars)
        _name(rows[-1], [SMALL[name.partition("-")[0]] + name.partition("-")[2] for name in bars])
    for ending in ("svg", "png"):
        metadata = {"Date": None} if ending == "svg" else {}
        path = target.with_suffix(f".{ending}")
        figure.savefig(path, dpi=110, metadata=metadata, facecolor="white")
    plt.close(figure)
    svg = target.with_suffix(".svg")  # matplotlib ends lines with blanks
    svg.write_text("".join(f"{line.rstrip()}\n" for line in svg.read_text().splitlines()))


def _name(panels: Any, labels: list[str]) -> None:  # noqa: ANN401 -- matplotlib's
    """Write the bars' names at the left of two panels side by side."""
    panels[0].set_yticks(range(len(labels)), labels)
    panels[1].set_yticks([])
    for label in panels[0].get_yticklabels():
        ours = label.get_text().startswith("this project")
        label.set_fontweight("bold" if ours else "normal")
    for panel in panels:
        panel.set_ylim(-0.6, len(labels) - 0.4)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(axis="y", length=0)


def _colour(name: str) -> str:
    return KINDS[name.partition("-")[0]]


def stages(data: Data, name: str) -> list[float]:
    """Return a repository's size in MB: first, after a day, after all days, all backups kept."""
    count = data["settings"]["days"]
    if name.startswith("official-"):
        whole = data["official"][name.partition("-")[2]]["bytes"] / 1e6
        return [whole, whole * 3, whole * (2 + count)] if count else [whole, whole * 2]
    row = last(data, name)
    days = [day["size"] for day in data["days"].get(name, [])]
    sizes = [row["size_first"], *days[:1], *days[count - 1 :]]
    return [size / 1e6 for size in sizes]


def _sizes(panel: Any, data: Data, shown: list[str]) -> None:  # noqa: ANN401 -- matplotlib's
    sizes = {name: stages(data, name) for name in shown}
    usual = [sizes[name][-1] for name in shown if not name.startswith(CUT_OFF)]
    limit = 1.25 * max(usual)
    for place, name in enumerate(shown):
        left = 0.0
        for size, shade in zip(sizes[name], SHADES, strict=False):
            width = max(0.0, min(size, limit) - left)
            panel.barh(place, width, 0.66, left=left, color=_colour(name), alpha=shade)
            left = max(left, min(size, limit))
        text = " + ".join(f"{value:.0f}" for value in _steps(sizes[name]))
        _label(panel, place, left, text, limit)
        pruned = data["last"].get(name, {}).get("pruned")
        if pruned:
            panel.plot([pruned / 1e6] * 2, [place - 0.4, place + 0.4], color="black", lw=1.2)
    panel.set_xlim(0, limit * 1.22)
    days = data["settings"]["days"]
    panel.set_title(
        f"repository, MB: first backup + a day's changes + {max(days - 1, 0)} more days\n"
        "(line: after all but the last backup are pruned)",
        fontsize=9,
    )


def _steps(sizes: list[float]) -> list[float]:
    return [size - before for before, size in zip([0.0, *sizes], sizes, strict=False)]


def _label(panel: Any, place: float, at: float, text: str, limit: float) -> None:  # noqa: ANN401 -- matplotlib's
    if at >= limit:  # cut off
        panel.text(limit * 0.99, place, f"{text} ▶", va="center", ha="right", fontsize=7.5)
    else:
        panel.text(at + limit * 0.015, place, text, va="center", fontsize=7.5)


def _times(panel: Any, data: Data, shown: list[str]) -> None:  # noqa: ANN401 -- matplotlib's
    seconds = {name: _seconds(data, name) for name in shown}
    limit = 1.25 * max(
        value for name, found in seconds.items() if "official" not in name for value in found
    )
    for place, name in enumerate(shown):
        _bars(panel, place, name, seconds[name], limit)
    panel.set_xlim(0, limit * 1.1)
    panel.set_title("seconds, from top: first backup, unchanged, restore", fontsize=9)


def _seconds(data: Data, name: str) -> list[float]:
    if name.startswith("official-"):
        return [data["official"][name.partition("-")[2]]["seconds"]] * 2
    found = [median(data, name, key) for key in ("first", "unchanged", "restore")]
    return [value for value in found if value is not None]


def _bars(panel: Any, place: int, name: str, values: list[float], limit: float) -> None:  # noqa: ANN401 -- matplotlib's
    for number, value in enumerate(values):
        at = place + 0.26 - 0.26 * number
        panel.barh(at, min(value, limit), 0.24, color=_colour(name), alpha=SHADES[number])
        _label(panel, at, min(value, limit), f"{value:.1f}", limit)


def _pairs(panel: Any, small: Data, shown: list[str]) -> None:  # noqa: ANN401 -- matplotlib's
    found = {}
    for name in shown:
        kind, _, engine = name.partition("-")
        row = small["engines"][engine][kind]
        found[name] = [statistics.median(row[key]) for key in ("first", "unchanged", "restore")]
    limit = 1.25 * max(value for values in found.values() for value in values)
    for place, name in enumerate(shown):
        _bars(panel, place, name, found[name], limit)
    panel.set_xlim(0, limit * 1.1)
    panel.set_title(
        f"{small['qubes']} small qubes, the same stream ({small['stream'] / 1e6:.0f} MB),\n"
        "seconds, from top: put, put unchanged, get",
        fontsize=9,
    )


def _one(panel: Any, small: Data, shown: list[str]) -> None:  # noqa: ANN401 -- matplotlib's
    found = {}
    for name in shown:
        kind, _, engine = name.partition("-")
        if kind == "ours":
            rows = small["one"][engine]
            found[name] = [
                statistics.median(row[key] for row in rows) for key in ("first", "whole")
            ]
        else:
            found[name] = [statistics.median(small["engines"][engine]["raw"]["restore"])]
    limit = 1.25 * max(value for values in found.values() for value in values)
    for place, name in enumerate(shown):
        _bars(panel, place, name, found[name], limit)
    panel.set_xlim(0, limit * 1.1)
    panel.set_title(
        f"one qube of {small['qubes']} restored: seconds to its first byte,\nand to the end"
        " (the engine alone reads all of it)",
        fontsize=9,
    )
