# SPDX-License-Identifier: GPL-3.0-or-later
"""dom0's own proof that a backup succeeded.

The ledger has what the shim saw, not what should have been sent. Only qubesd knows whether a backup
succeeded; it then sets backup_timestamp of each qube in the backup (calls/qubesd.py). Those stamps
belong to this backup when
- they differ from those before the backup, which its own qubes.xml has;
- they are later than its ledger's last row (dom0's clock set both);
- they are equal, except for the moments that it takes to set them;
- no other backup is known that may have set them.

qubesd sets the stamps right after the receiving command has ended. So they may be as late as a
store takes after the last file: an hour for a slow one (qubesd then has up to 1.1 GB ready to be
sent). Of other backups dom0 has ledgers; of really encrypted ones, a note of when they began. It
counts both, so it also knows of one that it could not note. A backup that the shim didn't see,
because it was off, is taken for one that failed.

A file that its tar left in the middle is found (reading/ends.py) unless it is compressed. If it is,
the stamps are the only proof, and must come within ten minutes. When a store is slower, somebody
must have seen the backup succeed.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from backup_format.qubesxml import Qube
from dom0_common.paths import Paths

from dedup_backup.calls import qubesd
from dedup_backup.records import confirmed, ledger, moment, order
from dedup_backup.records.ledger import Ledger

_APART = 60  # seconds, at most, between the first and the last stamp of one backup
_LATEST = 3600  # seconds, at most, that a store may take to finish after the last file
_SOON = 600  # seconds; later than that, a stamp alone proves nothing
_BESIDE = 2  # seconds: what was set this near to the stamps was set by the same backup
_STAMPS = ("stamp_first", "stamp_last")  # keys of a record
_WITHOUT = ("AdminVM", "RemoteVM")  # classes without that property (qubes/vm)


@dataclass(frozen=True)
class Proof:
    """The result: what the stamps prove.

    Attributes:
        failed: why the backup did not succeed; empty when that isn't known.
        unproven: why that isn't known; empty when it is proven, or failed.
        first, last: the stamps that prove it.
        gone: qubes of it that can't be asked, as they have no stamp any more.
    """

    failed: str = ""
    unproven: str = ""
    first: int | None = None
    last: int | None = None
    gone: tuple[str, ...] = ()


def of(paths: Paths, backup_id: str, book: Ledger, qubes: list[Qube], *, has_ends: bool) -> Proof:
    """Judge whether a backup succeeded, as far as dom0 can.

    Args:
        paths: where dom0's records are.
        backup_id: the backup.
        book: its ledger.
        qubes: what its own qubes.xml describes.
        has_ends: whether its files were seen to reach their end.

    Raises:
        BackupError: qubesd can't be asked, or a record is damaged.
    """
    now = qubesd.stamps()
    known = [now.get(qube.name or "") for qube in qubes if qube.path]
    others = rivals(paths, backup_id, book, known)
    return judge(qubes, now, book, others, has_ends=has_ends)


def judge(
    qubes: list[Qube],
    now: Mapping[str, int | None],
    book: Ledger,
    others: Iterable[str],
    *,
    has_ends: bool,
) -> Proof:
    """Judge whether a backup succeeded.

    qubesd sets all stamps or none, so the backup failed when all are as they were before it. A qube
    that was removed since has none; then the others prove it. A qube that was restored since has
    its earlier stamp again (one that was created again has none). When other qubes have new stamps,
    a later backup of those alone would look the same, so nothing is proven.

    Args:
        qubes: what the backup's own qubes.xml describes.
        now: the stamp of each qube there is.
        book: the backup's ledger.
        others: what dom0 knows of other backups that could have set the stamps, see rivals.
        has_ends: as for `of`.
    """
    asked = [qube for qube in qubes if qube.path and qube.klass not in _WITHOUT]
    if not asked:
        return Proof(unproven="only dom0's home is in it, and Qubes notes no success of that")
    before = {q.name: q.stamp for q in asked if q.name and q.name in now}
    same = [name for name in before if now[name] == before[name]]
    found = {name: stamp for name in before if (stamp := now[name]) and name not in same}
    if same and not found:
        return Proof(
            failed=f"Qubes has not noted that this backup succeeded: backup_timestamp of {same[0]}"
            " is what it was before it"
        )
    if same:
        return Proof(
            unproven=f"backup_timestamp of {same[0]} is what it was before it, but not that of"
            f" {next(iter(found))}: one was restored or created again since, or backed up without"
            " the other"
        )
    if not found:
        return Proof(unproven="none of its qubes is there any more to show that it succeeded")
    first, last = min(found.values()), max(found.values())
    reason = next(iter(others), "") or _doubt(found, book, has_ends=has_ends)
    simultaneous = [
        name
        for name, stamp in now.items()
        if name not in {q.name for q in asked}
        and stamp is not None
        and first - _BESIDE <= stamp <= last + _BESIDE
    ]
    if book.ended is not None and last <= book.ended + _SOON:
        # a clone, or what was renamed, has the stamp of what it was made of, and was not there then
        there = {q.name for q in qubes}
        simultaneous = [
            name for name in simultaneous if name in there or now[name] not in found.values()
        ]
    if simultaneous and not reason:
        reason = f"a backup that had {simultaneous[0]} in it, too, set backup_timestamp"
    if reason:
        return Proof(unproven=reason)
    gone = tuple(q.name or q.path for q in asked if q.name not in found)
    return Proof(first=first, last=last, gone=gone)


def _doubt(found: Mapping[str, int], book: Ledger, *, has_ends: bool) -> str:
    """Return why the stamps can be another backup's."""
    names = sorted(found, key=lambda name: found[name])
    first, last = found[names[0]], found[names[-1]]
    if last - first > _APART:
        return (
            f"backup_timestamp of {names[0]} and {names[-1]} are more than a minute apart, so"
            " another backup of some of its qubes came later"
        )
    if book.ended is None:
        return "its ledger is of an older version, which recorded no times"
    if first < moment.earliest(book.ended):
        return f"backup_timestamp of {names[0]} is earlier than the backup's last file"
    if last > book.ended + _LATEST:
        return f"backup_timestamp of {names[-1]} is more than an hour later than its last file"
    if not has_ends and last > book.ended + _SOON:
        return (
            f"backup_timestamp of {names[-1]} is more than ten minutes later than its last file,"
            " and whether that reaches its end can't be seen, as it is compressed"
        )
    return ""


def rivals(
    paths: Paths, backup_id: str, book: Ledger, stamps: Iterable[int | None]
) -> Iterable[str]:
    """Name other backups that can have set these stamps, each with the reason.

    Any counts that was begun after this one, by dom0's counter, and not after the stamps. What is
    in it doesn't matter: a ledger can have gaps, and a restored qube has another number.

    Args:
        paths: where dom0's records are.
        backup_id: the backup in question.
        book: its ledger.
        stamps: those of its qubes.
    """
    known = [stamp for stamp in stamps if stamp is not None]
    if not known:
        return
    counted, others = set(), set()
    for run, record in confirmed.read(paths, None).items():
        if record["backup_id"] == backup_id:
            continue
        counted.add(record.get("order"))
        if None in (record.get(key) for key in _STAMPS):
            continue
        first, last = (record[key] for key in _STAMPS)
        if any(first <= stamp <= last for stamp in known):
            yield f"backup_timestamp of its qubes is that of the run {run}"
        others.add(record["backup_id"])  # which set other stamps
    heads = {f"backup {name}": head for name, head in ledger.heads(paths).items()}
    counted |= {head.order for head in heads.values()}
    for name in (backup_id, *others):
        heads.pop(f"backup {name}", None)
    encrypted = ledger.encrypted(paths)
    counted |= {head.order for head in encrypted}
    yield from _later((*heads.items(), *(("a backup", head) for head in encrypted)), book, known)
    if book.head.order:
        gone = set(range(book.head.order + 1, order.count(paths) + 1)) - counted
        if gone:
            yield (
                f"dom0 counted {len(gone)} backup(s) after this one of which it has no record: it"
                " could not write one (was its disk full?), or `forget` removed it"
            )


def _later(
    heads: Iterable[tuple[str, ledger.Head]], book: Ledger, stamps: list[int]
) -> Iterator[str]:
    """Yield the backups that began after a backup, and not after the stamps."""
    for name, head in heads:
        if head.is_before(book.head):
            continue
        if head.began is None:
            yield f"the ledger of {name} is damaged; it could be that of a later backup"
        elif moment.earliest(head.began) <= max(stamps):
            when = moment.label(moment.utc(head.began))
            yield f"{name} began at {when}, after this one, and may have set backup_timestamp"


def as_record(proof: Proof) -> dict[str, Any]:
    """Return the proof in the form of a confirmed run's record."""
    if proof.first is None:
        return {"proof": "somebody saw the backup succeed"}
    stamps = dict(zip(_STAMPS, (proof.first, proof.last), strict=True))
    return {"proof": "backup_timestamp", **stamps}
