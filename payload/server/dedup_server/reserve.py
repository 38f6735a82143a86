# SPDX-License-Identifier: GPL-3.0-or-later
"""Room on the disk, so that one that is full can be emptied again.

Removals need room: restic writes a lock, a new index, and a copy of what a file still needs;
borg writes what it removes, its index, and wants a segment's room free when it compacts
(borg/repository.py Repository.check_free_space). So FOLDER/NAME.kept/reserve takes that room while
there is enough, and maintenance frees it when needed.
"""

import contextlib
import os
from pathlib import Path

from dedup_server import held_back
from dedup_server.engines.base import Engine
from dedup_server.errors import RefusedError
from dedup_server.folder.repository_folder import RepositoryFolder
from dedup_server.notify import human_size, notify

_PART = 20  # of the file system, at most
_PLENTY = 3  # times the reserve must be free when it is made
_WORTH = 1 << 20  # bytes that are worth freeing


def make(folder: RepositoryFolder) -> None:
    """Make the reserve as large as it should be, if there is plenty of room."""
    wanted, there = _wanted(folder), _reserved(folder)
    elsewhere = folder.mounted.stat().st_dev != folder.parent.stat().st_dev
    if wanted == there or elsewhere or _free(folder) + there < _PLENTY * wanted:
        return
    path = _path(folder)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with contextlib.suppress(OSError):  # another session makes it, or it can't be made here
        path.unlink(missing_ok=True)
        if not wanted:
            return
        fd = os.open(path, flags, 0o600)
        try:
            os.posix_fallocate(fd, 0, wanted)
        except OSError:
            path.unlink()
        finally:
            os.close(fd)


def give_up(folder: RepositoryFolder) -> None:
    """Remove the reserve when there is too little room without it."""
    if _free(folder) < _wanted(folder):
        _path(folder).unlink(missing_ok=True)


def require(engine: Engine) -> None:
    """Check that maintenance has room, before it is opened.

    Raises:
        RefusedError: there is too little, and `discard` would give more.
    """
    folder = engine.folder
    # a `forget` that has used some of the reserve doesn't stand in the way of `prune`
    wanted = _wanted(folder) // 2
    free = _free(folder) + _reserved(folder)
    if free >= wanted:
        return
    removed = held_back.size(engine)
    little = f"{folder.parent} has only {human_size(free)} free"
    if removed >= _WORTH:
        raise RefusedError(
            f"{little}, too little for maintenance, and {human_size(removed)} of what was"
            f" removed earlier are held back: run `dedup-server discard {folder.repository.name}`"
            " in this qube to free them, then try again"
        )
    notify(f"{little}: maintenance may fail; enlarge its volume or disk then")


def _path(folder: RepositoryFolder) -> Path:
    return folder.state_folder / "reserve"


def _wanted(folder: RepositoryFolder) -> int:
    info = os.statvfs(folder.mounted)
    return min(folder.repository.reserve_mib << 20, info.f_blocks * info.f_frsize // _PART)


def _free(folder: RepositoryFolder) -> int:
    info = os.statvfs(folder.mounted)
    return info.f_bavail * info.f_frsize


def _reserved(folder: RepositoryFolder) -> int:
    with contextlib.suppress(FileNotFoundError):
        return _path(folder).lstat().st_size
    return 0
