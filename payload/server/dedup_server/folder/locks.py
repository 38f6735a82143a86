# SPDX-License-Identifier: GPL-3.0-or-later
"""The lock of a repository, FOLDER/NAME.kept/lock: the kernel drops it when its holder dies."""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator

from dedup_server.errors import StorageError
from dedup_server.folder.files import FULL
from dedup_server.folder.repository_folder import RepositoryFolder
from dedup_server.notify import notify

INSTANT = 5  # seconds
_POLL = 0.02  # seconds


@contextlib.contextmanager
def locked(
    folder: RepositoryFolder, how: int, settle: Callable[[], None], seconds: float = INSTANT
) -> Iterator[int]:
    """Lock a repository for a session.

    Args:
        folder: of the repository.
        how: shared (fcntl.LOCK_SH) or exclusive (fcntl.LOCK_EX).
        settle: called when nobody else uses it, to end what was interrupted.
        seconds: how long to wait for another session's end.

    Yields:
        The descriptor that has the lock.

    Raises:
        StorageError: it is in use.
    """
    is_alone = how == fcntl.LOCK_EX
    with contextlib.ExitStack() as stack:
        lock = _open(folder, how)
        stack.callback(os.close, lock)
        try:
            # alone, or with others that were alone before
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _try_to_settle(folder, settle, must=is_alone)
            _wait(lock, how, seconds)
            if is_alone and folder.path.is_dir():  # excludes sessions that couldn't make the file
                other = os.open(folder.path, os.O_RDONLY | os.O_CLOEXEC)
                stack.callback(os.close, other)
                _wait(other, how, seconds)
        except BlockingIOError:
            who = "a session" if is_alone else "maintenance or a rollback"
            raise StorageError(
                f"{who} is using repository {folder.repository.name}: try again when it has ended"
            ) from None
        yield lock


def _open(folder: RepositoryFolder, how: int) -> int:
    """Open the lock's file; to read what is on a read-only disk, the repository instead."""
    safe = os.O_NOFOLLOW | os.O_CLOEXEC
    path = folder.state_folder / "lock"
    try:
        folder.state_folder.mkdir(mode=0o700, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | safe, 0o600)
    except OSError as error:
        if how == fcntl.LOCK_EX or error.errno not in FULL:
            raise
        for there in (path, folder.path):
            with contextlib.suppress(FileNotFoundError):
                return os.open(there, os.O_RDONLY | safe)
        raise


def _try_to_settle(folder: RepositoryFolder, settle: Callable[[], None], *, must: bool) -> None:
    """End what was interrupted; unless it must, it may wait while nothing can be written."""
    try:
        settle()
    except OSError as error:
        if must or error.errno not in FULL:
            raise
        notify(f"{folder.parent}: {error.strerror}: what is left of an earlier session stays")


def _wait(lock: int, how: int, seconds: float) -> None:
    """Lock; another session that begins at the same time is alone for an instant.

    Raises:
        BlockingIOError: another session keeps it.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            return fcntl.flock(lock, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise
        time.sleep(_POLL)
