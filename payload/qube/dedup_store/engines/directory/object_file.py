# SPDX-License-Identifier: GPL-3.0-or-later
"""A file that takes little room: with holes, and with blocks shared with an older file."""

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from dedup_store.system import streams

# A multiple of the blocks of Btrfs and XFS (4 KiB), and of ZFS's records (128 KiB).
BLOCK = 256 * 1024
_FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)
_ZEROS = bytes(BLOCK)


def has_reflinks(folder: Path) -> bool:
    """Return whether the files in a folder can share blocks, by cloning an empty one.

    Raises:
        OSError: no file can be made there.
    """
    with (
        tempfile.TemporaryFile(dir=folder) as source,
        tempfile.TemporaryFile(dir=folder) as target,
        contextlib.suppress(OSError),
    ):
        fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
        return True
    return False


class ObjectFile:
    """A new file, written from its beginning to its end. All methods raise OSError.

    Args:
        path: where; there must be nothing.
        find_older: takes the first bytes, gives a descriptor of a file that may have the same
            content, or None. We close it. None to look for none.

    Attributes:
        path: where it is.
        length: its bytes so far.
    """

    def __init__(self, path: Path, find_older: Callable[[bytes], int | None] | None) -> None:
        self.path = path
        self.length = 0
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o600)
        self._find_older = find_older
        self._older: int | None = None
        self._hash = hashlib.sha256()
        self._block = memoryview(bytearray(BLOCK))
        self._filled = 0
        self._end = 0  # of what was stored

    @property
    def sha256(self) -> str:
        """The SHA-256 of all that was written, in hex."""
        return self._hash.hexdigest()

    def write(self, data: memoryview) -> None:
        """Add data to the file."""
        self._hash.update(data)
        self.length += len(data)
        while data:
            piece = data[: BLOCK - self._filled]
            self._block[self._filled : self._filled + len(piece)] = piece
            self._filled += len(piece)
            data = data[len(piece) :]
            if self._filled == BLOCK:
                self._store()

    def finish(self) -> None:
        """End the file; then it is on the disk."""
        self._store()
        os.ftruncate(self._fd, self.length)  # it may end with a hole
        os.fsync(self._fd)
        self.abandon()

    def abandon(self) -> None:
        """Close the file as it is."""
        for fd in (self._fd, self._older):
            if fd is not None and fd >= 0:
                os.close(fd)
        self._fd, self._older = -1, None

    def _store(self) -> None:
        """Put the block in its place."""
        block = bytes(self._block[: self._filled])
        if self._end == 0 and self._find_older:
            self._older = self._find_older(block)
        if block != _ZEROS[: len(block)]:
            shared = self._share(block)
            os.lseek(self._fd, self._end + shared, os.SEEK_SET)
            streams.write_all(self._fd, block[shared:])
        self._end += len(block)
        self._filled = 0

    def _share(self, block: bytes) -> int:
        """Share the block with the older file, if that has the same at this place.

        Where the file system shares blocks, copy_file_range does that (fs/read_write.c
        vfs_copy_file_range), else it copies: the bytes are right either way. Nobody changes older
        files; if somebody does, the SHA-256 of ours shows it on reading.

        Returns:
            How many bytes are in place; the others must be written.
        """
        with contextlib.suppress(OSError):
            if self._older is not None and os.pread(self._older, len(block), self._end) == block:
                return os.copy_file_range(self._older, self._fd, len(block), self._end, self._end)
        return 0
