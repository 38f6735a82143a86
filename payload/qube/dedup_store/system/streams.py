# SPDX-License-Identifier: GPL-3.0-or-later
"""Streams of bytes: large buffers, and no copies in between."""

import contextlib
import fcntl
import os
from typing import Protocol

from dedup_store.errors import StoreError

# What was read is still in a processor's cache when it is hashed, and when it is written.
BUFFER = 128 << 10
_PIPE = 1 << 20


class Stream(Protocol):
    """Bytes that come back from the repository."""

    def readinto(self, buffer: memoryview) -> int:
        """Read the next bytes; 0 at the end, and only when the engine succeeded.

        Raises:
            StoreError: when the engine failed.
        """

    def close(self) -> None:
        """Stop the engine, wherever it is."""


def read_all(stream: Stream, limit: int) -> bytes:
    """Read a stream of bounded size to its end, and close it.

    Raises:
        StoreError: when it is longer, or the engine failed.
    """
    data = bytearray()
    buffer = memoryview(bytearray(BUFFER))
    try:
        while got := stream.readinto(buffer):
            data += buffer[:got]
            if len(data) > limit:
                raise StoreError("the repository gave back more than can be")
    finally:
        stream.close()
    return bytes(data)


def widen(fd: int) -> None:
    """Set a pipe's size to 1 MiB (the default is 64 KiB), where the kernel allows it."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of data.

    Raises:
        OSError: BrokenPipeError when the reader has gone.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def drain(fd: int) -> None:
    """Read to the end of file, and discard it.

    Qubes takes a reader that stops early for one that has everything: the tars that then die of
    SIGPIPE count as successful (qubes-core-admin qubes/backup.py SendWorker.run).
    """
    buffer = bytearray(BUFFER)
    with contextlib.suppress(OSError):
        while os.readv(fd, [buffer]):
            pass


class InputStream:
    """The stream that comes in, read from a file descriptor.

    Attributes:
        position: bytes consumed so far.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._view = memoryview(bytearray(BUFFER))
        self._start = self._end = 0
        self._at_eof = False
        self.position = 0
        widen(fd)

    def peek(self, count: int) -> bytes:
        """Return the next bytes without consuming them.

        Args:
            count: how many, at most the buffer's size; fewer come only at the end.
        """
        while self._end - self._start < count and not self._at_eof:
            if self._start:
                rest = bytes(self._view[self._start : self._end])
                self._view[: len(rest)] = rest
                self._start, self._end = 0, len(rest)
            self._fill()
        return bytes(self._view[self._start : min(self._end, self._start + count)])

    def some(self, limit: int) -> memoryview:
        """Consume up to limit bytes, at least one unless the stream has ended.

        The result is valid until the next call.
        """
        if self._start == self._end and not self._at_eof:
            self._start = self._end = 0
            self._fill()
        end = min(self._end, self._start + limit)
        piece = self._view[self._start : end]
        self._start = end
        self.position += len(piece)
        return piece

    def exactly(self, count: int) -> bytes:
        """Consume count bytes; fewer only when the stream has ended."""
        pieces = []
        while count and (piece := self.some(count)):
            pieces.append(bytes(piece))
            count -= len(piece)
        return b"".join(pieces)

    def _fill(self) -> None:
        got = os.readv(self._fd, [self._view[self._end :]])
        self._end += got
        self._at_eof = not got
