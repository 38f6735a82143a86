# SPDX-License-Identifier: GPL-3.0-or-later
"""The way in: an official backup stream split into payload and recipe, in one pass.

The outer stream (qubes-core-admin qubes/backup.py SendWorker.run) is a concatenation of archives
with one member each. Bytes that don't fit that pattern are kept as they come, unsplit, from there
to the end: whatever comes in, the join gives the same bytes back.
"""

import hashlib
from dataclasses import dataclass
from typing import Protocol

from backup_format import container
from backup_format.limits import CHUNK_BYTES, MAX_MEMBERS
from backup_format.members import split_chunk

from dedup_store.archive import tar
from dedup_store.archive.completeness import Completeness
from dedup_store.archive.manifest import Member
from dedup_store.archive.recipe import RecipeWriter
from dedup_store.system.streams import InputStream

OBJECT_BYTES = 16 << 20  # a volume at least this large gets a payload object of its own
QUBE_BYTES = 1 << 20  # qubes share an object only while it is smaller than this
INLINE_BYTES = 64 * 1024  # a member up to this size stays in the recipe
_PEEK = 16 * 1024
_NOTHING = hashlib.sha256().hexdigest()


class Writer(Protocol):
    """A receiver of payload: see engines/base.py."""

    def open_object(self) -> None:
        """Begin the next payload object."""

    def write(self, data: memoryview) -> None:
        """Add to the open object."""

    def close_object(self) -> None:
        """End the open object."""


class _CutError(Exception):
    """An early end of the stream."""


class PayloadSink:
    """The layout of payload in objects.

    Attributes:
        objects: length of each object so far.
    """

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._is_open = False
        self._folder = ""
        self.objects: list[int] = []

    def begin(self, folder: str, size: int) -> None:
        """Begin a volume.

        Args:
            folder: of its members, which the other volumes of the qube have, too.
            size: bytes of its first chunk.
        """
        is_other, self._folder = folder != self._folder, folder
        if self._is_open:
            there = self.objects[-1]
            if max(size, there) >= OBJECT_BYTES or (is_other and there >= QUBE_BYTES):
                self.end()

    def end(self) -> None:
        """End the open object."""
        if self._is_open:
            self._writer.close_object()
            self._is_open = False

    def position(self) -> tuple[int, int]:
        """Return the object, and the offset in it, of the next byte."""
        return (
            (len(self.objects) - 1, self.objects[-1]) if self._is_open else (len(self.objects), 0)
        )

    def write(self, data: memoryview) -> None:
        """Add payload."""
        if not self._is_open:
            self._writer.open_object()
            self.objects.append(0)
            self._is_open = True
        self._writer.write(data)
        self.objects[-1] += len(data)


@dataclass
class _CurrentMember:
    """The member that is being read."""

    member: Member
    hash: "hashlib._Hash"
    seen: int = 0  # payload bytes, fewer than announced when the stream is cut

    def add(self, data: bytes | memoryview) -> None:
        self.hash.update(data)
        self.seen += len(data)


class Splitter:
    """A reader of one stream.

    Args:
        source: the stream.
        recipe: takes what isn't payload.
        sink: takes the payload.
        chunk: bytes of the largest chunk.

    Attributes:
        members: what was found, in the order of the stream.
        completeness: judges what was seen.
    """

    def __init__(
        self,
        source: InputStream,
        recipe: RecipeWriter,
        sink: PayloadSink,
        chunk: int = CHUNK_BYTES,
    ) -> None:
        self.members: list[Member] = []
        self.completeness = Completeness(chunk)
        self._chunk = chunk
        self._source = source
        self._recipe = recipe
        self._sink = sink
        self._archive_start: int | None = None

    def run(self) -> None:
        """Read all of the stream.

        Raises:
            StoreError: when the engine fails.
        """
        try:
            while head := self._source.peek(tar.BLOCK):
                if self._archive_start is not None and tar.is_zero(head):
                    self._end_of_archive()
                else:
                    self._member()
            if self._archive_start is not None:
                raise _CutError
        except _CutError:
            self.completeness.problem(f"the stream is cut after {self._source.position} bytes")
        except tar.TarError as error:
            self.completeness.problem(
                f"no backup archive from byte {self._source.position} on: {error}"
            )
            self._rest()
        self._finish_member()
        self._sink.end()

    def _end_of_archive(self) -> None:
        """Read two zero blocks, and padding to a full record."""
        if not tar.is_zero(self._literal(2 * tar.BLOCK)[tar.BLOCK :]):
            raise tar.TarError("half an end marker")
        start = self._archive_start or 0
        if self._literal(-(self._source.position - start) % tar.RECORD).strip(b"\0"):
            raise tar.TarError("data behind the end marker")
        self._archive_start = None

    def _member(self) -> None:
        """Read a member: extension headers, header, data, padding."""
        if len(self.members) >= MAX_MEMBERS:  # from here on the stream is kept unsplit
            raise tar.TarError("too many members")
        head = self._source.peek(tar.BLOCK)
        if len(head) == tar.BLOCK:
            tar.parse_header(head)  # or all from here on is no member
        if self._archive_start is None:
            self._archive_start = self._source.position
        part = self._start_member()
        header = self._header()
        part.member.name = header.name
        self._data(part, header)
        self._literal(-header.size % tar.BLOCK)
        self.completeness.finish(header.name)

    def _start_member(self) -> _CurrentMember:
        self._finish_member()
        member = Member(None, self._source.position, payload_sha256=_NOTHING)
        self.members.append(member)
        self._recipe.member()
        return _CurrentMember(member, hashlib.sha256())

    def _finish_member(self) -> None:
        """Set the last member's length: all up to here."""
        if self.members:
            self.members[-1].length = self._source.position - self.members[-1].offset

    def _header(self) -> tar.Header:
        overrides: dict[str, str] = {}
        while True:
            # looked at before it is consumed: what isn't a header belongs to the unsplit rest
            header = tar.parse_header(self._peek_block())
            if header.is_extension and header.size > tar.MAX_EXTENSION:
                raise tar.TarError("an extension header is too long")
            self._literal(tar.BLOCK)
            if not header.is_extension:
                tar.apply_overrides(header, overrides)
                return header
            data = self._literal(tar.padded(header.size))
            tar.apply_extension(header.kind, data[: header.size], overrides)

    def _peek_block(self) -> bytes:
        block = self._source.peek(tar.BLOCK)
        if len(block) < tar.BLOCK:
            self._literal(tar.BLOCK)
        return block

    def _data(self, part: _CurrentMember, header: tar.Header) -> None:
        """Read a member's data: a container that we know, or anything."""
        member, size = part.member, header.size
        start = self._source.peek(min(size, container.HEAD_BYTES))
        member.container = _kind_of(start, size)
        known = member.container == container.AUTHENTICATED
        payload = size - container.OVERHEAD if known else size
        self.completeness.begin(header.name, member.container, payload)
        if known:
            self._literal(container.HEAD_BYTES)
        try:
            self._payload(part, payload)
        finally:
            member.payload_length = part.seen
            member.payload_sha256 = part.hash.hexdigest()
        if known:
            self._literal(container.TRAILER_BYTES)

    def _payload(self, part: _CurrentMember, left: int) -> None:
        chunk = split_chunk(part.member.name or "")
        if chunk is None or chunk[1] == 0:
            head = left
            if left > INLINE_BYTES:
                self._sink.begin(_folder(part.member.name or ""), left)
                head = tar.head_length(self._source.peek(min(left, _PEEK)))
            self._payload_literal(part, head)
            left -= head
        self._copy(part, left)

    def _copy(self, part: _CurrentMember, left: int | None) -> None:
        """Send payload to the engine; all that comes when left is None."""
        member = part.member
        member.object, member.object_offset = self._sink.position()
        limit = 1 << 62 if left is None else left
        while limit:
            data = self._source.some(limit)
            if not data:
                break
            limit -= len(data)
            self._sink.write(data)
            part.add(data)
            self.completeness.feed(data)
            self._recipe.copied(len(data))
            member.object_length += len(data)
        if not member.object_length:
            member.object = None
        if left is not None and limit:
            raise _CutError

    def _rest(self) -> None:
        """Keep the rest, which is no archive, unsplit."""
        part = self._start_member()
        self._sink.end()
        self._copy(part, None)
        part.member.payload_length = part.seen
        part.member.payload_sha256 = part.hash.hexdigest()

    def _payload_literal(self, part: _CurrentMember, count: int) -> None:
        data = self._source.exactly(count)
        self._recipe.literal(data, payload=True)
        part.add(data)
        self.completeness.feed(memoryview(data))
        if len(data) < count:
            raise _CutError

    def _literal(self, count: int) -> bytes:
        data = self._source.exactly(count)
        self._recipe.literal(data)
        if len(data) < count:
            raise _CutError
        return data


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _kind_of(start: bytes, size: int) -> str:
    kind = container.kind_of(start)
    is_sound = kind == container.NONE or container.has_sound_head(start, size)
    return kind if is_sound else container.DAMAGED
