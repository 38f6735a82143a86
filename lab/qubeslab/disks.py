# SPDX-License-Identifier: GPL-3.0-or-later
"""Attach disks to running qubes: image files of this machine, in the place of `qvm-block attach`.

Stands for qubes-core-admin qubes/ext/block.py (BlockDeviceExtension), and in the qube for udev,
which the containers don't have: /dev/xvdX, and /dev/disk/by-label/LABEL as its rules
60-persistent-storage.rules make it. A disk is gone when its qube stops, as in Qubes.

In all functions `folder` notes a qube's disks (LabPaths.disks), and `enter` is the argv prefix that
runs a command as root in it.
"""

from __future__ import annotations

import os
from pathlib import Path

from .host import run
from .paths import LabError

NAMES = [f"xvd{letter}" for letter in "ijklmnop"]  # xvda to xvdd are the qube's own


def attach(folder: Path, enter: list[str], image: Path) -> str:
    """Attach an image with a file system and return its device's path in the qube.

    Raises:
        LabError: there is no such image, it is attached already, or there are too many disks.
    """
    if not image.is_file():
        raise LabError(f"{image}: no such file; `truncate` and `mkfs.ext4 -L LABEL` make one")
    if _loop_device(image):
        raise LabError(f"{image} is attached already: `lab detach-disk QUBE FILE` ends that")
    folder.mkdir(parents=True, exist_ok=True)
    name = next((name for name in NAMES if not (folder / name).is_symlink()), None)
    if name is None:
        raise LabError(f"{len(NAMES)} disks are attached already, no more are possible")
    node = f"/dev/{name}"
    (folder / name).symlink_to(image)  # first: what is noted will be released
    try:
        loop = run(["losetup", "--find", "--show", str(image)]).strip()
        run([*enter, "mknod", "--mode=660", node, "b", *_numbers(loop)])
        run([*enter, "chown", "root:disk", node])
        label = _label(loop)
        if label:
            run([*enter, "mkdir", "-p", "/dev/disk/by-label"])
            run([*enter, "ln", "-sfn", f"../../{name}", f"/dev/disk/by-label/{label}"])
    except LabError:
        _remove(enter, name)
        _release(folder / name)
        raise
    return node


def detach(folder: Path, enter: list[str], image: Path) -> None:
    """Take an attached image away from a running qube.

    Raises:
        LabError: it isn't attached there, or its file system is mounted.
    """
    link = next((link for link in folder.glob("xvd*") if link.readlink() == image), None)
    if link is None:
        raise LabError(f"{image} is not attached to this qube")
    number = ":".join(_numbers(_loop_device(image)))
    for line in run([*enter, "cat", "/proc/self/mountinfo"]).splitlines():  # proc(5)
        words = line.split()
        if words[2] == number:
            raise LabError(f"{image} is mounted at {words[4]} in the qube: unmount it there first")
    _remove(enter, link.name)
    _release(link)


def release(folder: Path) -> None:
    """Detach all disks of a qube that has stopped."""
    for link in sorted(folder.glob("xvd*")):
        _release(link)


def _remove(enter: list[str], name: str) -> None:
    label = ["-path", "/dev/disk/by-label/*", "-lname", f"../../{name}"]
    run([*enter, "find", "/dev", "(", "-path", f"/dev/{name}", "-o", *label, ")", "-delete"])


def _release(link: Path) -> None:
    loop = _loop_device(link.readlink())
    if loop:
        run(["losetup", "--detach", loop])
    link.unlink()


def _loop_device(image: Path) -> str:
    return run(["losetup", "--noheadings", "--output=NAME", "--associated", str(image)]).strip()


def _label(device: str) -> str:
    """Return a file system's label as udev encodes it in names; empty when there is none."""
    told = run(["sh", "-c", 'blkid -p -o udev "$0" || [ $? -eq 2 ]', device])  # blkid(8)
    pairs = (line.partition("=") for line in told.splitlines())
    return {key: value for key, _, value in pairs}.get("ID_FS_LABEL_ENC", "")


def _numbers(device: str) -> tuple[str, str]:
    number = Path(device).stat().st_rdev
    return str(os.major(number)), str(os.minor(number))
