# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands confirm and verify."""

import json
from typing import Any

from dedup_backup import ledger
from dedup_backup.check import Check, EnoughError, Report
from dedup_backup.context import Context, id_of
from dedup_backup.errors import EXIT_UNCHECKED, EXIT_WRONG, UsageError, WrongError
from dedup_backup.qube import NoRunError


def confirm(context: Context) -> int:
    """Compare a run's list with the ledger; when they agree, record it."""
    run = context.arguments.run or _newest_backup(context)
    backup_id = id_of(run)
    rows = ledger.read(context.layout, backup_id)
    if rows is None:
        raise UsageError(
            f"dom0 has no ledger of backup {backup_id}, so nothing tells what belongs into it"
        )
    report = _examine(context, run, rows, data=False, passphrase=None)
    code = _code(report)
    if not code and run not in context.confirmed:
        ledger.confirm(
            *(context.layout, context.source, run, backup_id),
            members=report.members,
            bytes=report.bytes,
        )
    _tell(context, run, report, "not confirmed" if code else "confirmed")
    return code


def verify(context: Context) -> int:
    """Check a run."""
    run = context.arguments.run or next(reversed(context.confirmed), None)
    if run is None:
        raise UsageError(f"no run in {context.place} is confirmed: name one, see `list`")
    backup_id, data = id_of(run), context.arguments.data
    rows = ledger.read(context.layout, backup_id)
    passphrase = None
    if data or rows is None:
        passphrase = context.profile.passphrase(context.arguments.passphrase_file)
    report = _examine(context, run, rows, data=data, passphrase=passphrase)
    if rows is None:
        report.leave(
            "against a ledger: dom0 has none of this backup, so files that qubes.xml does not"
            " promise (firewall rules, notes) could be missing"
        )
    code = _code(report)
    verdict = {0: "right", EXIT_WRONG: "wrong", EXIT_UNCHECKED: "nothing wrong found"}[code]
    _tell(context, run, report, verdict)
    return code


def _newest_backup(context: Context) -> str:
    """Find the run of the backup whose ledger is the newest."""
    backup_id = ledger.newest(context.layout)
    runs = [run.name for run in context.store.runs() if id_of(run.name) == backup_id]
    if not runs:
        raise WrongError(
            f"the newest backup with a ledger, {backup_id}, is not in {context.place};"
            " to confirm another one, name its run"
        )
    return runs[-1]


def _examine(
    context: Context, run: str, rows: ledger.Rows | None, *, data: bool, passphrase: bytes | None
) -> Report:
    report = Report()
    check = Check(id_of(run), rows, report)
    try:
        _, members = context.store.members(run)
        with context.store.stream(run) as stream:
            if data and passphrase is not None:
                check.data(members, stream, passphrase)
            else:
                check.member_list(members, stream, passphrase)
    except EnoughError:
        pass
    except NoRunError as error:
        if run not in context.confirmed:
            raise
        report.problem(f"the store has lost it: {error}")
    return report


def _tell(context: Context, run: str, report: Report, verdict: str) -> None:
    confirmed = run in context.confirmed or verdict == "confirmed"
    if context.arguments.json:
        result: dict[str, Any] = {"run": run, "verdict": verdict, "confirmed": confirmed}
        print(json.dumps(result | vars(report)))
        return
    for text in report.problems:
        print(f"wrong: {text}")
    for text in report.unchecked:
        print(f"not checked: {text}")
    by = "its data" if getattr(context.arguments, "data", False) else "by its member list"
    note = "" if confirmed else ", a run that is not confirmed"
    print(f"{run} ({by}, {report.members} members, {report.bytes} bytes{note}): {verdict}")


def _code(report: Report) -> int:
    if report.problems:
        return EXIT_WRONG
    return EXIT_UNCHECKED if report.unchecked else 0
