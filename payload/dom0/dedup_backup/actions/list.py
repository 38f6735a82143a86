# SPDX-License-Identifier: GPL-3.0-or-later
"""The command list."""

import itertools
import json
from typing import Any

from dedup_backup import ledger, moment, orphans, retention
from dedup_backup.context import Context, id_of, place, say
from dedup_backup.errors import EXIT_WRONG, BackupError
from dedup_backup.ledger import Head
from dedup_backup.store import PARTIAL


def list_runs(context: Context) -> int:
    """List the store's runs beside dom0's records: by dom0's order, what has none first.

    Then the backups that are not in the store.
    """
    books, rows = ledger.heads(context.layout), []
    for run in context.store.runs():
        backup_id = id_of(run.name)
        word = "no ledger"
        if run.name in context.confirmed:
            word = "confirmed"
        elif backup_id in books:
            word = "unconfirmed"
        rows.append({"run": run.name, "store": run.status, "dom0": word, "reason": run.reason})
    there = {row["run"] for row in rows}
    lost = [name for name in context.confirmed if name not in there]
    rows += [{"run": name, "store": "missing", "dom0": "confirmed", "reason": ""} for name in lost]
    known = [_place(context, row, books) | row for row in rows]
    known.sort(key=lambda row: (row["order"] or 0, row["run"]))
    left = orphans.find(context.layout, there)
    if context.arguments.json:
        print(json.dumps({"runs": known, "not_in_this_store": orphans.as_json(left)}))
    else:
        print(f"{'RUN':<58} {'BEGAN':<20} {'DOM0':<12} {'STORE':<8} REASON")
        for row in known:
            line = f"{row['run']:<58} {row['began'] or '-':<20} {row['dom0']:<12}"
            print(f"{line} {row['store']:<8} {row['reason']}".rstrip())
        for line in orphans.as_text(left, _others(context) if left else []):
            print(line)
    partial = {row["run"] for row in rows if row["store"] == PARTIAL}
    for name in context.confirmed:
        if name in partial:
            say(f"{name} is confirmed, but {context.place} calls it partial: see `verify {name}`")
    _warn_of_clock(known)
    if lost:
        say(f"{context.place} has lost {len(lost)} confirmed run(s)")
    return EXIT_WRONG if lost else 0


def _others(context: Context) -> list[str]:
    """Name the other stores that dom0 knows of; a profile that can't be read doesn't stop us."""
    try:
        return [place(source) for source in orphans.other_stores(context.layout, context.source)]
    except BackupError as error:
        return [f"the store that one of the other backup profiles names ({error})"]


def _place(context: Context, row: dict[str, str], books: dict[str, Head]) -> dict[str, Any]:
    """Give a run's place in dom0's order, and when its backup began, as far as that is known."""
    record, head = context.confirmed.get(row["run"]), books.get(id_of(row["run"]))
    found = retention.candidate(row["run"], record or {})
    order, made = found.order, found.made
    if record is None and head is not None:
        order = head.order
        made = made if head.began is None else moment.utc(head.began)
    return {"order": order or None, "began": made and moment.label(made)}


def _warn_of_clock(rows: list[dict[str, Any]]) -> None:
    """Say when a run is dated later than one that was begun after it."""
    counted = [row for row in rows if row["order"] and row["began"]]
    for row, after in itertools.pairwise(counted):
        if row["began"] > after["began"]:
            one, other = row["run"], after["run"]
            say(f"{one} came before {other}, but is dated later: dom0's clock was wrong")
