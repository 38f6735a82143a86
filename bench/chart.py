# SPDX-License-Identifier: GPL-3.0-or-later
"""The chart of bench/store.py, as SVG and PNG."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from targets import median

Data = dict[str, Any]
COLOURS = {"guide": "#c1666b", "ours": "#2e6f95", "raw": "#a0a0a0", "wyng": "#8a6fae"}


def draw(data: Data, target: Path) -> None:
    """Write target.svg and target.png.

    Args:
        data: as bench/store.py keeps it.
        target: path without its ending.
    """
    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the backend is chosen

    mpl.rcParams.update({"svg.hashsalt": "dedup-backup", "font.size": 9})
    figure, panels = plt.subplots(1, 3, figsize=(11, 4.2), sharey=True, layout="constrained")
    names = list(data["rounds"][0])[::-1]
    colours = [COLOURS[name.partition("-")[0]] for name in names]
    rows = data["rounds"][0]
    _bars(panels[0], names, [median(data, name, "unchanged") for name in names], colours)
    panels[0].set_title("backup without changes, seconds")
    _bars(panels[1], names, [rows[name]["size_first"] / 1e6 for name in names], colours)
    panels[1].set_title("first repository, MB")
    growth = [(data["days"][name][-1]["size"] - rows[name]["size_first"]) / 1e6 for name in names]
    _bars(panels[2], names, growth, colours)
    panels[2].set_title(f"growth after {len(data['days'][names[0]])} days, MB")
    figure.suptitle(f"{data['sent'] / 1e9:.2f} GB backed up by qvm-backup (raw, wyng: the images)")
    for ending in ("svg", "png"):
        metadata = {"Date": None} if ending == "svg" else {}
        figure.savefig(target.with_suffix(f".{ending}"), dpi=110, metadata=metadata)
    plt.close(figure)


def _bars(panel: Any, names: list[str], values: list[float], colours: list[str]) -> None:  # noqa: ANN401 (matplotlib's)
    bars = panel.barh(names, values, color=colours)
    panel.bar_label(bars, fmt="%.3g", padding=2, fontsize=8)
    panel.margins(x=0.15)
    panel.spines[["top", "right"]].set_visible(False)
