# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `list`: shows the store's runs, dom0's records, and backups that aren't stored."""

import argparse
import itertools
import json
from typing import Any

from dedup_backup.calls.backup_qube import PARTIAL
from dedup_backup.context import Context, id_of, start
from dedup_backup.errors import EXIT_WRONG, BackupError
from dedup_backup.output import say
from dedup_backup.records import ledger, moment, orphans, retention
from dedup_backup.records.ledger import Head


def run(arguments: argparse.Namespace) -> int:
    """List the runs by dom0's order, those without a place in it first."""
    context = start(arguments)
    books, rows = ledger.heads(context.paths), []
    for one in context.store.runs():
        word = "no ledger"
        if one.name in context.confirmed:
            word = "confirmed"
        elif id_of(one.name) in books:
            word = "unconfirmed"
        rows.append({"run": one.name, "store": one.status, "dom0": word, "reason": one.reason})
    there = {row["run"] for row in rows}
    lost = [name for name in context.confirmed if name not in there]
    rows += [{"run": name, "store": "missing", "dom0": "confirmed", "reason": ""} for name in lost]
    known = [_place(context, row, books) | row for row in rows]
    known.sort(key=lambda row: (row["order"] or 0, row["run"]))
    left = orphans.find(context.paths, there)
    if arguments.json:
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
            say(f"{name} is confirmed, but {context.address} calls it partial: see `verify {name}`")
    _warn_of_clock(known)
    if lost:
        say(f"{context.address} has lost {len(lost)} confirmed run(s)")
    return EXIT_WRONG if lost else 0


def _others(context: Context) -> list[str]:
    """Name the other stores that dom0 knows; an unreadable profile is skipped."""
    try:
        return [str(address) for address in orphans.other_stores(context.paths, context.address)]
    except BackupError as error:
        return [f"the store that one of the other backup profiles names ({error})"]


def _place(context: Context, row: dict[str, str], books: dict[str, Head]) -> dict[str, Any]:
    """Return a run's place in dom0's order, and when its backup began, as far as known."""
    record, head = context.confirmed.get(row["run"]), books.get(id_of(row["run"]))
    found = retention.candidate(row["run"], record or {})
    order, made = found.order, found.made
    if record is None and head is not None:
        order = head.order
        made = made if head.began is None else moment.utc(head.began)
    return {"order": order or None, "began": made and moment.label(made)}


def _warn_of_clock(rows: list[dict[str, Any]]) -> None:
    """Warn when a run is dated later than one that began after it."""
    counted = [row for row in rows if row["order"] and row["began"]]
    for row, after in itertools.pairwise(counted):
        if row["began"] > after["began"]:
            one, other = row["run"], after["run"]
            say(f"{one} came before {other}, but is dated later: dom0's clock was wrong")
