# SPDX-License-Identifier: GPL-3.0-or-later
"""The state file, the lock, and the triggers that wait to be served.

The state file exists from the first step of an installation to the last of a removal:
phase           installed, or removing: whoever comes next completes the removal
method          replace or path
shim_sha256     the shim that was put in place
real_sha256     the real scrypt behind it, which was probed
package         the package that owned it then
folders         those that were made for the guard's files, below the root; they go when empty
refused         a real scrypt that the probe refused: sha256, reason
last            when a trigger let reconcile run last, which, and with what result
last_change     the last time that this changed something
triggers        for each trigger when it ran last, and with what result
"""

import contextlib
import fcntl
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from shimctl_lib.layout import TRIGGERS, Layout, ShimctlError
from shimctl_lib.system import files

PATIENCE = 3  # seconds that a person waits for the lock
BOOKKEEPING = ("last", "last_change", "triggers")
State = dict[str, Any]


def load(at: Layout) -> State | None:
    """Return the state, None when nothing is installed; what can't be read has no entries."""
    content = files.read(at.state)
    if content is None:
        return None
    try:
        state = json.loads(content)
    except ValueError:
        state = None
    return state if isinstance(state, dict) else {}


def save(at: Layout, state: State) -> None:
    """Write the state."""
    files.write(at.state, json.dumps(state, indent=1, sort_keys=True).encode() + b"\n")


def now() -> str:
    """Return the time as the state file has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextlib.contextmanager
def locked(at: Layout, *, wait: bool) -> Iterator[bool]:
    """Let nobody else change anything meanwhile.

    Gives False, at once, when somebody else is at work and `wait` is not set.

    Raises:
        ShimctlError: somebody else was at work for too long.
    """
    files.make_folder(at.lock.parent)
    with at.lock.open("a") as lock:
        at.lock.chmod(0o600)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if not wait:
                    yield False
                    return
                if time.monotonic() > deadline:
                    raise ShimctlError(f"another shimctl holds {at.lock}: try again") from error
                time.sleep(0.05)
        yield True


def enter(at: Layout, trigger: str) -> None:
    """Note that a trigger wants to be served: whoever holds the lock must look again after this."""
    at.waiting.mkdir(mode=0o700, parents=True, exist_ok=True)
    (at.waiting / trigger).touch()


def waiting(at: Layout) -> bool:
    """Tell whether a trigger waits."""
    return any((at.waiting / trigger).exists() for trigger in TRIGGERS)


def take(at: Layout) -> list[str]:
    """Return the triggers that wait, and forget them; to be followed by a look."""
    taken = [trigger for trigger in TRIGGERS if (at.waiting / trigger).exists()]
    for trigger in taken:
        (at.waiting / trigger).unlink(missing_ok=True)
    return taken
