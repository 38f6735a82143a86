# SPDX-License-Identifier: GPL-3.0-or-later
"""The shim's ledgers: the parts of each backup, as they left dom0."""

import contextlib
import json
import math
import os
import re
from dataclasses import dataclass, replace
from typing import Any

from backup_format.members import HEADER, HMAC
from dom0_common.paths import Paths

from dedup_backup.errors import BackupError

_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_MAX_LINE = 8192
_MAX_NOTES = 1 << 20
TIMES = range(-(1 << 35), 1 << 37)  # seconds of Unix time that datetime can hold
ORDERS = range(1, 1 << 24)
_OFFSETS = range(-86400, 86401)


@dataclass(frozen=True, slots=True)
class Row:
    """The expected properties of a member; None for unknown ones.

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
    """The facts in a ledger's first row about the backup.

    Attributes:
        order: its number, by dom0's counter; 0 in the ledger of an older version, None when it
            could not be counted.
        began: when the row was written, in seconds of Unix time, by dom0's clock.
        offset: of dom0's local time then, in seconds east of UTC.
        written: when the ledger was last written, by its file; not given when unknown.
    """

    order: int | None = 0
    began: int | None = None
    offset: int | None = None
    written: float = math.inf

    def is_before(self, other: "Head") -> bool:
        """Return whether this backup surely began before another one.

        Their numbers decide. If a ledger has none, or is damaged, its last row must be older than
        the other one's first.
        """
        if self.order is not None and other.order:
            return self.order < other.order
        return other.began is not None and self.written < other.began


@dataclass(frozen=True)
class Ledger:
    """The parts of a backup.

    Attributes:
        rows: one for each member, in order; also for backup-header, which is the payload of the
            next.
        head: what the first row says.
        ended: when the last row was written, as `Head.began`.
    """

    rows: Rows
    head: Head
    ended: int | None


def read(paths: Paths, backup_id: str) -> Ledger | None:
    """Read a backup's ledger, None when there is none.

    The shim writes it (payload/dom0/scrypt `append_to_ledger`).

    Raises:
        BackupError: it is damaged.
    """
    path = paths.ledgers / backup_id
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
                name=found["member"],
                length=found["length"],
                sha256=found["sha256"],
                trailer=found["trailer"],
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


def encrypted(paths: Paths) -> list[Head]:
    """Read the shim's notes of backups without a ledger (payload/dom0/scrypt `exec_encrypting`).

    A malformed row is left out: that backup was counted anyway.

    Raises:
        BackupError: the file can't be read.
    """
    try:
        with paths.encrypted.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _MAX_NOTES))
            rows = file.read(_MAX_NOTES).split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BackupError(f"{paths.encrypted}: {error.strerror}") from None
    found = []
    for row in rows:
        with contextlib.suppress(ValueError, AttributeError, RecursionError):
            note = json.loads(row)
            order = number(note, "order", range(1 << 24)) or None
            if (began := number(note, "time", TIMES)) is not None:
                found.append(Head(order, began, written=began))
    return found


def heads(paths: Paths) -> dict[str, Head]:
    """Read the first row of each ledger; a damaged one, or one without a header, has no order."""
    found = {}
    for path in paths.ledgers.glob("*"):
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


def number(row: dict[str, Any], key: str, among: range) -> int | None:
    """Return a number of a record, None when it isn't there.

    Raises:
        ValueError: it is no whole number, or not among these.
    """
    found = row.get(key)
    if found is not None and (type(found) is not int or found not in among):
        raise ValueError(f"its {key} is not a number that it can be")
    return found


def _head(row: dict[str, Any]) -> Head:
    order = number(row, "order", ORDERS) if "order" in row else 0
    return Head(order, number(row, "time", TIMES), number(row, "offset", _OFFSETS))
