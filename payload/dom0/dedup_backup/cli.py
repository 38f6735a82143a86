# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands of qubes-dedup-backup; options.py has their command line."""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from dedup_backup import kept, ledger, maintenance, options, retention, settings, setup
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
from dedup_backup.settings import Layout, Profile, Source
from dedup_backup.store import RUN, UNENCRYPTED, Store

_CLEAR = "it is not encrypted: whoever can read its file system reads all backups in it"


def main() -> int:
    """Run the command line's command.

    Returns:
        The exit code.
    """
    arguments = options.parse()
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
        if result["engine"] == UNENCRYPTED:
            _say(f"warning: {_place(self._source)}: {_CLEAR}")
        if self._arguments.json:
            print(json.dumps(result))
            return 0
        made = "would be made" if check else "made"
        steps = [("password", result["new_password"])] if result["engine"] != UNENCRYPTED else []
        steps.append(
            (f"{result['engine']} repository {result['repository']}", result["new_repository"])
        )
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
        """Have the store remove runs, named or by a policy, and drop dom0's records of them."""
        policy = {rule: getattr(self._arguments, f"keep_{rule}") for rule in retention.RULES}
        policy = {rule: count for rule, count in policy.items() if count is not None}
        if bool(policy) == bool(self._arguments.runs):
            raise UsageError("forget takes either the names of runs, or --keep-...: what stays")
        return self._forget_by(policy) if policy else self._forget_named()

    def _forget_named(self) -> int:
        runs = {run: _backup_id(run) for run in self._arguments.runs}
        stored = {run.name for run in self._store.runs()}
        unknown = [run for run in runs if run not in stored and run not in self._confirmed]
        if unknown:
            raise UsageError(f"{_place(self._source)} has no run {unknown[0]}: see `list`")
        dry = self._arguments.dry_run
        opened = not dry and self._remove(list(runs), stored)
        if self._arguments.json:
            gone = {"would_forget": list(runs)} if dry else {"forgotten": list(runs)}
            print(json.dumps(gone | {"maintenance": opened}))
            return 0
        for run in runs:
            note = "" if run in stored else " (dom0's record of it: the store no longer had it)"
            print(f"{'would forget' if dry else 'forgot'} {run}{note}")
        return 0

    def _forget_by(self, policy: dict[str, int]) -> int:
        stored = {run.name for run in self._store.runs()}
        now = datetime.now().astimezone().replace(tzinfo=None)
        plan = retention.plan(self._confirmed, stored, policy, now)
        dry, going = self._arguments.dry_run, [row.run for row in plan.forget]
        opened = bool(going) and not dry and self._remove(going, stored)
        if self._arguments.json:
            gone = {"would_forget" if dry else "forgotten": going, "maintenance": opened}
            print(json.dumps(gone | retention.as_json(plan)))
        else:
            print("\n".join(retention.as_text(plan, "would forget" if dry else "forgot")))
        lost = [run for run in self._confirmed if run not in stored]
        if lost:
            _say(f"{_place(self._source)} has lost {len(lost)} confirmed run(s): {lost[0]}")
        return EXIT_WRONG if lost else 0

    def _remove(self, runs: list[str], stored: set[str]) -> bool:
        """Remove runs from the store, as far as it has them, then their records.

        Returns:
            Whether the repository was opened for it.
        """
        there, opened = [run for run in runs if run in stored], False
        if there:
            with self._maintenance() as opened:
                self._store.forget(there)
        left = {_backup_id(run) for run in stored.difference(runs)}
        for run in runs:
            backup_id = _backup_id(run)
            ledger.forget(self._layout, run, backup_id, keep_ledger=backup_id in left)
        return opened

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
