# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `version`: reports the versions of dedup-store and of the engines."""

import argparse
import subprocess

from dedup_store import VERSION
from dedup_store.errors import clean
from dedup_store.system import notify
from dedup_store.system.environment import environment

_ENGINES = {"restic": ["restic", "version"], "borg": ["borg", "--version"]}
_SECONDS = 60
_MAX_LINE = 200  # characters


def run(arguments: argparse.Namespace) -> int:
    """Report the versions of dedup-store and of the installed engines."""
    found = {"dedup-store": f"dedup-store {VERSION}"}
    found |= {name: _first_line(command) for name, command in _ENGINES.items()}
    lines = [line or f"{name}: not found" for name, line in found.items()]
    known = {name: line or None for name, line in found.items()}
    notify.report(known, "\n".join(lines), to_program=arguments.json)
    return 0


def _first_line(command: list[str]) -> str:
    """Return the first line of a program's output; empty when there is no such program."""
    try:
        done = subprocess.run(
            command, capture_output=True, check=False, env=environment(), timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    first = done.stdout.partition(b"\n")[0].decode(errors="replace")
    return "" if done.returncode else clean(first, _MAX_LINE)
