# SPDX-License-Identifier: GPL-3.0-or-later
"""The places of payload objects in the one file that restic stores of a run.

CUT follows each object. restic ends a chunk where the fingerprint of the last 64 bytes is 0 in its
lowest bits, and 64 zero bytes have the fingerprint 0, whatever the repository's polynomial
(restic/chunker chunker.go: `digest&c.splitmask == 0`), unless the chunk has less than 512 KiB by
then. Where it ends one, a change in an object leaves the next one's chunks as they are, and a
reader of one object needs no chunk of another.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dedup_store.errors import DamagedError
from dedup_store.system.streams import BUFFER, Stream

CUT = bytes(64)


class Extent(NamedTuple):
    """A part of the file: where it begins, and its bytes."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        """Where it ends."""
        return self.offset + self.length


def file_length(lengths: Iterable[int]) -> int:
    """Return the bytes of the file that has objects of these lengths."""
    return sum(length + len(CUT) for length in lengths)


def extents(lengths: Sequence[int], wanted: Sequence[int]) -> list[Extent]:
    """Find objects in the file.

    Args:
        lengths: bytes of each object of the run.
        wanted: numbers of those to find, ascending.
    """
    offsets, offset = [], 0
    for length in lengths:
        offsets.append(offset)
        offset += length + len(CUT)
    return [Extent(offsets[number], lengths[number]) for number in wanted]


class ExtentReader:
    """Parts of a stream, one after the other (see streams.Stream).

    Args:
        stream: the file, from its beginning.
        parts: what to read of it, ascending.
        is_all: whether only CUT is between and behind the parts; then the stream must end with it.
    """

    def __init__(self, stream: Stream, parts: list[Extent], *, is_all: bool) -> None:
        self._stream = stream
        self._parts = parts
        self._is_all = is_all
        self._position = 0
        self._dropped = memoryview(bytearray(BUFFER))

    def readinto(self, buffer: memoryview) -> int:
        """Read the next bytes.

        Raises:
            StoreError: when the engine failed.
            DamagedError: the stream is longer than it was stored.
        """
        while self._parts:
            part = self._parts[0]
            if self._position >= part.end:
                self._parts.pop(0)
            elif self._position < part.offset:
                if not self._drop(part.offset - self._position):
                    return 0
            else:
                got = self._stream.readinto(buffer[: part.end - self._position])
                self._position += got
                return got
        if self._is_all:
            self._drop(len(CUT))
            if self._stream.readinto(self._dropped):
                raise DamagedError("the payload is longer than it was stored")
            self._is_all = False
        return 0

    def _drop(self, count: int) -> bool:
        """Read and discard count bytes; return False at the end of the stream."""
        while count:
            got = self._stream.readinto(self._dropped[: min(count, BUFFER)])
            if not got:
                return False
            self._position += got
            count -= got
        return True

    def close(self) -> None:
        """Stop the engine."""
        self._stream.close()
