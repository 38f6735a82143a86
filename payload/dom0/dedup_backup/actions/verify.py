# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands confirm and verify."""

import json
from typing import Any

from dedup_backup import inventory, ledger, proof
from dedup_backup.check import Check, EnoughError, Report
from dedup_backup.context import Context, id_of
from dedup_backup.errors import EXIT_UNCHECKED, EXIT_WRONG, BackupError, UsageError, WrongError
from dedup_backup.ledger import Ledger
from dedup_backup.proof import Proof
from dedup_backup.qube import NoRunError
from dedup_backup.store import PARTIAL


def confirm(context: Context) -> int:
    """Compare a run's list with the ledger; when they agree and the backup succeeded, record it."""
    ledger.mend_counter(context.layout)
    run = context.arguments.run or _newest_backup(context)
    backup_id = id_of(run)
    book = ledger.read(context.layout, backup_id)
    if book is None:
        raise UsageError(
            f"dom0 has no ledger of backup {backup_id}, so nothing tells what belongs into it"
        )
    report, check = _examine(context, run, book, data=False, passphrase=None)
    found, qubes = Proof(), check.described
    if qubes is not None and not report.problems and run not in context.confirmed:
        found = proof.of(context.layout, backup_id, book, qubes, has_ends=not check.is_compressed)
        _weigh(found, report, succeeded=context.arguments.succeeded)
    code = _code(report)
    if not code and run not in context.confirmed:
        more: dict[str, Any] = {"backup_id": backup_id}
        more |= {"members": report.members, "bytes": report.bytes} | proof.as_record(found)
        ledger.confirm(context.layout, context.source, run, book.head, more)
    verdict = {0: "confirmed", EXIT_WRONG: "not confirmed", EXIT_UNCHECKED: "unproven"}[code]
    _tell(context, run, report, verdict)
    return code


def _weigh(found: Proof, report: Report, *, succeeded: bool) -> None:
    """Note what the proof tells; who saw the backup succeed knows what can't be proven."""
    if found.failed:
        report.problem(found.failed)
    elif found.unproven and not succeeded:
        report.leave(
            f"whether the backup succeeded: {found.unproven}. If you saw qvm-backup succeed, run"
            " this again with the run's name and --succeeded"
        )
    if found.gone:
        report.note(f"{', '.join(found.gone)} can't be asked any more whether the backup succeeded")


def verify(context: Context) -> int:
    """Check a run."""
    run = context.arguments.run or next(reversed(context.confirmed), None)
    if run is None:
        raise UsageError(f"no run in {context.place} is confirmed: name one, see `list`")
    data, book = context.arguments.data, ledger.read(context.layout, id_of(run))
    passphrase = None
    if data or book is None:
        passphrase = context.profile.passphrase(context.arguments.passphrase_file)
    report, check = _examine(context, run, book, data=data, passphrase=passphrase)
    if book is None:
        report.leave(
            "against a ledger: dom0 has none of this backup, so files that qubes.xml does not"
            " promise (firewall rules, notes) could be missing"
        )
    if check.is_compressed and (book is None or "proof" not in context.confirmed.get(run, {})):
        report.leave(
            "whether its files reach their end: they are compressed, and dom0 has no ledger with a"
            " confirmation, which would prove that the backup succeeded"
        )
    code = _code(report)
    verdict = {0: "right", EXIT_WRONG: "wrong", EXIT_UNCHECKED: "nothing wrong found"}[code]
    _tell(context, run, report, verdict)
    return code


def _newest_backup(context: Context) -> str:
    """Find the run of the backup that was begun last, but for those confirmed in other stores."""
    known = {record["backup_id"] for record in ledger.confirmed(context.layout, None).values()}
    stored = context.store.runs()
    elsewhere = known - {id_of(run.name) for run in stored} - {id_of(r) for r in context.confirmed}
    backup_id = ledger.newest(context.layout, known, elsewhere)
    runs = [run for run in stored if id_of(run.name) == backup_id]
    if not runs:
        text = (
            f"the newest backup with a ledger, {backup_id}, is not in {context.place};"
            " to confirm another one, name its run"
        )
        if backup_id in {id_of(run) for run in context.confirmed}:
            raise WrongError(text)  # lost; else it may be elsewhere, or have failed
        raise UsageError(text)
    good = [run for run in runs if run.status != PARTIAL]
    return (good or runs)[-1].name


def _examine(
    context: Context, run: str, book: Ledger | None, *, data: bool, passphrase: bytes | None
) -> tuple[Report, Check]:
    """Check a run; tell what was found, and give what was learnt."""
    report = Report()
    check = Check(id_of(run), None if book is None else book.rows, report)
    try:
        head, members = context.store.members(run)
        if head.status == PARTIAL:
            report.problem(f"the store calls it partial: {head.reason}")
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
    if check.described is not None:
        _miss(context, report)
    return report, check


def _miss(context: Context, report: Report) -> None:
    """Tell which qubes the backup profile means that aren't in the run."""
    try:
        include, exclude = context.profile.qubes()
        wanted = inventory.wanted(include, exclude)
    except BackupError as error:
        report.note(f"which qubes the profile wants isn't known: {error}")
        return
    report.lacking = [name for name in wanted if name not in report.qubes]


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
    for text in report.notes:
        print(f"note: {text}")
    if report.qubes:
        print(f"qubes in it: {', '.join(report.qubes)}")
    if report.lacking:
        name = context.profile.name
        print(f"not in it, but in the profile {name}: {', '.join(report.lacking)}")
    by = "its data" if getattr(context.arguments, "data", False) else "by its member list"
    note = "" if confirmed else ", a run that is not confirmed"
    print(f"{run} ({by}, {report.members} members, {report.bytes} bytes{note}): {verdict}")


def _code(report: Report) -> int:
    if report.problems:
        return EXIT_WRONG
    return EXIT_UNCHECKED if report.unchecked else 0
