# SPDX-License-Identifier: GPL-3.0-or-later
"""The lock that separates a command that removes runs from all others.

To a repository, the objects of a put that goes on look like those of one that failed: a prune must
never see them. So each command holds a lock in this qube, shared or, to remove, alone, and so do
the engine's processes, which may outlive it. A repository is one backup qube's.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dedup_store.config import Config, state_file
from dedup_store.errors import StoreError
from dedup_store.system import disk_errors, notify
from dedup_store.system.disk_errors import NO_ROOM
from dedup_store.system.environment import home

_POLL = 0.1  # seconds
# What the file holds: the same length each, so that a full disk takes the change in place.
_IDLE, _STORING, _REMOVING = b"idle    \n", b"storing \n", b"removing\n"


@dataclass(frozen=True)
class Lock:
    """A lock that is held until the process and its engines have ended.

    Attributes:
        fd: its file, which also shows whether a command was cut short that takes the engine's own
            locks; a folder's when there is no room for a file.
        exclusive: whether it is held alone, to remove runs.
        wait: seconds to wait for others at most.
    """

    fd: int
    exclusive: bool
    wait: int

    def begin_removal(self) -> None:
        """Record that runs are being removed; `end` records success."""
        self._mark(_REMOVING)

    def begin_put(self, clean_up: Callable[[], None], *, has_locks: bool = False) -> None:
        """Record that a run is being stored; first clean up after a command that was cut short.

        Args:
            clean_up: removes the engine's locks; called when nobody else uses the repository.
            has_locks: whether the engine has some, which somebody else may have left.

        Raises:
            StoreError: a removal was cut short, and others go on for longer than `wait`.
        """
        waiting = _Waiting(self.wait, "another command")
        while (mark := self._read()) != _IDLE or has_locks:
            if self._try(fcntl.LOCK_EX):
                clean_up()
                self._mark(_IDLE)
                break
            if mark != _REMOVING:
                break  # another put; leftovers of one that was cut short are in nobody's way
            waiting.go_on()
        self._get(fcntl.LOCK_SH, "a forget or prune")  # a try that fails loses the lock (flock(2))
        self._mark(_STORING)

    def end(self) -> None:
        """Record success, unless others go on; the last of them records it."""
        if self.exclusive or self._try(fcntl.LOCK_EX):
            self._mark(_IDLE)

    def _read(self) -> bytes:
        """Return the mark; that of a put, which costs little, when the file is unreadable."""
        with contextlib.suppress(OSError):
            return os.pread(self.fd, len(_IDLE), 0) or _IDLE
        return _STORING

    def _mark(self, mark: bytes) -> None:
        with contextlib.suppress(OSError):  # home is full or read-only: then _read returns less
            os.pwrite(self.fd, mark, 0)
            os.fsync(self.fd)

    def _try(self, how: int) -> bool:
        try:
            fcntl.flock(self.fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _get(self, how: int, other: str) -> None:
        waiting = _Waiting(self.wait, other)
        while not self._try(how):
            waiting.go_on()


class _Waiting:
    """A wait for another command, which is announced once."""

    def __init__(self, seconds: int, other: str) -> None:
        self._end = time.monotonic() + seconds
        self._other = other
        self._is_announced = False

    def go_on(self) -> None:
        """Wait a moment.

        Raises:
            StoreError: the time is up.
        """
        if time.monotonic() >= self._end:
            raise StoreError(f"{self._other} uses the repository: try again later")
        if not self._is_announced:
            notify.say(f"waiting for {self._other} that uses the repository")
        self._is_announced = True
        time.sleep(_POLL)


def take(config: Config, *, exclusive: bool) -> Lock:
    """Lock a repository; wait for others at most `lock_wait` seconds.

    Raises:
        StoreError: when they go on for longer.
    """
    held = Lock(_open(state_file(config, "lock")), exclusive, config.lock_wait)
    if exclusive:
        held._get(fcntl.LOCK_EX, "another command")
    else:
        held._get(fcntl.LOCK_SH, "a forget or prune")
    return held


def _open(path: Path) -> int:
    """Open the file, and make it where that is possible.

    Where it isn't, no command can make it, and all lock the same folder above it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(path, flags, 0o600)
    except OSError as error:
        if error.errno in NO_ROOM:
            for place in (path, *path.parents):
                with contextlib.suppress(FileNotFoundError):
                    return os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        disk = disk_errors.home_disk(Path(home()))
        raise disk_errors.of_file(error, f"{path} can't be made", disk) from None
    if os.fstat(fd).st_size < len(_IDLE):
        with contextlib.suppress(OSError):
            os.pwrite(fd, _IDLE, 0)
    return fd
