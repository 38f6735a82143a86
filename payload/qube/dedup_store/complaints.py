# SPDX-License-Identifier: GPL-3.0-or-later
"""What is kept of an engine's stderr, and what a person needs of it."""

import contextlib
import json
import re

from dedup_store.errors import clean

STDERR_BYTES = 8192
# borg/archiver.py main: a message, a traceback, and (helpers/misc.py sysinfo) where it runs. Other
# tracebacks (`Exception ignored in ...`) stay: they come behind a message that may be of a lock.
_TRACEBACK = re.compile(
    r"(.*)\n(?:Remote: )?Traceback \(most recent call last\)(?s:.*?)"
    r"\n(.*)\n+(?:Remote: \n)*(?:Remote: |Borg server: )?Platform: "
)
_FIRST_LINES = 2
_MAX_FIRST = 300  # characters


class Complaints:
    """The beginning and the end of what a program writes to stderr.

    Attributes:
        last: its end.
    """

    def __init__(self) -> None:
        """Start with nothing."""
        self.last = self._first = b""
        self._lines = 0

    def add(self, data: bytes) -> None:
        """Take more."""
        self.last = (self.last + data)[-STDERR_BYTES:]
        self._first += data[: STDERR_BYTES - len(self._first)]
        self._lines += data.count(b"\n")

    def message(self) -> str:
        """Tell why it failed (restic 0.17 and later: in JSON, if asked)."""
        text = self.last.decode(errors="replace")
        with contextlib.suppress(ValueError):
            last = json.loads(text.strip().rpartition("\n")[2])
            if isinstance(last, dict) and isinstance(last.get("message"), str):
                text = last["message"]
        if found := _TRACEBACK.search(text):
            text = f"{found[1]} {found[2]}"
        return clean(text)

    def first_ones(self) -> str:
        """Tell what a check found first; borg may write thousands of lines, one for each piece."""
        lines = self._first.decode(errors="replace").splitlines()
        more = self._lines - _FIRST_LINES
        text = clean(" ".join(lines[:_FIRST_LINES]), _MAX_FIRST)
        return f"{text} (and {more} more lines)" if more > 0 else text
