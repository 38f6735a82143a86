# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `maintenance-open`: keeps maintenance open until stdin ends or time is up."""

import argparse
import contextlib
import os
import select

from dedup_server import held_back, maintenance_window, reserve
from dedup_server.config import Repository
from dedup_server.engines.base import Engine
from dedup_server.errors import RefusedError
from dedup_server.folder import repository_folder
from dedup_server.maintenance_window import Window
from dedup_server.sessions import engine_of

_STDIN, _STDOUT = 0, 1


def run(_arguments: argparse.Namespace, repository: Repository) -> int:
    """Open maintenance.

    It writes a line `open`, and at the end `held BYTES`, what is held back of all that was removed,
    or `unheld`, when nothing can be held back; dom0 reads it (dedup_backup/calls/storage_qube.py).

    Returns:
        The exit status.

    Raises:
        RefusedError: the caller isn't dom0 (policy ensures that, too), or there is too little room.
        StorageError: it is open already.
    """
    if os.environ.get("QREXEC_REMOTE_DOMAIN") != "dom0":
        raise RefusedError("only dom0 opens maintenance")
    folder = repository_folder.find(repository)
    engine = engine_of(folder) if folder else None
    with maintenance_window.locked(repository) as lock:
        if engine and engine.folder.parent.is_dir():
            reserve.require(engine)
        window = maintenance_window.begin(lock, repository)
        os.write(_STDOUT, b"open\n")
        _wait(window)
        maintenance_window.end(repository)
        with contextlib.suppress(BrokenPipeError):
            os.write(_STDOUT, f"{_outcome(engine, window)}\n".encode())
    return 0


def _wait(window: Window) -> None:
    while (left := window.left()) > 0:
        if select.select([_STDIN], [], [], left)[0] and not os.read(_STDIN, 4096):
            return


def _outcome(engine: Engine | None, window: Window) -> str:
    if engine is None or held_back.is_unheld(engine, window.number):
        return "unheld"
    return f"held {held_back.size(engine)}"
