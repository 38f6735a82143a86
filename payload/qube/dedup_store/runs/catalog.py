# SPDX-License-Identifier: GPL-3.0-or-later
"""The catalog of runs in a repository, and their manifests."""

import hashlib
from collections.abc import Collection
from typing import Any

from dedup_store.archive import manifest
from dedup_store.archive.manifest import Manifest, is_run_name
from dedup_store.archive.order import in_order
from dedup_store.engines.base import Engine
from dedup_store.errors import DamagedError, NoRunError, StoreError, clean


def list_runs(repository: Engine) -> list[dict[str, Any]]:
    """List the summaries of all runs, oldest first (archive/order.py).

    Raises:
        FormatError: one is of another version's format.
    """
    runs = [manifest.unpack_summary(item.summary, item.run) for item in repository.runs()]
    for run in runs:
        if (found := run.get("format", 1)) != manifest.FORMAT:
            raise manifest.unknown_format(run["run"], found)
    return in_order(runs)


def find(repository: Engine, wanted: str) -> dict[str, Any]:
    """Find a run.

    Args:
        repository: where.
        wanted: a run's name, or `latest`, the newest whole one.

    Raises:
        NoRunError: when there is none.
    """
    runs = list_runs(repository)
    if wanted == "latest":
        whole = [run for run in runs if run["status"] == manifest.WHOLE]
        if not whole:
            raise NoRunError("there is no whole run yet")
        return whole[-1]
    return choose(runs, [wanted])[0]


def choose(runs: list[dict[str, Any]], wanted: Collection[str]) -> list[dict[str, Any]]:
    """Choose runs by their names, each once.

    Raises:
        NoRunError: there is no run of one of these names.
    """
    known = {run["run"]: run for run in runs}
    for name in wanted:
        if name not in known:
            raise NoRunError(f"there is no run '{clean(name, 120)}': see `dedup-store list`")
    return [known[name] for name in dict.fromkeys(wanted)]


def resolve(repository: Engine, wanted: str) -> str:
    """Return a run's name: the list, which takes a start of the engine, is read only if needed."""
    return wanted if is_run_name(wanted) else str(find(repository, wanted)["run"])


def read_manifest(repository: Engine, run: str) -> tuple[Manifest, bytes]:
    """Read a run's manifest and compressed recipe.

    Raises:
        NoRunError: when there is no such run.
        DamagedError: when they aren't what was stored.
    """
    try:
        data = repository.manifest(run)
    except StoreError:
        find(repository, run)
        raise
    line, _, packed = data.partition(b"\n")
    found, sha256 = manifest.from_json(line, run), hashlib.sha256(packed).hexdigest()
    if len(packed) != found.recipe_length or sha256 != found.recipe_sha256:
        raise DamagedError(f"the recipe of {run} is damaged")
    return found, packed


def without_qubes(summary: dict[str, Any]) -> dict[str, Any]:
    """Return a summary of bounded length, for programs that read line by line."""
    short = {key: value for key, value in summary.items() if key != "qubes"}
    return short | {"reason": clean(summary["reason"])}
