# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line of qubes-dedup-backup: the action to run, and the exit code for its errors."""

import argparse
import json
import re
import sys
from collections.abc import Callable

from dom0_common.text import clean

from dedup_backup import VERSION
from dedup_backup.actions import confirm, forget, init, prune, restore_guide, secrets, verify
from dedup_backup.actions import list as list_action
from dedup_backup.calls.backup_qube import MAX_RUNS
from dedup_backup.calls.service import MAX_PATIENCE, PATIENCE, SLOWEST
from dedup_backup.errors import BackupError
from dedup_backup.output import say
from dedup_backup.records.retention import RULES
from dedup_backup.settings import DEFAULT_PROFILE

_ACTIONS: dict[str, Callable[[argparse.Namespace], int]] = {
    "init": init.run,
    "secrets": secrets.run,
    "confirm": confirm.run,
    "verify": verify.run,
    "list": list_action.run,
    "forget": forget.run,
    "prune": prune.run,
    "restore-guide": restore_guide.run,
}

_DESCRIPTION = (
    "Set up the store in a backup qube, and check that its backups are complete and unaltered."
)
_EPILOG = """\
Run it in dom0, as root; restore-guide as your user.

A run is one stored backup. The store is what keeps the runs: a repository in a backup qube. It is
the one to which the backup profile sends, or the one that --qube and --repository name. The ledger
is dom0's list of what it sent in a backup. Nothing that the backup qube says is trusted: where it
could lie, only `verify --data` is proof.

exit codes:
  0  everything that was asked for was done, or was checked and is right
  1  something is wrong: each problem is listed, with the member's name
  2  the command line or the configuration is wrong
  3  nothing wrong was found, but something could not be checked or asked; it is listed
  4  the qube or its store failed, or its reply is malformed: nothing was done, or there is no
     verdict
  130  interrupted

init gives the store a new password, unless it has one, and makes its repository. The password goes
to the qube through stdin; dom0 keeps no copy. The qube must be running. The engine directory has no
password. If the backup qube or dom0 knows of an earlier repository, init makes none: the earlier
one may be out of reach, or another disk may be attached. With --new, init uses what is there now,
or makes an empty repository.

secrets lists what you must keep off this machine, for all backup profiles whose destination is
dedup-store, with the command that shows each secret. It asks only backup qubes that are running.

confirm is for the time after a backup that qvm-backup called successful. It compares the list of
files in the run with the ledger. It also needs proof that the backup succeeded: backup_timestamp,
which Qubes sets only then. Then it records in dom0 that the run is complete. Without proof (a
backup of dom0's home alone, or of qubes that were backed up again since), the run is "unproven",
exit code 3. `confirm RUN --succeeded` then records that you saw qvm-backup succeed. A run that the
store calls partial is never confirmed.

verify compares again. With --data, the qube sends the whole backup to dom0, and verify checks every
byte. Without the ledger (on another machine), the backup's own qubes.xml says what must be there;
verify reads it from the beginning of the backup, and checks it under the passphrase. confirm and
verify both list the qubes in the run, and the qubes of the backup profile that are not in it.

list also shows the backups that left dom0 in clear and are not in the store: they failed, or were
sent elsewhere under a passphrase that starts with 'dedup:'.

forget removes runs from the store, and dom0's records of them. Either name the runs, or give a
policy for what stays: of the last N hours, days, ISO weeks, months or years (UTC) that have a
confirmed run, the newest run of each, and, while there are fewer than N, the oldest run. A run is
removed when none of the options keeps it. A counter in dom0 says which run is newer, not a clock.
The newest confirmed run always stays. Runs that are not confirmed, or that the store calls partial,
stay and don't count. A run whose date can't be right, because dom0's clock was wrong, takes no
other run's place. --dry-run lists the same and changes nothing.

prune removes partial runs (except confirmed ones) and what failed backups left from the store, and
frees the space of everything that was removed. In dom0 it removes the ledgers of backups that are
in no store, 90 days after they were written, except the newest. They stay when another store that
dom0 knows of can't be asked.

When the repository is in a storage qube, forget and prune open it there, and close it at their end
(or when this process ends). Only this file says which repository that is:

  /etc/qubes-dedup-backup/server.toml
    ["dedup-backup"."default"]    # backup qube, its repository
    qube = "dedup-storage"
    engine = "restic"             # or "borg"
    repository = "default"        # its name in the storage qube

restore-guide restores backups that the forum guide's script made, which are in clear. It warns and
asks. Then it runs qvm-backup-restore with all arguments that follow, and with a scrypt that only
copies:
qubes-dedup-backup restore-guide -d QUBE 'restic dump latest qubes-backup' work
"""


_RESTORE_GUIDE = "restore what the forum guide's script made; nothing of it is checked"


def main() -> int:
    """Run the command line's action.

    Returns:
        The exit code.
    """
    arguments = _parse()
    try:
        return _ACTIONS[arguments.command](arguments)
    except BackupError as error:
        text, code = str(error), error.exit_code
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        text, code = f"{where}{error.strerror}", BackupError.exit_code
    except KeyboardInterrupt:
        return 130
    say(text)
    if arguments.json:
        print(json.dumps({"error": clean(text, 600), "exit_code": code}))
    return code


def _parse() -> argparse.Namespace:
    """Read the command line; exit with 2 when it is wrong."""
    parser = argparse.ArgumentParser(
        prog="qubes-dedup-backup",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"qubes-dedup-backup {VERSION}")
    basic = argparse.ArgumentParser(add_help=False)
    basic.add_argument("--json", action="store_true", help="report as JSON on stdout")
    basic.add_argument("--root", default="/", help=argparse.SUPPRESS)
    basic.add_argument(
        "--patience",
        metavar="SECONDS",
        type=_seconds,
        help="how long to wait for a qube, in addition to the time that its output takes at"
        f" {SLOWEST >> 10} KiB a second; default: {PATIENCE}, for forget and prune 7 days",
    )
    common = argparse.ArgumentParser(add_help=False, parents=[basic])
    common.add_argument(
        "--profile", metavar="NAME", default=DEFAULT_PROFILE, help="default: %(default)s"
    )
    common.add_argument("--qube", metavar="NAME", help="default: the profile's destination")
    common.add_argument("--repository", metavar="NAME", help="default: the profile's destination")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_init(commands.add_parser("init", parents=[common], help="make the store's repository"))
    text = "list the secrets to keep elsewhere, and how to show them"
    commands.add_parser("secrets", parents=[basic], help=text)
    text = "confirm a run, after a backup"
    _add_confirm(commands.add_parser("confirm", parents=[common], help=text))
    _add_verify(commands.add_parser("verify", parents=[common], help="check a run"))
    commands.add_parser("list", parents=[common], help="list the runs, and what dom0 knows of each")
    _add_forget(commands.add_parser("forget", parents=[common], help="remove runs from the store"))
    text = "remove what is incomplete, and free the space of what was removed"
    commands.add_parser("prune", parents=[common], help=text)
    _add_restore_guide(commands.add_parser("restore-guide", help=_RESTORE_GUIDE))
    return parser.parse_args(_words(sys.argv[1:]))


def _add_init(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--check", action="store_true", help="change nothing; say what would change"
    )
    parser.add_argument(
        "--new", action="store_true", help="do it also where there was another repository before"
    )


def _add_confirm(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run", metavar="RUN", nargs="?", help="default: the run of the newest backup with a ledger"
    )
    parser.add_argument(
        "--succeeded",
        action="store_true",
        help="I saw qvm-backup succeed: for runs that dom0 has no proof of",
    )


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", nargs="?", help="default: the newest confirmed run")
    parser.add_argument("--data", action="store_true", help="read and check the whole backup")
    parser.add_argument(
        "--passphrase-file",
        metavar="FILE",
        help="read the passphrase from its first line (`-`: stdin) instead of the profile",
    )


def _add_forget(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs", metavar="RUN", nargs="*", help="runs to remove, unless --keep-... says what stays"
    )
    parser.add_argument("--dry-run", action="store_true", help="list what would go; change nothing")
    for rule in RULES:
        text = "keep the last N runs" if rule == "last" else f"keep the last N {rule} runs"
        parser.add_argument(f"--keep-{rule}", metavar="N", type=_count, help=text)


def _add_restore_guide(parser: argparse.ArgumentParser) -> None:
    parser.description = f"{_RESTORE_GUIDE}."
    parser.add_argument("--unchecked", action="store_true", help="warn, but don't ask")
    parser.add_argument(
        "words", metavar="ARGUMENT", nargs="*", help="for qvm-backup-restore: options, location"
    )
    parser.set_defaults(json=False)


def _words(words: list[str]) -> list[str]:
    """Put `--` before qvm-backup-restore's arguments, so that argparse skips its options."""
    if words[:1] == ["restore-guide"] and words[1:2] not in (["-h"], ["--help"]):
        own = 2 if words[1:2] == ["--unchecked"] else 1
        if words[own : own + 1] != ["--"]:
            return [*words[:own], "--", *words[own:]]
    return words


def _seconds(text: str) -> int:
    if not re.fullmatch("[0-9]{1,8}", text) or not 1 <= int(text) <= MAX_PATIENCE:
        raise argparse.ArgumentTypeError(f"{text!a} isn't a number from 1 to {MAX_PATIENCE}")
    return int(text)


def _count(text: str) -> int:
    if not re.fullmatch("[0-9]{1,6}", text) or not 1 <= int(text) <= MAX_RUNS:
        raise argparse.ArgumentTypeError(f"{text!a} isn't a number from 1 to {MAX_RUNS}")
    return int(text)
