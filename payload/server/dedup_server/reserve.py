# SPDX-License-Identifier: GPL-3.0-or-later
"""Room on the disk, so that one that is full can be emptied again.

Removing needs room: restic writes a lock, a new index, and anew what is still needed of a file;
borg writes what it removes, its index, and wants a segment's room free when it compacts
(borg/repository.py Repository.check_free_space). So FOLDER/NAME.kept/reserve takes that room while
there is enough, and gives it up when maintenance needs it.
"""

import contextlib
import os
from pathlib import Path

from dedup_server import held, kept, tell
from dedup_server.config import Repository
from dedup_server.errors import RefusedError

_PART = 20  # of the file system, at most
_PLENTY = 3  # times the reserve must be free when it is made
_WORTH = 1 << 20  # bytes that are worth to be freed


def _path(repository: Repository, folder: Path) -> Path:
    return kept.folder_of(repository, folder) / "reserve"


def _disk(repository: Repository, folder: Path) -> Path:
    """Give what is on the repository's file system; it may be a mount point itself."""
    path = folder / repository.name
    return path if path.exists() else folder


def _wanted(repository: Repository, folder: Path) -> int:
    info = os.statvfs(_disk(repository, folder))
    return min(repository.reserve_mib << 20, info.f_blocks * info.f_frsize // _PART)


def _free(repository: Repository, folder: Path) -> int:
    info = os.statvfs(_disk(repository, folder))
    return info.f_bavail * info.f_frsize


def _reserved(repository: Repository, folder: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return _path(repository, folder).lstat().st_size
    return 0


def make(repository: Repository, folder: Path) -> None:
    """Make the reserve as large as it should be, when there is plenty of room; else do nothing."""
    wanted, there = _wanted(repository, folder), _reserved(repository, folder)
    elsewhere = _disk(repository, folder).stat().st_dev != folder.stat().st_dev
    if wanted == there or elsewhere or _free(repository, folder) + there < _PLENTY * wanted:
        return
    path = _path(repository, folder)
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


def give_up(repository: Repository, folder: Path) -> None:
    """Remove the reserve when there is too little room without it."""
    if _free(repository, folder) < _wanted(repository, folder):
        _path(repository, folder).unlink(missing_ok=True)


def require(repository: Repository, folder: Path) -> None:
    """See to it that maintenance has room, as far as something can be done about it.

    Raises:
        RefusedError: there is too little, and `discard` would give more.
    """
    # a `forget` that has used some of the reserve doesn't stand in the way of `prune`
    wanted = _wanted(repository, folder) // 2
    free = _free(repository, folder) + _reserved(repository, folder)
    if free >= wanted:
        return
    held_back = held.size(repository, folder)
    little = f"{folder} has only {tell.amount(free)} free"
    if held_back >= _WORTH:
        raise RefusedError(
            f"{little}, too little for maintenance, and {tell.amount(held_back)} of what was"
            f" removed earlier are held back: run `dedup-server discard {repository.name}` in"
            " this qube to free them, then try again"
        )
    tell.say(f"{little}: maintenance may fail; enlarge its volume or disk then")
