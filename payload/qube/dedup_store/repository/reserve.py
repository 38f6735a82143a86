# SPDX-License-Identifier: GPL-3.0-or-later
"""The room on the repository's disk that is reserved for removals.

On a disk without one free byte, restic and borg can't remove anything: both write before they do.
So a file in the repository's folder, which both engines ignore, reserves some room; forget and
prune remove it first, and make it again at the end. The engine directory needs none.
"""

import contextlib
import os
from pathlib import Path

from dedup_store.config import Config
from dedup_store.engines.base import RESERVE
from dedup_store.errors import DiskError, StoreError
from dedup_store.system import disk_errors, notify
from dedup_store.system.environment import home
from dedup_store.system.files import files_bytes, free_bytes

_MIB = 1 << 20
# Of the file system, what the reserve takes at most.
_SHARE = 8
# Without room to store anything again, restic writes a lock and the index, and then removes. borg
# needs four times its index, and wants to be sure of a segment besides, as soon as it has something
# to move in ten of them (borg/repository.py check_free_space): that is much for a small repository.
_LEAST = 4 * _MIB
_SEGMENT, _LARGE = 545 * _MIB, 1024 * _MIB
_INDEXES = {"restic": ("index/*", 2), "borg": ("index.*", 4)}


class Reserve:
    """The reserve of a repository; none, if it isn't in this qube."""

    def __init__(self, config: Config) -> None:
        place = config.local_repository
        self._folder = place if place and config.engine in _INDEXES else None
        self._engine = config.engine

    def keep(self) -> None:
        """Reserve the room, as far as it is free.

        Raises:
            DiskError: it isn't.
        """
        if self._folder and self._folder.is_dir():
            self._keep(self._folder, self._wanted(self._folder))

    def warn_if_narrow(self) -> None:
        """Warn when borg can soon refuse to write and to remove for want of room.

        Whether it does depends on what it has to move, which only borg knows.
        """
        if self._folder and self._engine == "borg" and (free := self._free()) < _SEGMENT:
            notify.warn(
                f"{self._disk(self._folder)} has {notify.size(free)} left, and borg demands"
                f" {notify.size(_SEGMENT)} to write or remove anything, once it has some runs:"
                f" {disk_errors.enlarge(self._folder, Path(home()))}"
            )

    def _keep(self, folder: Path, least: int) -> None:
        """Make the file, with what is free, but not with less than `least`."""
        path, wanted = folder / RESERVE, self._wanted(folder)
        with contextlib.suppress(OSError):
            if path.lstat().st_size >= wanted // 2:  # the index grows
                return
            path.unlink()
        try:
            size = min(wanted, self._free())
            if size < least:
                raise self._full(wanted)
            self._make(path, size)
        except OSError as error:
            with contextlib.suppress(OSError):
                path.unlink()
            what = f"{path} can't be made"
            raise disk_errors.of_file(error, what, self._disk(folder)) from None

    def release(self) -> None:
        """Free the reserved room, if a removal needs it."""
        if self._folder and self._free() < self._wanted(self._folder):
            with contextlib.suppress(OSError):
                (self._folder / RESERVE).unlink()

    def renew(self) -> None:
        """Reserve the room again, or what is left of it, after a removal or an attempt."""
        if self._folder:
            with contextlib.suppress(StoreError):
                self._keep(self._folder, self._wanted(self._folder) // 2)

    def keep_or_warn(self) -> None:
        """Reserve the room; warn when that isn't possible."""
        try:
            self.keep()
        except DiskError as error:
            notify.warn(str(error))

    def _free(self) -> int:
        return free_bytes(self._folder or Path("/"))

    def _wanted(self, folder: Path) -> int:
        names, times = _INDEXES[self._engine]
        size = _LEAST + times * sum(path.stat().st_size for path in folder.glob(names))
        if self._engine == "borg" and files_bytes(folder / "data") >= _LARGE:
            size += _SEGMENT
        status = os.statvfs(folder)
        return min(size, status.f_blocks * status.f_frsize // _SHARE)

    @staticmethod
    def _make(path: Path, size: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(path, flags, 0o600)
        try:
            os.posix_fallocate(fd, 0, size)
        finally:
            os.close(fd)

    def _full(self, wanted: int) -> DiskError:
        folder = self._folder or Path()
        text = (
            f"{self._disk(folder)} has {notify.size(self._free())} left, and forget and prune need"
            f" {notify.size(wanted)} to make room: {disk_errors.enlarge(folder, Path(home()))}"
        )
        return DiskError(text, "", is_damage=False)

    @staticmethod
    def _disk(folder: Path) -> str:
        return disk_errors.repository_disk(folder, Path(home()))
