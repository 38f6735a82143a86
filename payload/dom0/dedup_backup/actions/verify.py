# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `verify`: checks a run's member list, or, with --data, every byte of its archive."""

import argparse

from dedup_backup.context import id_of, start
from dedup_backup.errors import EXIT_UNCHECKED, EXIT_WRONG, UsageError
from dedup_backup.examination import examine, print_report
from dedup_backup.records import ledger


def run(arguments: argparse.Namespace) -> int:
    """Check the named run, else the newest confirmed one."""
    context = start(arguments)
    name = arguments.run or next(reversed(context.confirmed), None)
    if name is None:
        raise UsageError(f"no run in {context.address} is confirmed: name one, see `list`")
    data, book = arguments.data, ledger.read(context.paths, id_of(name))
    passphrase = None
    if data or book is None:
        passphrase = context.profile.passphrase(arguments.passphrase_file)
    report, verifier = examine(context, name, book, data=data, passphrase=passphrase)
    if book is None:
        report.add_unchecked(
            "against a ledger: dom0 has none of this backup, so files that qubes.xml does not"
            " promise (firewall rules, notes) could be missing"
        )
    if verifier.is_compressed and (book is None or "proof" not in context.confirmed.get(name, {})):
        report.add_unchecked(
            "whether its files reach their end: they are compressed, and dom0 has no ledger with a"
            " confirmation, which would prove that the backup succeeded"
        )
    code = report.exit_code
    verdict = {0: "right", EXIT_WRONG: "wrong", EXIT_UNCHECKED: "nothing wrong found"}[code]
    print_report(context, name, report, verdict, data=data)
    return code
