# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the commands of qubes-dedup-backup; options.py has their command line."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

from shimctl_lib import alarm
from shimctl_lib.layout import Layout as ShimLayout
from shimctl_lib.layout import ShimctlError

from dedup_backup import judging, listing, making, options, removing, restore_guide
from dedup_backup.context import Context, say
from dedup_backup.errors import BackupError, clean

_COMMANDS: dict[str, Callable[[Context], int]] = {
    "init": making.init,
    "secrets": making.secrets,
    "confirm": judging.confirm,
    "verify": judging.verify,
    "list": listing.list_runs,
    "forget": removing.forget,
    "prune": removing.prune,
}


def main() -> int:
    """Run the command line's command.

    Returns:
        The exit code.
    """
    arguments = options.parse()
    try:
        if arguments.command == "restore-guide":  # as the user, without a store
            restore_guide.restore(arguments.words, unchecked=arguments.unchecked)
        context = Context(arguments)
        _say_alarm(Path(arguments.root))
        return _COMMANDS[arguments.command](context)
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


def _say_alarm(root: Path) -> None:
    with contextlib.suppress(OSError, ShimctlError):  # it is not what was asked for
        if text := alarm.warning(ShimLayout(root)):
            say(f"warning: {text}")
