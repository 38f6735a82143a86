# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line of dedup-store: runs a command, and ends with its exit code."""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from typing import NoReturn

from dedup_store import config, options
from dedup_store.actions import check, forget, get, prune, put, restore_service, show, stats
from dedup_store.actions import list as list_action
from dedup_store.actions.setup import accept, export_keys, init, mount, set_password, version
from dedup_store.errors import EXIT_READER_GONE, StoreError, clean
from dedup_store.system import disk_errors, notify, streams

_STDIN = 0
_ACTIONS: dict[str, Callable[[argparse.Namespace, config.Config], int]] = {
    "set-password": set_password.run,
    "init": init.run,
    "mount": mount.run,
    "export-keys": export_keys.run,
    "put": put.run,
    "get": get.run,
    "show": show.run,
    "list": list_action.run,
    "check": check.run,
    "stats": stats.run,
    "forget": forget.run,
    "prune": prune.run,
    "accept": accept.run,
    "restore-service": restore_service.run,
}


def main() -> int:
    """Run the command line's command.

    Returns:
        The exit code.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminated)
    arguments = options.parse()
    try:
        if arguments.command == "version":  # whatever the configuration is
            return version.run(arguments)
        return _ACTIONS[arguments.command](arguments, config.load(arguments.repository))
    except StoreError as error:
        notify.say(str(error))
        _drain_if_put(arguments)
        if arguments.json:
            row = {"error": clean(str(error)), "exit_code": error.exit_code}
            notify.as_json(row, on_stderr=arguments.command == "get")
        return error.exit_code
    except BrokenPipeError:
        notify.forget_stdout()
        # Qubes stops reading when it has all that it wants, and takes another status for a failure
        # of the restore (qubes-core-agent-linux qubes-rpc/qubes.RestoreById).
        return 0 if arguments.command == "get" else EXIT_READER_GONE
    except OSError as error:
        notify.say(str(_described(error, arguments.command)))
        _drain_if_put(arguments)
        return StoreError.exit_code
    except KeyboardInterrupt:
        return 130


def _described(error: OSError, command: str) -> StoreError:
    """Describe the system's error; except to the engine, `put` writes only a temporary file."""
    if error.filename:
        return disk_errors.of_file(error, str(error.filename), "its disk, in this qube,")
    if command == "put" and disk_errors.kind_of(error.errno):
        disk = disk_errors.temporary_disk(tempfile.gettempdir())
        return disk_errors.of_file(error, "a temporary file can't be written", disk)
    return StoreError(f"input or output: {error.strerror}")


def _terminated(_number: int, _frame: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # one is enough; now the engine is stopped
    sys.exit(143)


def _drain_if_put(arguments: argparse.Namespace) -> None:
    """Read stdin to its end when put failed: Qubes must not take an early end for success."""
    if arguments.command == "put" and not os.isatty(_STDIN):
        streams.drain(_STDIN)
