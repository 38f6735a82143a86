# SPDX-License-Identifier: GPL-3.0-or-later
"""dom0's own proof that a backup succeeded.

The ledger has what the shim saw, not what should have been sent. Whether a backup succeeded, only
qubesd knows; then it sets backup_timestamp of each qube in it (inventory.py). Those stamps are of
this backup when they are other ones than before it, by its own qubes.xml; later than its ledger's
last row (both by dom0's clock); equal, but for the moments it takes to set them; and when no other
backup is known that may have set them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dedup_backup import inventory, ledger, moment
from dedup_backup.errors import BackupError
from dedup_backup.ledger import Ledger
from dedup_backup.qubesxml import Qube
from dedup_backup.settings import Layout

_APART = 60  # seconds, at most, between the first and the last stamp of one backup
_LATEST = 24 * 3600  # seconds, at most, that a store may take to finish after the last file
_BESIDE = 2  # seconds: what was set this near to the stamps was set by the same backup
_STAMPS = ("stamp_first", "stamp_last")  # keys of a record
_WITHOUT = ("AdminVM", "RemoteVM")  # classes without that property (qubes/vm)


@dataclass(frozen=True)
class Proof:
    """What the stamps tell.

    Attributes:
        failed: why the backup did not succeed; empty when that can't be said.
        unproven: why it can't be told whether it did; empty when it is proven, or failed.
        first, last: the stamps that prove it.
        gone: qubes of it that can't be asked, as they have no stamp any more.
    """

    failed: str = ""
    unproven: str = ""
    first: int | None = None
    last: int | None = None
    gone: tuple[str, ...] = ()


def of(layout: Layout, backup_id: str, book: Ledger, qubes: list[Qube]) -> Proof:
    """Tell whether a backup succeeded, as far as dom0 can.

    Args:
        layout: where dom0's records are.
        backup_id: the backup.
        book: its ledger.
        qubes: what it includes, by its own qubes.xml.

    Raises:
        BackupError: qubesd can't be asked, or a record is damaged.
    """
    now = inventory.stamps()
    known = [now.get(qube.name or "") for qube in qubes]
    return judge(qubes, now, book, rivals(layout, backup_id, book, known))


def judge(
    qubes: list[Qube], now: Mapping[str, int | None], book: Ledger, others: Iterable[str]
) -> Proof:
    """Tell whether a backup succeeded.

    A qube that was removed since, or made anew, has no stamp; the others prove it alone, as qubesd
    sets all of them or none.

    Args:
        qubes: what the backup includes, by its own qubes.xml.
        now: the stamp of each qube there is.
        book: the backup's ledger.
        others: what dom0 knows of other backups that could have set the stamps, see rivals.
    """
    asked = [qube for qube in qubes if qube.klass not in _WITHOUT]
    if not asked:
        return Proof(unproven="only dom0's home is in it, and Qubes notes no success of that")
    same = [q.name for q in asked if q.name and q.name in now and now[q.name] == q.stamp]
    if same:
        return Proof(
            failed=f"Qubes has not noted that this backup succeeded: backup_timestamp of {same[0]}"
            " is what it was before it"
        )
    found = {q.name: stamp for q in asked if q.name and (stamp := now.get(q.name)) is not None}
    if not found:
        return Proof(unproven="none of its qubes is there any more to tell that it succeeded")
    first, last = min(found.values()), max(found.values())
    reason = _doubt(found, book) or next(iter(others), "")
    beside = [
        name
        for name, stamp in now.items()
        if name not in {q.name for q in asked}
        and stamp is not None
        and first - _BESIDE <= stamp <= last + _BESIDE
    ]
    if beside and not reason:
        reason = f"a backup that had {beside[0]} in it, too, set backup_timestamp"
    if reason:
        return Proof(unproven=reason)
    gone = tuple(q.name or q.path for q in asked if q.name not in found)
    return Proof(first=first, last=last, gone=gone)


def _doubt(found: Mapping[str, int], book: Ledger) -> str:
    """Tell why the stamps may be another backup's."""
    names = sorted(found, key=lambda name: found[name])
    first, last = found[names[0]], found[names[-1]]
    if last - first > _APART:
        return (
            f"backup_timestamp of {names[0]} and {names[-1]} are more than a minute apart, so"
            " another backup of some of its qubes came later"
        )
    if book.ended is None:
        return "its ledger is of an older version, which noted no times"
    if first < moment.earliest(book.ended):
        return f"backup_timestamp of {names[0]} is earlier than the backup's last file"
    if last > book.ended + _LATEST:
        return f"backup_timestamp of {names[-1]} is more than a day later than its last file"
    return ""


def rivals(
    layout: Layout, backup_id: str, book: Ledger, stamps: Iterable[int | None]
) -> Iterable[str]:
    """Name other backups that may have set these stamps, each with why.

    Args:
        layout: where dom0's records are.
        backup_id: the backup in question.
        book: its ledger.
        stamps: those of its qubes.
    """
    known = [stamp for stamp in stamps if stamp is not None]
    if not known:
        return
    for run, record in ledger.confirmed(layout, None).items():
        if record["backup_id"] == backup_id or None in (record.get(key) for key in _STAMPS):
            continue
        first, last = (record[key] for key in _STAMPS)
        if any(first <= stamp <= last for stamp in known):
            yield f"backup_timestamp of its qubes is that of the run {run}"
    folders = _folders(book)
    for other, head in ledger.heads(layout).items():
        if other == backup_id or head.is_before(book.head):
            continue
        try:
            theirs = ledger.read(layout, other)
        except BackupError as error:
            yield f"{error}; it could be that of a later backup of the same qubes"
            continue
        if theirs and _is_between(theirs, book, max(known)) and folders & _folders(theirs):
            yield f"the backup {other} of the same qubes came later, and may have succeeded"


def _is_between(theirs: Ledger, ours: Ledger, stamp: int) -> bool:
    """Tell whether another backup went on after ours, and before the stamp."""
    if theirs.ended is None or ours.ended is None:
        return False
    return ours.ended <= theirs.ended and moment.earliest(theirs.ended) <= stamp


def _folders(book: Ledger) -> set[str]:
    found = {row.name.rpartition("/")[0] for row in book.rows}
    return {name for name in found if name.startswith("vm")}


def as_record(proof: Proof) -> dict[str, Any]:
    """Give what the record of a confirmed run keeps of its proof."""
    if proof.first is None:
        return {"proof": "somebody saw the backup succeed"}
    return {
        "proof": "backup_timestamp",
        **dict(zip(_STAMPS, (proof.first, proof.last), strict=True)),
    }
