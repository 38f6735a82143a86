# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `prune`: removes runs that aren't whole, frees space, drops old ledgers."""

import argparse
import json

from dedup_backup.calls import storage_qube
from dedup_backup.calls.backup_qube import PARTIAL
from dedup_backup.context import start
from dedup_backup.errors import EXIT_WRONG
from dedup_backup.output import say
from dedup_backup.records import orphans
from dedup_backup.settings import storage_repository


def run(arguments: argparse.Namespace) -> int:
    """Prune the store; confirmed runs stay, even if the store calls them partial."""
    context = start(arguments)
    runs = context.store.runs()
    partial = [run.name for run in runs if run.status == PARTIAL]
    keep = [name for name in partial if name in context.confirmed]
    with storage_qube.opened(storage_repository(context.paths, context.address)) as opened:
        removed = context.store.prune(keep)
    stored, patience = {run.name for run in runs}, arguments.patience
    dropped, why = orphans.drop_old(context.paths, context.address, stored, patience)
    if arguments.json:
        rows = [{"run": run, "was": was} for run, was in removed]
        report = {"removed": rows, "maintenance": opened, "dropped_ledgers": dropped}
        print(json.dumps(report))
    else:
        for run, was in removed:
            print(f"removed {run} ({was})")
        for backup_id in dropped:
            old = f"it is in no store, and older than {orphans.OLD_DAYS} days"
            print(f"removed the ledger of backup {backup_id}: {old}")
        print(f"{context.address} is pruned")
    if why:
        say(why)
    lost = [run for run, _ in removed if run in context.confirmed]
    if lost:
        say(f"{context.address} has removed {len(lost)} confirmed run(s): {lost[0]}")
    return EXIT_WRONG if lost else 0
