# SPDX-License-Identifier: GPL-3.0-or-later
"""The state file, and the lock.

The state file exists from the first step of an installation to the last of a removal:
phase           installed, or removing: the next run completes the removal
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
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from dom0_common.locks import lock
from dom0_common.paths import Paths

from shimctl_lib.errors import ShimctlError
from shimctl_lib.system import files

PATIENCE = 60  # seconds to wait for the lock; its holder takes one, or limits of 10 to 20 a program
State = dict[str, Any]


def load(at: Paths) -> State | None:
    """Return the state, None when nothing is installed; an unreadable file has no entries."""
    content = files.read(at.state)
    if content is None:
        return None
    try:
        state = json.loads(content)
    except ValueError:
        state = None
    return state if isinstance(state, dict) else {}


def save(at: Paths, state: State) -> None:
    """Write the state."""
    files.write(at.state, json.dumps(state, indent=1, sort_keys=True).encode() + b"\n")


def now() -> str:
    """Return the time in the state file's form."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextlib.contextmanager
def locked(at: Paths) -> Iterator[None]:
    """Hold the lock, so that nobody else changes anything; wait for another holder.

    Raises:
        ShimctlError: another run holds the lock for too long.
    """
    files.make_folder(at.lock.parent)
    with at.lock.open("a") as file:
        at.lock.chmod(0o600)
        if not lock(file.fileno(), seconds=PATIENCE):
            raise ShimctlError(f"another shimctl holds {at.lock}: try again")
        yield
