# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the commands of qubes-dedup-backup; options.py has their command line."""

import json
from collections.abc import Callable

from dedup_backup import judging, listing, making, options, removing
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
        return _COMMANDS[arguments.command](Context(arguments))
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
