# SPDX-License-Identifier: GPL-3.0-or-later
"""get: joins a run's payload and recipe to the stream that was stored."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from dedup_store import engine, manifest, pipes, progress, recipe
from dedup_store.errors import DamagedError, NoRunError, StoreError, clean
from dedup_store.manifest import Manifest, Member, is_run_name
from dedup_store.ordering import in_order
from dedup_store.processes import ChildStream, Stream

_ZEROS = bytes(64 * 1024)


def list_runs(repository: engine.Engine) -> list[dict[str, Any]]:
    """List the summaries of all runs, oldest first (ordering.py)."""
    runs = repository.runs()
    return in_order(manifest.unpack_summary(stored.summary, stored.run) for stored in runs)


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


def resolve(repository: engine.Engine, wanted: str) -> str:
    """Give the name of a run: a list, which takes a start of the engine, is read only if needed."""
    return wanted if is_run_name(wanted) else str(find(repository, wanted)["run"])


def read_manifest(repository: engine.Engine, run: str) -> tuple[Manifest, bytes]:
    """Read a run's manifest and compressed recipe.

    Raises:
        NoRunError: when there is no such run.
        DamagedError: when they aren't what was stored.
    """
    try:
        data = repository.manifest(run)
    except StoreError:
        find(repository, run)
        raise
    line, _, packed = data.partition(b"\n")
    found = manifest.from_json(line, run)
    if len(packed) != found.recipe_length or _sha256(packed) != found.recipe_sha256:
        raise DamagedError(f"the recipe of {run} is damaged")
    return found, packed


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Choice:
    """The members that are wanted of a run, and the payload objects that have them.

    Attributes:
        is_all: whether all of the stream is wanted.
        objects: numbers of the payload objects to read, ascending.
        length: bytes of the stream that are wanted.
    """

    def __init__(self, found: Manifest, prefixes: Sequence[str] | None) -> None:
        """Choose.

        Args:
            found: the run.
            prefixes: beginnings of names, as upstream's tar2qfile takes them; None for all.
        """
        self.is_all = prefixes is None
        self._prefixes = tuple(prefixes or ())
        wanted = [member for member in found.members if self.wants(member)]
        # what isn't wanted but lies in the same object, in front of it, has to be read too
        self._objects = {member.object for member in wanted if member.object is not None}
        self.objects: Sequence[int] = sorted(self._objects)
        self.length = sum(member.length for member in wanted)
        if self.is_all:
            self.objects, self.length = range(len(found.objects)), found.stream_length

    def wants(self, member: Member | None) -> bool:
        """Tell whether a member is wanted."""
        if self.is_all:
            return True
        return bool(member and member.name and member.name.startswith(self._prefixes))

    def reads(self, member: Member | None) -> bool:
        """Tell whether a member's payload is in an object that is read."""
        return bool(member and member.object in self._objects)

    def is_done(self, written: int) -> bool:
        """Tell whether nothing more is wanted."""
        return not self.is_all and written == self.length


class Joiner:
    """Writes the stream, and checks each member's payload against the manifest.

    Attributes:
        written: bytes so far.
    """

    def __init__(self, found: Manifest, payload: Stream, fd: int, choice: "Choice") -> None:
        """Read payload, write to fd."""
        self._members = iter(found.members)
        self._choice = choice
        self._payload = payload
        self._fd = fd
        self._buffer = memoryview(bytearray(pipes.BUFFER))
        self._member: Member | None = None
        self._hash = hashlib.sha256()
        self.written = 0

    def run(self, packed: bytes) -> None:
        """Write the stream that a compressed recipe describes, or what is wanted of it."""
        for kind, count, data in recipe.operations(packed):
            if kind == recipe.MEMBER:
                self._check_member()
                if self._choice.is_done(self.written):
                    return
                self._member = next(self._members, None)
                self._hash = hashlib.sha256()
            elif self._choice.wants(self._member):
                self._do(kind, count, data)
            elif kind == recipe.COPY and self._choice.reads(self._member):
                self._skip(count)
        self._check_member()
        if next(self._members, None) is not None:
            raise DamagedError("the recipe is shorter than the manifest says")
        if self._choice.is_all and self._payload.readinto(self._buffer):
            raise DamagedError("there is more payload than the recipe uses")

    def _do(self, kind: bytes, count: int, data: bytes) -> None:
        """Do an operation within a member."""
        if kind == recipe.LITERAL:
            self._write(data)
        elif kind == recipe.PAYLOAD:
            self._hash.update(data)
            self._write(data)
        elif kind == recipe.ZEROS:
            self._zeros(count)
        else:
            self._copy(count)

    def _check_member(self) -> None:
        """Compare the payload of the member that ended."""
        member = self._member
        if (
            member
            and self._choice.wants(member)
            and self._hash.hexdigest() != member.payload_sha256
        ):
            raise DamagedError(f"{clean(member.name or 'the unsplit part', 120)} is damaged")

    def _copy(self, count: int) -> None:
        for piece in self._pieces(count):
            self._hash.update(piece)
            self._write(piece)

    def _skip(self, count: int) -> None:
        """Pass over payload that lies in front of what is wanted."""
        for _ in self._pieces(count):
            pass

    def _pieces(self, count: int) -> Iterator[memoryview]:
        while count:
            got = self._payload.readinto(self._buffer[: min(count, pipes.BUFFER)])
            if not got:
                raise DamagedError("there is less payload than the recipe needs")
            yield self._buffer[:got]
            count -= got

    def _zeros(self, count: int) -> None:
        while count:
            piece = _ZEROS[:count]
            self._write(piece)
            count -= len(piece)

    def _write(self, data: bytes | memoryview) -> None:
        pipes.write_all(self._fd, data)
        self.written += len(data)


class Reading:
    """A run that is read, as a context manager that stops the engine.

    Attributes:
        manifest: of the run.
    """

    def __init__(
        self, repository: engine.Engine, wanted: str, prefixes: Sequence[str] | None = None
    ) -> None:
        """Begin.

        Args:
            repository: where from.
            wanted: a run's name, or `latest`, the newest whole one.
            prefixes: only members whose names begin with one of these, each with all of its bytes;
                None for the whole stream. Only payload objects that have some of them are read.

        Raises:
            NoRunError: when there is no such run.
            StoreError: when the engine failed, or the manifest isn't what was stored.
        """
        run = resolve(repository, wanted)
        begun = repository.begin(run) if prefixes is None else None
        self._payload: Stream | None = begun
        try:
            self.manifest, self._recipe = read_manifest(repository, run)
            self._choice = Choice(self.manifest, prefixes)
            if self._choice.objects:
                self._payload = repository.payload(run, self._choice.objects, begun)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Reading":
        """Nothing more to do."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop what still runs."""
        self.close()

    def close(self) -> None:
        """Stop the engine."""
        if self._payload:
            self._payload.close()

    def write(self, fd: int) -> None:
        """Write the stream, or what is wanted of it, to a file descriptor.

        Raises:
            StoreError: when the engine failed, or the data aren't what was stored; what was
                written by then is not the whole stream, or not known to be right.
            BrokenPipeError: when the reader has gone.
        """
        pipes.widen(fd)
        payload = self._payload if self._choice.objects else None
        joiner = Joiner(self.manifest, payload or ChildStream(), fd, self._choice)
        with progress.shown(lambda: joiner.written):
            joiner.run(self._recipe)
        if joiner.written != self._choice.length:
            run, wrong, right = self.manifest.run, joiner.written, self._choice.length
            raise DamagedError(f"{run} has {wrong} bytes instead of {right}")
