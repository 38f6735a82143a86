# SPDX-License-Identifier: GPL-3.0-or-later
"""The recipe: all bytes of a stream that aren't in a payload object, and how to join both.

A sequence of operations, compressed with zlib. Each is one byte and a length (8 bytes, big
endian), and for `L` and `P` that many bytes:

| op | meaning |
| --- | --- |
| `M` | the next member begins (length 0) |
| `L` | these bytes, of the wrapping |
| `P` | these bytes, of the member's payload |
| `Z` | that many zero bytes, of the wrapping |
| `C` | that many bytes of the member's payload, next in the payload objects |
"""

import hashlib
import struct
import tempfile
import zlib
from collections.abc import Iterator
from typing import IO

from dedup_store.errors import DamagedError

MEMBER, LITERAL, PAYLOAD, ZEROS, COPY = b"M", b"L", b"P", b"Z", b"C"
_OP = struct.Struct(">cQ")
_MAX_BYTES = 1 << 20  # longest literal that a reader accepts


class RecipeWriter:
    """A recipe in the making, compressed (about 4 MB per TB of stream)."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 -- lives as long as this
        self._zlib = zlib.compressobj(6)
        self._hash = hashlib.sha256()
        self._copied = 0
        self.length = 0

    def member(self) -> None:
        """Begin the next member."""
        self._op(MEMBER, 0)

    def literal(self, data: bytes, *, payload: bool = False) -> None:
        """Add bytes, of the wrapping or of the payload."""
        if not data:
            return
        if not payload and not data.strip(b"\0"):
            self._op(ZEROS, len(data))
            return
        self._op(PAYLOAD if payload else LITERAL, len(data))
        self._put(self._zlib.compress(data))

    def copied(self, count: int) -> None:
        """Add a reference to bytes that went to the payload objects."""
        self._copied += count

    def finish(self) -> tuple[IO[bytes], str]:
        """End the recipe.

        Returns:
            The compressed recipe, positioned at its beginning, and its SHA-256 in hex.
        """
        self._flush_copied()
        self._put(self._zlib.flush())
        self._file.seek(0)
        return self._file, self._hash.hexdigest()

    def _flush_copied(self) -> None:
        if self._copied:
            count, self._copied = self._copied, 0
            self._put(self._zlib.compress(_OP.pack(COPY, count)))

    def _op(self, kind: bytes, count: int) -> None:
        self._flush_copied()
        self._put(self._zlib.compress(_OP.pack(kind, count)))

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.length += len(data)


class _Inflater:
    """A reader of exact counts from compressed bytes, with bounded memory."""

    _STEP = 16 * 1024

    def __init__(self, packed: bytes) -> None:
        self._zlib = zlib.decompressobj()
        self._packed = packed
        self._next = 0
        self._plain = bytearray()

    def exactly(self, count: int) -> bytes:
        """Return the next count bytes; fewer only at the end."""
        while len(self._plain) < count and not self._zlib.eof:
            piece = self._zlib.unconsumed_tail
            if not piece:
                piece = self._packed[self._next : self._next + self._STEP]
                self._next += len(piece)
            try:
                more = self._zlib.decompress(piece, 4 * self._STEP)
            except zlib.error:
                raise DamagedError("the recipe can't be decompressed") from None
            if not piece and not more:
                raise DamagedError("the recipe is cut")
            self._plain += more
        data = bytes(self._plain[:count])
        del self._plain[:count]
        return data


def operations(packed: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    """Read a recipe.

    Args:
        packed: the compressed recipe.

    Yields:
        Operation, length, and the bytes for `L` and `P` (else none).

    Raises:
        DamagedError: when it isn't a recipe.
    """
    source = _Inflater(packed)
    while head := source.exactly(_OP.size):
        if len(head) < _OP.size:
            raise DamagedError("the recipe is cut")
        kind, count = _OP.unpack(head)
        data = b""
        if kind in (LITERAL, PAYLOAD):
            if count > _MAX_BYTES:
                raise DamagedError("the recipe has an impossible length")
            data = source.exactly(count)
            if len(data) < count:
                raise DamagedError("the recipe is cut")
        elif kind not in (MEMBER, ZEROS, COPY):
            raise DamagedError("the recipe has an unknown operation")
        yield kind, count, data
