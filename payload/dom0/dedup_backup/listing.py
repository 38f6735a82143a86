# SPDX-License-Identifier: GPL-3.0-or-later
"""The command list."""

import json

from dedup_backup.context import Context, id_of, say
from dedup_backup.errors import EXIT_WRONG


def list_runs(context: Context) -> int:
    """List the store's runs beside dom0's records."""
    rows = []
    for run in context.store.runs():
        backup_id = id_of(run.name)
        word = "no ledger"
        if run.name in context.confirmed:
            word = "confirmed"
        elif (context.layout.ledgers / backup_id).exists():
            word = "unconfirmed"
        rows.append({"run": run.name, "store": run.status, "dom0": word, "reason": run.reason})
    there = {row["run"] for row in rows}
    lost = [name for name in context.confirmed if name not in there]
    rows += [{"run": name, "store": "missing", "dom0": "confirmed", "reason": ""} for name in lost]
    rows.sort(key=lambda row: row["run"])
    if context.arguments.json:
        print(json.dumps({"runs": rows}))
    else:
        print(f"{'RUN':<58} {'DOM0':<12} {'STORE':<8} REASON")
        for row in rows:
            line = f"{row['run']:<58} {row['dom0']:<12} {row['store']:<8} {row['reason']}"
            print(line.rstrip())
    if lost:
        say(f"{context.place} has lost {len(lost)} confirmed run(s)")
    return EXIT_WRONG if lost else 0
