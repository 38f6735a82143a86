# SPDX-License-Identifier: GPL-3.0-or-later
"""The chart of bench/store.py, as SVG and PNG."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from contenders import TITLES
from report import names
from targets import median

Data = dict[str, Any]
KINDS = {"official": "#7f7f7f", "guide": "#c1666b", "ours": "#2e6f95", "raw": "#9a9a9a"}
KINDS["wyng"] = "#8a6fae"
CUT_OFF = ("official-", "ours-directory")  # they would leave the others no room
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
    height = 1.6 + 0.46 * len(shown)
    figure, panels = plt.subplots(1, 2, figsize=(11, height), sharey=True, layout="constrained")
    _sizes(panels[0], data, shown)
    _times(panels[1], data, shown)
    panels[0].set_yticks(range(len(shown)), [TITLES[name] for name in shown])
    panels[0].set_ylim(-0.6, len(shown) - 0.4)
    for label, name in zip(panels[0].get_yticklabels(), shown, strict=True):
        label.set_fontweight("bold" if name.startswith("ours") else "normal")
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(axis="y", length=0)
    for ending in ("svg", "png"):
        metadata = {"Date": None} if ending == "svg" else {}
        path = target.with_suffix(f".{ending}")
        figure.savefig(path, dpi=110, metadata=metadata, facecolor="white")
    plt.close(figure)
    svg = target.with_suffix(".svg")  # matplotlib ends lines with blanks
    svg.write_text("".join(f"{line.rstrip()}\n" for line in svg.read_text().splitlines()))


def _colour(name: str) -> str:
    return KINDS[name.partition("-")[0]]


def stages(data: Data, name: str) -> list[float]:
    """Return a repository's size in MB: first, after a day, after all days, all backups kept."""
    count = data["settings"]["days"]
    if name.startswith("official-"):
        whole = data["official"][name.partition("-")[2]]["bytes"] / 1e6
        return [whole, whole * 3, whole * (2 + count)] if count else [whole, whole * 2]
    row = data["rounds"][-1][name]
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
        for number, value in enumerate(seconds[name]):
            at = place + 0.26 - 0.26 * number
            panel.barh(at, min(value, limit), 0.24, color=_colour(name), alpha=SHADES[number])
            _label(panel, at, min(value, limit), f"{value:.1f}", limit)
    panel.set_xlim(0, limit * 1.1)
    panel.set_title("seconds, from top: first backup, unchanged, restore", fontsize=9)


def _seconds(data: Data, name: str) -> list[float]:
    if name.startswith("official-"):
        return [data["official"][name.partition("-")[2]]["seconds"]] * 2
    found = [median(data, name, key) for key in ("first", "unchanged", "restore")]
    return [value for value in found if value is not None]
