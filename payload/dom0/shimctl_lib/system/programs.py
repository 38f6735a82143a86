# SPDX-License-Identifier: GPL-3.0-or-later
"""Calls of other programs, with a limit on everything."""

import contextlib
import subprocess
from collections.abc import Mapping, Sequence

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}


def run(
    argv: Sequence[str], seconds: float = 10, environment: Mapping[str, str] | None = None
) -> tuple[int, bytes, bytes] | None:
    """Run a program without input; return status, stdout, stderr, or None if it can't run."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            start_new_session=True,  # nothing can ask on, or type into, our terminal
            env={**ENVIRONMENT, **(environment or {})},
            check=False,
        )
        return done.returncode, done.stdout, done.stderr
    return None
