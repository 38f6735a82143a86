# SPDX-License-Identifier: GPL-3.0-or-later
"""Give a backup qube append-only access to restic and borg repositories, over qrexec."""

import argparse
import signal
import sys
from typing import NoReturn

from dedup_server import VERSION, config
from dedup_server.actions import changes, discard, maintain, maintenance_open, rollback, serve
from dedup_server.errors import StorageError
from dedup_server.notify import notify

# what people type, and what qrexec services run with their argument
_BY_NAME = {"changes": changes.run, "rollback": rollback.run, "discard": discard.run}
_BY_ARGUMENT = {
    "serve": serve.run,
    "maintain": maintain.run,
    "maintenance-open": maintenance_open.run,
}
_SERVICES = {
    "serve": "what dedupbackup.Repository runs: append-only access",
    "maintain": "what dedupbackup.Maintenance runs: full access, while dom0 keeps it open",
    "maintenance-open": "what dedupbackup.MaintenanceOpen runs: dom0 keeps maintenance open by it",
}

_EPILOG = """\
People type changes, rollback and discard. The qrexec services run serve, maintain and
maintenance-open. Maintenance is the time in which dom0 lets the backup qube remove runs. What it
removes is held back: it stays here for some days, so that rollback can bring it back.

exit codes:
  0    success
  1    failure
  2    wrong command line or configuration
  3    refused
  else that of the engine's server

configuration: /rw/config/dedup-server/NAME.toml, or NAME.toml in $DEDUP_SERVER_CONFIG_DIR
  engine               "restic" or "borg"
  place                what holds the repository, under its NAME (default /rw/dedup-server):
                         an absolute path
                         rclone:REMOTE:PATH (restic; rclone 1.75.0 or newer)
                         ssh://[USER@]HOST[:PORT]/FOLDER (rclone or borg must be installed there)
  rclone_config        rclone's configuration file (default: rclone's own)
  ssh_config           ssh's configuration file (default: ssh's own)
  maintenance_minutes  how long maintenance can stay open (default 240)
  keep_removed_days    how many days what maintenance removed is held back; it goes when the next
                       maintenance after that begins (default 7)
  reserve_mib          room that is kept free for maintenance on a full disk, in MiB (default 64,
                       for borg 640; at most a twentieth of the disk)
"""


def main() -> int:
    """Run the command line's command.

    Returns:
        The exit status.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminated)
    arguments = _parse()
    try:
        return _dispatch(arguments)
    except StorageError as error:
        notify(str(error))
        return error.exit_code
    except OSError as error:
        notify(f"{error.filename or 'input or output'}: {error.strerror}")
        return StorageError.exit_code
    except KeyboardInterrupt:
        return 130


def _terminated(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dedup-server",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dedup-server {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    lister = commands.add_parser(
        "changes",
        help="list what maintenance removed and is held back, and a borg repository's transactions:"
        " what each wrote and removed, and when",
    )
    lister.add_argument("name", metavar="NAME", help="the repository")
    lister.add_argument("--since", metavar="TIME", help="2026-11-24 or 2026-11-24T20:15, UTC")
    undoer = commands.add_parser(
        "rollback", help="undo a maintenance and all after it, or all after a borg transaction"
    )
    undoer.add_argument("name", metavar="NAME", help="the repository")
    undoer.add_argument(
        "--to",
        metavar="MAINTENANCE|TRANSACTION",
        required=True,
        help="the time or the number that `changes` lists",
    )
    discarder = commands.add_parser(
        "discard", help="free the room of what is held back; rollback can't bring it back then"
    )
    discarder.add_argument("name", metavar="NAME", help="the repository")
    for name, text in _SERVICES.items():
        command = commands.add_parser(name, help=text)
        command.add_argument("argument", metavar="ARGUMENT", help="restic+NAME or borg+NAME")
    return parser.parse_args()


def _dispatch(arguments: argparse.Namespace) -> int:
    if arguments.command in _BY_NAME:
        return _BY_NAME[arguments.command](arguments, config.load(arguments.name))
    repository = config.by_argument(arguments.argument)
    return _BY_ARGUMENT[arguments.command](arguments, repository)
