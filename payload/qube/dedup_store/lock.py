# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps what removes runs apart from everything else that uses the repository.

To a repository, the objects of a put that goes on look like those of one that failed: a prune must
never see them. So each command holds a lock in this qube, shared or, to remove, alone, and so do
the engine's processes, which may outlive it. A repository is one backup qube's.
"""

import fcntl
import hashlib
import os
import time
from dataclasses import dataclass

from dedup_store import tell
from dedup_store.config import Config, state_folder
from dedup_store.errors import StoreError

_POLL = 0.1  # seconds


@dataclass(frozen=True)
class Lock:
    """A lock that is held until the process and its engines have ended.

    Attributes:
        fd: its file; something is in it while runs are removed, and when that didn't go well.
        exclusive: whether it is held alone, to remove runs.
    """

    fd: int
    exclusive: bool

    @property
    def is_marked(self) -> bool:
        """Tell whether a removal was cut short."""
        return os.fstat(self.fd).st_size > 0

    def mark(self) -> None:
        """Note that runs are being removed."""
        os.pwrite(self.fd, b"removing\n", 0)
        os.fsync(self.fd)

    def clear(self) -> None:
        """Note that all went well."""
        os.ftruncate(self.fd, 0)


def take(config: Config, *, exclusive: bool) -> Lock:
    """Lock a profile's repository; wait for others at most `lock_wait` seconds.

    Raises:
        StoreError: when they go on for longer.
    """
    folder = state_folder()
    name = hashlib.sha256(config.repository.encode()).hexdigest()[:32]
    path = folder / f"{name}.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"{path} can't be made: {error.strerror}") from None
    how = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    end, is_waiting = time.monotonic() + config.lock_wait, False
    while True:
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
            return Lock(fd, exclusive)
        except BlockingIOError:
            other = "another command" if exclusive else "a forget or prune"
            if time.monotonic() >= end:
                raise StoreError(f"{other} uses the repository: try again later") from None
            if not is_waiting:
                tell.say(f"waiting for {other} that uses the repository")
            is_waiting = True
            time.sleep(_POLL)
