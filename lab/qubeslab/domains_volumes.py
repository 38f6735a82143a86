# SPDX-License-Identifier: GPL-3.0-or-later
"""The volumes of qubes: sparse images, laid out as by Qubes' file pool.

Source: qubes-core-admin qubes/storage/file.py (FilePool._vid_prefix, FileVolume). The lab has no
copy-on-write: a running qube writes to its private image, and `before.img` beside it, made at its
start, is what a backup reads meanwhile.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from pathlib import Path

from . import ext4
from .containers import copy_sparse
from .domains import KERNEL, Qube, Store, Volume
from .host import run
from .paths import LabError
from .qubesd_exc import StoragePoolException

POOL = "varlibqubes"
KERNEL_POOL = "linux-kernel"
SIZE_MAX = 16 * 2**40  # ext4 with 4 KiB blocks

log = logging.getLogger("volumes")


class Pool:
    """The pool `varlibqubes`: the folder that dom0 sees as /var/lib/qubes."""

    def __init__(self, state: Path, store: Store, seen_at: str) -> None:
        """Take the lab's state folder, its store, and where dom0 sees the pool."""
        self.root = state / "qubes"
        self.store = store
        self.seen_at = seen_at

    def folder(self, qube: Qube) -> Path:
        """Return the qube's folder."""
        return self.root / self._prefix(qube) / qube.name

    def image(self, qube: Qube, volume: str) -> Path:
        """Return a volume's image on this machine."""
        return self.folder(qube) / f"{volume}.img"

    def root_image(self, qube: Qube) -> Path:
        """Return the image a qube's root comes from: its own, or its template's."""
        if not qube.volumes["root"].snap_on_start:
            return self.image(qube, "root")
        return self.image(self.store[str(qube.properties["template"])], "root")

    def create(self, qube: Qube) -> None:
        """Make the folder of a new qube, with blank images.

        Raises:
            StoragePoolException: the disk refuses.
        """
        folder = self.folder(qube)
        try:
            if folder.exists():
                log.warning("%s: left by a qube that is gone; removed", folder)
                shutil.rmtree(folder)
            folder.mkdir(parents=True)
            for name, volume in qube.volumes.items():
                if volume.rw and not volume.snap_on_start:
                    _truncate(self.image(qube, name), volume.size)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise StoragePoolException(
                f"can't create the volumes of {qube.name}: {error}"
            ) from error

    def remove(self, qube: Qube) -> None:
        """Remove the qube's folder."""
        shutil.rmtree(self.folder(qube), ignore_errors=True)

    def size(self, qube: Qube, name: str) -> int:
        """Return a volume's size in bytes; that of a template's snapshot is the template's."""
        volume = qube.volumes[name]
        if volume.snap_on_start:
            return self.store[str(qube.properties["template"])].volumes[name].size
        return volume.size

    def info(self, qube: Qube, name: str, running: bool) -> dict[str, object]:
        """Return what admin.vm.volume.Info tells, in upstream's order."""
        volume = qube.volumes[name]
        kernel = name == "kernel"
        source = None
        if volume.snap_on_start:
            template = self.store[str(qube.properties["template"])]
            source = f"{self._prefix(template)}/{template.name}/{name}"
        return {
            "pool": KERNEL_POOL if kernel else POOL,
            "vid": KERNEL if kernel else f"{self._prefix(qube)}/{qube.name}/{name}",
            "size": self.size(qube, name),
            "usage": 0 if kernel else _usage(self.image(qube, name)),
            "rw": volume.rw,
            "source": source,
            "path": "" if kernel else self._dom0_path(self._readable(qube, name, running)),
            "save_on_stop": volume.save_on_stop,
            "snap_on_start": volume.snap_on_start,
            "revisions_to_keep": volume.revisions_to_keep,
            "ephemeral": volume.ephemeral,
            "is_outdated": False,
        }

    def resize(self, qube: Qube, name: str, size: int, running: bool) -> None:
        """Enlarge a volume; a running qube's file system grows with it.

        Raises:
            StoragePoolException: it would shrink, or can't be changed.
        """
        volume = self._persistent(qube, name, "resize")
        image = self.image(qube, name)
        check_size(size)
        if size < volume.size:
            raise StoragePoolException(
                f"shrinking of {qube.name}:{name} is refused ({size} < {volume.size})"
            )
        try:
            os.truncate(image, size)
        except OSError as error:
            raise StoragePoolException(f"can't resize {image.name}: {error}") from error
        with self.store.change():
            self.store[qube.name].volumes[name].size = size
        if running:
            _grow_mounted(image)

    def import_path(self, qube: Qube, name: str) -> Path:
        """Return where the data of an import is collected."""
        return self.folder(qube) / f"{name}-import.img"

    def import_begin(self, qube: Qube, name: str, size: int) -> str:
        """Make an empty image of `size` bytes for new data and return its path in dom0.

        Raises:
            StoragePoolException: the volume can't be written to, or the disk refuses.
        """
        self._persistent(qube, name, "import into")
        check_size(size)
        path = self.import_path(qube, name)
        try:
            path.unlink(missing_ok=True)
            _truncate(path, size)
        except OSError as error:
            raise StoragePoolException(f"can't make room for {name}: {error}") from error
        return self._dom0_path(path)

    def import_end(self, qube: Qube, name: str, success: bool) -> None:
        """Put imported data in the volume's place, or drop it.

        Raises:
            StoragePoolException: no import is going on.
        """
        path = self.import_path(qube, name)
        if not path.exists():
            raise StoragePoolException(f"no import into {qube.name}:{name} is going on")
        if not success:
            path.unlink()
            return
        self._replace(qube, name, path)

    def clone(self, source: Qube, target: Qube, name: str, running: bool) -> None:
        """Copy a volume's data; `running` tells whether the source qube is.

        Raises:
            StoragePoolException: the target can't be written to, or the disk is full.
        """
        self._persistent(target, name, "clone into")
        path = self.import_path(target, name)
        try:
            copy_sparse(self._readable(source, name, running), path)
        except (LabError, OSError) as error:
            path.unlink(missing_ok=True)
            raise StoragePoolException(f"can't clone {source.name}:{name}: {error}") from error
        self._replace(target, name, path)

    def freeze(self, qube: Qube) -> None:
        """Keep the private image as it is now, for backups of the running qube."""
        copy_sparse(self.image(qube, "private"), self._before(qube))

    def thaw(self, qube: Qube) -> None:
        """Drop what `freeze` kept."""
        self._before(qube).unlink(missing_ok=True)

    def _replace(self, qube: Qube, name: str, path: Path) -> None:
        size = path.stat().st_size
        path.replace(self.image(qube, name))
        with self.store.change():
            self.store[qube.name].volumes[name].size = size

    def _persistent(self, qube: Qube, name: str, what: str) -> Volume:
        volume = qube.volumes[name]
        if not volume.save_on_stop:
            raise StoragePoolException(
                f"can't {what} {qube.name}:{name}: it doesn't outlive the qube's session"
            )
        return volume

    def _before(self, qube: Qube) -> Path:
        return self.folder(qube) / "private.img.before"

    def _readable(self, qube: Qube, name: str, running: bool) -> Path:
        before = self._before(qube)
        if running and name == "private" and before.exists():
            return before
        return self.image(qube, name)

    def _dom0_path(self, path: Path) -> str:
        return f"{self.seen_at}/{path.relative_to(self.root)}"

    def _prefix(self, qube: Qube) -> str:
        return "vm-templates" if qube.klass == "TemplateVM" else "appvms"


def check_size(size: int) -> None:
    """Refuse sizes that no file system here could hold.

    Raises:
        StoragePoolException: it is zero or too large.
    """
    if not 0 < size <= SIZE_MAX:
        raise StoragePoolException(f"a volume has 1 to {SIZE_MAX} bytes, not {size}")


def grow_filesystem(image: Path) -> None:
    """Let an unmounted ext4 fill its image, as a qube does with its private volume at boot.

    Source: qubes-core-agent-linux init/setup-rwdev.sh.

    Raises:
        LabError: the file system is damaged or can't grow.
    """
    size = ext4.file_system_bytes(image)
    if size == 0 or size >= image.stat().st_size // 4096 * 4096:
        return
    check = subprocess.run(["e2fsck", "-f", "-p", str(image)], check=False, capture_output=True)
    if check.returncode > 1:  # 1: errors, but corrected (e2fsck(8))
        raise LabError(f"the file system in {image} is damaged: run e2fsck on it")
    run(["resize2fs", str(image)])


def _grow_mounted(image: Path) -> None:
    """Let a mounted ext4 fill its image: qubes-core-agent-linux qubes-rpc/qubes.ResizeDisk.

    That needs CAP_SYS_RESOURCE, which root may lack here; then it grows at the next start.
    """
    try:
        for line in run(["losetup", "--associated", str(image)]).splitlines():
            device = line.partition(":")[0]
            run(["losetup", "--set-capacity", device])
            run(["resize2fs", device])
    except LabError as error:
        log.warning("%s: its file system grows at the next start only: %s", image, error)


def _truncate(path: Path, size: int) -> None:
    with path.open("xb") as handle:
        os.fchmod(handle.fileno(), 0o664)
        handle.truncate(size)


def _usage(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0
