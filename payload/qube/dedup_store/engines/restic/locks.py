# SPDX-License-Identifier: GPL-3.0-or-later
"""The removal of locks that killed processes of restic left.

restic's `unlock` isn't for that: to learn whether a lock's owner lives, it sends SIGHUP to whatever
process has the owner's number by now (internal/restic/lock_unix.go processExists). No other command
of restic does, not even `unlock --remove-all` (internal/repository/lock.go RemoveAllLocks).
"""

import contextlib
import json
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dedup_store.errors import StoreError, clean
from dedup_store.system import notify

_LOCKED = "already locked"
_PAUSE = 1  # seconds
# A living restic renews its lock every 5 minutes; one that is older than this counts as dead
# (internal/restic/lock.go StaleLockTimeout).
_STALE = timedelta(minutes=30)


@dataclass(frozen=True)
class _Owner:
    """The process that made a lock, as restic describes it (internal/restic/lock.go Lock)."""

    host: str
    pid: int
    time: str

    def __str__(self) -> str:
        return f"process {self.pid} on {clean(self.host, 60)}, {clean(self.time, 40)}"

    def may_live(self) -> bool:
        """Return whether it can still run, without a signal to anybody."""
        if self.host == socket.gethostname():
            with contextlib.suppress(OSError):
                process = Path(f"/proc/{self.pid}")
                is_restic = (process / "comm").read_bytes().startswith(b"restic")
                return is_restic and bool((process / "cmdline").read_bytes())  # a zombie has none
            return False
        with contextlib.suppress(ValueError):
            return datetime.now(UTC) - datetime.fromisoformat(self.time) < _STALE
        return True


def remove(restic: Callable[..., bytes]) -> str:
    """Remove all locks, unless one belongs to a process that can still run.

    Our own processes have none: it is called while no other command of ours uses the repository.

    Args:
        restic: runs it with some arguments, and gives its output.

    Returns:
        The owners that can still run; nothing when there is no lock left.

    Raises:
        StoreError: the locks can't be listed or removed.
    """
    names = _names(restic)
    owners = [_owner_of(restic, name) for name in names]
    living = [str(owner) for owner in owners if owner and owner.may_live()]
    if names and not living:
        restic("unlock", "--remove-all")
    return living[0] if living else ""


def when_free(restic: Callable[..., bytes], wait: int, *arguments: str) -> None:
    """Run what needs an exclusive lock, and wait for another restic.

    Args:
        restic: as for remove.
        wait: seconds to wait at most.
        arguments: restic's.

    Raises:
        StoreError: restic failed, or that other one goes on for longer.
    """
    end, is_told = time.monotonic() + wait, False
    while True:
        try:
            restic(*arguments)
            return
        except StoreError as error:
            if _LOCKED not in str(error):
                raise
        if owner := remove(restic):
            if time.monotonic() >= end:
                raise StoreError(
                    f"another restic has locked the repository ({owner}): wait for its end. If no"
                    " restic works on it any more, run restic's own `unlock --remove-all`"
                )
            if not is_told:
                notify.say(f"waiting for another restic that has locked the repository ({owner})")
            is_told = True
            time.sleep(_PAUSE)


def _names(restic: Callable[..., bytes]) -> list[str]:
    return restic("--no-lock", "list", "locks").decode(errors="replace").split()


def _owner_of(restic: Callable[..., bytes], name: str) -> _Owner | None:
    """Return a lock's owner; None for a lock that is gone, or that a power cut damaged.

    Raises:
        StoreError: the repository can't be reached, so nobody knows.
    """
    for _ in range(2):  # the first error may be the connection's
        with contextlib.suppress(StoreError, ValueError, KeyError, TypeError):
            lock = json.loads(restic("--no-lock", "cat", "lock", name))
            return _Owner(str(lock["hostname"]), int(lock["pid"]), str(lock["time"]))
        if name not in _names(restic):
            return None
    return None
