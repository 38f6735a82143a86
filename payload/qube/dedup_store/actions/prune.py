# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands that remove runs: forget, prune."""

import argparse
import contextlib
from collections.abc import Iterator
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
from dedup_store.errors import DiskError, NoRunError, clean


def forget(arguments: argparse.Namespace, settings: config.Config) -> int:
    """Remove runs, all of them or, when one is unknown, none."""
    repository, held = _open(settings)
    kept = reserve.Reserve(settings)
    runs = list(dict.fromkeys(arguments.runs))
    with _removing(repository, held, kept):
        try:
            _require_runs(repository, runs)
        except DiskError:  # borg may need room in its cache, on the same disk, to look
            kept.release()
            _require_runs(repository, runs)
        kept.release()
        repository.forget(runs)
    text = "\n".join(f"forgot {run}" for run in runs)
    tell.report({"forgotten": runs}, text, to_program=arguments.json)
    return 0


def _require_runs(repository: engine.Engine, runs: list[str]) -> None:
    for run in runs:
        if not manifest.is_run_name(run):
            raise NoRunError(f"'{clean(run, 120)}' is no run's name: see `dedup-store list`")
        get_module.find(repository, run)


def prune(arguments: argparse.Namespace, settings: config.Config) -> int:
    """Remove partial runs and what failed puts left, and give back the space of all forgotten."""
    repository, held = _open(settings)
    kept = reserve.Reserve(settings)
    with _removing(repository, held, kept):
        kept.release()
        rows = _chosen(repository, arguments.keep)
        repository.forget([row["run"] for row in rows])
        repository.prune()
    kept.keep_or_warn()
    _tell(arguments, rows)
    return 0


def _chosen(repository: engine.Engine, keep: list[str]) -> list[dict[str, str]]:
    """List what a prune removes, and why."""
    rows = [{"run": run, "was": "unfinished"} for run in sorted(repository.leftovers())]
    for stored in sorted(repository.runs(), key=lambda stored: stored.run):
        summary = manifest.read_summary(stored.summary, stored.run)
        if summary is None:
            tell.warn(f"{stored.run} is kept: its summary can't be understood")
        elif summary["status"] == manifest.PARTIAL and stored.run not in keep:
            rows.append({"run": stored.run, "was": manifest.PARTIAL})
    return rows


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
    return repository, held


@contextlib.contextmanager
def _removing(repository: engine.Engine, held: lock.Lock, kept: reserve.Reserve) -> Iterator[None]:
    """Note that runs are removed, and keep room for that again afterwards, however it ended."""
    held.begin_removal()
    try:
        repository.unlock()
        yield
        held.end()
    except NoRunError:
        held.end()
        raise
    finally:
        kept.renew()
