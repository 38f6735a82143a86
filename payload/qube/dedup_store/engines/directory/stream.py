# SPDX-License-Identifier: GPL-3.0-or-later
"""The reader of objects of a repository of plain files."""

import hashlib
import os
from pathlib import Path

from dedup_store.engines.directory.index import Stored, failing, open_file
from dedup_store.errors import DamagedError


class DirectoryStream:
    """Objects in sequence, each compared with what was stored (see Stream)."""

    def __init__(self, run: Path, objects: list[tuple[str, Stored]]) -> None:
        self._run = run
        self._objects = objects
        self._fd: int | None = None
        self._hash = hashlib.sha256()
        self._length = 0

    def readinto(self, buffer: memoryview) -> int:
        """Read the next bytes.

        Raises:
            StoreError: an object is missing, or can't be read.
            DamagedError: an object isn't what was stored; found out at its end.
        """
        while self._objects:
            name, stored = self._objects[0]
            if self._fd is None:
                self._fd = open_file(self._run / name)
                self._hash, self._length = hashlib.sha256(), 0
            with failing(f"{self._run / name} can't be read"):
                got = os.readv(self._fd, [buffer])
            self._hash.update(buffer[:got])
            self._length += got
            if got and self._length <= stored.length:
                return got
            if got or Stored(self._length, self._hash.hexdigest()) != stored:
                raise DamagedError(f"object {name} of {self._run.name} is damaged")
            self.close()
            self._objects.pop(0)
        return 0

    def close(self) -> None:
        """Close the file that is open."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
