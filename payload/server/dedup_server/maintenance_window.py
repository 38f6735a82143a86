# SPDX-License-Identifier: GPL-3.0-or-later
"""Full access to one repository, for as long as dom0 keeps it open.

dom0 calls `dedupbackup.MaintenanceOpen+ENGINE+NAME` and keeps the call: its process holds a lock
on a file of root's in /run. When dom0 ends the call, dom0 or this qube crashes or is shut down, or
the process is killed, the lock is gone, and so is the access. The file has a time limit too, and
a number by which all sessions of one opening are known (held.py).
"""

import contextlib
import fcntl
import os
import re
import secrets
import select
import time
from pathlib import Path

from dedup_server import borg_session, durable, held, room, serve, tell
from dedup_server.config import Repository
from dedup_server.errors import RefusedError, StorageError

RUN_DIR = "/run/dedup-server"
_STDIN = 0
_TRIES = 20
_NOTE = re.compile(rb"([0-9]{1,18}) ([0-9a-f]{16})")  # until when, and the opening's number


def _path(repository: Repository) -> Path:
    return Path(os.environ.get("DEDUP_SERVER_RUN_DIR") or RUN_DIR) / repository.argument


def _now() -> int:
    """Seconds since the start of this qube, whatever its clock is set to."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME))


def hold_open(repository: Repository) -> int:
    """Open maintenance until stdin ends or the time is over.

    It says `open`, and at the end `held BYTES`, what is held back of all that was removed, or
    `unheld`, when nothing can be.

    Raises:
        RefusedError: when the caller isn't dom0 (which policy ensures too), or there is too little
            room.
        StorageError: when it is open already.
    """
    if os.environ.get("QREXEC_REMOTE_DOMAIN") != "dom0":
        raise RefusedError("only dom0 opens maintenance")
    path = _path(repository)
    path.parent.mkdir(mode=0o755, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(path, flags, 0o644)
    try:
        _lock(fd, repository)
        os.fchmod(fd, 0o644)  # whatever the umask: the other service runs as another user
        path.parent.chmod(0o755)
        if repository.folder and repository.folder.is_dir():
            room.require(repository, repository.folder)
        until, number = _now() + 60 * repository.maintenance_minutes, secrets.token_hex(8)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{until} {number}".encode(), 0)
        os.write(1, b"open\n")
        while (left := until - _now()) > 0:
            if select.select([_STDIN], [], [], left)[0] and not os.read(_STDIN, 4096):
                break
        path.unlink()
        with contextlib.suppress(BrokenPipeError):
            os.write(1, f"{_outcome(repository, number)}\n".encode())
    finally:
        os.close(fd)
    return 0


def _outcome(repository: Repository, number: str) -> str:
    """Tell dom0 what is held back."""
    folder = repository.folder
    if folder is None or held.is_unheld(repository, folder, number):
        return "unheld"
    return f"held {held.size(repository, folder)}"


def _lock(fd: int, repository: Repository) -> None:
    for _ in range(_TRIES):  # a look at it holds it for an instant
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(0.05)
    raise StorageError(f"maintenance of {repository.argument} is open already")


def window(repository: Repository) -> str | None:
    """Give the number of dom0's opening; None when it isn't open."""
    try:
        fd = os.open(_path(repository), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None  # nobody holds it
    except BlockingIOError:
        note = _NOTE.fullmatch(os.pread(fd, 64, 0))
        if note and os.fstat(fd).st_uid == 0 and _now() < int(note[1]):
            return note[2].decode()
        return None
    finally:
        os.close(fd)


def maintain(repository: Repository) -> int:
    """Give full access.

    Returns:
        The server's exit code.

    Raises:
        RefusedError: when it isn't open, or was closed meanwhile.
    """
    number = window(repository)
    if number is None:
        raise RefusedError(f"maintenance of {repository.argument} is not open: dom0 must open it")
    argv = serve.command(repository, append_only=False)

    def still_open() -> bool:
        return window(repository) == number

    if repository.folder is None:
        tell.say(f"{repository.place}: what this maintenance removes can't be held back there")
        return serve.supervise(argv, None, still_open)
    how = borg_session if repository.engine == "borg" else durable
    with how.maintenance(repository, repository.folder, number):
        return serve.supervise(argv, repository.folder, still_open)
