# SPDX-License-Identifier: GPL-3.0-or-later
"""dom0's records of the runs that were confirmed: a file for each."""

import json
import time
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from dom0_common import files
from dom0_common.paths import Paths

from dedup_backup.calls.backup_qube import RUN
from dedup_backup.errors import BackupError
from dedup_backup.records.ledger import ORDERS, TIMES, Head, number
from dedup_backup.settings import StoreAddress


def read(paths: Paths, address: StoreAddress | None) -> dict[str, dict[str, Any]]:
    """Read the records of a store's confirmed runs, oldest first.

    Their order is that of dom0's counter. Those of an older version, and those that could not be
    counted, come first, in the order of their confirmation.

    Args:
        paths: where they are.
        address: the store, None for all.

    Raises:
        BackupError: one of them is damaged.
    """
    records = []
    for path in paths.confirmed.glob("*.json"):
        try:
            record = json.loads(path.read_bytes())
            found = RUN.fullmatch(record["run"])
            if not found or path.stem != record["run"]:
                raise ValueError("it is of no run, or of another one")
            if record["backup_id"] != found[1]:
                raise ValueError("it is of another backup than its run")
            order = number(record, "order", ORDERS)
            for key in ("began", "stamp_first", "stamp_last"):
                number(record, key, TIMES)
            if address in (None, StoreAddress(str(record["qube"]), str(record["repository"]))):
                records.append(((order or 0, str(record["confirmed"]), record["run"]), record))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BackupError(f"the record {path} is damaged: {error}") from None
    return {record["run"]: record for _, record in sorted(records, key=lambda item: item[0])}


def add(paths: Paths, address: StoreAddress, run: str, head: Head, more: dict[str, Any]) -> None:
    """Record that a run is confirmed, with its place in dom0's order and other facts."""
    path = paths.confirmed / f"{run}.json"
    record: dict[str, Any] = {
        "run": run,
        "qube": address.qube,
        "repository": address.repository,
        "confirmed": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    if head.order != 0:  # without this key, it is of an older version, whose ledgers had no order
        record["order"] = head.order
    if head.began is not None:
        record |= {"began": head.began, "offset": head.offset}
    record |= more
    paths.confirmed.mkdir(mode=0o700, parents=True, exist_ok=True)
    files.replace(path, json.dumps(record, indent=1).encode() + b"\n")


def forget(paths: Paths, runs: Mapping[str, str], kept: Collection[str]) -> None:
    """Drop the records of runs; a ledger stays while another run has the same backup.

    The record of the confirmation goes last: with it, a forget that was killed can be repeated.

    Args:
        paths: where they are.
        runs: the runs' names, with the ids of their backups.
        kept: ids of backups that the store has, by other runs.
    """
    stems = {path.stem for path in paths.confirmed.glob("*.json")}
    left = Counter(found[1] for stem in stems if (found := RUN.fullmatch(stem)))
    for run, backup_id in runs.items():
        left[backup_id] -= run in stems
        if backup_id not in kept and left[backup_id] <= 0:
            (paths.ledgers / backup_id).unlink(missing_ok=True)
        (paths.confirmed / f"{run}.json").unlink(missing_ok=True)
