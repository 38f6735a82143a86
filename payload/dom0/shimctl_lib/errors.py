# SPDX-License-Identifier: GPL-3.0-or-later
"""Constants, errors, and running other programs with a limit on everything."""

import contextlib
import subprocess
from collections.abc import Mapping, Sequence

from dom0_common.paths import GUARD, PROGRAMS, SHIM, Paths
from dom0_common.text import clean as printable

__all__ = ["GUARD", "PROGRAMS", "SHIM", "Layout", "ask", "printable"]
Layout = Paths
MODES = ("authenticated", "off")
METHODS = ("replace", "path")
TRIGGERS = ("rpm", "dnf4", "dnf5", "path", "boot", "backup")
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
GUIDES_BACKUPS = (
    "what the forum guide's script made is restored with `qubes-dedup-backup restore-guide`"
)
REINSTALL = (
    "reinstall its package (dom0: sudo qubes-dom0-update --action=reinstall scrypt; Debian:"
    " sudo apt-get install --reinstall scrypt), then try again"
)


class ShimctlError(Exception):
    """A failure to show to the user: what, where, and what to do."""


class ChangedError(ShimctlError):
    """A file was replaced after the look, so the plan is void."""


def ask(
    argv: Sequence[str], seconds: float = 10, environment: Mapping[str, str] | None = None
) -> tuple[int, bytes, bytes] | None:
    """Run a program without input; return status, stdout, stderr, or None if it can't be had."""
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
