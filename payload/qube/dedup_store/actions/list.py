# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `list`: lists the runs, oldest first."""

import argparse
import sys
from typing import Any

from dedup_store.archive.order import clock_notes
from dedup_store.config import Config
from dedup_store.errors import clean
from dedup_store.repository import counter
from dedup_store.repository.opening import Purpose, open_repository
from dedup_store.runs.catalog import list_runs, without_qubes
from dedup_store.system import notify

_ROW = "{:<58} {:<20} {:<8} {:>5} {:>10}  {}"
_TITLES = ("RUN", "TIME", "STATUS", "QUBES", "SIZE", "REASON")


def run(arguments: argparse.Namespace, settings: Config) -> int:
    """List the runs."""
    runs = list_runs(open_repository(settings, Purpose.READ).engine)
    counter.raise_to(settings, runs)
    notes = clock_notes(runs)
    if arguments.json:
        notify.as_json({"runs": [run | _with_note(run, notes, "note") for run in runs]})
        return 0
    runs = [run | _with_note(run, notes, "reason") for run in runs]
    if arguments.lines:
        notify.as_lines(map(without_qubes, runs))
        return 0
    sys.stdout.writelines(
        f"{line.rstrip()}\n" for line in [_ROW.format(*_TITLES), *map(_row, runs)]
    )
    sys.stdout.flush()
    return 0


def _row(run: dict[str, Any]) -> str:
    cells = (run["run"], clean(run["time"], 20), run["status"], len(run["qubes"]))
    return _ROW.format(*cells, notify.size(run["stream_bytes"]), clean(run["reason"]))


def _with_note(run: dict[str, Any], notes: dict[str, str], key: str) -> dict[str, str]:
    """Return a run's note, if it has one, after the text that is under the key."""
    note = notes.get(run["run"])
    return {key: "; ".join(filter(None, (run.get(key), note)))} if note else {}
