# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs dedup-store in the backup qube and reads what it says, within limits.

dom0 calls qubes.VMExec there, without a shell on either side (qubes-core-admin-client
qubesadmin/vm/__init__.py run_with_args does the same, but keeps all output in memory).
"""

import contextlib
import json
import os
import re
import select
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dedup_backup.errors import BackupError, clean
from dedup_backup.settings import Source

RUN = re.compile(r"[0-9]{8}T[0-9]{6}Z-([A-Za-z0-9-]{1,64})-[0-9a-f]{4}")  # 1: the backup id
SILENCE = 4000  # seconds; dedup-store itself waits 3600 for a locked repository
MAX_RUNS, MAX_MEMBERS = 100_000, 200_000  # 200,000 full members are 20 TB
OVERHEAD = 128  # bytes of a container, scrypt's or ours, around the payload
_MAX_LINE = 8192
_MAX_LENGTH = 1 << 50
_STDERR = 2000  # bytes of it that are kept
_NO_SUCH_RUN = 4  # dedup-store's exit code
_STATUSES = ("whole", "partial", "opaque")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class NoRunError(BackupError):
    """The store has no such run."""


@dataclass(frozen=True)
class Run:
    """What the store says of a run."""

    name: str
    status: str
    reason: str


@dataclass(frozen=True, slots=True)
class Member:
    """What the store says of a member.

    Attributes:
        name: its name, cleaned.
        container: `authenticated`, `scrypt`, `none`, or another word of dedup-store's.
        length: bytes of the payload.
        sha256: of the payload, in hex.
    """

    name: str
    container: str
    length: int
    sha256: str


class Call:
    """A command that runs in the qube; to be used in a `with` statement, which ends it."""

    def __init__(self, process: "subprocess.Popen[bytes]", what: str) -> None:
        """Take the process, and what it is, for messages."""
        if process.stdout is None or process.stderr is None:
            raise BackupError(f"{what}: no pipe to the qube")
        self._process = process
        self._what = what
        self._out = process.stdout.fileno()
        self._poll = select.poll()
        self._poll.register(self._out, select.POLLIN)
        self._said = b""
        self._listener = threading.Thread(
            target=self._listen, args=(process.stderr.fileno(),), daemon=True
        )
        self._listener.start()

    def __enter__(self) -> "Call":
        """Start to use it."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the command, if it still runs; for the qube that is a closed pipe."""
        self._process.kill()
        self._process.wait()

    def read(self, size: int) -> bytes:
        """Read at most size bytes; none at the end.

        Raises:
            BackupError: the qube said nothing for a long time.
        """
        if not self._poll.poll(SILENCE * 1000):
            raise BackupError(f"{self._what}: nothing came from the qube for {SILENCE} seconds")
        return os.read(self._out, size)

    def lines(self, limit: int) -> Iterator[dict[str, Any]]:
        """Read a JSON object from each line.

        Raises:
            BackupError: the output isn't that, or has more lines.
        """
        left, count = b"", 0
        while data := self.read(65536):
            *whole, left = (left + data).split(b"\n")
            for line in whole:
                count += 1
                if count > limit:
                    raise BackupError(f"{self._what}: more than {limit} lines")
                yield self._object(line)
            if len(left) > _MAX_LINE:
                raise BackupError(f"{self._what}: a line is too long")
        if left:
            raise BackupError(f"{self._what}: the answer is cut")

    def finish(self) -> None:
        """Wait for the command's end.

        Raises:
            NoRunError: dedup-store says that there is no such run.
            BackupError: it failed.
        """
        try:
            code = self._process.wait(SILENCE)
        except subprocess.TimeoutExpired:
            raise BackupError(f"{self._what}: it doesn't end") from None
        self._listener.join(5)
        if code:
            said = clean(self._said.decode(errors="replace")) or "it said nothing"
            kind = NoRunError if code == _NO_SUCH_RUN else BackupError
            raise kind(f"{self._what} failed with {code}: {said}")

    def _object(self, line: bytes) -> dict[str, Any]:
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(line) if len(line) <= _MAX_LINE else None
            if isinstance(found, dict):
                return found
        raise BackupError(f"{self._what}: the answer can't be understood")

    def _listen(self, stderr: int) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(stderr, 65536):
                self._said = (self._said + data)[-_STDERR:]


class Store:
    """The store of one profile in one qube."""

    def __init__(self, source: Source) -> None:
        """Name it; the qube is started by the first call when it is off."""
        self._source = source

    def runs(self) -> list[Run]:
        """List the runs, oldest first."""
        with self._call("list", "--lines") as call:
            found = [_run(row) for row in call.lines(MAX_RUNS)]
            call.finish()
        return sorted(found, key=lambda run: run.name)

    def members(self, run: str) -> tuple[Run, list[Member]]:
        """List the members of a run, in the stream's order."""
        with self._call("show", "--lines", run) as call:
            rows = call.lines(MAX_MEMBERS + 1)
            head = next(rows, None)
            members = [_member(row) for row in rows]
            call.finish()
        if head is None or _run(head).name != run:
            raise BackupError(f"{self._source.qube} answered for another run")
        return _run(head), members

    def stream(self, run: str) -> Call:
        """Start to read the archive."""
        return self._call("get", run)

    def _call(self, command: str, *arguments: str) -> Call:
        # Only here, so that --help works outside dom0, as when the manual page is made.
        import qubesadmin  # noqa: PLC0415
        import qubesadmin.exc  # noqa: PLC0415
        import qubesadmin.utils  # noqa: PLC0415

        qube, profile = self._source.qube, self._source.store_profile
        words = ("dedup-store", command, "--profile", profile, *arguments)
        try:
            process = (
                qubesadmin.Qubes()
                .domains[qube]
                .run_service(
                    "qubes.VMExec+" + qubesadmin.utils.encode_for_vmexec(words),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
            )
        except KeyError:
            raise BackupError(f"there is no qube {qube}") from None
        except (qubesadmin.exc.QubesException, OSError) as error:
            raise BackupError(f"can't run dedup-store in {qube}: {clean(str(error))}") from error
        return Call(process, f"dedup-store {command} in {qube}")


def _run(row: dict[str, Any]) -> Run:
    name, status, reason = row.get("run"), row.get("status"), row.get("reason")
    if not isinstance(name, str) or not RUN.fullmatch(name):
        raise BackupError("the store names a run in a way that it never would")
    if status not in _STATUSES or not isinstance(reason, str):
        raise BackupError(f"what the store says of {name} can't be understood")
    return Run(name, status, clean(reason))


def _member(row: dict[str, Any]) -> Member:
    name, container = row.get("name"), row.get("container")
    length, sha256 = row.get("payload_length"), row.get("payload_sha256")
    # its own word for what follows no archive's pattern; no member can have this name
    name = "(no member)" if name is None else name
    if (
        not (isinstance(name, str) and isinstance(container, str) and isinstance(sha256, str))
        or type(length) is not int
        or not 0 <= length <= _MAX_LENGTH
        or not _SHA256.fullmatch(sha256)
    ):
        raise BackupError("what the store says of a member can't be understood")
    length -= 0 if container in ("authenticated", "none") else OVERHEAD
    return Member(clean(name), clean(container, 20), length, sha256)
