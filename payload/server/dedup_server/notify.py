# SPDX-License-Identifier: GPL-3.0-or-later
"""Messages for people."""

import contextlib
import sys

from dedup_server.errors import clean

_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def notify(text: str) -> None:
    """Write a line to stderr; when nobody reads it, it is lost."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"dedup-server: {clean(text, 800)}\n")
        sys.stderr.flush()


def human_size(size: float) -> str:
    """Return a number of bytes with 3 digits and a unit, in powers of 1000."""
    for unit in _UNITS[:-1]:
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} {_UNITS[-1]}"
