# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `forget`: removes runs, named or by a policy, and dom0's records of them."""

import argparse
import json
from datetime import UTC, datetime

from dedup_backup.calls import storage_qube
from dedup_backup.context import Context, id_of, start
from dedup_backup.errors import EXIT_WRONG, UsageError
from dedup_backup.output import say
from dedup_backup.records import confirmed, moment, order, retention
from dedup_backup.settings import storage_repository


def run(arguments: argparse.Namespace) -> int:
    """Remove the named runs, or those that no rule keeps."""
    context = start(arguments)
    policy = {rule: getattr(arguments, f"keep_{rule}") for rule in retention.RULES}
    policy = {rule: count for rule, count in policy.items() if count is not None}
    if bool(policy) == bool(arguments.runs):
        raise UsageError("forget takes either the names of runs, or --keep-...: what stays")
    return _forget_by(context, policy) if policy else _forget_named(context)


def _forget_named(context: Context) -> int:
    runs = {run: id_of(run) for run in context.arguments.runs}
    stored = {run.name for run in context.store.runs()}
    unknown = [run for run in runs if run not in stored and run not in context.confirmed]
    if unknown:
        raise UsageError(f"{context.address} has no run {unknown[0]}: see `list`")
    dry = context.arguments.dry_run
    opened = not dry and _remove(context, list(runs), stored)
    if context.arguments.json:
        gone = {"would_forget": list(runs)} if dry else {"forgotten": list(runs)}
        print(json.dumps(gone | {"maintenance": opened}))
        return 0
    for run in runs:
        note = "" if run in stored else " (dom0's record of it: the store no longer had it)"
        print(f"{'would forget' if dry else 'forgot'} {run}{note}")
    return 0


def _forget_by(context: Context, policy: dict[str, int]) -> int:
    stored = {run.name: run.status for run in context.store.runs()}
    candidates = [retention.candidate(run, record) for run, record in context.confirmed.items()]
    now = datetime.now(UTC)
    plan = retention.plan(candidates, stored, policy, now)
    if any(row.made and row.made > now for row in plan.keep):
        say(
            f"dom0's clock says {moment.label(now)}, and a run began later than that: dates in"
            " the future don't count"
        )
    dry, going = context.arguments.dry_run, [row.run for row in plan.forget]
    opened = bool(going) and not dry and _remove(context, going, set(stored))
    if context.arguments.json:
        gone = {"would_forget" if dry else "forgotten": going, "maintenance": opened}
        print(json.dumps(gone | retention.as_json(plan)))
    else:
        print("\n".join(retention.as_text(plan, "would forget" if dry else "forgot")))
    lost = [run for run in context.confirmed if run not in stored]
    if lost:
        say(f"{context.address} has lost {len(lost)} confirmed run(s): {lost[0]}")
    return EXIT_WRONG if lost else 0


def _remove(context: Context, runs: list[str], stored: set[str]) -> bool:
    """Remove runs from the store, as far as it has them, then their records.

    Returns:
        Whether the repository was opened for it.
    """
    ids = {run: id_of(run) for run in runs}  # or nothing is removed
    there, opened = [run for run in runs if run in stored], False
    if there:
        with storage_qube.opened(storage_repository(context.paths, context.address)) as opened:
            context.store.forget(there)
    order.mend_counter(context.paths)  # before the records that mend it are removed
    confirmed.forget(context.paths, ids, {id_of(run) for run in stored.difference(runs)})
    return opened
