# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `rollback`: undoes a maintenance, or borg's transactions, and all later ones."""

import argparse
import sys

from dedup_server import held_back, maintenance_window, sessions
from dedup_server.config import Repository
from dedup_server.engines import borg_history
from dedup_server.errors import UsageError
from dedup_server.folder import repository_folder


def run(arguments: argparse.Namespace, repository: Repository) -> int:
    """Restore the state that `--to` names.

    Returns:
        The exit status.

    Raises:
        UsageError: the repository isn't in this qube, or belongs to another user, or there is
            nothing of that name.
        RefusedError: maintenance is open.
        StorageError: a session uses the repository, or it can't be reached any more.
    """
    folder, wanted = repository_folder.require(repository), arguments.to
    maintenance_window.require_closed(repository)
    folder.require_owner()
    engine = sessions.engine_of(folder)
    if held_back.TIME.fullmatch(wanted):
        with sessions.exclusive(engine):
            away = held_back.rollback(engine, wanted)
        state = f"when the maintenance of {wanted} began"
    elif wanted.isdecimal() and repository.engine == "borg":
        borg_history.require_repository(folder)
        with sessions.exclusive(engine):
            away = borg_history.rollback(folder, int(wanted))
        state = f"after transaction {wanted}"
    else:
        raise UsageError(f"--to takes what `changes {repository.name}` lists in its first column")
    sys.stdout.write(
        f"{repository.name} is as it was {state}. What came later is in {away}:"
        " remove it when all is well.\n"
    )
    if repository.engine == "borg":
        sys.stdout.write(
            "The backup qube takes this for an attack until it is accepted there: see"
            " docs/storage-qube.md, `After a rollback`.\n"
        )
    return 0
