# SPDX-License-Identifier: GPL-3.0-or-later
"""Set up a backup qube's store, and tell whether its backups are complete and unaltered."""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from dedup_backup import VERSION, kept, ledger, maintenance, settings, setup
from dedup_backup.check import Check, EnoughError, Report
from dedup_backup.errors import (
    EXIT_UNCHECKED,
    EXIT_WRONG,
    BackupError,
    UsageError,
    WrongError,
    clean,
)
from dedup_backup.qube import NoRunError
from dedup_backup.settings import DEFAULT_PROFILE, Layout, Profile, Source
from dedup_backup.store import RUN, UNENCRYPTED, Store

_CLEAR = "it is not encrypted: whoever can read its file system reads all backups in it"

_EPILOG = """\
It runs in dom0, as root.

exit codes:
  0  all that was asked for was done; or was checked, and is right
  1  something is wrong: each thing is told, with the member's name
  2  wrong command line or configuration
  3  nothing wrong was found, but not everything could be checked, or asked: it is told what
  4  the qube or its store failed or made no sense: it was not done, or there is no verdict
  130  interrupted

init gives the store a new password, unless it has one, and makes its repository. The password is
handed over on stdin; dom0 keeps no copy. The qube must be running. With the engine directory there
is none.

secrets lists what must be kept off this machine, for all backup profiles whose destination is
dedup-store, with the command that shows each. It asks backup qubes that are running.

confirm is for after a backup that qvm-backup called successful. It compares the member list of
that backup's run in the store with the ledger that dom0 kept of it, and records in dom0 that the
run is complete. verify does the same again, or, with --data, has the whole archive sent to dom0 and
checks every byte. Without the ledger (on another machine) the backup's own qubes.xml tells what
must be there; it is read from the archive's beginning and checked under the passphrase.

forget has the store remove runs, and drops dom0's records of them. prune has it remove partial
runs (but none that is confirmed) and what failed backups left, and give back the space of all that
was removed. A repository in a storage qube is opened for them, and closed at their end, or when
this process ends. Which one is told by storage.toml alone:

  /etc/qubes-dedup-backup/storage.toml
    ["dedup-backup"."default"]    # backup qube, its store's profile
    qube = "dedup-storage"
    engine = "restic"             # or "borg"
    repository = "default"        # its name in the storage qube

The store is the one that the backup profile sends to. What the backup qube says is not trusted:
where it could lie, only `verify --data` is proof.
"""


def main() -> int:
    """Run the command line's command.

    Returns:
        The exit code.
    """
    arguments = _parse()
    try:
        command = Command(arguments)
        return int(getattr(command, arguments.command)())
    except BackupError as error:
        text, code = str(error), error.exit_code
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        text, code = f"{where}{error.strerror}", BackupError.exit_code
    except KeyboardInterrupt:
        return 130
    _say(text)
    if arguments.json:
        print(json.dumps({"error": clean(text, 600), "exit_code": code}))
    return code


def _say(text: str) -> None:
    print(f"qubes-dedup-backup: {clean(text, 600)}", file=sys.stderr)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="qubes-dedup-backup",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"qubes-dedup-backup {VERSION}")
    basic = argparse.ArgumentParser(add_help=False)
    basic.add_argument("--json", action="store_true", help="report as JSON on stdout")
    basic.add_argument("--root", default="/", help=argparse.SUPPRESS)
    common = argparse.ArgumentParser(add_help=False, parents=[basic])
    common.add_argument(
        "--profile", metavar="NAME", default=DEFAULT_PROFILE, help="default: %(default)s"
    )
    common.add_argument("--qube", metavar="NAME", help="default: the profile's destination")
    common.add_argument(
        "--store-profile", metavar="NAME", help="default: the profile's destination"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    init = commands.add_parser("init", parents=[common], help="make the store's repository")
    init.add_argument("--check", action="store_true", help="change nothing, tell what would be")
    commands.add_parser(
        "secrets",
        parents=[basic],
        help="tell which secrets to keep elsewhere, and how to show them",
    )
    confirm = commands.add_parser("confirm", parents=[common], help="confirm a run, after a backup")
    confirm.add_argument(
        "run", metavar="RUN", nargs="?", help="default: that of the newest backup with a ledger"
    )
    verify = commands.add_parser("verify", parents=[common], help="check a run")
    verify.add_argument("run", metavar="RUN", nargs="?", help="default: the newest confirmed one")
    verify.add_argument("--data", action="store_true", help="read and check the whole archive")
    verify.add_argument(
        "--passphrase-file", metavar="FILE", help="its first line, `-`: stdin; default: the profile"
    )
    commands.add_parser("list", parents=[common], help="list the runs, with dom0's word on each")
    forget = commands.add_parser("forget", parents=[common], help="remove runs from the store")
    forget.add_argument("runs", metavar="RUN", nargs="+")
    commands.add_parser("prune", parents=[common], help="remove what isn't whole, give back space")
    return parser.parse_args()


class Command:
    """One command, with what they need."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        """Take what the command line says."""
        if os.geteuid():
            raise UsageError("this is for root in dom0 alone: use sudo")
        self._arguments = arguments
        self._layout = Layout(Path(arguments.root))

    @cached_property
    def _profile(self) -> Profile:
        return Profile(self._layout, self._arguments.profile)

    @cached_property
    def _source(self) -> Source:
        return self._profile.source(self._arguments.qube, self._arguments.store_profile)

    @cached_property
    def _store(self) -> Store:
        return Store(self._source)

    @cached_property
    def _confirmed(self) -> dict[str, dict[str, Any]]:
        return ledger.confirmed(self._layout, self._source)

    def init(self) -> int:
        """Make the store's password and repository, unless they are there."""
        check = self._arguments.check
        result = setup.init(self._store, check=check)
        if self._arguments.json:
            print(json.dumps(result))
            return 0
        made = "would be made" if check else "made"
        steps = [
            (f"{result['engine']} repository {result['repository']}", result["new_repository"])
        ]
        if result["engine"] == UNENCRYPTED:
            _say(f"warning: {_place(self._source)}: {_CLEAR}")
        else:
            steps.insert(0, ("password", result["new_password"]))
        for what, new in steps:
            print(f"{_place(self._source)}: {what} {made if new else 'is there'}")
        return 0

    def secrets(self) -> int:
        """Tell which secrets there are, and how each is shown; never the secrets."""
        rows, clear, unknown = kept.secrets(self._layout)
        if self._arguments.json:
            places = [_place(source) for source in clear]
            print(json.dumps({"secrets": rows, "unencrypted": places, "unknown": unknown}))
        else:
            print("Keep these off this machine, or its backups can't be read after its loss.")
            for row in rows:
                print(f"{row['secret']} of the profile {row['profile']} ({row['place']})")
                if row["command"]:
                    print(f"    {row['command']}")
            for source in clear:
                print(f"{_place(source)}: {_CLEAR}")
        for text in unknown:
            _say(text)
        return EXIT_UNCHECKED if unknown else 0

    @contextlib.contextmanager
    def _maintenance(self) -> Iterator[bool]:
        """Open the repository for removals, when it is in a storage qube; tell whether it is."""
        storage = settings.storage(self._layout, self._source)
        with maintenance.opened(storage) if storage else contextlib.nullcontext():
            yield storage is not None

    def forget(self) -> int:
        """Have the store remove runs, and drop dom0's records of them."""
        runs = {run: _backup_id(run) for run in self._arguments.runs}
        stored = {run.name for run in self._store.runs()}
        unknown = [run for run in runs if run not in stored and run not in self._confirmed]
        if unknown:
            raise UsageError(f"{_place(self._source)} has no run {unknown[0]}: see `list`")
        with self._maintenance() as opened:
            self._store.forget([run for run in runs if run in stored])
        left = {_backup_id(run) for run in stored - runs.keys()}
        for run, backup_id in runs.items():
            ledger.forget(self._layout, run, backup_id, keep_ledger=backup_id in left)
        if self._arguments.json:
            print(json.dumps({"forgotten": list(runs), "maintenance": opened}))
        else:
            print("\n".join(f"forgot {run}" for run in runs))
        return 0

    def prune(self) -> int:
        """Have the store remove what isn't whole, but never what dom0 confirmed."""
        keep = [
            run.name
            for run in self._store.runs()
            if run.status == "partial" and run.name in self._confirmed
        ]
        with self._maintenance() as opened:
            removed = self._store.prune(keep)
        if self._arguments.json:
            rows = [{"run": run, "was": was} for run, was in removed]
            print(json.dumps({"removed": rows, "maintenance": opened}))
        else:
            for run, was in removed:
                print(f"removed {run} ({was})")
            print(f"{_place(self._source)} is pruned")
        lost = [run for run, _ in removed if run in self._confirmed]
        if lost:
            _say(f"{_place(self._source)} has removed {len(lost)} confirmed run(s): {lost[0]}")
        return EXIT_WRONG if lost else 0

    def confirm(self) -> int:
        """Compare a run's list with the ledger; when they agree, record it."""
        run = self._arguments.run or self._newest_backup()
        backup_id = _backup_id(run)
        rows = ledger.read(self._layout, backup_id)
        if rows is None:
            raise UsageError(
                f"dom0 has no ledger of backup {backup_id}, so nothing tells what belongs into it"
            )
        report = self._examine(run, rows, data=False, passphrase=None)
        code = _code(report)
        if not code and run not in self._confirmed:
            ledger.confirm(
                *(self._layout, self._source, run, backup_id),
                members=report.members,
                bytes=report.bytes,
            )
        self._tell(run, report, "not confirmed" if code else "confirmed")
        return code

    def verify(self) -> int:
        """Check a run."""
        run = self._arguments.run or next(reversed(self._confirmed), None)
        if run is None:
            raise UsageError(f"no run in {_place(self._source)} is confirmed: name one, see `list`")
        backup_id, data = _backup_id(run), self._arguments.data
        rows = ledger.read(self._layout, backup_id)
        passphrase = None
        if data or rows is None:
            passphrase = self._profile.passphrase(self._arguments.passphrase_file)
        report = self._examine(run, rows, data=data, passphrase=passphrase)
        if rows is None:
            report.leave(
                "against a ledger: dom0 has none of this backup, so files that qubes.xml does not"
                " promise (firewall rules, notes) could be missing"
            )
        code = _code(report)
        verdict = {0: "right", EXIT_WRONG: "wrong", EXIT_UNCHECKED: "nothing wrong found"}[code]
        self._tell(run, report, verdict)
        return code

    def list(self) -> int:
        """List the store's runs beside dom0's records."""
        rows = []
        for run in self._store.runs():
            backup_id = _backup_id(run.name)
            word = "no ledger"
            if run.name in self._confirmed:
                word = "confirmed"
            elif (self._layout.ledgers / backup_id).exists():
                word = "unconfirmed"
            rows.append({"run": run.name, "store": run.status, "dom0": word, "reason": run.reason})
        there = {row["run"] for row in rows}
        lost = [name for name in self._confirmed if name not in there]
        rows += [
            {"run": name, "store": "missing", "dom0": "confirmed", "reason": ""} for name in lost
        ]
        rows.sort(key=lambda row: row["run"])
        if self._arguments.json:
            print(json.dumps({"runs": rows}))
        else:
            print(f"{'RUN':<58} {'DOM0':<12} {'STORE':<8} REASON")
            for row in rows:
                line = f"{row['run']:<58} {row['dom0']:<12} {row['store']:<8} {row['reason']}"
                print(line.rstrip())
        if lost:
            _say(f"{_place(self._source)} has lost {len(lost)} confirmed run(s)")
        return EXIT_WRONG if lost else 0

    def _newest_backup(self) -> str:
        """Find the run of the backup whose ledger is the newest."""
        backup_id = ledger.newest(self._layout)
        runs = [run.name for run in self._store.runs() if _backup_id(run.name) == backup_id]
        if not runs:
            raise WrongError(
                f"the newest backup with a ledger, {backup_id}, is not in {_place(self._source)};"
                " to confirm another one, name its run"
            )
        return runs[-1]

    def _examine(
        self, run: str, rows: ledger.Rows | None, *, data: bool, passphrase: bytes | None
    ) -> Report:
        report = Report()
        check = Check(_backup_id(run), rows, report)
        try:
            _, members = self._store.members(run)
            with self._store.stream(run) as stream:
                if data and passphrase is not None:
                    check.data(members, stream, passphrase)
                else:
                    check.member_list(members, stream, passphrase)
        except EnoughError:
            pass
        except NoRunError as error:
            if run not in self._confirmed:
                raise
            report.problem(f"the store has lost it: {error}")
        return report

    def _tell(self, run: str, report: Report, verdict: str) -> None:
        confirmed = run in self._confirmed or verdict == "confirmed"
        if self._arguments.json:
            result: dict[str, Any] = {"run": run, "verdict": verdict, "confirmed": confirmed}
            print(json.dumps(result | vars(report)))
            return
        for text in report.problems:
            print(f"wrong: {text}")
        for text in report.unchecked:
            print(f"not checked: {text}")
        by = "its data" if getattr(self._arguments, "data", False) else "by its member list"
        note = "" if confirmed else ", a run that is not confirmed"
        print(f"{run} ({by}, {report.members} members, {report.bytes} bytes{note}): {verdict}")


def _code(report: Report) -> int:
    if report.problems:
        return EXIT_WRONG
    return EXIT_UNCHECKED if report.unchecked else 0


def _backup_id(run: str) -> str:
    """Take the backup's id from a run's name; the stream must prove it (check.py)."""
    found = RUN.fullmatch(run)
    if not found:
        raise UsageError(f"'{clean(run, 120)}' is no run's name: see `qubes-dedup-backup list`")
    return found[1]


def _place(source: Source) -> str:
    return f"the store {source.store_profile} in {source.qube}"
