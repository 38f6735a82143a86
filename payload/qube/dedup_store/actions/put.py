# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands that store runs and give them back."""

import argparse
import os
import sys
from typing import Any

from dedup_store import (
    config,
    device,
    engine,
    folder,
    known,
    lock,
    ordering,
    password,
    reserve,
    restore_service,
    tell,
)
from dedup_store import get as get_module
from dedup_store import put as put_module
from dedup_store.errors import EXIT_PARTIAL, UsageError, clean
from dedup_store.manifest import PARTIAL, WHOLE, Manifest, Member

_STDIN, _STDOUT = 0, 1
_MAX_NAME = 200  # characters of a member's name that `show` tells; Qubes' own are shorter


def open_repository(settings: config.Config) -> engine.Engine:
    """Give the repository, which must be there, to read; see known.py for another one there."""
    _require(settings)
    repository = open_engine(settings)
    known.expect(settings, repository, to_write=False)
    return repository


def _open_to_store(settings: config.Config) -> tuple[engine.Engine, lock.Lock]:
    """Give the repository, which must be there, and the lock that keeps removals away."""
    _require(settings)
    device.require_writable(settings)
    held = lock.take(settings, exclusive=False)
    repository = engine.open_engine(settings, held)
    known.expect(settings, repository, to_write=True)
    kept = reserve.Reserve(settings)
    kept.keep()
    kept.warn_if_narrow()
    held.begin_put(repository.unlock, has_locks=folder.has_restic_locks(settings))
    return repository, held


def _require(settings: config.Config) -> None:
    password.require(settings)
    device.require(settings)
    folder.require(settings)


def open_engine(settings: config.Config) -> engine.Engine:
    """Give the engine, to read, when nobody removes anything."""
    return engine.open_engine(settings, lock.take(settings, exclusive=False))


def put(arguments: argparse.Namespace, settings: config.Config) -> int:
    """Store what comes on stdin."""
    if os.isatty(_STDIN):
        raise UsageError("put reads a backup from stdin, and that is a terminal")
    repository, held = _open_to_store(settings)

    def number() -> int:
        return ordering.count(settings, lambda: get_module.list_runs(repository))

    summary = put_module.put(repository, _STDIN, number, tell.warn)
    held.end()
    if summary is None:
        tell.say("nothing came on stdin, nothing was stored")
        tell.report({"run": None, "status": PARTIAL}, "", to_program=arguments.json)
        return EXIT_PARTIAL
    status, run = summary["status"], summary["run"]
    if os.uname().nodename in [qube["name"] for qube in summary["qubes"]]:
        tell.warn(
            "this backup has the qube in it that keeps it, and so all that was kept before: leave"
            f" {os.uname().nodename} out of the next one"
        )
    if status == PARTIAL:
        tell.say(f"not a whole backup, kept as partial run {run}: {summary['reason']}")
    elif status != WHOLE:
        tell.warn(f"{run} is kept as it came, without deduplication: {summary['reason']}")
    text = f"stored {run} ({status}, {tell.size(summary['stream_bytes'])})"
    tell.report(summary, text, to_program=arguments.json)
    return EXIT_PARTIAL if status == PARTIAL else 0


def get(arguments: argparse.Namespace, settings: config.Config) -> int:
    """Write a run to stdout."""
    with get_module.Reading(open_repository(settings), arguments.run, arguments.members) as reading:
        _warn_unless_whole(reading.manifest)
        reading.write(_STDOUT)
    if arguments.json:
        tell.as_json(reading.manifest.summary(), on_stderr=True)
    return 0


def _warn_unless_whole(run: Manifest) -> None:
    if run.status != WHOLE:
        tell.warn(f"{run.run} is {run.status}: {run.reason}")


def show(arguments: argparse.Namespace, settings: config.Config) -> int:
    """List the members of a run."""
    repository = open_repository(settings)
    run = get_module.resolve(repository, arguments.run)
    found, _ = get_module.read_manifest(repository, run)
    members = map(_public, found.members)
    if arguments.lines:
        tell.as_lines([_short(found.summary()) | {"members": len(found.members)}])
        tell.as_lines(members)
    elif arguments.json:
        tell.as_json(found.summary() | {"members": list(members)})
    else:
        for member in members:
            cells = (member["container"], member["payload_length"], clean(member["name"] or "-"))
            sys.stdout.write("{:<13} {:>12}  {}\n".format(*cells))
        sys.stdout.flush()
    return 0


def _public(member: Member) -> dict[str, Any]:
    """What `show` tells of a member: nothing of where it lies."""
    return {
        "name": member.name if member.name is None else member.name[:_MAX_NAME],
        "container": member.container,
        "payload_length": member.payload_length,
        "payload_sha256": member.payload_sha256,
    }


def _short(run: dict[str, Any]) -> dict[str, Any]:
    """A run in one line of bounded length, for programs that read line by line."""
    del run["qubes"]
    return run | {"reason": clean(run["reason"])}


def serve_restore(arguments: argparse.Namespace, settings: config.Config) -> int:
    """Send what dom0 wants of a run."""
    restore_service.require_dom0()
    prefixes = restore_service.read_prefixes(_STDIN)
    with get_module.Reading(open_repository(settings), arguments.run, prefixes) as reading:
        _warn_unless_whole(reading.manifest)
        return restore_service.send(reading, prefixes)


def list_runs(arguments: argparse.Namespace, settings: config.Config) -> int:
    """List the runs."""
    runs = get_module.list_runs(open_repository(settings))
    ordering.raise_to(settings, runs)
    notes = ordering.notes(runs)
    if arguments.json:
        tell.as_json({"runs": [run | _noted(run, notes, "note") for run in runs]})
        return 0
    runs = [run | _noted(run, notes, "reason") for run in runs]
    if arguments.lines:
        tell.as_lines(map(_short, runs))
        return 0
    row = "{:<58} {:<20} {:<8} {:>5} {:>10}  {}\n"
    sys.stdout.write(row.format("RUN", "TIME", "STATUS", "QUBES", "SIZE", "REASON").rstrip() + "\n")
    for run in runs:
        cells = (run["run"], clean(run["time"], 20), run["status"], len(run["qubes"]))
        line = row.format(*cells, tell.size(run["stream_bytes"]), clean(run["reason"]))
        sys.stdout.write(line.rstrip() + "\n")
    sys.stdout.flush()
    return 0


def _noted(run: dict[str, Any], notes: dict[str, str], key: str) -> dict[str, str]:
    """Give a run's note, if it has one, with what is under the key already."""
    note = notes.get(run["run"])
    return {key: "; ".join(filter(None, (run.get(key), note)))} if note else {}
