# SPDX-License-Identifier: GPL-3.0-or-later
"""dom0's own records: the shim's ledgers, and which runs were confirmed."""

import json
import os
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dedup_backup.errors import BackupError, UsageError
from dedup_backup.settings import Layout, Source
from dedup_backup.store import RUN
from dedup_backup.stream import HEADER, HMAC

_ID = re.compile(r"[A-Za-z0-9-]{1,64}")


@dataclass(frozen=True, slots=True)
class Row:
    """What a member must be; None for what isn't known."""

    name: str
    length: int
    sha256: str | None
    trailer: str | None


Rows = list[Row]


def read(layout: Layout, backup_id: str) -> Rows | None:
    """Read a backup's ledger (payload/dom0/scrypt `note` writes it), None when there is none.

    Returns:
        A row for each member, in order; also for backup-header, which is the payload of the next.

    Raises:
        BackupError: it is damaged.
    """
    path = layout.ledgers / backup_id
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return None
    rows, names = [], set()
    try:
        if lines.pop():
            raise ValueError("the last line is cut")
        for line in lines:
            found = json.loads(line)
            row = Row(found["member"], found["length"], found["sha256"], found["trailer"])
            if row.name in names or type(row.length) is not int:
                raise ValueError(f"{row.name} is there twice, or has no length")
            names.add(row.name)
            rows.append(row)
        if not rows or rows[0].name != HMAC:
            raise ValueError("the header's line is missing")
    except (ValueError, KeyError, TypeError) as error:
        raise BackupError(f"the ledger {path} is damaged: {error}") from None
    return [Row(HEADER, rows[0].length, rows[0].sha256, None), *rows]


def newest(layout: Layout) -> str:
    """Name the backup whose ledger was written last.

    Raises:
        UsageError: there is no ledger.
    """
    paths = [p for p in layout.ledgers.glob("*") if _ID.fullmatch(p.name) and p.is_file()]
    if not paths:
        raise UsageError(
            f"there is no ledger in {layout.ledgers}: it is written during a backup whose"
            " passphrase starts with 'dedup:'"
        )
    return max(paths, key=lambda path: (path.stat().st_mtime_ns, path.name)).name


def confirmed(layout: Layout, source: Source) -> dict[str, dict[str, Any]]:
    """Read the records of the runs of a store that were confirmed, in the order of that.

    Raises:
        BackupError: one of them is damaged.
    """
    records = []
    for path in layout.confirmed.glob("*.json"):
        try:
            record = json.loads(path.read_bytes())
            if not RUN.fullmatch(record["run"]) or path.stem != record["run"]:
                raise ValueError("it is of no run, or of another one")
            if (record["qube"], record["store_profile"]) == (source.qube, source.store_profile):
                records.append((str(record["confirmed"]), record["run"], record))
        except (ValueError, KeyError, TypeError) as error:
            raise BackupError(f"the record {path} is damaged: {error}") from None
    return {run: record for _, run, record in sorted(records, key=lambda found: found[:2])}


def confirm(layout: Layout, source: Source, run: str, backup_id: str, **more: int) -> None:
    """Record that a run is confirmed; one that was confirmed before keeps its date."""
    path = layout.confirmed / f"{run}.json"
    record = {
        "run": run,
        "backup_id": backup_id,
        "qube": source.qube,
        "store_profile": source.store_profile,
        "confirmed": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **more,
    }
    layout.confirmed.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write(path, json.dumps(record, indent=1).encode() + b"\n")


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
