# SPDX-License-Identifier: GPL-3.0-or-later
"""The attached device that can hold a repository.

/etc/fstab has a line for it, with the option `user`, so that an ordinary user can mount it;
the role backup_qube arranges that it is written at each start of the qube.
"""

import contextlib
import errno
import json
import os
import re
import subprocess
import time
from pathlib import Path

from dedup_store.config import Config
from dedup_store.errors import StoreError, UsageError, clean
from dedup_store.system.environment import environment

FSTAB = Path("/etc/fstab")
# A qube takes calls before it has run rc.local.d (qubes-core-agent-linux vm-systemd/
# qubes-qrexec-agent.service isn't ordered after qubes-misc-post.service); this one may be the call
# that started it.
_START_SECONDS = 60
# util-linux libmount/src/context_mount.c mnt_context_get_mount_excode
_UNKNOWN_TYPE = re.compile(r"unknown filesystem type '([^']{1,40})'")
_NOT_FOUND = re.compile(r"can't find |special device .* does not exist")
# libblkid's names of what holds a file system and isn't one
_LAYERS = {
    "crypto_LUKS": "it is LUKS, which is not opened. Open it (as root, here: `cryptsetup open"
    " /dev/{name} backup`; or in the qube it comes from, and attach what is in it), and give the"
    " file system in it the label, not LUKS",
    "LVM2_member": "it is a part of LVM: have its volume activated (`vgchange -ay`), and give the"
    " file system on that the label",
    "zfs_member": "it is a part of a ZFS pool, which isn't mounted by label: import the pool, and"
    " set `location` in place of `device`",
}
_OWN = re.compile(r"xvd[a-d][0-9]*|zram[0-9]+|(?:sr|fd|ram)[0-9]+")  # Qubes' own volumes, no disks


def require(config: Config) -> None:
    """Mount the repository's device, unless it is mounted; it stays mounted until we end.

    Raises:
        UsageError: this qube isn't prepared for it.
        StoreError: it isn't attached, can't be mounted, or can't be distinguished from another one.
    """
    path, label = config.mount_point, config.device
    if path is None or label is None or _hold(path):
        return
    while not (is_ready := path.is_dir() and _is_in_fstab(path)) and _is_starting():
        time.sleep(0.1)
    if not is_ready:
        raise UsageError(
            f"this qube is not prepared for the device {label}: {path} must exist and have"
            " a line in /etc/fstab, which the role backup_qube sees to at each start of the qube"
        )
    _require_one(label)
    result = subprocess.run(
        ["/usr/bin/mount", str(path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment(),
        check=False,
    )
    if not _hold(path):
        raise StoreError(_why(label, clean(result.stderr.decode(errors="replace"), 300)))


def require_writable(config: Config) -> None:
    """Refuse a device that is mounted, but can't be written to.

    Raises:
        StoreError: with what to do.
    """
    path = config.mount_point
    if path and os.statvfs(path).f_flag & os.ST_RDONLY:
        raise StoreError(
            f"the file system labelled {config.device} can only be read: unmount it (`umount"
            f" {path}`), detach the device in dom0, and attach it without `--ro`, and without a"
            " write protection of its own. If neither is there, it has errors: see `journalctl -k`"
        )


def make_folder(config: Config) -> None:
    """Make the folder on the device that holds the repository.

    Raises:
        UsageError: the file system doesn't let us.
    """
    path = config.mount_point
    if path is None:
        return
    try:
        Path(config.location).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        if error.errno == errno.EROFS:
            require_writable(config)
        raise UsageError(
            f"{error.filename} can't be made: {error.strerror}. Make it yourself, once, as root in"
            f" this qube: `install -d -o user -m 700 {path}/dedup-store`"
        ) from None


def _require_one(label: str) -> None:
    """Refuse to choose between file systems with the same label.

    Raises:
        StoreError: there are several; the members of one btrfs are one.
    """
    found = [item for item in _attached() if item["label"] == label]
    found = [item for item in found if item["fstype"] not in _LAYERS]
    one = {item["uuid"] if item["fstype"] == "btrfs" else item["name"] for item in found}
    if len(one) > 1:
        names = ", ".join(item["name"] for item in found)
        raise StoreError(
            f"{len(one)} file systems that are attached have the label {label} ({names}): detach"
            " all but one, or give them labels of their own"
        )


def _why(label: str, said: str) -> str:
    """Return why nothing is mounted.

    Args:
        label: what was to be.
        said: what mount said, cleaned.
    """
    if kind := _UNKNOWN_TYPE.search(said):
        names = [item["name"] for item in _attached() if item["label"] == label]
        layer = _LAYERS.get(kind[1], "").format(name=names[0] if len(names) == 1 else "DEVICE")
        return f"what is labelled {label} is attached, but can't be mounted: " + (
            layer
            or f"it is {clean(kind[1])}, and this qube has nothing that mounts it. Use a disk with"
            " ext4, XFS or Btrfs, or install what is needed for it in the qube's template"
        )
    if said and not _NOT_FOUND.search(said):
        return f"what is labelled {label} is attached, but can't be mounted: {said}"
    others = "; ".join(_describe(item) for item in _attached() if not item["mountpoint"])
    others = f"attached is: {clean(others, 200)}; " if others else ""
    return (
        f"no file system labelled {label} is attached: attach it in dom0 with"
        f" `qvm-block attach QUBE DEVICE`, and try again ({others}{said})"
    )


def _describe(item: dict[str, str]) -> str:
    if not item["fstype"]:
        table = f"partition table {item['pttype']}" if item["pttype"] else "nothing known"
        return f"{item['name']}, {table}"
    label = f"labelled {item['label']}" if item["label"] else "without a label"
    closed = ", not opened" if item["fstype"] == "crypto_LUKS" else ""
    return f"{item['name']}, {item['fstype']}{closed} {label}"


def _attached() -> list[dict[str, str]]:
    """List the block devices that aren't the qube's own, from udev; none if udev fails.

    Output: util-linux misc-utils/lsblk.c, with null for what isn't known.
    """
    columns = ("name", "fstype", "label", "uuid", "pttype", "mountpoint")
    argv = ["lsblk", "--json", "--list", "--output", ",".join(columns)]
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        result = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment(),
            check=False,
        )
        rows = json.loads(result.stdout)["blockdevices"]
        found = {
            row["name"]: {key: clean(str(row.get(key) or ""), 60) for key in columns}
            for row in rows
        }
        return [item for name, item in found.items() if not _OWN.fullmatch(name)]
    return []


def _hold(path: Path) -> bool:
    """Return whether something is mounted there; keep it mounted as long as we live."""
    try:
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    if os.fstat(fd).st_dev != path.parent.stat().st_dev:
        return True  # the descriptor stays open
    os.close(fd)
    return False


def _is_starting() -> bool:
    return time.clock_gettime(time.CLOCK_BOOTTIME) < _START_SECONDS


def _is_in_fstab(path: Path) -> bool:
    with contextlib.suppress(OSError):
        lines = FSTAB.read_text(encoding="utf-8", errors="replace").splitlines()
        return any(line.split()[1:2] == [str(path)] for line in lines)
    return False
