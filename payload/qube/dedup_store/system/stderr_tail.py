# SPDX-License-Identifier: GPL-3.0-or-later
"""The kept part of an engine's stderr, and the error message from it."""

import contextlib
import json
import re

from dedup_store.errors import clean
from dedup_store.system.disk_errors import EngineDisks, PermanentFailure, is_of_other_side

STDERR_BYTES = 8192
# borg/archiver.py main: a message, a traceback, and (helpers/misc.py sysinfo) where it runs. Other
# tracebacks (`Exception ignored in ...`) stay: they come behind a message that may be of a lock.
_TRACEBACK = re.compile(
    r"(.*)\n(?:Remote: )?Traceback \(most recent call last\)(?s:.*?)"
    r"\n(.*)\n+(?:Remote: \n)*(?:Remote: |Borg server: )?Platform: "
)
# restic 0.14 has the calls that led to an error behind its cause (github.com/pkg/errors)
_CALLS = re.compile(r"^[\w./-]+\.[\w.()*-]+\n\t\S+:\d+$\n?", re.MULTILINE)
# restic's unlock can signal an innocent process (engines/restic/locks.py)
_UNLOCK = re.compile(r"\s+the `unlock` command can be used to remove stale locks")
_NO_UNLOCK = "; if its process is gone, try again: the next backup or prune removes such a lock"
_FIRST_LINES = 2
_MAX_FIRST = 300  # characters


class StderrTail:
    """The beginning and the end of what a program writes to stderr.

    Attributes:
        last: its end.
        failure: what it retries without success.
    """

    def __init__(self, disks: EngineDisks) -> None:
        self.last = self._first = self._line = b""
        self._lines = 0
        self._disks = disks
        self.failure: PermanentFailure | None = None

    def add(self, data: bytes) -> None:
        """Take more of stderr."""
        self.last = (self.last + data)[-STDERR_BYTES:]
        self._first += data[: STDERR_BYTES - len(self._first)]
        self._lines += data.count(b"\n")
        *lines, rest = (self._line + data).split(b"\n")
        self._line = rest[-STDERR_BYTES:]
        for line in lines if self.failure is None else []:
            text = line.decode(errors="replace")
            self.failure = self.failure or self._disks.find(text, tried=True)

    def cause(self) -> PermanentFailure | None:
        """Return the permanent failure that ended the program, None when there is none."""
        lines = reversed(self.last.decode(errors="replace").splitlines())
        found = (self._disks.find(line, tried=False) for line in lines)
        return self.failure or next(filter(None, found), None)

    def message(self) -> str:
        """Return why it failed (restic 0.17 and later: in JSON, if requested)."""
        text = self.last.decode(errors="replace")
        with contextlib.suppress(ValueError):
            *before, line = text.strip().split("\n")
            last = json.loads(line)
            if isinstance(last, dict) and isinstance(last.get("message"), str):
                others = [line for line in before if is_of_other_side(line)]
                text = "\n".join([*others, last["message"]])
        if found := _TRACEBACK.search(text):
            text = f"{found[1]} {found[2]}"
        return clean(_UNLOCK.sub(_NO_UNLOCK, _CALLS.sub("", text)))

    def first_ones(self) -> str:
        """Return a check's first findings; borg can write thousands of lines, one per piece."""
        lines = self._first.decode(errors="replace").splitlines()
        more = self._lines - _FIRST_LINES
        text = clean(" ".join(lines[:_FIRST_LINES]), _MAX_FIRST)
        return f"{text} (and {more} more lines)" if more > 0 else text
