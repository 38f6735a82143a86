# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands and processes of the machine that the lab runs on."""

from __future__ import annotations

import subprocess
from pathlib import Path

from .paths import LabError


def run(argv: list[str], env: dict[str, str] | None = None) -> str:
    """Run a host command and return its stdout.

    Raises:
        LabError: it can't be run or fails; with the last line of its stderr.
    """
    try:
        done = subprocess.run(
            argv, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=env
        )
    except FileNotFoundError as error:
        raise LabError(f"{argv[0]} is missing on this machine: run `make setup`") from error
    if done.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        raise LabError(f"{' '.join(argv[:3])} … failed ({done.returncode}): {lines[-1]}")
    return done.stdout


def process_start(pid: int) -> int | None:
    """Return when a process started (clock ticks since boot), or None if it is gone.

    Source: proc_pid_stat(5), field 22.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])
