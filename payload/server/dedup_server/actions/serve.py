# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `serve`: append-only access to one repository."""

import argparse
import os

from dedup_server import server_command, server_process, sessions
from dedup_server.config import Repository
from dedup_server.engines.borg_filter import Filter
from dedup_server.folder import repository_folder


def run(_arguments: argparse.Namespace, repository: Repository) -> int:
    """Run the engine's server; restic's replaces this process.

    A client of restic's that sends nothing only wants what is stored to be on the disk (dedup_store
    engines/restic/runner.py flush): it gets no server.

    Returns:
        The exit status of borg's server, whose requests are filtered.

    Raises:
        StorageError: the repository is in use or gone, or the server can't be started.
        RefusedError: the client asked for what it must not have.
    """
    is_used = repository.engine == "borg" or server_process.has_input()
    argv = server_command.build(repository, append_only=True, is_used=is_used)
    folder = repository_folder.find(repository)
    if folder is None:
        if not is_used and not repository.ssh:
            return 0  # a remote is responsible for what it has accepted
        if repository.engine == "restic":
            server_process.execute(argv)
        return server_process.relay(argv, None, Filter(repository.name, may_create=True))
    with sessions.append_only(sessions.engine_of(folder)) as lock:
        if not is_used:
            return 0
        if repository.engine == "restic":
            os.set_inheritable(lock, True)
            server_process.execute(argv)
        is_empty = not folder.path.exists() or not any(folder.path.iterdir())
        return server_process.relay(
            argv, folder.parent, Filter(repository.name, may_create=is_empty)
        )
