# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `forget`: removes runs; prune frees their space."""

import argparse

from dedup_store.archive.manifest import is_run_name
from dedup_store.config import Config
from dedup_store.engines.base import Engine
from dedup_store.errors import DiskError, NoRunError, clean
from dedup_store.repository.opening import Purpose, open_repository
from dedup_store.repository.removal import removing
from dedup_store.repository.reserve import Reserve
from dedup_store.runs import catalog
from dedup_store.system import notify


def run(arguments: argparse.Namespace, settings: Config) -> int:
    """Remove runs: all of them or, when one is unknown, none."""
    opened = open_repository(settings, Purpose.REMOVE)
    reserve = Reserve(settings)
    runs = list(dict.fromkeys(arguments.runs))
    with removing(opened, reserve):
        try:
            _require_runs(opened.engine, runs)
        except DiskError:  # borg may need room in its cache, on the same disk, to look
            reserve.release()
            _require_runs(opened.engine, runs)
        reserve.release()
        opened.engine.forget(runs)
    text = "\n".join(f"forgot {name}" for name in runs)
    notify.report({"forgotten": runs}, text, to_program=arguments.json)
    return 0


def _require_runs(repository: Engine, runs: list[str]) -> None:
    for name in runs:
        if not is_run_name(name):
            raise NoRunError(f"'{clean(name, 120)}' isn't a run's name: see `dedup-store list`")
    catalog.choose(catalog.list_runs(repository), runs)
