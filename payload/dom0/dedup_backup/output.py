# SPDX-License-Identifier: GPL-3.0-or-later
"""Messages beside a command's result."""

import sys

from dom0_common.text import clean


def say(text: str) -> None:
    """Write a line to stderr."""
    print(f"qubes-dedup-backup: {clean(text, 600)}", file=sys.stderr)
