# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line, and the special handling of triggers."""

import argparse
import contextlib
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dom0_common.paths import Paths
from dom0_common.text import clean

from shimctl_lib import alarm, guard, inspection, notify, plan, state, status
from shimctl_lib.errors import ChangedError, ShimctlError
from shimctl_lib.system import attributes, exchange, files

MODES = ("authenticated", "off")
METHODS = ("replace", "path")
TRIGGERS = ("rpm", "dnf4", "dnf5", "path", "boot", "backup")
RETRIES = 3  # inspections, when a package manager interferes between inspection and change
# Seconds after which the path unit tries again after a failure: during an update the new
# scrypt may lack a library that comes a moment later. Nobody waits for that unit.
PAUSES = (1, 2, 4, 8)
Result = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """The command line."""

    command: str
    check: bool
    json: bool
    mode: str | None
    method: str | None
    trigger: str | None
    root: str


def make_plan(at: Paths, found: inspection.Installation, options: Options) -> plan.Plan:
    """Plan what the command asks for."""
    planner = plan.Planner(at, found)
    if options.command == "install":
        return planner.install(options.mode, options.method)
    if options.command == "remove":
        return planner.remove()
    return planner.reconcile()


def change(at: Paths, options: Options) -> Result:
    """Make (with --check: only find) the needed changes; inspect again after interference.

    Raises:
        ShimctlError, OSError: see change_once.
    """
    for _ in range(RETRIES):
        with contextlib.suppress(ChangedError):
            return change_once(at, options)
    return change_once(at, options)


def change_once(at: Paths, options: Options) -> Result:
    """Make (with --check: only find) the needed changes; return what was done.

    Raises:
        ShimctlError: it can't be done, or was done only in part.
        OSError: likewise.
    """
    found = inspection.inspect(at)
    made = make_plan(at, found, options)
    if why := attributes.blocking(path for step in made.steps for path in step.paths):
        raise ShimctlError(f"nothing was changed: {why}")
    before, after = found.summary(), found.summary()
    for step in made.steps:
        if not options.check:
            try:
                step.make()
            except PermissionError as error:
                why = attributes.blocking(places(at))
                raise ShimctlError(f"{error}; {why}" if why else str(error)) from error
            notify.journal(at, notify.NOTICE, step.text)
        after |= step.after
    result: Result = {"changed": bool(made.steps), "before": before, "after": after}
    result["steps"] = [step.text for step in made.steps]
    if options.command == "reconcile" and found.state is None:
        why = alarm.forgotten(at) or "the shim isn't installed; `sudo shimctl install` installs it"
        result["note"] = f": {why}"
    errors = [*made.left]
    if made.refused:
        errors.insert(0, f"this scrypt was refused, and stays as it is: {made.refused}")
    if errors:
        result |= {"error": "; ".join(errors), "for_the_user": not made.refused}
    return result


def attempt(at: Paths, options: Options) -> Result:
    """Make the changes as change() does; a failure is a result, too."""
    try:
        return change(at, options)
    except (ShimctlError, OSError) as error:
        return {"changed": False, "steps": [], "error": str(error)}


def report(at: Paths, trigger: str, before: state.State | None, result: Result) -> None:
    """Record the result of a trigger's run; notify of a change, and of a failure that is new."""
    if before is None:
        if text := alarm.forgotten(at):
            notify.journal(at, notify.WARNING, text)
        return
    failure = result.get("error")
    ours = failure and not result.get("for_the_user")
    said = clean("; ".join(result["steps"])) or "nothing to do"
    if failure:
        said = f"failed: {clean(failure)}"
    previous = before.get("last") or {}
    try:
        if (current := state.load(at)) is not None:
            run = {"time": state.now(), "result": said}
            current["last"] = {**run, "trigger": trigger}
            if result["changed"]:
                current["last_change"] = current["last"]
            current["triggers"] = {**current.get("triggers", {}), trigger: run}
            state.save(at, current)
    except OSError as error:
        notify.journal(at, notify.WARNING, f"{at.state} can't be written: {error}")
    if failure and (previous.get("result") != said or trigger == "boot"):
        state_of_it = "is not in place" if ours else "needs you"
        text = f"The scrypt shim {state_of_it}: {failure}. See: sudo shimctl status"
        notify.journal(at, notify.WARNING, text)
        notify.desktop(at, text, urgent=True)
    for place in ("scrypt", "local"):
        was, now = (result.get(when, {}).get(place) for when in ("before", "after"))
        if was != now == "shim" and not ours:
            text = f"{getattr(at, place)} was '{was}'. The scrypt shim is back there."
            notify.desktop(at, text, urgent=False)


def places(at: Paths) -> list[Path]:
    """Return the files that shimctl writes."""
    known = [at.scrypt, at.real, at.local, at.config, at.state]
    return known + [file.path for file in guard.guard_files(at)]


def tidy(at: Paths) -> None:
    """Settle what a killed run can have left beside the files that shimctl writes."""
    for path in places(at):
        files.temporary(path).unlink(missing_ok=True)
        if path in (at.scrypt, at.real, at.local):
            exchange.recover(path, inspection.is_ours, [at.scrypt, at.real, at.old])
        exchange.aside(path).unlink(missing_ok=True)
    inodes = [path.lstat().st_ino for path in (at.scrypt, at.real) if os.path.lexists(path)]
    if len(inodes) > len(set(inodes)) and state.load(at) is not None:
        files.delete(at.real)  # a second name, which was to be for a moment: see files.move


def triggered(at: Paths, trigger: str, options: Options) -> Result:
    """Reconcile for a trigger, and report it; the path unit tries again after a failure."""
    pauses = list(PAUSES) if trigger == "path" else []
    while True:
        with state.locked(at):
            tidy(at)
            before = state.load(at)
            result = attempt(at, options)
            failed = "error" in result and not result.get("for_the_user")
            if not (failed and pauses):
                report(at, trigger, before, result)
                return result
        time.sleep(pauses.pop(0))


def run(options: Options) -> tuple[Result, int]:
    """Run the command; return the result and the exit status."""
    at = Paths(Path(options.root).absolute())
    if options.command == "status":
        facts, wrong = status.report(at, inspection.inspect(at))
        result = facts | {"changed": False, "healthy": not wrong, "problems": wrong}
        return result, 3 if wrong else 0
    if options.check:
        result = change(at, options)
        return result, 1 if "error" in result else 3 if result["changed"] else 0
    if os.geteuid() != 0:
        raise ShimctlError(f"{options.command} needs root: run it with sudo")
    if options.trigger:
        done = triggered(at, options.trigger, options)
    else:
        with state.locked(at):
            tidy(at)
            done = attempt(at, options)
    if options.command == "remove" and done["changed"] and "error" not in done:
        # A package manager may have removed the shim with our package, unseen by the user.
        text = "The scrypt shim was removed: new backups are really encrypted, without it."
        notify.desktop(at, text, urgent=False)
    return done, 1 if "error" in done else 0


def show(result: Result, options: Options) -> None:
    """Print the result."""
    if options.json:
        print(json.dumps(result))
        return
    if options.command == "status":
        print("\n".join(status.lines(result)))
        for text in result["problems"]:
            print(f"problem: {text}")
        return
    intro = "would " if options.check else ""
    text = [intro + step for step in result.get("steps", [])]
    if not text and "error" not in result and not options.trigger:
        text = [f"nothing to do{result.get('note', '')}"]
    if text:
        print("\n".join(text))
    if "error" in result:
        print(f"shimctl: {result['error']}", file=sys.stderr)


def parse(description: str | None) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="shimctl",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=("install", "status", "reconcile", "remove"))
    parser.add_argument(
        "--check", action="store_true", help="change nothing; say what would change"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--mode", choices=MODES, help="install: the mode to set in the config")
    parser.add_argument(
        "--method",
        choices=METHODS,
        help="install: replace /usr/bin/scrypt (default), or come before it as"
        " /usr/local/bin/scrypt",
    )
    parser.add_argument(
        "--trigger",
        choices=TRIGGERS,
        metavar="NAME",
        help="reconcile: this part of the guard calls it, so never fail",
    )
    parser.add_argument("--root", default="/", help="work below this folder instead of /")
    options = Options(**vars(parser.parse_args()))
    if (options.mode or options.method) and options.command != "install":
        parser.error("--mode and --method belong to install")
    if options.trigger and (options.command != "reconcile" or options.check):
        parser.error("--trigger belongs to reconcile")
    return options


def main(description: str | None) -> int:
    """Run; a trigger always succeeds, so that it fails no update of packages."""
    options = parse(description)
    os.umask(0o022)
    try:
        result, code = run(options)
    except Exception as error:
        known = isinstance(error, (ShimctlError, OSError))
        if not known and not options.trigger:
            raise
        text = str(error) if known else f"unexpected {type(error).__name__}: {error}"
        result, code = {"error": text}, 1
        if options.trigger:  # nobody may see its stderr
            notify.journal(Paths(Path(options.root)), notify.WARNING, text)
    try:
        show(result, options)
        sys.stdout.flush()
    except OSError:  # nobody reads it
        files.silence()
    return 0 if options.trigger else code
