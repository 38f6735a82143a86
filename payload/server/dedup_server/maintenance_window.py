# SPDX-License-Identifier: GPL-3.0-or-later
"""The time in which dom0 keeps maintenance of a repository open.

dom0 calls `dedupbackup.MaintenanceOpen+ENGINE+NAME` and keeps the call: its process holds a lock
on a file of root's in /run. When dom0 ends the call, dom0 or this qube crashes or is shut down, or
the process is killed, the lock is gone, and so is the access. The file has a time limit too, and
a number by which all sessions of one opening are known (held_back.py).
"""

import contextlib
import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dedup_server.config import Repository
from dedup_server.errors import RefusedError, StorageError

RUN_DIR = "/run/dedup-server"
_TRIES, _PAUSE = 20, 0.05  # seconds
_OPENING = re.compile(rb"([0-9]{1,18}) ([0-9a-f]{16})")  # until when, and the opening's number


@dataclass(frozen=True)
class Window:
    """An opening.

    Attributes:
        until: when it ends at the latest, in seconds since the start of this qube.
        number: names it.
    """

    until: int
    number: str

    def left(self) -> int:
        """Return how many seconds are left of it."""
        return self.until - _now()


@contextlib.contextmanager
def locked(repository: Repository) -> Iterator[int]:
    """Hold the lock that shows that dom0's call goes on.

    Yields:
        The file's descriptor; begin() writes to it.

    Raises:
        StorageError: it is open already.
    """
    path = _path(repository)
    path.parent.mkdir(mode=0o755, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        _lock(fd, repository)
        # whatever the umask: sessions run as another user
        os.fchmod(fd, 0o644)
        path.parent.chmod(0o755)
        yield fd
    finally:
        os.close(fd)


def begin(fd: int, repository: Repository) -> Window:
    """Open maintenance, while the lock is held."""
    window = Window(_now() + 60 * repository.maintenance_minutes, secrets.token_hex(8))
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{window.until} {window.number}".encode(), 0)
    return window


def end(repository: Repository) -> None:
    """Close maintenance."""
    _path(repository).unlink()


def current(repository: Repository) -> str | None:
    """Return the number of dom0's opening; None when maintenance isn't open."""
    try:
        fd = os.open(_path(repository), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None  # nobody holds it
    except BlockingIOError:
        opening = _OPENING.fullmatch(os.pread(fd, 64, 0))
        if opening and os.fstat(fd).st_uid == 0 and _now() < int(opening[1]):
            return opening[2].decode()
        return None
    finally:
        os.close(fd)


def require_closed(repository: Repository) -> None:
    """Refuse to go on while maintenance is open.

    Raises:
        RefusedError: it is.
    """
    if current(repository) is not None:
        raise RefusedError(f"dom0 keeps maintenance of {repository.name} open: wait for its end")


def _path(repository: Repository) -> Path:
    return Path(os.environ.get("DEDUP_SERVER_RUN_DIR") or RUN_DIR) / repository.argument


def _now() -> int:
    """Return the seconds since the start of this qube, whatever its clock is set to."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME))


def _lock(fd: int, repository: Repository) -> None:
    for _ in range(_TRIES):  # current() holds it for an instant
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(_PAUSE)
    raise StorageError(f"maintenance of {repository.argument} is open already")
