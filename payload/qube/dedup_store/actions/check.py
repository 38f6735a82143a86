# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `check`: checks that what was stored is still there, and reports what isn't."""

import argparse
import sys
from typing import Any

from dedup_store.config import Config
from dedup_store.engines.base import Engine
from dedup_store.errors import DamagedError, StoreError, clean
from dedup_store.repository.opening import Purpose, open_repository
from dedup_store.runs.catalog import choose, list_runs
from dedup_store.runs.checker import RunChecker, check_repository
from dedup_store.system import notify

_SERVED = (
    "ok as far as the storage qube says, which checked its files itself: with --read-data, all"
    " data are compared in this qube"
)


def run(arguments: argparse.Namespace, settings: Config) -> int:
    """Check the repository, and all runs or the named ones."""
    repository = open_repository(settings, Purpose.READ).engine
    runs, list_error = _choose(repository, arguments.runs)
    found = check_repository(repository, read_data=arguments.read_data)
    if list_error and not found:
        raise list_error
    if list_error:
        notify.say(f"the runs can't be listed: {list_error}")
    elif found:
        notify.say("the repository is damaged: these runs are read, to see which of them are hit")
    reads = arguments.read_data or bool(found)
    checker = RunChecker(repository, reads=reads, is_damaged=bool(found))
    # what is damaged, restic would try to read again and again, also in a mount
    names = [] if found else [run["run"] for run in runs]
    with repository.reading_many(names):
        rows = [checker.check(run) for run in runs]
    if found and not list_error and not arguments.runs:
        rows += checker.lost()
    is_served = settings.storage is not None and settings.engine == "borg"
    message = found or (_SERVED if is_served and not arguments.read_data else "ok")
    _report(arguments, {"ok": not found, "message": message}, rows)
    is_well = not found and all(row["ok"] for row in rows)
    return 0 if is_well else DamagedError.exit_code


def _choose(
    repository: Engine, wanted: list[str]
) -> tuple[list[dict[str, Any]], StoreError | None]:
    """Find the runs to check; all, when none is named.

    Returns:
        Their summaries, and why they can't be listed: damage, if the engine's check says so.

    Raises:
        NoRunError: one that is named isn't there.
    """
    try:
        runs = list_runs(repository)
    except StoreError as error:
        return [], error
    return choose(runs, wanted) if wanted else runs, None


def _report(
    arguments: argparse.Namespace, whole: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    if arguments.lines:
        notify.as_lines([{"repository": whole}, *rows])
        return
    if arguments.json:
        notify.as_json({"repository": whole, "runs": rows})
        return
    state = "" if whole["ok"] else "damaged: "
    lines = [f"repository: {state}{whole['message']}"]
    lines += [f"{row['run']} ({row['status']}): {_text(row)}" for row in rows]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def _text(row: dict[str, Any]) -> str:
    if row["ok"]:
        return "ok"
    parts = [f"damaged: {_names(row['damaged']) or 'unknown'}"]
    if row["damaged"] or row["restorable"]:
        parts = [f"damaged: {_names(row['damaged']) or 'no qube'}"]
        parts.append(f"can still be restored: {_names(row['restorable']) or 'no qube'}")
    return "; ".join([*parts, row["reason"]])


def _names(qubes: list[str]) -> str:
    return ", ".join(clean(qube, 80) for qube in qubes)
