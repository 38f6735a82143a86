# SPDX-License-Identifier: GPL-3.0-or-later
"""The order of runs: by the number that each got when it was stored, whatever the clock was."""

from collections.abc import Iterable
from typing import Any

MAX_ORDER = 1 << 24


def order_of(run: dict[str, Any]) -> int:
    """Return the number of a run by its summary or manifest; 0 when it has none."""
    found = run.get("order")
    return found if type(found) is int and 0 <= found < MAX_ORDER else 0


def in_order(runs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sort summaries, oldest first: those without a number by their names, then by number."""
    return sorted(runs, key=lambda run: (order_of(run), run["run"]))


def clock_notes(runs: list[dict[str, Any]]) -> dict[str, str]:
    """Find runs, in their order, whose date is later than that of one after them.

    Returns:
        A note on each, by its name.
    """
    found, after = {}, None
    for run in reversed(runs):
        if not order_of(run):
            break
        if after and run["run"][:16] > after[:16]:
            found[run["run"]] = f"dated later than {after}, which came after it: a clock was wrong"
        else:
            after = run["run"]
    return found
