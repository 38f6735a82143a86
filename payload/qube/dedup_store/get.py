# SPDX-License-Identifier: GPL-3.0-or-later
"""get: joins a run's payload and recipe to the stream that was stored."""

import hashlib
from typing import Any

from dedup_store import engine, manifest, pipes, recipe
from dedup_store.errors import DamagedError, NoRunError, clean
from dedup_store.manifest import Manifest, Member

_MAX_MANIFEST = 1 << 30
_ZEROS = bytes(64 * 1024)


def list_runs(repository: engine.Engine) -> list[dict[str, Any]]:
    """List the summaries of all runs, oldest first."""
    runs = sorted(repository.runs(), key=lambda stored: stored.run)
    return [manifest.unpack_summary(stored.summary, stored.run) for stored in runs]


def find(repository: engine.Engine, wanted: str) -> dict[str, Any]:
    """Find a run.

    Args:
        repository: where.
        wanted: a run's name, or `latest`, the newest whole one.

    Raises:
        NoRunError: when there is none.
    """
    runs = list_runs(repository)
    if wanted == "latest":
        whole = [run for run in runs if run["status"] == manifest.WHOLE]
        if not whole:
            raise NoRunError("there is no whole run yet")
        return whole[-1]
    for run in runs:
        if run["run"] == wanted:
            return run
    raise NoRunError(f"there is no run '{clean(wanted, 120)}': see `dedup-store list`")


def read_manifest(repository: engine.Engine, run: str) -> tuple[Manifest, bytes]:
    """Read a run's manifest and compressed recipe.

    Raises:
        DamagedError: when they aren't what was stored.
    """
    data = engine.read_all(repository.manifest(run), _MAX_MANIFEST)
    line, _, packed = data.partition(b"\n")
    found = manifest.from_json(line, run)
    if len(packed) != found.recipe_length or _sha256(packed) != found.recipe_sha256:
        raise DamagedError(f"the recipe of {run} is damaged")
    return found, packed


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Joiner:
    """Writes the stream, and checks each member's payload against the manifest.

    Attributes:
        written: bytes so far.
    """

    def __init__(self, found: Manifest, payload: engine.Stream, fd: int) -> None:
        """Read payload, write to fd."""
        self._members = iter(found.members)
        self._payload = payload
        self._fd = fd
        self._buffer = memoryview(bytearray(pipes.BUFFER))
        self._member: Member | None = None
        self._hash = hashlib.sha256()
        self.written = 0

    def run(self, packed: bytes) -> None:
        """Write the stream that a compressed recipe describes."""
        for kind, count, data in recipe.operations(packed):
            if kind == recipe.MEMBER:
                self._check_member()
                self._member = next(self._members, None)
                self._hash = hashlib.sha256()
            elif kind == recipe.LITERAL:
                self._write(data)
            elif kind == recipe.PAYLOAD:
                self._hash.update(data)
                self._write(data)
            elif kind == recipe.ZEROS:
                self._zeros(count)
            else:
                self._copy(count)
        self._check_member()
        if next(self._members, None) is not None:
            raise DamagedError("the recipe is shorter than the manifest says")
        if self._payload.readinto(self._buffer):
            raise DamagedError("there is more payload than the recipe uses")

    def _check_member(self) -> None:
        """Compare the payload of the member that ended."""
        member = self._member
        if member and self._hash.hexdigest() != member.payload_sha256:
            raise DamagedError(f"{clean(member.name or 'the unsplit part', 120)} is damaged")

    def _copy(self, count: int) -> None:
        while count:
            got = self._payload.readinto(self._buffer[: min(count, pipes.BUFFER)])
            if not got:
                raise DamagedError("there is less payload than the recipe needs")
            piece = self._buffer[:got]
            self._hash.update(piece)
            self._write(piece)
            count -= got

    def _zeros(self, count: int) -> None:
        while count:
            piece = _ZEROS[:count]
            self._write(piece)
            count -= len(piece)

    def _write(self, data: bytes | memoryview) -> None:
        pipes.write_all(self._fd, data)
        self.written += len(data)


def get(repository: engine.Engine, run: str, fd: int) -> None:
    """Write a run's stream to a file descriptor.

    Args:
        repository: where from.
        run: name of a run that exists.
        fd: where to.

    Raises:
        StoreError: when the engine failed, or the data aren't what was stored; what was written
            by then is not the whole stream, or not known to be right.
        BrokenPipeError: when the reader has gone.
    """
    found, packed = read_manifest(repository, run)
    pipes.widen(fd)
    payload = repository.payload(run, range(len(found.objects)))
    try:
        joiner = Joiner(found, payload, fd)
        joiner.run(packed)
    finally:
        payload.close()
    if joiner.written != found.stream_length:
        raise DamagedError(f"{run} has {joiner.written} bytes instead of {found.stream_length}")
