# SPDX-License-Identifier: GPL-3.0-or-later
"""Ledgers of backups that are not in the store: they failed, or went elsewhere.

A ledger says that files left dom0 in containers that anybody can read: into a store, or onto a disk
under a passphrase with `dedup:`. Its user must see it, until it is old.
"""

import contextlib
import os
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from dom0_common.locks import lock
from dom0_common.paths import Paths

from dedup_backup.calls.backup_qube import RUN, Store
from dedup_backup.calls.qubesd import NoQubeError
from dedup_backup.errors import BackupError
from dedup_backup.records import confirmed, ledger, moment
from dedup_backup.settings import StoreAddress, all_profiles

OLD_DAYS = 90  # who looks at `list` every other month sees it
_DAY = 24 * 3600
_RECENT = 600  # seconds; a running backup adds a row for each 100 MiB


@dataclass(frozen=True)
class Orphan:
    """A ledger whose backup isn't stored.

    Attributes:
        backup_id: the backup.
        written: when its last row was written, in seconds since 1970.
        members: how many of its members it has; None when it is damaged.
        bytes: of their payload.
    """

    backup_id: str
    written: float
    members: int | None
    bytes: int

    @property
    def is_recent(self) -> bool:
        """Whether the backup can still be running."""
        return time.time() - self.written < _RECENT

    def when(self) -> str:
        """Return the time of its last row, in UTC."""
        return moment.label(moment.utc(int(self.written)))


def find(paths: Paths, stored: Iterable[str]) -> list[Orphan]:
    """Find the ledgers whose backup is neither stored nor confirmed, in any store; oldest first.

    Args:
        paths: where dom0's records are.
        stored: names of the runs in this store.
    """
    known = {found[1] for run in stored if (found := RUN.fullmatch(run))}
    known |= {record["backup_id"] for record in confirmed.read(paths, None).values()}
    times = {name: time for name, time in _times(paths).items() if name not in known}
    return [_orphan(paths, name, times[name]) for name in sorted(times, key=lambda n: times[n])]


def other_stores(paths: Paths, address: StoreAddress) -> list[StoreAddress]:
    """List the stores that dom0 knows, by its profiles and confirmed runs, except one.

    Raises:
        BackupError: a profile or a record can't be read.
    """
    records = confirmed.read(paths, None).values()
    found = {StoreAddress(str(row["qube"]), str(row["repository"])) for row in records}
    found |= {store for profile in all_profiles(paths) if (store := profile.store())}
    return sorted(found - {address}, key=lambda store: (store.qube, store.repository))


def drop_old(
    paths: Paths, address: StoreAddress, stored: Collection[str], patience: int | None
) -> tuple[list[str], str]:
    """Drop old ledgers that belong to nothing.

    Old means: OLD_DAYS before now, and before the newest ledger, so that a clock that was put ahead
    makes none old. The newest one always stays.

    Args:
        paths: where dom0's records are.
        address: this store.
        stored: names of the runs that it has.
        patience: as for Store.

    Returns:
        The dropped backups' ids, and why none could be dropped, if so.
    """
    old = _old(paths, find(paths, stored))
    if not old:
        return [], ""
    elsewhere: set[str] = set()
    try:
        for other in other_stores(paths, address):
            with contextlib.suppress(NoQubeError):  # its data went with it
                elsewhere |= {run.name for run in Store(other, patience).runs(start=False)}
    except BackupError as error:  # it may have one of them
        return [], f"{len(old)} old ledger(s) stay, because another store can't be asked: {error}"
    still = {orphan.backup_id for orphan in find(paths, {*stored, *elsewhere})}
    return [
        orphan.backup_id for orphan in old if orphan.backup_id in still and _drop(paths, orphan)
    ], ""


def as_json(orphans: Iterable[Orphan]) -> list[dict[str, Any]]:
    """Return orphans in the form of a JSON report."""
    return [
        {
            "backup_id": orphan.backup_id,
            "last_written": orphan.when(),
            "members": orphan.members,
            "bytes": orphan.bytes,
            "perhaps_running": orphan.is_recent,
        }
        for orphan in orphans
    ]


def as_text(orphans: Collection[Orphan], others: Collection[str]) -> list[str]:
    """Return lines about orphans; others are the names of the other stores that dom0 knows."""
    if not orphans:
        return []
    lines = ["", "Left dom0 in clear, and not in this store:"]
    for orphan in orphans:
        size = f"{orphan.members} members, {orphan.bytes} bytes"
        if orphan.members is None:
            size = "its ledger is damaged"
        running = ", perhaps still being made" if orphan.is_recent else ""
        lines.append(f"  backup {orphan.backup_id}, last written {orphan.when()}: {size}{running}")
    lines.append(
        "Each failed, or was sent elsewhere under a passphrase that starts with 'dedup:', or the"
        " store lost it. Whoever has it can read it."
    )
    if others:
        lines.append(f"dom0 didn't ask {', '.join(others)}: see the `list` of each.")
    return lines


def _times(paths: Paths) -> dict[str, float]:
    """Return when each ledger was last written."""
    found = {}
    for name in ledger.heads(paths):
        with contextlib.suppress(FileNotFoundError):
            found[name] = (paths.ledgers / name).lstat().st_mtime
    return found


def _orphan(paths: Paths, backup_id: str, written: float) -> Orphan:
    try:
        found = ledger.read(paths, backup_id)
    except BackupError:
        return Orphan(backup_id, written, None, 0)
    rows = found.rows if found else []
    # the header counts twice: in clear, and in its container
    return Orphan(backup_id, written, len(rows), sum(row.length for row in rows))


def _old(paths: Paths, orphans: list[Orphan]) -> list[Orphan]:
    times = _times(paths)
    limit = min(time.time(), max(times.values(), default=0)) - OLD_DAYS * _DAY
    orders = {name: head.order or 0 for name, head in ledger.heads(paths).items()}
    newest = max(orders.values(), default=0)
    return [
        orphan
        for orphan in orphans
        if orphan.written < limit and (not newest or orders.get(orphan.backup_id, 0) < newest)
    ]


def _drop(paths: Paths, orphan: Orphan) -> bool:
    """Drop a ledger, unless somebody writes to it, or has written."""
    path = paths.ledgers / orphan.backup_id
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:
        # the shim's `append_to_ledger` locks it as well
        if not lock(file) or os.fstat(file).st_mtime != orphan.written:
            return False
        path.unlink()
    finally:
        os.close(file)
    return True
