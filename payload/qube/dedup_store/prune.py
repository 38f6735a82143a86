# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands that remove runs: forget, prune."""

import argparse
from typing import Any

from dedup_store import (
    config,
    device,
    engine,
    folder,
    known,
    lock,
    manifest,
    password,
    reserve,
    tell,
)
from dedup_store import get as get_module
from dedup_store.errors import NoRunError, clean


def forget(arguments: argparse.Namespace, settings: config.Config) -> int:
    """Remove runs, all of them or, when one is unknown, none."""
    repository, held = _open(settings)
    runs = list(dict.fromkeys(arguments.runs))
    for run in runs:
        if not manifest.is_run_name(run):
            raise NoRunError(f"'{clean(run, 120)}' is no run's name: see `dedup-store list`")
        get_module.find(repository, run)
    repository.forget(runs)
    held.end()
    text = "\n".join(f"forgot {run}" for run in runs)
    tell.report({"forgotten": runs}, text, to_program=arguments.json)
    return 0


def prune(arguments: argparse.Namespace, settings: config.Config) -> int:
    """Remove partial runs and what failed puts left, and give back the space of all forgotten."""
    repository, held = _open(settings)
    rows = [{"run": run, "was": "unfinished"} for run in sorted(repository.leftovers())]
    for stored in sorted(repository.runs(), key=lambda stored: stored.run):
        summary = manifest.read_summary(stored.summary, stored.run)
        if summary is None:
            tell.warn(f"{stored.run} is kept: its summary can't be understood")
        elif summary["status"] == manifest.PARTIAL and stored.run not in arguments.keep:
            rows.append({"run": stored.run, "was": manifest.PARTIAL})
    repository.forget([row["run"] for row in rows])
    repository.prune()
    reserve.Reserve(settings).renew()
    held.end()
    _tell(arguments, rows)
    return 0


def _tell(arguments: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    if arguments.lines:
        tell.as_lines(rows)
        return
    text = "\n".join(f"removed {row['run']} ({row['was']})" for row in rows)
    text = text or "there was nothing to remove"
    tell.report({"removed": rows}, text, to_program=arguments.json)


def _open(settings: config.Config) -> tuple[engine.Engine, lock.Lock]:
    """Give the repository, and the lock that keeps all others out."""
    password.require(settings)
    device.require(settings)
    folder.require(settings)
    device.require_writable(settings)
    held = lock.take(settings, exclusive=True)
    repository = engine.open_engine(settings, held)
    known.expect(settings, repository, to_write=True)
    reserve.Reserve(settings).release()
    held.begin_removal()
    repository.unlock()
    return repository, held
