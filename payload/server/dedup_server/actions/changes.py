# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `changes`: lists what can be undone."""

import argparse
import sys

from dedup_server import held_back, sessions
from dedup_server.config import Repository
from dedup_server.engines import borg_history, borg_records
from dedup_server.engines.base import Engine
from dedup_server.errors import UsageError
from dedup_server.folder import repository_folder
from dedup_server.folder.repository_folder import RepositoryFolder
from dedup_server.notify import human_size


def run(arguments: argparse.Namespace, repository: Repository) -> int:
    """List the removals of maintenance, and borg's transactions.

    Returns:
        The exit status.

    Raises:
        UsageError: the repository isn't in this qube, or `--since` is not a date.
    """
    folder = repository_folder.require(repository)
    engine = sessions.engine_of(folder)
    if not folder.path.exists() and not held_back.list_held(engine):
        raise UsageError(f"there is no repository at {folder.path}")
    if repository.engine == "borg":
        _write_transactions(folder, arguments.since)
    _write_removed(engine)
    if held_back.is_unheld(engine):
        sys.stdout.write(
            f"nothing of the last maintenance is held back: {folder.parent} has no hard links\n"
        )
    sys.stdout.write(held_back.describe_leftovers(engine))
    return 0


def _write_transactions(folder: RepositoryFolder, since: str | None) -> None:
    found = borg_history.changes(folder.path, since)
    row = "{:>11}  {:<20} {:>9} {:>9} {:>15}\n"
    sys.stdout.write(row.format("TRANSACTION", "TIME", "WRITTEN", "REMOVED", "BYTES"))
    for item in found:
        sys.stdout.write(row.format(item.number, item.time, item.puts, item.deletes, item.size))
    for _, path in borg_records.copies(folder):
        sys.stdout.write(f"copy of config: {path}\n")


def _write_removed(engine: Engine) -> None:
    is_restic = engine.folder.repository.engine == "restic"
    removed = [item for item in held_back.list_removed(engine) if item.files]
    if removed:
        row = "{:<17} {:>8} {:>10} {:>15}\n"
        sys.stdout.write(row.format("MAINTENANCE", "REMOVED", "SNAPSHOTS", "BYTES"))
        for item in removed:
            snapshots = item.snapshots if is_restic else "-"
            sys.stdout.write(row.format(item.time, item.files, snapshots, item.size))
        sys.stdout.write(f"held back: {human_size(held_back.size(engine))}\n")
    elif is_restic:
        sys.stdout.write(
            "nothing that a maintenance removed is held back; outside of one, nothing can be"
            " removed or overwritten through the service\n"
        )
