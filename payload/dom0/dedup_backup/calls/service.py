# SPDX-License-Identifier: GPL-3.0-or-later
"""Calls of services in qubes, with limits on what they send."""

import contextlib
import json
import os
import select
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

from dom0_common.text import clean

from dedup_backup.calls import qubesd
from dedup_backup.errors import BackupError

PATIENCE = 4000  # seconds; dedup-store itself waits 3600 for a locked repository
MAX_PATIENCE = 10**7  # 115 days
# Bytes a second. A link of 1 Mbit/s brings twice that, and a backup of 100 GB takes 18 days by it.
SLOWEST = 64 << 10
_MAX_LINE = 8192
# Bytes: 100,000 lines of 670. No output of dedup-store is longer, and nobody reads longer errors.
_MAX_ANSWER = 64 << 20
_STDERR = 2000  # bytes of it that are kept
_NO_SUCH_RUN = 4  # dedup-store's exit code


class NoRunError(BackupError):
    """The store has no such run."""


class Call:
    """A command in a qube, for use in a `with` statement, which ends it."""

    def __init__(self, process: "subprocess.Popen[bytes]", what: str, patience: int) -> None:
        """Take the process, and limit how long it runs.

        All the time that this waits for it must be less than the patience and what its output
        takes at SLOWEST. Fast output earns no credit beyond the patience.

        Args:
            process: the call.
            what: what it is, for messages.
            patience: seconds.
        """
        if process.stdout is None or process.stderr is None:
            raise BackupError(f"{what}: no pipe to the qube")
        self._process = process
        self._what = what
        self._patience = patience
        self._credit = float(patience)
        self._out = process.stdout.fileno()
        self._poll = select.poll()
        self._poll.register(self._out, select.POLLIN)
        self._said = b""
        self._listener = threading.Thread(
            target=self._listen, args=(process.stderr.fileno(),), daemon=True
        )
        self._listener.start()

    def __enter__(self) -> "Call":
        return self

    def __exit__(self, *_: object) -> None:
        """End the command if it still runs; the qube sees a closed pipe."""
        self._process.kill()
        self._process.wait()

    def read(self, size: int) -> bytes:
        """Read at most size bytes; none at the end.

        Raises:
            BackupError: the qube said nothing, or too little, for a long time.
        """
        began = time.monotonic()
        ready = self._poll.poll(max(0, self._credit) * 1000)
        self._credit -= time.monotonic() - began
        if not ready:
            raise BackupError(
                f"{self._what}: the qube sends too little: less than {SLOWEST >> 10} KiB a second"
                f" for {self._patience} seconds; if its storage is slow, give --patience SECONDS"
            )
        data = os.read(self._out, size)
        self._credit = min(self._patience, self._credit + len(data) / SLOWEST)
        return data

    def lines(self, limit: int) -> Iterator[dict[str, Any]]:
        """Read a JSON object from each line.

        Raises:
            BackupError: the output isn't that, or has more lines, or is too long.
        """
        left, count, length = b"", 0, 0
        while data := self.read(65536):
            length += len(data)
            if length > _MAX_ANSWER:
                raise BackupError(f"{self._what}: the reply is too long")
            *whole, left = (left + data).split(b"\n")
            for line in whole:
                count += 1
                if count > limit:
                    raise BackupError(f"{self._what}: more than {limit} lines")
                yield self._object(line)
            if len(left) > _MAX_LINE:
                raise BackupError(f"{self._what}: a line is too long")
        if left:
            raise BackupError(f"{self._what}: the reply is cut")

    def send(self, data: bytes) -> None:
        """Send all its input, and the end; a command that has ended reports why at its end."""
        if self._process.stdin is None:
            raise BackupError(f"{self._what}: it takes no input")
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(data)
            self._process.stdin.close()

    def answer(self) -> dict[str, Any]:
        """Read its only line, a JSON object, and wait for its end.

        Raises:
            BackupError: it failed, or the output isn't that.
        """
        rows = list(self.lines(1))
        self.finish()
        if not rows:
            raise BackupError(f"{self._what}: there is no reply")
        return rows[0]

    def finish(self) -> None:
        """Wait for the command's end.

        Raises:
            NoRunError: dedup-store says that there is no such run.
            BackupError: it failed.
        """
        try:
            code = self._process.wait(self._patience)
        except subprocess.TimeoutExpired:
            raise BackupError(f"{self._what}: it doesn't end") from None
        self._listener.join(5)
        if code:
            said = clean(self._said) or "it said nothing"
            kind = NoRunError if code == _NO_SUCH_RUN else BackupError
            raise kind(f"{self._what} failed with {code}: {said}")

    def _object(self, line: bytes) -> dict[str, Any]:
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(line) if len(line) <= _MAX_LINE else None
            if isinstance(found, dict):
                return found
        raise BackupError(f"{self._what}: malformed reply")

    def _listen(self, stderr: int) -> None:
        length = 0
        with contextlib.suppress(OSError):
            while length <= _MAX_ANSWER and (data := os.read(stderr, 65536)):
                self._said = (self._said + data)[-_STDERR:]
                length += len(data)
        if length > _MAX_ANSWER:
            self._process.kill()


def call(  # noqa: PLR0913 -- each is plain, and most have a default
    qube: str,
    service: str,
    what: str,
    *,
    feed: bool = False,
    autostart: bool = True,
    patience: int = PATIENCE,
) -> Call:
    """Call a service in a qube as its default user.

    Args:
        qube: its name.
        service: NAME or NAME+ARGUMENT.
        what: what it is, for messages.
        feed: whether something will be sent to it; else its stdin is empty.
        autostart: whether to start the qube when it is off.
        patience: seconds that it may keep us waiting, plus the time of its output at SLOWEST.

    Raises:
        BackupError: there is no such qube, it is off, or it can't be called.
    """
    process = qubesd.start_service(qube, service, what, feed=feed, autostart=autostart)
    return Call(process, f"{what} in {qube}", patience)
