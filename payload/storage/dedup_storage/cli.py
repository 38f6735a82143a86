# SPDX-License-Identifier: GPL-3.0-or-later
"""Give a backup qube append-only access to restic and borg repositories, over qrexec."""

import argparse
import contextlib
import signal
import sys
from typing import NoReturn

from dedup_storage import VERSION, borg_log, config, kept, maintenance, serve
from dedup_storage.errors import StorageError, clean

_EPILOG = """\
For people:
  changes NAME    lists a borg repository's transactions: what was written and removed, and when
  rollback NAME   undoes all that came after a transaction
For qrexec services (ARGUMENT is restic+NAME or borg+NAME):
  serve             dedupbackup.Repository: append-only access
  maintain          dedupbackup.Maintenance: full access, while dom0 keeps it open
  maintenance-open  dedupbackup.MaintenanceOpen: dom0 opens it by this call until its end

exit codes:
  0    success
  1    it failed
  2    wrong command line or configuration
  3    refused
  else that of the engine's server

configuration: /rw/config/dedup-storage/NAME.toml, or NAME.toml in $DEDUP_STORAGE_CONFIG_DIR
  engine               "restic" or "borg"
  place                what holds the repository, under its NAME (default /rw/dedup-storage):
                         an absolute path
                         rclone:REMOTE:PATH (restic; rclone 1.75.0 or newer)
                         ssh://[USER@]HOST[:PORT]/FOLDER (rclone or borg must be installed there)
  rclone_config        rclone's configuration file (default: rclone's own)
  ssh_config           ssh's configuration file (default: ssh's own)
  maintenance_minutes  the longest time that maintenance stays open (default 240)
"""


def main() -> int:
    """Run the command line's command.

    Returns:
        The exit code.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminated)
    arguments = _parse()
    try:
        return _run(arguments)
    except StorageError as error:
        _say(str(error))
        return error.exit_code
    except OSError as error:
        _say(f"{error.filename or 'input or output'}: {error.strerror}")
        return StorageError.exit_code
    except KeyboardInterrupt:
        return 130


def _terminated(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        sys.stderr.write(f"dedup-storage: {clean(text, 600)}\n")
        sys.stderr.flush()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dedup-storage",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dedup-storage {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in ("serve", "maintain", "maintenance-open"):
        commands.add_parser(name).add_argument("argument", metavar="ARGUMENT")
    lister = commands.add_parser("changes")
    lister.add_argument("name", metavar="NAME")
    lister.add_argument("--since", metavar="TIME", help="2026-11-24 or 2026-11-24T20:15, UTC")
    undoer = commands.add_parser("rollback")
    undoer.add_argument("name", metavar="NAME")
    undoer.add_argument("--to", metavar="TRANSACTION", type=int, required=True)
    return parser.parse_args()


def _run(arguments: argparse.Namespace) -> int:
    if arguments.command == "changes":
        return _changes(config.load(arguments.name), arguments.since)
    if arguments.command == "rollback":
        return _rollback(config.load(arguments.name), arguments.to)
    repository = config.by_argument(arguments.argument)
    if arguments.command == "serve":
        return serve.serve(repository)
    if arguments.command == "maintain":
        return maintenance.maintain(repository)
    return maintenance.hold_open(repository)


def _changes(repository: config.Repository, since: str | None) -> int:
    found = borg_log.changes(repository, since)
    row = "{:>11}  {:<20} {:>9} {:>9} {:>15}\n"
    sys.stdout.write(row.format("TRANSACTION", "TIME", "WRITTEN", "REMOVED", "BYTES"))
    for item in found:
        cells = (item.number, item.time, item.puts, item.deletes, item.size)
        sys.stdout.write(row.format(*cells))
    folder = borg_log.folder_of(repository)
    if kept.folder_of(repository, folder).is_dir():
        for _, path in kept.copies(repository, folder):
            sys.stdout.write(f"copy of config: {path}\n")
    return 0


def _rollback(repository: config.Repository, number: int) -> int:
    away = borg_log.rollback(repository, number)
    sys.stdout.write(
        f"{repository.name} is as it was after transaction {number}. What came later is in {away}:"
        " remove it when all is well.\nThe backup qube must forget what it knows of the repository:"
        " see docs/storage.md, `After a rollback`.\n"
    )
    return 0
