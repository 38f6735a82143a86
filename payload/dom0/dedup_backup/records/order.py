# SPDX-License-Identifier: GPL-3.0-or-later
"""dom0's order of its backups: a counter, which is the size of a file, and never a clock.

payload/dom0/scrypt `count_up` counts, and writes the number into the ledger's first row.
"""

import contextlib
import os
from collections.abc import Collection

from dom0_common.paths import Paths

from dedup_backup.errors import BackupError, UsageError
from dedup_backup.records import confirmed
from dedup_backup.records.ledger import encrypted, heads


def newest(paths: Paths, known: Collection[str], elsewhere: Collection[str]) -> str:
    """Name the backup that began last, by dom0's counter.

    Args:
        paths: where the ledgers are.
        known: backups that are confirmed: they need no place in the order.
        elsewhere: backups that don't count, as they are confirmed only in another store.

    Raises:
        UsageError: there is none, or the order isn't known.
    """
    found = {name: head for name, head in heads(paths).items() if name not in elsewhere}
    if not found:
        raise UsageError(
            f"there is no ledger in {paths.ledgers} of a backup that isn't confirmed in another"
            " store: it is written during a backup whose passphrase starts with 'dedup:'"
        )
    last = max(found, key=lambda name: found[name].order or 0)
    unknown = sorted(
        name
        for name, head in found.items()
        if head.order is None and name not in known and not head.is_before(found[last])
    )
    same = [name for name, head in found.items() if head.order == found[last].order]
    if unknown or not found[last].order or len(same) > 1:
        what = f"the place of backup {unknown[0]}" if unknown else "which backup is the newest"
        raise UsageError(f"dom0 could not note {what}: name the run to confirm, see `list`")
    size, highest = _counted(paths)
    if size > highest:
        before = "is confirmed already" if last in known else "must be named to be confirmed"
        raise UsageError(
            "dom0 has no ledger of the backup that began last: it could not write one (was its"
            f" disk full?), or `forget` removed it. The one before, {last}, {before}"
        )
    return last


def mend_counter(paths: Paths) -> None:
    """Raise dom0's counter to all that was counted: its file can have been lost.

    It can only grow.
    """
    size, highest = _counted(paths)
    missing = highest - size
    if missing > 0:
        with paths.order.open("ab") as file:
            paths.order.chmod(0o600)
            while missing > 0:
                missing -= file.write(b"\n" * min(missing, 1 << 20))
            file.flush()
            os.fsync(file.fileno())


def count(paths: Paths) -> int:
    """Return how many backups began, by dom0's counter."""
    return _counted(paths)[0]


def _counted(paths: Paths) -> tuple[int, int]:
    """Return the counter, and the highest number in a ledger, a note or a record."""
    orders = [head.order or 0 for head in (*heads(paths).values(), *encrypted(paths))]
    with contextlib.suppress(BackupError):  # a damaged record is reported when it is needed
        orders += [record.get("order") or 0 for record in confirmed.read(paths, None).values()]
    try:
        size = paths.order.stat().st_size
    except FileNotFoundError:
        size = 0
    return size, max(orders, default=0)
