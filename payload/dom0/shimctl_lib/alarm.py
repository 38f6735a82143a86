# SPDX-License-Identifier: GPL-3.0-or-later
"""The warning of our programs in dom0 when the shim or all of its guard is off.

The guard reports what it did. Where none of it is left, as after an upgrade that switched it off,
nothing else would.
"""

import contextlib
import os

from dom0_common.paths import SHIM, Paths

from shimctl_lib import guard, state
from shimctl_lib.system import callers, files


def forgotten(at: Paths) -> str | None:
    """Return a sentence if no shim is installed though backups were made with one; else None."""
    with contextlib.suppress(FileNotFoundError, PermissionError), os.scandir(at.ledgers) as ledgers:
        if any(ledgers):
            return (
                f"backups were made with the scrypt shim, as {at.ledgers} shows, but it isn't"
                f" installed, or {at.state} was lost: new backups don't deduplicate. `sudo shimctl"
                " install` installs it"
            )
    return None


def warning(at: Paths) -> str | None:
    """Return what is wrong in a sentence; None if nothing is, or no shim was ever installed.

    Takes some hundredths of a second, and runs no scrypt.

    Raises:
        OSError: a file can't be read.
    """
    recorded = state.load(at)
    if recorded is None:
        return forgotten(at)
    if recorded.get("phase") == "removing":
        return None
    place = at.local if recorded.get("method") == "path" else at.scrypt
    more = "run `sudo shimctl reconcile`; `sudo shimctl status` says more"
    if files.read(place) != SHIM.read_bytes():
        return f"{place} is not the scrypt shim, so new backups may not deduplicate: {more}"
    others = callers.others(at)
    if others and others[0] != place:
        return f"{others[0]} is found before the shim, so backups may leave dom0 in clear: {more}"
    triggers = guard.health(at, guard.guard_files(at)).values()
    if not any(health.startswith("ready") for health in triggers):
        return f"the shim's guard is off: an update of scrypt would remove the shim: {more}"
    return None
