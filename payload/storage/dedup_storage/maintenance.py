# SPDX-License-Identifier: GPL-3.0-or-later
"""Full access to one repository, for as long as dom0 keeps it open.

dom0 calls `dedupbackup.MaintenanceOpen+ENGINE+NAME` and keeps the call: its process holds a lock
on a file of root's in /run. When dom0 ends the call, dom0 or this qube crashes or is shut down, or
the process is killed, the lock is gone, and so is the access. The file has a time limit too.
"""

import contextlib
import fcntl
import os
import select
import time
from pathlib import Path

from dedup_storage import durable, kept, serve
from dedup_storage.config import Repository
from dedup_storage.errors import RefusedError, StorageError

RUN_DIR = "/run/dedup-storage"
_STDIN = 0
_TRIES = 20


def _path(repository: Repository) -> Path:
    return Path(os.environ.get("DEDUP_STORAGE_RUN_DIR") or RUN_DIR) / repository.argument


def _now() -> int:
    """Seconds since the start of this qube, whatever its clock is set to."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME))


def hold_open(repository: Repository) -> int:
    """Open maintenance until stdin ends or the time is over.

    Raises:
        RefusedError: when the caller isn't dom0 (which policy ensures too).
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
        until = _now() + 60 * repository.maintenance_minutes
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(until).encode(), 0)
        os.write(1, b"open\n")
        while (left := until - _now()) > 0:
            if select.select([_STDIN], [], [], left)[0] and not os.read(_STDIN, 4096):
                break
        path.unlink()
    finally:
        os.close(fd)
    return 0


def _lock(fd: int, repository: Repository) -> None:
    for _ in range(_TRIES):  # a look at it holds it for an instant
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(0.05)
    raise StorageError(f"maintenance of {repository.argument} is open already")


def is_open(repository: Repository) -> bool:
    """Tell whether dom0 keeps maintenance open."""
    try:
        fd = os.open(_path(repository), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False  # nobody holds it
    except BlockingIOError:
        text = os.pread(fd, 32, 0)
        return os.fstat(fd).st_uid == 0 and text.isdigit() and _now() < int(text)
    finally:
        os.close(fd)


def maintain(repository: Repository) -> int:
    """Give full access.

    Returns:
        The server's exit code.

    Raises:
        RefusedError: when it isn't open, or was closed meanwhile.
    """
    if not is_open(repository):
        raise RefusedError(f"maintenance of {repository.argument} is not open: dom0 must open it")
    argv = serve.command(repository, append_only=False)

    def still_open() -> bool:
        return is_open(repository)

    if repository.folder is None:
        return serve.supervise(argv, None, still_open)
    how = kept if repository.engine == "borg" else durable
    with how.maintenance(repository, repository.folder):
        return serve.supervise(argv, repository.folder, still_open)
