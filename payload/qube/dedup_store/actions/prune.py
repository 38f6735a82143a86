# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `prune`: removes what isn't whole, and frees the space of all that was removed."""

import argparse
from typing import Any

from dedup_store.archive.manifest import PARTIAL, read_summary
from dedup_store.config import Config
from dedup_store.engines.base import Engine
from dedup_store.repository.opening import Purpose, open_repository
from dedup_store.repository.removal import removing
from dedup_store.repository.reserve import Reserve
from dedup_store.system import notify


def run(arguments: argparse.Namespace, settings: Config) -> int:
    """Remove partial runs and leftovers of failed puts, and free the space of all forgotten."""
    opened = open_repository(settings, Purpose.REMOVE)
    reserve = Reserve(settings)
    with removing(opened, reserve):
        reserve.release()
        rows = _removable(opened.engine, arguments.keep)
        opened.engine.forget([row["run"] for row in rows])
        opened.engine.prune()
    reserve.keep_or_warn()
    _report(arguments, rows)
    return 0


def _removable(repository: Engine, keep: list[str]) -> list[dict[str, str]]:
    """List what a prune removes, each with the reason."""
    rows = [{"run": run, "was": "unfinished"} for run in sorted(repository.leftovers())]
    for stored in sorted(repository.runs(), key=lambda stored: stored.run):
        summary = read_summary(stored.summary, stored.run)
        if summary is None:
            notify.warn(f"{stored.run} is kept: its summary is malformed")
        elif summary["status"] == PARTIAL and stored.run not in keep:
            rows.append({"run": stored.run, "was": PARTIAL})
    return rows


def _report(arguments: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    if arguments.lines:
        notify.as_lines(rows)
        return
    text = "\n".join(f"removed {row['run']} ({row['was']})" for row in rows)
    text = text or "there was nothing to remove"
    notify.report({"removed": rows}, text, to_program=arguments.json)
