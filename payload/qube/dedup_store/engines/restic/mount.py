# SPDX-License-Identifier: GPL-3.0-or-later
"""Random access to the payload of a run, by restic's own file system.

`restic mount` runs in a mount namespace of its own. Nobody else sees what it mounts, and the kernel
removes it with the process, however that ends. We read it by the process's root in /proc
(proc(5), /proc/pid/root). A user other than root needs a user namespace, too: who made it may look
into it (user_namespaces(7)).
"""

import contextlib
import os
import shutil
import time
from pathlib import Path

from dedup_store.config import state_folder
from dedup_store.engines.restic.extents import Extent
from dedup_store.engines.restic.runner import HOST, PAYLOAD, READ_ONLY, ResticRunner
from dedup_store.errors import StoreError
from dedup_store.system.environment import environment

_NAMESPACE = ("unshare", "--mount", "--propagation", "private")
_AS_USER = ("--user", "--map-root-user")
_SNAPSHOTS = "id"  # its folder of snapshots, each a folder by its id
_PAUSE = 0.01  # seconds
# What the kernel asks of restic at once (fs/fuse/fuse_i.h FUSE_DEFAULT_MAX_PAGES_PER_REQ, in pages
# of 4 KiB): of two requests at the same time for a chunk, each makes restic read it.
_REQUEST = 32 * 4096


def obstacle() -> str:
    """Return what keeps this machine from mounting, nothing when it can."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "there is no /dev/fuse for this user"
    if not shutil.which("fusermount3", path=environment()["PATH"]):
        return "the package fuse3 isn't installed"
    return ""


class Mount:
    """restic's file system, of our snapshots.

    Args:
        restic: starts restic.
        tags: that the snapshots have, separated by commas; empty for all snapshots.

    Raises:
        StoreError: it can't be mounted.
    """

    def __init__(self, restic: ResticRunner, tags: str = "") -> None:
        place = state_folder() / "mount"  # always empty: others don't see what is mounted there
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{place}: {error.strerror}") from None
        inside = (*_NAMESPACE, *(_AS_USER if os.geteuid() else ()), "--")
        with Path(os.devnull).open("rb") as nothing:
            which = ("--host", HOST, *(("--tag", tags) if tags else ()))
            options = (*which, "--path-template", f"{_SNAPSHOTS}/%I", str(place))
            self._child = restic.start(*READ_ONLY, "mount", *options, feed=nothing, inside=inside)
        try:
            self._folder = self._await(place) / _SNAPSHOTS
        except BaseException:
            self.close()
            raise

    def _await(self, place: Path) -> Path:
        """Wait until it is mounted at a place; return the way there."""
        mounted, device = Path(f"/proc/{self._child.pid}/root{place}"), place.stat().st_dev
        with self._child.waited_for():
            while _device(mounted) in (None, device):
                if not self._child.is_running():
                    raise self._child.failure()
                time.sleep(_PAUSE)
        return mounted

    def snapshots(self) -> list[str]:
        """List the snapshots' ids."""
        try:
            return [folder.name for folder in self._folder.iterdir()]
        except OSError as error:
            raise _failure("list of snapshots", error) from None

    def open(self, snapshot: str, name: str) -> int:
        """Open a file of a snapshot."""
        try:
            fd = os.open(self._folder / snapshot / name, os.O_RDONLY | os.O_CLOEXEC)
            # the kernel reads ahead, beyond what is wanted, and restic then reads whole chunks
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
            return fd
        except OSError as error:
            raise _failure(name, error) from None

    def read(self, fd: int, buffer: memoryview, offset: int) -> int:
        """Read bytes of an open file, from an offset on."""
        try:
            with self._child.waited_for():
                return os.preadv(fd, [buffer[:_REQUEST]], offset)
        except OSError as error:
            raise _failure("repository", error) from None

    def content(self, snapshot: str, name: str, most: int) -> bytes:
        """Read a file of a snapshot, of at most so many bytes."""
        fd, found, buffer = self.open(snapshot, name), bytearray(), memoryview(bytearray(_REQUEST))
        try:
            while got := self.read(fd, buffer, len(found)):
                found += buffer[:got]
                if len(found) > most:
                    raise StoreError(f"restic's {name} is too long")
        finally:
            _close(fd)
        return bytes(found)

    def close(self) -> None:
        """End restic, and with it the mount."""
        self._child.stop()


class MountedPayload:
    """Parts of a run's payload (see streams.Stream).

    Args:
        restic: starts restic.
        run: the run's name.
        parts: what to read.

    Raises:
        StoreError: it can't be mounted, or has no payload of this run.
    """

    def __init__(self, restic: ResticRunner, run: str, parts: list[Extent]) -> None:
        self._parts = parts
        self._position = parts[0].offset if parts else 0
        self._fd = -1
        self._mount = Mount(restic, f"run={run},{PAYLOAD}")
        try:
            for snapshot in self._mount.snapshots()[:1]:
                self._fd = self._mount.open(snapshot, PAYLOAD)
            if self._fd < 0:
                raise StoreError("restic has no payload of this run")
        except BaseException:
            self.close()
            raise

    def readinto(self, buffer: memoryview) -> int:
        """Read the next bytes.

        Raises:
            StoreError: restic can't read them.
        """
        while self._parts:
            part = self._parts[0]
            if self._position < part.end:
                wanted = buffer[: part.end - self._position]
                got = self._mount.read(self._fd, wanted, self._position)
                self._position += got
                return got
            self._parts.pop(0)
            if self._parts:
                self._position = self._parts[0].offset
        return 0

    def close(self) -> None:
        """End restic, and with it the mount."""
        if self._fd >= 0:
            _close(self._fd)
            self._fd = -1
        self._mount.close()


def _close(fd: int) -> None:
    """Close a file, also when restic has gone."""
    with contextlib.suppress(OSError):
        os.close(fd)


def _failure(name: str, error: OSError) -> StoreError:
    return StoreError(f"restic can't read the {name}: {error.strerror}")


def _device(folder: Path) -> int | None:
    """Return the file system of a folder; None when it isn't there."""
    try:
        return folder.stat().st_dev
    except OSError:
        return None
