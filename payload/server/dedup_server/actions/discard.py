# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `discard`: frees the room of what is held back."""

import argparse
import os
import sys

from dedup_server import held_back, maintenance_window, sessions
from dedup_server.config import Repository
from dedup_server.errors import RefusedError
from dedup_server.folder import repository_folder
from dedup_server.notify import human_size


def run(_arguments: argparse.Namespace, repository: Repository) -> int:
    """Remove all that is held back.

    Returns:
        The exit status.

    Raises:
        UsageError: the repository isn't in this qube, or belongs to another user.
        RefusedError: a service runs this, or maintenance is open.
        StorageError: a session uses the repository.
    """
    folder = repository_folder.require(repository)
    engine = sessions.engine_of(folder)
    maintenance_window.require_closed(repository)
    folder.require_owner()
    if "QREXEC_REMOTE_DOMAIN" in os.environ:
        raise RefusedError("`discard` is for a person in this qube's terminal, not for a service")
    with sessions.exclusive(engine):
        size, count = held_back.size(engine), len(held_back.list_held(engine))
        held_back.discard(engine)
    sys.stdout.write(f"freed {human_size(size)}, held back of {count} maintenance(s)\n")
    sys.stdout.write(held_back.describe_leftovers(engine))
    return 0
