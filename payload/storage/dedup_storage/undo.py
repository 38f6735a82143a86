# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands for people: changes, rollback, discard."""

import argparse
import os
import pwd
import sys
from contextlib import AbstractContextManager
from pathlib import Path

from dedup_storage import borg_log, borg_session, durable, held, kept, maintenance
from dedup_storage.config import Repository
from dedup_storage.errors import RefusedError, UsageError
from dedup_storage.tell import amount


def run(arguments: argparse.Namespace, repository: Repository) -> int:
    """Run one of them.

    Raises:
        UsageError: the repository isn't in this qube.
    """
    if repository.folder is None:
        raise UsageError(
            f"{repository.name} is not in this qube: run this where {repository.place} is."
            " What maintenance removes through this qube is not held back there"
        )
    if arguments.command == "changes":
        return _changes(repository, repository.folder, arguments.since)
    _require_closed(repository)
    _require_owner(repository, repository.folder)
    if arguments.command == "discard":
        return _discard(repository, repository.folder)
    return _rollback(repository, repository.folder, arguments.to)


def _require_closed(repository: Repository) -> None:
    if maintenance.window(repository) is not None:
        raise RefusedError(f"dom0 keeps maintenance of {repository.name} open: wait for its end")


def _require_owner(repository: Repository, folder: Path) -> None:
    """Refuse to make files that the service's user could then not read."""
    for path in (folder / repository.name, kept.folder_of(repository, folder)):
        if path.exists() and (owner := path.stat().st_uid) != os.geteuid():
            try:
                name = pwd.getpwuid(owner).pw_name
            except KeyError:
                name = f"#{owner}"
            raise UsageError(
                f"{path} belongs to another user: run this as that one, with `sudo -u '{name}'`"
            )


def _alone(repository: Repository, folder: Path) -> AbstractContextManager[None]:
    if repository.engine == "borg":
        return borg_session.exclusive(repository, folder)
    return durable.exclusive(repository, folder)


def _changes(repository: Repository, folder: Path, since: str | None) -> int:
    path = folder / repository.name
    if not path.exists() and not held.held(repository, folder):
        raise UsageError(f"there is no repository at {path}")
    if repository.engine == "borg":
        _transactions(repository, folder, since)
    removed = [item for item in held.removed(repository, folder) if item.files]
    if removed:
        row = "{:<17} {:>8} {:>10} {:>15}\n"
        sys.stdout.write(row.format("MAINTENANCE", "REMOVED", "SNAPSHOTS", "BYTES"))
        for item in removed:
            snapshots = item.snapshots if repository.engine == "restic" else "-"
            sys.stdout.write(row.format(item.time, item.files, snapshots, item.size))
        sys.stdout.write(f"held back: {amount(held.size(repository, folder))}\n")
    elif repository.engine == "restic":
        sys.stdout.write(
            "nothing that a maintenance removed is held back; outside of one, nothing can be"
            " removed or overwritten through the service\n"
        )
    if held.is_unheld(repository, folder):
        sys.stdout.write(f"of the last maintenance nothing is: {folder} has no hard links\n")
    _tell_others(repository, folder)
    return 0


def _transactions(repository: Repository, folder: Path, since: str | None) -> None:
    found = borg_log.changes(folder / repository.name, since)
    row = "{:>11}  {:<20} {:>9} {:>9} {:>15}\n"
    sys.stdout.write(row.format("TRANSACTION", "TIME", "WRITTEN", "REMOVED", "BYTES"))
    for item in found:
        cells = (item.number, item.time, item.puts, item.deletes, item.size)
        sys.stdout.write(row.format(*cells))
    for _, path in kept.copies(repository, folder):
        sys.stdout.write(f"copy of config: {path}\n")


def _tell_others(repository: Repository, folder: Path) -> None:
    for path in held.others(repository, folder):
        sys.stdout.write(f"also there, to be removed when all is well: {path}\n")


def _rollback(repository: Repository, folder: Path, wanted: str) -> int:
    if held.TIME.fullmatch(wanted):
        with _alone(repository, folder):
            away = held.rollback(repository, folder, wanted)
        state = f"when the maintenance of {wanted} began"
    elif wanted.isdecimal() and repository.engine == "borg":
        away = borg_log.rollback(repository, folder, int(wanted))
        state = f"after transaction {wanted}"
    else:
        raise UsageError(f"--to takes what `changes {repository.name}` lists in its first column")
    sys.stdout.write(
        f"{repository.name} is as it was {state}. What came later is in {away}:"
        " remove it when all is well.\n"
    )
    if repository.engine == "borg":
        sys.stdout.write(
            "The backup qube takes it for an attack until it is told to accept it: see"
            " docs/storage.md, `After a rollback`.\n"
        )
    return 0


def _discard(repository: Repository, folder: Path) -> int:
    if "QREXEC_REMOTE_DOMAIN" in os.environ:
        raise RefusedError("`discard` is for a person in this qube's terminal, not for a service")
    with _alone(repository, folder):
        size, count = held.size(repository, folder), len(held.held(repository, folder))
        held.discard(repository, folder)
    sys.stdout.write(f"freed {amount(size)}, held back of {count} maintenance(s)\n")
    _tell_others(repository, folder)
    return 0
