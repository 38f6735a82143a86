# SPDX-License-Identifier: GPL-3.0-or-later
"""The examination of a run and its report: the common part of confirm and verify."""

import json
from typing import Any

from dedup_backup.calls import qubesd
from dedup_backup.calls.backup_qube import PARTIAL
from dedup_backup.calls.service import NoRunError
from dedup_backup.context import Context, id_of
from dedup_backup.errors import BackupError
from dedup_backup.reading.report import EnoughError, Report
from dedup_backup.reading.run_verifier import RunVerifier
from dedup_backup.records.ledger import Ledger


def examine(
    context: Context, run: str, book: Ledger | None, *, data: bool, passphrase: bytes | None
) -> tuple[Report, RunVerifier]:
    """Check a run.

    Args:
        context: which store.
        run: its name.
        book: its backup's ledger, None when dom0 has none.
        data: whether to read and check all of its bytes.
        passphrase: that of the backup, None when only the ledger is to be compared with.

    Returns:
        What was found, and the verifier, which knows the backup's qubes.
    """
    report = Report()
    verifier = RunVerifier(id_of(run), None if book is None else book.rows, report)
    try:
        head, members = context.store.members(run)
        if head.status == PARTIAL:
            report.add_problem(f"the store calls it partial: {head.reason}")
        with context.store.stream(run) as stream:
            if data and passphrase is not None:
                verifier.data(members, stream, passphrase)
            else:
                verifier.member_list(members, stream, passphrase)
    except EnoughError:
        pass
    except NoRunError as error:
        if run not in context.confirmed:
            raise
        report.add_problem(f"the store has lost it: {error}")
    if verifier.described is not None:
        _add_lacking(context, report)
    return report, verifier


def _add_lacking(context: Context, report: Report) -> None:
    """Add the qubes that the backup profile selects but the run doesn't have."""
    try:
        include, exclude = context.profile.qubes()
        wanted = qubesd.wanted(include, exclude)
    except BackupError as error:
        report.add_note(f"which qubes the profile wants isn't known: {error}")
        return
    report.lacking = [name for name in wanted if name not in report.qubes]


def print_report(
    context: Context, run: str, report: Report, verdict: str, *, data: bool = False
) -> None:
    """Print the report on a run; data: whether all of its bytes were read."""
    confirmed = run in context.confirmed or verdict == "confirmed"
    if context.arguments.json:
        result: dict[str, Any] = {"run": run, "verdict": verdict, "confirmed": confirmed}
        print(json.dumps(result | vars(report)))
        return
    for text in report.problems:
        print(f"wrong: {text}")
    for text in report.unchecked:
        print(f"not checked: {text}")
    for text in report.notes:
        print(f"note: {text}")
    if report.qubes:
        print(f"qubes in it: {', '.join(report.qubes)}")
    if report.lacking:
        name = context.profile.name
        print(f"not in it, but in the profile {name}: {', '.join(report.lacking)}")
    by = "its data" if data else "by its member list"
    note = "" if confirmed else ", a run that is not confirmed"
    print(f"{run} ({by}, {report.members} members, {report.bytes} bytes{note}): {verdict}")
