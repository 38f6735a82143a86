# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `maintain`: full access to one repository, while dom0 keeps it open."""

import argparse

from dedup_server import maintenance_window, server_command, server_process, sessions
from dedup_server.config import Repository
from dedup_server.errors import RefusedError
from dedup_server.folder import repository_folder
from dedup_server.notify import notify


def run(_arguments: argparse.Namespace, repository: Repository) -> int:
    """Run the engine's server.

    Returns:
        The server's exit status.

    Raises:
        RefusedError: maintenance isn't open, or was closed meanwhile.
        StorageError: the repository is in use or gone, or the server can't be started.
    """
    number = maintenance_window.current(repository)
    if number is None:
        raise RefusedError(f"maintenance of {repository.argument} is not open: dom0 must open it")
    argv = server_command.build(repository, append_only=False)

    def is_open() -> bool:
        return maintenance_window.current(repository) == number

    folder = repository_folder.find(repository)
    if folder is None:
        notify(f"{repository.place}: what this maintenance removes can't be held back there")
        return server_process.supervise(argv, None, is_open)
    with sessions.maintenance(sessions.engine_of(folder), number):
        return server_process.supervise(argv, folder.parent, is_open)
