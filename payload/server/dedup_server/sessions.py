# SPDX-License-Identifier: GPL-3.0-or-later
"""The three kinds of session of a repository in this qube; only this module knows all engines.

Each takes the lock, ends what an earlier session left, and runs the part of its engine.
"""

import contextlib
import fcntl
from collections.abc import Callable, Iterator

from dedup_server import held_back, reserve
from dedup_server.engines.base import Engine
from dedup_server.engines.borg import Borg
from dedup_server.engines.restic import Restic
from dedup_server.folder.locks import locked
from dedup_server.folder.repository_folder import RepositoryFolder

_ENGINES: dict[str, Callable[[RepositoryFolder], Engine]] = {"borg": Borg, "restic": Restic}


def engine_of(folder: RepositoryFolder) -> Engine:
    """Return the engine of a repository."""
    return _ENGINES[folder.repository.engine](folder)


@contextlib.contextmanager
def append_only(engine: Engine) -> Iterator[int]:
    """Surround a session that adds and reads; several may go on at the same time.

    Yields:
        A descriptor that must stay open while it lasts.

    Raises:
        StorageError: maintenance or a rollback is under way, the repository is gone, or the disk
            reports an error.
    """
    with locked(engine.folder, fcntl.LOCK_SH, lambda: _settle(engine), engine.patience) as lock:
        engine.folder.require_present()
        with engine.append_only():
            reserve.make(engine.folder)
            yield lock


@contextlib.contextmanager
def exclusive(engine: Engine) -> Iterator[None]:
    """Keep everybody else from using the repository through this program.

    Raises:
        StorageError: another session uses it.
    """
    with locked(engine.folder, fcntl.LOCK_EX, lambda: _settle(engine)), engine.exclusive():
        yield


@contextlib.contextmanager
def maintenance(engine: Engine, window: str) -> Iterator[None]:
    """Surround a session with full access; what it may remove is held back.

    Args:
        engine: of the repository.
        window: the number of dom0's opening.

    Raises:
        StorageError: the repository is in use or gone, there is no room to hold anything back, or
            the disk reports an error.
    """
    with locked(engine.folder, fcntl.LOCK_EX, lambda: _settle(engine), engine.patience):
        engine.folder.require_present()
        reserve.give_up(engine.folder)
        held_back.hold(engine, window)
        with engine.maintenance():
            yield


def _settle(engine: Engine) -> None:
    held_back.settle(engine)
    engine.settle()
