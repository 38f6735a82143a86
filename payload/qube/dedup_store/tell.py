# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person or a program is told: one line on stderr, a report on stdout."""

import contextlib
import json
import os
import sys
from collections.abc import Iterable
from typing import Any

from dedup_store.errors import clean

_STDOUT = 1


def say(text: str) -> None:
    """Tell the user, in one line. Qubes keeps some hundred characters of it."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"dedup-store: {clean(text, 600)}\n")
        sys.stderr.flush()


def warn(text: str) -> None:
    """Tell the user of something that may be wrong."""
    say(f"warning: {text}")


def as_json(data: object, *, on_stderr: bool = False) -> None:
    """Report to a program."""
    stream = sys.stderr if on_stderr else sys.stdout
    stream.write(json.dumps(data) + "\n")
    stream.flush()


def as_lines(rows: Iterable[dict[str, Any]]) -> None:
    """Report to a program that reads line by line."""
    for row in rows:
        sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


def report(data: dict[str, Any], text: str, *, to_program: bool) -> None:
    """Report to a program, or text to a person."""
    if to_program:
        as_json(data)
    elif text:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def forget_stdout() -> None:
    """Keep the interpreter's last flush from complaining about a closed pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), _STDOUT)


def size(count: int) -> str:
    """Write a number of bytes as a person reads it."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
