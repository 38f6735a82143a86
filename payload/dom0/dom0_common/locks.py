# SPDX-License-Identifier: GPL-3.0-or-later
"""The lock on a file."""

import fcntl
import time

_PAUSE = 0.05  # seconds between two attempts


def lock(file: int, *, seconds: float = 0) -> bool:
    """Lock an open file for this process only (flock(2)), until the file is closed.

    Args:
        file: its descriptor.
        seconds: how long to wait for whoever holds the lock.

    Returns:
        False when somebody else still holds it.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_PAUSE)
        else:
            return True
