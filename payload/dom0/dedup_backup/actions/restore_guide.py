# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `restore-guide`: restores a backup of the forum guide's script, after a warning.

The guide ("Incremental backup using the official backup system", forum.qubes-os.org) has a script
in scrypt's place that only copies. The shim refuses what it made; guide/scrypt, which copies too,
is put first in the PATH of one qvm-backup-restore, which finds scrypt by it
(qubes-core-admin-client, qubesadmin/backup/restore.py launch_scrypt).
"""

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

from dom0_common.paths import GUIDE

from dedup_backup.errors import BackupError, UsageError

TOOL = "qvm-backup-restore"
# --paranoid-mode, --plan-b and what argparse takes for them: any beginning that no other option has
# (--passphrase-file; qubesadmin/tools/qvm_backup_restore.py). Shorter ones it refuses itself.
PARANOID = ("--par", "--pl")
WARNING = """\
WARNING: what the forum guide's script made is neither encrypted nor authenticated. Nothing of it is
checked, and whatever passphrase you type proves nothing. Whoever could write where it was kept, or
to the qube that gives it back, may have altered any file of it, or put in what attacks dom0 while
it is restored. Do this only with a place that nobody else could write to; afterwards make a new
backup, with the shim."""
QUESTION = "Restore it unchecked? Type yes: "


def run(arguments: argparse.Namespace) -> NoReturn:
    """Become qvm-backup-restore, with guide/scrypt for its scrypt; as the user, without a store.

    Raises:
        UsageError: the user didn't agree, or the arguments can't work.
        BackupError: a program is missing.
    """
    words = arguments.words  # qvm-backup-restore's arguments
    if any(word.startswith(PARANOID) for word in words):
        raise UsageError("--paranoid-mode restores in a disposable, which this doesn't reach")
    if not words:
        raise UsageError(f"what follows are {TOOL}'s own arguments: options, location, qubes")
    path = f"{GUIDE}:{os.environ.get('PATH', os.defpath)}"
    if shutil.which("scrypt", path=path) != str(GUIDE / "scrypt"):
        raise BackupError(f"there is no program {GUIDE}/scrypt: apply the role shim again")
    print(WARNING, file=sys.stderr)
    if not arguments.unchecked and not _agreed():
        raise UsageError("nothing was restored, because you did not agree")
    try:
        os.execvpe(TOOL, [TOOL, *words], os.environ | {"PATH": path})
    except OSError as error:
        raise BackupError(f"{TOOL} can't be run: {error.strerror}") from error


def _agreed() -> bool:
    """Ask on the terminal, as stdin may have the passphrase."""
    try:
        with Path("/dev/tty").open("r+b", buffering=0) as terminal:
            terminal.write(QUESTION.encode())
            return terminal.readline(64).strip().lower() == b"yes"
    except OSError as error:
        raise UsageError("there is no terminal to ask on: give --unchecked to agree") from error
