# SPDX-License-Identifier: GPL-3.0-or-later
"""Sessions of borg's: who may be there with whom, and what is kept of it (kept.py, held.py).

borg itself sees to it that a power cut leaves its repository whole.
"""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from dedup_server import borg_locks, held, kept, room, tell
from dedup_server.config import Repository


@contextlib.contextmanager
def session(repository: Repository, folder: Path) -> Iterator[None]:
    """An append-only session.

    Raises:
        StorageError: when maintenance or a rollback is under way, or the repository is gone.
    """
    with kept.locked(repository, folder, fcntl.LOCK_SH, _settle):
        kept.expect(repository, folder)
        room.make(repository, folder)
        _copy_config(repository, folder)
        try:
            yield
        finally:
            _copy_config(repository, folder)


@contextlib.contextmanager
def exclusive(repository: Repository, folder: Path) -> Iterator[None]:
    """Nobody else uses the repository through this program.

    Raises:
        StorageError: when somebody does.
    """
    with kept.locked(repository, folder, fcntl.LOCK_EX, _settle):
        kept.copy_config(repository, folder)
        yield


@contextlib.contextmanager
def maintenance(repository: Repository, folder: Path, window: str) -> Iterator[None]:
    """Full access; what it may remove is held back, what it may compact is noted.

    Args:
        repository: which.
        folder: that it is in.
        window: the number of dom0's opening.

    Raises:
        StorageError: when the repository is in use or gone.
    """
    with kept.locked(repository, folder, fcntl.LOCK_EX, _settle):
        kept.expect(repository, folder)
        room.give_up(repository, folder)
        kept.copy_config(repository, folder)
        held.begin(repository, folder, window)
        kept.set_floor(repository, folder, kept.OPEN)
        yield
        kept.settle_floor(repository, folder)


def _settle(repository: Repository, folder: Path) -> None:
    """End what didn't end in order."""
    held.settle(repository, folder)
    borg_locks.remove_dead(folder / repository.name)
    kept.settle_floor(repository, folder)


def _copy_config(repository: Repository, folder: Path) -> None:
    """Keep a copy of `config`, unless nothing can be written: it can be read all the same."""
    try:
        kept.copy_config(repository, folder)
    except OSError as error:
        is_made = kept.folder_of(repository, folder).is_dir()
        if is_made and error.errno not in kept.FULL:
            raise
        tell.say(f"{folder}: {error.strerror}: no copy is kept of borg's config")
