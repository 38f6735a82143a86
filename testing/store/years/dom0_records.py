# SPDX-License-Identifier: GPL-3.0-or-later
"""dom0's records of the runs of years: each was confirmed on the night of its backup.

Formats: a ledger's rows as payload/dom0/scrypt `append_to_ledger` writes them, a confirmation as
payload/dom0/dedup_backup/records/confirmed.py `add` does, the counter as `count_up` does. A ledger
has a row for the header, qubes.xml and each qube, where a real one has a row for each 100 MiB: of a
confirmed run, nothing reads more than the first.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

_HASH, _TRAILER = "0" * 64, "0" * 64
_FOLDER = "var/lib/qubes-dedup-backup"


def fill(root: Path, address: tuple[str, str], runs: Sequence[str], qubes: int) -> None:
    """Write the records of confirmed runs.

    Args:
        root: dom0's.
        address: of the store: its qube and repository.
        runs: names, the oldest first.
        qubes: in each of them.
    """
    folder = root / _FOLDER
    for name in ("ledger", "confirmed"):
        (folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    for order, run in enumerate(runs, 1):
        began = int(datetime.strptime(run[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp())
        backup_id = run[17:].rpartition("-")[0]
        rows = _ledger(order, began, qubes)
        (folder / "ledger" / backup_id).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        record = {
            "run": run,
            "qube": address[0],
            "repository": address[1],
            "confirmed": datetime.fromtimestamp(began + 7200, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "order": order,
            "began": began,
            "offset": 0,
            "backup_id": backup_id,
            "members": len(rows) + 1,
            "bytes": 1 << 30,
            "proof": "backup_timestamp",
            "stamp_first": began + 3600,
            "stamp_last": began + 3601,
        }
        (folder / "confirmed" / f"{run}.json").write_text(json.dumps(record, indent=1) + "\n")
    (folder / "order").write_bytes(b"\n" * len(runs))


def _ledger(order: int, began: int, qubes: int) -> list[dict[str, int | str]]:
    names = ["backup-header.hmac", "qubes.xml.000.enc"]
    names += [f"vm{number}/private.img.000.enc" for number in range(1, qubes + 1)]
    rows: list[dict[str, int | str]] = [
        {
            "member": name,
            "time": began + place,
            "length": 1 << 20,
            "sha256": _HASH,
            "trailer": _TRAILER,
            "zeros": 1024,
        }
        for place, name in enumerate(names)
    ]
    rows[0] |= {"order": order, "offset": 0}
    return rows
