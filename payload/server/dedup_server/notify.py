# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said to people."""

import contextlib
import sys

from dedup_server.errors import clean

_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def say(text: str) -> None:
    """Tell something on stderr, if anybody listens."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"dedup-server: {clean(text, 800)}\n")
        sys.stderr.flush()


def amount(size: float) -> str:
    """Give a number of bytes as people read it: 3 digits, and powers of 1000."""
    for unit in _UNITS[:-1]:
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} {_UNITS[-1]}"
