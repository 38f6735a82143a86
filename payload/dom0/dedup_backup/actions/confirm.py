# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `confirm`: compares a run's members with dom0's ledger, and records success."""

import argparse
from typing import Any

from dedup_backup.calls.backup_qube import PARTIAL
from dedup_backup.context import Context, id_of, start
from dedup_backup.errors import EXIT_UNCHECKED, EXIT_WRONG, UsageError, WrongError
from dedup_backup.examination import examine, print_report
from dedup_backup.reading.report import Report
from dedup_backup.records import confirmed, ledger, order, proof
from dedup_backup.records.proof import Proof


def run(arguments: argparse.Namespace) -> int:
    """Confirm the named run, else that of the newest backup with a ledger."""
    context = start(arguments)
    order.mend_counter(context.paths)
    name = arguments.run or _newest_backup(context)
    backup_id = id_of(name)
    book = ledger.read(context.paths, backup_id)
    if book is None:
        raise UsageError(
            f"dom0 has no ledger of backup {backup_id}, so nothing shows what belongs in it"
        )
    report, verifier = examine(context, name, book, data=False, passphrase=None)
    found, qubes = Proof(), verifier.described
    if qubes is not None and not report.problems and name not in context.confirmed:
        found = proof.of(context.paths, backup_id, book, qubes, has_ends=not verifier.is_compressed)
        _report_proof(found, report, succeeded=arguments.succeeded)
    code = report.exit_code
    if not code and name not in context.confirmed:
        more: dict[str, Any] = {"backup_id": backup_id}
        more |= {"members": report.members, "bytes": report.bytes} | proof.as_record(found)
        confirmed.add(context.paths, context.address, name, book.head, more)
    verdict = {0: "confirmed", EXIT_WRONG: "not confirmed", EXIT_UNCHECKED: "unproven"}[code]
    print_report(context, name, report, verdict)
    return code


def _report_proof(found: Proof, report: Report, *, succeeded: bool) -> None:
    """Report what the proof shows; a user who saw the backup succeed can replace it."""
    if found.failed:
        report.add_problem(found.failed)
    elif found.unproven and not succeeded:
        report.add_unchecked(
            f"whether the backup succeeded: {found.unproven}. If you saw qvm-backup succeed, run"
            " this again with the run's name and --succeeded"
        )
    if found.gone:
        report.add_note(
            f"{', '.join(found.gone)} can't be asked any more whether the backup succeeded"
        )


def _newest_backup(context: Context) -> str:
    """Find the run of the backup that began last, except those confirmed in other stores."""
    known = {record["backup_id"] for record in confirmed.read(context.paths, None).values()}
    stored = context.store.runs()
    elsewhere = known - {id_of(run.name) for run in stored} - {id_of(r) for r in context.confirmed}
    backup_id = order.newest(context.paths, known, elsewhere)
    runs = [run for run in stored if id_of(run.name) == backup_id]
    if not runs:
        text = (
            f"the newest backup with a ledger, {backup_id}, is not in {context.address};"
            " to confirm another one, name its run"
        )
        if backup_id in {id_of(run) for run in context.confirmed}:
            raise WrongError(text)  # lost; otherwise it is elsewhere, or failed
        raise UsageError(text)
    good = [run for run in runs if run.status != PARTIAL]
    return (good or runs)[-1].name
