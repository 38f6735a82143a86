# SPDX-License-Identifier: GPL-3.0-or-later
"""Attributes of files (chattr) that keep even root from changing them."""

import fcntl
import os
from collections.abc import Iterable
from pathlib import Path

GETFLAGS = 0x80086601  # FS_IOC_GETFLAGS, _IOR('f', 1, long) of 64-bit machines (linux/fs.h)
LETTERS = {0x10: "i", 0x20: "a"}  # FS_IMMUTABLE_FL, FS_APPEND_FL (linux/fs.h)


def blocking(paths: Iterable[Path]) -> str | None:
    """Return what keeps one of these files, or its folder, from being changed, with advice."""
    for path in paths:
        for at in (path, path.parent):
            if letters := _letters(at):
                return (
                    f"{at} has the attribute {' and '.join(letters)}, which keeps it from being"
                    f" changed (see `lsattr -d {at}`): remove it with `sudo chattr"
                    f" -{''.join(letters)} {at}`, then try again"
                )
    return None


def _letters(path: Path) -> list[str]:
    try:
        opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return []
    try:
        flags = int.from_bytes(fcntl.ioctl(opened, GETFLAGS, bytes(8))[:4], "little")
    except OSError:  # a file system without attributes
        return []
    finally:
        os.close(opened)
    return [letter for bit, letter in LETTERS.items() if flags & bit]
