# SPDX-License-Identifier: GPL-3.0-or-later
"""Opens a repository in a storage qube for removals, for as long as this process lives."""

import contextlib
from collections.abc import Iterator

from dedup_backup import qube
from dedup_backup.errors import BackupError
from dedup_backup.settings import Storage

_PATIENCE = 300  # seconds that a running storage qube may take to open or close it
_OPEN = b"open\n"  # dedup_storage/maintenance.py hold_open


@contextlib.contextmanager
def opened(storage: Storage) -> Iterator[None]:
    """Keep maintenance open; it is closed when the call's stdin ends, whatever ends us.

    Raises:
        BackupError: the storage qube refuses, or can't be called.
    """
    service = f"dedupbackup.MaintenanceOpen+{storage.engine}+{storage.repository}"
    what = "opening maintenance"
    with qube.call(storage.qube, service, what, feed=True, patience=_PATIENCE) as call:
        said = b""
        while len(said) < len(_OPEN) and (data := call.read(len(_OPEN) - len(said))):
            said += data
        if said != _OPEN:
            call.send(b"")
            call.finish()
            raise BackupError(f"{storage.qube} doesn't open maintenance")
        yield
        call.send(b"")
        call.finish()
