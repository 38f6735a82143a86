# SPDX-License-Identifier: GPL-3.0-or-later
"""Keep official Qubes OS backups in a repository (restic, borg, or plain files)."""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from typing import NoReturn

from dedup_store import (
    VERSION,
    accept,
    borg_questions,
    check,
    commands,
    config,
    device,
    pipes,
    prune,
    restore_service,
    setup,
    stats,
    tell,
    trouble,
    version,
)
from dedup_store.errors import EXIT_READER_GONE, StoreError, clean

_EPILOG = """\
exit codes:
  0    success
  1    the engine or the repository failed
  2    wrong command line or configuration
  3    put: the stream is no whole backup; what came is kept as a partial run
       (nothing is kept of an empty stream)
  4    get, show, check, forget: there is no such run
  5    get, show: what came back is not what was stored; do not use the output
       check: something is damaged, and the report tells which runs and qubes are hit
  130  interrupted
  141  the reader closed the pipe before the end; for get that is success
  143  terminated

put reads its input to the end whatever happens. A run is `whole` when its structure is,
`partial` with a reason when not, and `opaque` when it is encrypted, so that it can't be told;
`latest` is the newest whole run. With borg, a command waits for another one that works on the
repository (setting lock_wait); with restic and directory, several can put and get at the same time.
forget and prune work alone: they wait for all others, and all others for them.
list, show and get also work where the repository can't be written: read-only, or a full disk.

check runs the engine's own check, and compares each run's manifest and recipe with the payload that
is in the repository; with --read-data it also reads all of it, and compares it as get does. A
damaged repository is read in any case, to tell what of it can still be restored: then `get RUN
--members PATH` gives it. A run that is gone as a whole isn't missed here: dom0 knows it. While
borg checks, other commands wait; and borg reads all its files even without --read-data.

prune removes partial runs, and what puts that failed left. With a repository in a storage qube,
forget and prune need maintenance, which dom0 opens: use `sudo qubes-dedup-backup prune` there.

configuration: /rw/config/dedup-store/NAME.toml, or NAME.toml in $DEDUP_STORE_CONFIG_DIR
  engine         "restic", "borg", or "directory": plain files, not encrypted (so the file system
                 must be), for file systems that deduplicate, share blocks or make snapshots
  repository     absolute path, qrexec:QUBE/NAME for the repository NAME of a storage qube, or a
                 location of restic's or borg's (default /rw/dedup-store/NAME/repo, or with a device
                 /mnt/dedup-store/LABEL/dedup-store/NAME)
  device         label of the attached file system that the repository is on; it is mounted at
                 /mnt/dedup-store/LABEL when needed, and must have a line in /etc/fstab
  password_file  mode 0600, made by set-password (default NAME.password beside the configuration);
                 directory has none
  lock_wait      seconds to wait for a repository that others use (default 3600)
  compression    as restic or borg name it (default "auto" with restic, "zstd,3" with borg)
  chunks         borg: "large", "medium" (default) or "small"; smaller ones store less of a change
                 and need more memory. A repository stores all anew when this changes.
  pack_size      restic: size of its files in MiB, 4 to 128 (default restic's own, 16)
"""

_STDIN = 0


def main() -> int:
    """Run the command line's command.

    Returns:
        The exit code.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminated)
    arguments = _parse()
    try:
        if arguments.command == "version":  # whatever the configuration is
            return version.version(arguments)
        return _COMMANDS[arguments.command](arguments, config.load(arguments.profile))
    except StoreError as error:
        tell.say(str(error))
        _drain_if_put(arguments)
        if arguments.json:
            row = {"error": clean(str(error)), "exit_code": error.exit_code}
            tell.as_json(row, on_stderr=arguments.command == "get")
        return error.exit_code
    except BrokenPipeError:
        tell.forget_stdout()
        # Qubes stops reading when it has all that it wants, and takes another status for a failure
        # of the restore (qubes-core-agent-linux qubes-rpc/qubes.RestoreById).
        return 0 if arguments.command == "get" else EXIT_READER_GONE
    except OSError as error:
        tell.say(str(_described(error, arguments.command)))
        _drain_if_put(arguments)
        return StoreError.exit_code
    except KeyboardInterrupt:
        return 130


def _described(error: OSError, command: str) -> StoreError:
    """Describe the system's error; what `put` writes, but to the engine, is in a temporary file."""
    if error.filename:
        return trouble.of_file(error, str(error.filename), "its disk, in this qube,")
    if command == "put" and trouble.kind_of(error.errno):
        disk = trouble.temporary_disk(tempfile.gettempdir())
        return trouble.of_file(error, "a temporary file can't be written", disk)
    return StoreError(f"input or output: {error.strerror}")


def _terminated(_number: int, _frame: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # one is enough; now the engine is stopped
    sys.exit(143)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dedup-store",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dedup-store {VERSION}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--profile", metavar="NAME", default="default", help="default: default")
    common.add_argument(
        "--json", action="store_true", help="report as JSON on stdout (get: on stderr)"
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    subparsers.add_parser(
        "set-password",
        parents=[common],
        help="keep the password that comes on stdin, if there is none yet",
        description="Keep the repository's password: one line, 16 to 512 printable ASCII"
        " characters. One that is there is never replaced.",
    )
    maker = subparsers.add_parser("init", parents=[common], help="make the repository")
    maker.add_argument(
        "--check", action="store_true", help="change nothing, tell whether there is something to do"
    )
    maker.add_argument(
        "--new",
        action="store_true",
        help="also where there was another repository before: use what is there now, or make an"
        " empty one",
    )
    subparsers.add_parser(
        "mount", parents=[common], help="mount the device, and tell what hinders if that fails"
    )
    exporter = subparsers.add_parser(
        "export-keys",
        parents=[common],
        help="show the password and borg's key, to be kept off this machine",
    )
    exporter.add_argument("--names", action="store_true", help="tell only which there are")
    subparsers.add_parser("put", parents=[common], help="store the backup that comes on stdin")
    getter = subparsers.add_parser("get", parents=[common], help="write a stored backup to stdout")
    getter.add_argument("run", metavar="RUN", help="a run's name, or `latest`")
    getter.add_argument(
        "--members",
        metavar="PREFIX",
        nargs="+",
        help="only members whose names begin with one of these",
    )
    shower = subparsers.add_parser("show", parents=[common], help="list the members of a run")
    shower.add_argument("run", metavar="RUN", help="a run's name, or `latest`")
    lister = subparsers.add_parser("list", parents=[common], help="list the runs, oldest first")
    for command, each in ((shower, "the run and each member"), (lister, "each run, without qubes")):
        command.add_argument("--lines", action="store_true", help=f"a line of JSON for {each}")
    checker = subparsers.add_parser(
        "check", parents=[common], help="tell whether what was stored is still there"
    )
    checker.add_argument("runs", metavar="RUN", nargs="*", help="a run's name (default: all)")
    checker.add_argument("--read-data", action="store_true", help="read all data, and compare them")
    checker.add_argument(
        "--lines", action="store_true", help="a line of JSON for the repository and each run"
    )
    subparsers.add_parser(
        "stats", parents=[common], help="tell how much is stored, and what room it takes"
    )
    forgetter = subparsers.add_parser(
        "forget", parents=[common], help="remove runs; prune gives back their space"
    )
    forgetter.add_argument("runs", metavar="RUN", nargs="+", help="a run's name")
    pruner = subparsers.add_parser(
        "prune",
        parents=[common],
        help="remove what isn't whole, give back the space of all removed",
    )
    pruner.add_argument("--keep", metavar="RUN", nargs="+", default=[], help="not these")
    pruner.add_argument("--lines", action="store_true", help="a line of JSON for each removed run")
    accepter = subparsers.add_parser(
        "accept",
        parents=[common],
        help="borg: say that a repository which isn't as this qube saw it last is right",
        description="Accept once that the profile's borg repository was moved here, or is older"
        " than what this qube last saw of it. An error tells when that is needed, and the whole"
        " command. What was accepted is noted in ~/.config/dedup-store/accepted.",
    )
    accepter.add_argument("kind", choices=(borg_questions.MOVED, borg_questions.OLDER))
    accepter.add_argument("location", metavar="LOCATION", help="`repository` of the profile")
    subparsers.add_parser(
        "version", parents=[common], help="tell the versions of dedup-store and the engines"
    )
    restorer = subparsers.add_parser(
        "restore-service", help="what the qrexec service dedupbackup.Restore runs"
    )
    restorer.add_argument("argument", metavar="[PROFILE+]RUN")
    restorer.set_defaults(json=False)
    arguments = parser.parse_args()
    if arguments.command == "restore-service":
        arguments.profile, arguments.run = restore_service.split_argument(arguments.argument)
    return arguments


def _drain_if_put(arguments: argparse.Namespace) -> None:
    """Read stdin to its end when put failed: Qubes must not take an early end for success."""
    if arguments.command == "put" and not os.isatty(_STDIN):
        pipes.drain(_STDIN)


_COMMANDS: dict[str, Callable[[argparse.Namespace, config.Config], int]] = {
    "set-password": setup.set_password,
    "init": setup.init,
    "mount": device.mount,
    "export-keys": setup.export_keys,
    "accept": accept.accept,
    "put": commands.put,
    "get": commands.get,
    "show": commands.show,
    "list": commands.list_runs,
    "check": check.check,
    "stats": stats.stats,
    "forget": prune.forget,
    "prune": prune.prune,
    "restore-service": commands.serve_restore,
}
