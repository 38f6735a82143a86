# SPDX-License-Identifier: GPL-3.0-or-later
"""The maintenance window of a repository in a storage qube, open while this process lives."""

import contextlib
import re
from collections.abc import Iterator

from dedup_backup.calls import service
from dedup_backup.errors import BackupError
from dedup_backup.output import say
from dedup_backup.settings import StorageRepository

_PATIENCE = 300  # seconds that a running storage qube may take to open or close it
# dedup_server/actions/maintenance_open.py
_OPEN = b"open\n"
_OUTCOME = re.compile(rb"held ([0-9]{1,18})\n|unheld\n")
_MAX_OUTCOME = 64  # bytes


@contextlib.contextmanager
def opened(storage: StorageRepository | None) -> Iterator[bool]:
    """Keep maintenance open; it closes when the call's stdin ends, even if we are killed.

    Args:
        storage: the repository; None when it is in no storage qube: nothing is opened then.

    Yields:
        Whether it was opened.

    Raises:
        BackupError: the storage qube refuses, or can't be called.
    """
    if storage is None:
        yield False
        return
    name = f"dedupbackup.MaintenanceOpen+{storage.engine}+{storage.repository}"
    what = "opening maintenance"
    with service.call(storage.qube, name, what, feed=True, patience=_PATIENCE) as call:
        said = b""
        while len(said) < len(_OPEN) and (data := call.read(len(_OPEN) - len(said))):
            said += data
        if said != _OPEN:
            call.send(b"")
            call.finish()
            raise BackupError(f"{storage.qube} doesn't open maintenance")
        yield True
        call.send(b"")
        said = _rest(call)
        call.finish()
        _say_outcome(storage, said)


def _rest(call: service.Call) -> bytes:
    """Read its last output, within a limit."""
    said = b""
    while len(said) <= _MAX_OUTCOME and (data := call.read(_MAX_OUTCOME)):
        said += data
    return said


def _say_outcome(storage: StorageRepository, said: bytes) -> None:
    """Report how much room the storage qube holds back; an older one sends no outcome."""
    if not (found := _OUTCOME.fullmatch(said)):
        return
    if found[1] is None:
        say(f"{storage.qube} can't bring back what was removed: docs/storage-qube.md says why")
    elif size := int(found[1]):
        say(
            f"{storage.qube} holds back {size / 1e6:,.1f} MB of what was removed, in case it must"
            f" be undone; `dedup-server discard {storage.repository}`, typed in"
            f" {storage.qube}, frees them at once"
        )
