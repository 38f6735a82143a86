# SPDX-License-Identifier: GPL-3.0-or-later
"""The way back: a run's payload and recipe joined to the stored stream, or to some members."""

import hashlib
from collections.abc import Iterator, Sequence

from dedup_store.archive import recipe
from dedup_store.archive.manifest import Manifest, Member
from dedup_store.errors import DamagedError, clean
from dedup_store.system import streams
from dedup_store.system.streams import Stream

_ZEROS = bytes(64 * 1024)


class MemberSelection:
    """The selected members of a run, and the payload objects that hold them.

    Args:
        found: the run.
        prefixes: beginnings of names, as upstream's tar2qfile takes them; None for all.

    Attributes:
        is_all: whether all of the stream is wanted.
        objects: numbers of the payload objects to read, ascending.
        length: bytes of the stream that are wanted.
    """

    def __init__(self, found: Manifest, prefixes: Sequence[str] | None) -> None:
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
        """Return whether a member is selected."""
        if self.is_all:
            return True
        return bool(member and member.name and member.name.startswith(self._prefixes))

    def reads(self, member: Member | None) -> bool:
        """Return whether a member's payload is in an object that is read."""
        return bool(member and member.object in self._objects)

    def is_done(self, written: int) -> bool:
        """Return whether nothing more is selected."""
        return not self.is_all and written == self.length


class Joiner:
    """A writer of the stream that checks each member's payload against the manifest.

    Attributes:
        written: bytes so far.
    """

    def __init__(
        self, found: Manifest, payload: Stream, fd: int, selection: MemberSelection
    ) -> None:
        self._members = iter(found.members)
        self._selection = selection
        self._payload = payload
        self._fd = fd
        self._buffer = memoryview(bytearray(streams.BUFFER))
        self._member: Member | None = None
        self._hash = hashlib.sha256()
        self.written = 0

    def run(self, packed: bytes) -> None:
        """Write the stream that a compressed recipe describes, or the selected part of it."""
        for kind, count, data in recipe.operations(packed):
            if kind == recipe.MEMBER:
                self._check_member()
                if self._selection.is_done(self.written):
                    return
                self._member = next(self._members, None)
                self._hash = hashlib.sha256()
            elif self._selection.wants(self._member):
                self._do(kind, count, data)
            elif kind == recipe.COPY and self._selection.reads(self._member):
                self._skip(count)
        self._check_member()
        if next(self._members, None) is not None:
            raise DamagedError("the recipe is shorter than the manifest says")
        if self._selection.is_all and self._payload.readinto(self._buffer):
            raise DamagedError("there is more payload than the recipe uses")

    def _do(self, kind: bytes, count: int, data: bytes) -> None:
        """Execute an operation within a member."""
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
        """Check the payload of the member that ended."""
        member = self._member
        if (
            member
            and self._selection.wants(member)
            and self._hash.hexdigest() != member.payload_sha256
        ):
            raise DamagedError(f"{clean(member.name or 'the unsplit part', 120)} is damaged")

    def _copy(self, count: int) -> None:
        for piece in self._pieces(count):
            self._hash.update(piece)
            self._write(piece)

    def _skip(self, count: int) -> None:
        """Skip payload in front of what is selected."""
        for _ in self._pieces(count):
            pass

    def _pieces(self, count: int) -> Iterator[memoryview]:
        while count:
            got = self._payload.readinto(self._buffer[: min(count, streams.BUFFER)])
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
        streams.write_all(self._fd, data)
        self.written += len(data)
