# SPDX-License-Identifier: GPL-3.0-or-later
"""Folders in memory for borg's own files, to read while the home folder can't be written.

borg writes its cache also when it only reads, and also without a lock. Its facts about
repositories are copied there: by them it notices that one was moved, replaced or put back.
"""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from dedup_store.engines.borg.counter import cache_folder, security_folder

_MEMORY = Path("/dev/shm")  # noqa: S108 -- only mkdtemp makes something there
_ROOM = 1 << 16  # bytes; more than borg needs for its locks and notes


class MemoryHome:
    """Private temporary folders that vanish with this object.

    Raises:
        OSError: they can't be made, or what borg knows can't be read.
    """

    def __init__(self) -> None:
        place = str(_MEMORY) if os.access(_MEMORY, os.W_OK) else None
        self._folder = tempfile.TemporaryDirectory(prefix="dedup-store-", dir=place)
        self._cache, self._security = (
            Path(self._folder.name) / name for name in ("cache", "security")
        )
        known = _security()
        if known.exists():
            shutil.copytree(known, self._security)

    def variables(self) -> dict[str, str]:
        """Return borg's variables for these folders (borg/helpers/fs.py)."""
        return {"BORG_CACHE_DIR": str(self._cache), "BORG_SECURITY_DIR": str(self._security)}


def make() -> MemoryHome | None:
    """Make such folders, or return None: then borg goes on without and reports what is wrong."""
    with contextlib.suppress(OSError):
        return MemoryHome()
    return None


def is_home_writable() -> bool:
    """Return whether borg can write its own files in the usual place."""
    return all(_takes_a_file(folder) for folder in (cache_folder("x").parent, _security()))


def _security() -> Path:
    return security_folder("x").parent


def _takes_a_file(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            return file.write(bytes(_ROOM)) == _ROOM
    return False
