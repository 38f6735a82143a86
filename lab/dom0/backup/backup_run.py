# SPDX-License-Identifier: GPL-3.0-or-later
"""Run, or describe, the backup of a profile: `python3 -m qubes.backup_run [--info] PROFILE`.

The lab's qubesd starts this in dom0, as root, where upstream's qubesd calls qubes.backup.Backup in
itself (qubes-core-admin qubes/api/admin.py backup_execute, backup_info). With --info, stdout is the
summary; otherwise lines `progress PERCENT`. Exit codes: 0 done; 1 failed, with one line on stderr;
130 cancelled (by SIGTERM).
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Sequence

import qubesadmin
from qubesadmin.exc import QubesException

from .contents import summary
from .inventory import load_qubes
from .operation import Backup
from .profile import load_profile

CANCELLED = 130


def _report(percent: float) -> None:
    print(f"progress {percent:.2f}", flush=True)


async def _execute(backup: Backup) -> int:
    """Run the backup; SIGTERM cancels it, and a second one no longer waits for the target qube."""
    task = asyncio.create_task(backup.run(_report))
    cancelled = False

    def cancel() -> None:
        nonlocal cancelled
        cancelled = True
        task.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, cancel)
    await asyncio.wait({task})
    failed = task.cancelled() or task.exception() is not None
    if failed and cancelled:
        return CANCELLED
    task.result()
    return 0


def run(profile_name: str, info: bool) -> int:
    """Do what the command line says and return the exit code.

    Raises:
        QubesException: it can't be done.
    """
    app = qubesadmin.Qubes()
    qubes = load_qubes(app)
    profile = load_profile(profile_name, qubes, with_passphrase=not info)
    backup = Backup(app, qubes, profile)
    try:
        if info:
            selected = {qube.qid for qube in profile.selected}
            sys.stdout.write(summary(backup.parts, qubes, selected))
            return 0
        return asyncio.run(_execute(backup))
    finally:
        backup.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    parser = argparse.ArgumentParser(prog="qubes.backup_run", description=__doc__)
    parser.add_argument("--info", action="store_true", help="only describe the backup")
    parser.add_argument("profile", metavar="PROFILE")
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(CANCELLED))
    # The last line of stderr must be our own.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.unraisablehook = lambda _: None
    try:
        return run(args.profile, args.info)
    except (QubesException, OSError) as error:
        print(" ".join(str(error).split()) or type(error).__name__, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
