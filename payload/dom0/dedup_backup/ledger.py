# SPDX-License-Identifier: GPL-3.0-or-later
"""dom0's own records: the shim's ledgers, and which runs were confirmed."""

import contextlib
import json
import math
import os
import re
import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dedup_backup.errors import BackupError, UsageError
from dedup_backup.settings import Layout, Source
from dedup_backup.store import RUN
from dedup_backup.stream import HEADER, HMAC

_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_MAX_LINE = 8192
_MAX_NOTES = 1 << 20
TIMES = range(-(1 << 35), 1 << 37)  # seconds of Unix time that datetime can tell
_ORDERS, _OFFSETS = range(1, 1 << 24), range(-86400, 86401)


@dataclass(frozen=True, slots=True)
class Row:
    """What a member must be; None for what isn't known.

    Attributes:
        name: the member's name.
        length: bytes of its payload.
        sha256: of its payload.
        trailer: of its container.
        zeros: how many of the payload's last 1024 bytes are zero, up to its end.
    """

    name: str
    length: int
    sha256: str | None
    trailer: str | None
    zeros: int | None = None


Rows = list[Row]


@dataclass(frozen=True)
class Head:
    """What a ledger's first row says of the backup.

    Attributes:
        order: its number, by dom0's counter; 0 in the ledger of an older version, None when it
            could not be counted.
        began: when the row was written, in seconds of Unix time, by dom0's clock.
        offset: of dom0's local time then, in seconds east of UTC.
        written: when the ledger was written last, as its file says; never passed when unknown.
    """

    order: int | None = 0
    began: int | None = None
    offset: int | None = None
    written: float = math.inf

    def is_before(self, other: "Head") -> bool:
        """Tell whether this backup was surely begun before another one.

        Numbers tell it. Of a ledger that has none, or is damaged, the last row must be older than
        the other one's first.
        """
        if self.order is not None and other.order:
            return self.order < other.order
        return other.began is not None and self.written < other.began


@dataclass(frozen=True)
class Ledger:
    """What a backup consists of.

    Attributes:
        rows: one for each member, in order; also for backup-header, which is the payload of the
            next.
        head: what the first row says.
        ended: when the last row was written, as `Head.began`.
    """

    rows: Rows
    head: Head
    ended: int | None


def read(layout: Layout, backup_id: str) -> Ledger | None:
    """Read a backup's ledger (payload/dom0/scrypt `note` writes it), None when there is none.

    Raises:
        BackupError: it is damaged.
    """
    path = layout.ledgers / backup_id
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return None
    rows: Rows = []
    names, head, ended = set(), Head(), None
    try:
        if lines.pop():
            raise ValueError("the last line is cut")
        for line in lines:
            found = json.loads(line)
            row = Row(
                *(found["member"], found["length"], found["sha256"], found["trailer"]),
                zeros=number(found, "zeros", range(1025)),
            )
            if row.name in names or type(row.length) is not int:
                raise ValueError(f"{row.name} is there twice, or has no length")
            head, ended = head if rows else _head(found), number(found, "time", TIMES)
            names.add(row.name)
            rows.append(row)
        if not rows or rows[0].name != HMAC:
            raise ValueError("the header's line is missing")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BackupError(f"the ledger {path} is damaged: {error}") from None
    return Ledger([Row(HEADER, rows[0].length, rows[0].sha256, None), *rows], head, ended)


def encrypted(layout: Layout) -> list[Head]:
    """Read what the shim noted of backups without a ledger (payload/dom0/scrypt exec_encrypting).

    A row that makes no sense is left out: that backup was counted all the same.

    Raises:
        BackupError: the file can't be read.
    """
    try:
        with layout.encrypted.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _MAX_NOTES))
            rows = file.read(_MAX_NOTES).split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BackupError(f"{layout.encrypted}: {error.strerror}") from None
    found = []
    for row in rows:
        with contextlib.suppress(ValueError, AttributeError, RecursionError):
            note = json.loads(row)
            order = number(note, "order", range(1 << 24)) or None
            if (began := number(note, "time", TIMES)) is not None:
                found.append(Head(order, began, written=began))
    return found


def heads(layout: Layout) -> dict[str, Head]:
    """Read the first row of each ledger; one that is damaged, or not the header's, has no order."""
    found = {}
    for path in layout.ledgers.glob("*"):
        if not _ID.fullmatch(path.name):
            continue
        damaged = Head(order=None)
        try:
            with path.open("rb") as file:
                damaged = Head(order=None, written=os.fstat(file.fileno()).st_mtime)
                row = json.loads(file.readline(_MAX_LINE))
            head = _head(row) if row["member"] == HMAC else damaged
            found[path.name] = replace(head, written=damaged.written)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            found[path.name] = damaged
    return found


def newest(layout: Layout, known: Collection[str], elsewhere: Collection[str]) -> str:
    """Name the backup that was begun last, by dom0's counter.

    Args:
        layout: where the ledgers are.
        known: backups that are confirmed: they need no place in the order.
        elsewhere: backups that don't count, as they are confirmed in another store alone.

    Raises:
        UsageError: there is none, or it can't be told.
    """
    found = {name: head for name, head in heads(layout).items() if name not in elsewhere}
    if not found:
        raise UsageError(
            f"there is no ledger in {layout.ledgers} of a backup that isn't confirmed in another"
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
    size, highest = _counted(layout)
    if size > highest:
        before = "is confirmed already" if last in known else "must be named to be confirmed"
        raise UsageError(
            "dom0 has no ledger of the backup that was begun last: it could not be noted (was its"
            f" disk full?), or was forgotten. The one before, {last}, {before}"
        )
    return last


def number(row: dict[str, Any], key: str, among: range) -> int | None:
    """Give a number of a record, None when it isn't there.

    Raises:
        ValueError: it is no whole number, or not among these.
    """
    found = row.get(key)
    if found is not None and (type(found) is not int or found not in among):
        raise ValueError(f"its {key} makes no sense")
    return found


def _head(row: dict[str, Any]) -> Head:
    order = number(row, "order", _ORDERS) if "order" in row else 0
    return Head(order, number(row, "time", TIMES), number(row, "offset", _OFFSETS))


def confirmed(layout: Layout, source: Source | None) -> dict[str, dict[str, Any]]:
    """Read the records of the runs of a store that were confirmed, oldest first.

    Their order is that of dom0's counter. Those of an older version, and those that could not be
    counted, come first, in the order of their confirmation.

    Args:
        layout: where they are.
        source: the store, None for all.

    Raises:
        BackupError: one of them is damaged.
    """
    records = []
    for path in layout.confirmed.glob("*.json"):
        try:
            record = json.loads(path.read_bytes())
            found = RUN.fullmatch(record["run"])
            if not found or path.stem != record["run"]:
                raise ValueError("it is of no run, or of another one")
            if record["backup_id"] != found[1]:
                raise ValueError("it is of another backup than its run")
            order = number(record, "order", _ORDERS)
            for key in ("began", "stamp_first", "stamp_last"):
                number(record, key, TIMES)
            if source in (None, Source(str(record["qube"]), str(record["store_profile"]))):
                records.append(((order or 0, str(record["confirmed"]), record["run"]), record))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BackupError(f"the record {path} is damaged: {error}") from None
    return {record["run"]: record for _, record in sorted(records, key=lambda item: item[0])}


def confirm(layout: Layout, source: Source, run: str, head: Head, more: dict[str, Any]) -> None:
    """Record that a run is confirmed, with its place in dom0's order, and more that is known."""
    path = layout.confirmed / f"{run}.json"
    record = {
        "run": run,
        "qube": source.qube,
        "store_profile": source.store_profile,
        "confirmed": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        # a record without this key is of an older version, whose ledgers had no order
        **({} if head.order == 0 else {"order": head.order}),
        **({} if head.began is None else {"began": head.began, "offset": head.offset}),
        **more,
    }
    layout.confirmed.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write(path, json.dumps(record, indent=1).encode() + b"\n")


def mend_counter(layout: Layout) -> None:
    """Let dom0's counter be no lower than what was counted: its file may have been lost.

    The counter is the file's size (payload/dom0/scrypt `count_up`), so it can only grow.
    """
    size, highest = _counted(layout)
    missing = highest - size
    if missing > 0:
        with layout.order.open("ab") as file:
            layout.order.chmod(0o600)
            while missing > 0:
                missing -= file.write(b"\n" * min(missing, 1 << 20))
            file.flush()
            os.fsync(file.fileno())


def count(layout: Layout) -> int:
    """Tell how many backups were begun, by dom0's counter."""
    return _counted(layout)[0]


def _counted(layout: Layout) -> tuple[int, int]:
    """Give the counter, and the highest number that a ledger or a record has."""
    orders = [head.order or 0 for head in (*heads(layout).values(), *encrypted(layout))]
    with contextlib.suppress(BackupError):  # a damaged record is told when it is needed
        orders += [record.get("order") or 0 for record in confirmed(layout, None).values()]
    try:
        size = layout.order.stat().st_size
    except FileNotFoundError:
        size = 0
    return size, max(orders, default=0)


def forget(layout: Layout, run: str, backup_id: str, *, keep_ledger: bool) -> None:
    """Drop the records of a run; its ledger stays while another run has the same backup.

    That the run was confirmed goes last: by it a forget that was killed can be repeated.
    """
    record = layout.confirmed / f"{run}.json"
    others = (
        RUN.fullmatch(path.stem) for path in layout.confirmed.glob("*.json") if path != record
    )
    if not keep_ledger and all(found is None or found[1] != backup_id for found in others):
        (layout.ledgers / backup_id).unlink(missing_ok=True)
    record.unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:
    """Put a file in its place, whole or not at all."""
    new = path.with_name(f".{secrets.token_hex(8)}.new")  # no *.json: never read as a record
    try:
        file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(file)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
