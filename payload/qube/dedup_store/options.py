# SPDX-License-Identifier: GPL-3.0-or-later
"""Keep official Qubes OS backups in a repository (restic, borg, or plain files)."""

import argparse
from typing import TYPE_CHECKING

from dedup_store import VERSION
from dedup_store.errors import MOVED, OLDER

_EPILOG = """\
exit codes:
  0    success
  1    the engine or the repository failed
  2    wrong command line or configuration
  3    put: the stream is not a whole backup; what came is kept as a partial run
       (nothing is kept of an empty stream)
  4    get, show, check, forget: there is no such run
  5    get, show: what came back is not what was stored; do not use the output
       check: something is damaged; the report lists the runs and qubes that are hit
  130  interrupted
  141  the reader closed the pipe before the end; for get that is success
  143  terminated

A run is one stored backup. It is `whole` when nothing of the backup is missing, `partial` when
something is (with the reason), and `opaque` when the backup is encrypted, so that this can't be
seen. `latest` is the newest whole run. put always reads its input to the end. With borg, a command
waits for another one that uses the repository (setting lock_wait); with restic and directory,
several can put and get at the same time. forget and prune wait for all other commands, and these
wait for them. list, show and get also work on a read-only repository and on a full disk.

check runs the engine's own check, and compares what describes each run with the lengths of the data
that are in the repository (with borg, whose own check compares lengths, only whether they are
there). With --read-data it also reads all data, and compares them as get does.
When the repository is damaged, check always reads them, to find what can still be restored; `get
RUN --members PATH` then gets it. check can't notice that a whole run is gone; dom0 can, by its
records. While borg checks, other commands wait; and borg reads all its files even without
--read-data.

prune removes partial runs, and what failed puts left. When the repository is in a storage qube,
dom0 must allow that: use `sudo qubes-dedup-backup forget` and `prune` in dom0.

configuration: /rw/config/dedup-store/NAME.toml, or NAME.toml in $DEDUP_STORE_CONFIG_DIR
  engine         "restic", "borg", or "directory": plain files, not encrypted (so the file system
                 must be), for file systems that deduplicate, share blocks or make snapshots
  location       absolute path, qrexec:QUBE/NAME for the repository NAME of a storage qube, or a
                 location of restic's or borg's (default /rw/dedup-store/NAME/repo, or with a device
                 /mnt/dedup-store/LABEL/dedup-store/NAME)
  device         label of the attached file system that the repository is on; it is mounted at
                 /mnt/dedup-store/LABEL when needed, and must have a line in /etc/fstab
  password_file  mode 0600, made by set-password (default NAME.password beside the configuration);
                 directory has none
  lock_wait      seconds to wait for a repository that others use (default 3600)
  compression    as restic or borg name it (default "auto" with restic, "zstd,3" with borg)
  chunks         borg: "large", "medium" (default) or "small"; smaller ones store less of a change
                 and need more memory. After a change, everything is stored once more
  pack_size      restic: size of its files in MiB, 4 to 128 (default restic's own, 16)
"""
DEFAULT_REPOSITORY = "default"

if TYPE_CHECKING:
    _Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def parse() -> argparse.Namespace:
    """Read the command line; it ends the program when that is wrong, or asks for help."""
    parser = argparse.ArgumentParser(
        prog="dedup-store",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dedup-store {VERSION}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--repository", metavar="NAME", default=DEFAULT_REPOSITORY, help="default: default"
    )
    common.add_argument(
        "--json", action="store_true", help="report as JSON on stdout (get: on stderr)"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_add_setup, _add_runs, _add_care, _add_others):
        add(commands, common)
    arguments = parser.parse_args()
    if arguments.command == "restore-service":
        arguments.repository, arguments.run = _split_argument(arguments.argument)
    return arguments


def _split_argument(argument: str) -> tuple[str, str]:
    """Split the service's argument, `RUN` or `REPOSITORY+RUN`."""
    repository, plus, run = argument.partition("+")
    return (repository, run) if plus else (DEFAULT_REPOSITORY, argument)


def _add_setup(commands: "_Commands", common: argparse.ArgumentParser) -> None:
    commands.add_parser(
        "set-password",
        parents=[common],
        help="save the password that comes on stdin, if there is none yet",
        description="Save the repository's password from stdin: one line, 16 to 512 printable ASCII"
        " characters. An existing password is never replaced.",
    )
    maker = commands.add_parser("init", parents=[common], help="make the repository")
    maker.add_argument(
        "--check",
        action="store_true",
        help="change nothing; report whether there is something to do",
    )
    maker.add_argument(
        "--new",
        action="store_true",
        help="do it also where there was another repository before: use what is there now, or make"
        " an empty one",
    )
    commands.add_parser(
        "mount", parents=[common], help="mount the device; if that fails, report why"
    )
    exporter = commands.add_parser(
        "export-keys",
        parents=[common],
        help="show the password and borg's key, so that you can keep them off this machine",
    )
    exporter.add_argument("--names", action="store_true", help="list only which secrets there are")


def _add_runs(commands: "_Commands", common: argparse.ArgumentParser) -> None:
    commands.add_parser("put", parents=[common], help="store the backup that comes on stdin")
    getter = commands.add_parser("get", parents=[common], help="write a stored backup to stdout")
    getter.add_argument("run", metavar="RUN", help="a run's name, or `latest`")
    getter.add_argument(
        "--members",
        metavar="PREFIX",
        nargs="+",
        help="only members whose names begin with one of these",
    )
    shower = commands.add_parser("show", parents=[common], help="list the members of a run")
    shower.add_argument("run", metavar="RUN", help="a run's name, or `latest`")
    lister = commands.add_parser("list", parents=[common], help="list the runs, oldest first")
    for command, each in ((shower, "the run and each member"), (lister, "each run, without qubes")):
        command.add_argument("--lines", action="store_true", help=f"a line of JSON for {each}")


def _add_care(commands: "_Commands", common: argparse.ArgumentParser) -> None:
    checker = commands.add_parser(
        "check", parents=[common], help="check that what was stored is still there"
    )
    checker.add_argument("runs", metavar="RUN", nargs="*", help="a run's name (default: all)")
    checker.add_argument("--read-data", action="store_true", help="read all data, and compare them")
    checker.add_argument(
        "--lines", action="store_true", help="a line of JSON for the repository and each run"
    )
    commands.add_parser(
        "stats", parents=[common], help="report how much is stored, and how much room it takes"
    )
    forgetter = commands.add_parser(
        "forget", parents=[common], help="remove runs; prune then frees their space"
    )
    forgetter.add_argument("runs", metavar="RUN", nargs="+", help="a run's name")
    pruner = commands.add_parser(
        "prune",
        parents=[common],
        help="remove partial runs, and free the space of all that was removed",
    )
    pruner.add_argument("--keep", metavar="RUN", nargs="+", default=[], help="runs that stay")
    pruner.add_argument("--lines", action="store_true", help="a line of JSON for each removed run")


def _add_others(commands: "_Commands", common: argparse.ArgumentParser) -> None:
    accepter = commands.add_parser(
        "accept",
        parents=[common],
        help="borg: accept a repository that was moved, or is older than before",
        description="Accept once that the borg repository was moved here, or is older"
        " than when this qube last used it. When that is needed, an error message gives the whole"
        " command. What was accepted is recorded in ~/.config/dedup-store/accepted.",
    )
    accepter.add_argument("kind", choices=(MOVED, OLDER))
    accepter.add_argument("location", metavar="LOCATION", help="`location` of the repository")
    commands.add_parser(
        "version", parents=[common], help="print the versions of dedup-store and the engines"
    )
    restorer = commands.add_parser(
        "restore-service", help="what the qrexec service dedupbackup.Restore runs"
    )
    restorer.add_argument("argument", metavar="[REPOSITORY+]RUN")
    restorer.set_defaults(json=False)
