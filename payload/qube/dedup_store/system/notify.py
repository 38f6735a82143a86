# SPDX-License-Identifier: GPL-3.0-or-later
"""Messages to a person or a program: one line on stderr, a report on stdout."""

import contextlib
import json
import os
import sys
import threading
from collections.abc import Iterable
from typing import Any

from dedup_store.errors import clean

_STDOUT, _STDERR = 1, 2
_DEFAULT_WIDTH = 80

_lock = threading.RLock()  # of the terminal
_shown = 0  # characters of the line that is shown and will be rewritten


def say(text: str) -> None:
    """Write one line to the user, on stderr. Qubes keeps some hundred characters of it."""
    with contextlib.suppress(OSError), _lock:
        clear_line()
        sys.stderr.write(f"dedup-store: {clean(text, 600)}\n")
        sys.stderr.flush()


def warn(text: str) -> None:
    """Warn the user."""
    say(f"warning: {text}")


def line(text: str) -> None:
    """Show text on stderr's terminal, in place of what was shown before."""
    global _shown  # noqa: PLW0603 -- there is one terminal
    with contextlib.suppress(OSError), _lock:
        width = os.get_terminal_size(_STDERR).columns or _DEFAULT_WIDTH
        text = text[: max(0, width - 1)]  # in the last column, some terminals begin a new line
        os.write(_STDERR, f"\r{text.ljust(min(_shown, width - 1))}".encode())
        _shown = len(text)


def clear_line() -> None:
    """Remove what line() shows, if anything."""
    global _shown  # noqa: PLW0603
    with contextlib.suppress(OSError), _lock:
        if _shown:
            line("")
            _shown = 0
            os.write(_STDERR, b"\r")


def as_json(data: object, *, on_stderr: bool = False) -> None:
    """Write a report for a program."""
    stream = sys.stderr if on_stderr else sys.stdout
    stream.write(json.dumps(data) + "\n")
    stream.flush()


def as_lines(rows: Iterable[dict[str, Any]]) -> None:
    """Write a report for a program that reads line by line."""
    for row in rows:
        sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


def report(data: dict[str, Any], text: str, *, to_program: bool) -> None:
    """Write a report for a program, or text for a person."""
    if to_program:
        as_json(data)
    elif text:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def forget_stdout() -> None:
    """Keep the interpreter's last flush from complaining about a closed pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), _STDOUT)


def size(count: int) -> str:
    """Return a number of bytes in a form for people."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
