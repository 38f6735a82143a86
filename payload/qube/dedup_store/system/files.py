# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that survive a power cut, and the room that files take. All functions raise OSError."""

import os
import secrets
from pathlib import Path


def flush(folder: Path) -> None:
    """Write a folder's entries to the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace(path: Path, text: str) -> None:
    """Write a file so that it has the old or the new text whenever the power fails."""
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with new.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
    flush(path.parent)


def free_bytes(folder: Path) -> int:
    """Return the bytes that are free on a folder's file system for an ordinary user."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def files_bytes(folder: Path, *, without: str = "", allocated: bool = False) -> int:
    """Add up the sizes of the files below a folder.

    What vanishes meanwhile isn't counted.

    Args:
        folder: where to begin.
        without: name of files that aren't counted.
        allocated: count what the file system took for each file, instead of its size.
    """
    total = 0
    folders = [folder]
    while folders:
        try:
            entries = list(os.scandir(folders.pop()))
        except FileNotFoundError:
            continue
        for entry in entries:
            if entry.name == without:
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(Path(entry.path))
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            total += status.st_blocks * 512 if allocated else status.st_size
    return total
