# SPDX-License-Identifier: GPL-3.0-or-later
"""What an engine tells of what lies in its repository."""

import os
from dataclasses import dataclass
from pathlib import Path

RESERVE = "dedup-store.reserve"  # the file in a repository's folder that reserve.py makes


@dataclass(frozen=True)
class StoredObject:
    """A payload object as the repository has it.

    Attributes:
        length: its bytes.
        content: the same for objects that are the same to the engine; empty when it can't tell.
    """

    length: int
    content: str = ""


@dataclass(frozen=True)
class Usage:
    """What a repository takes.

    Attributes:
        stored_bytes: its size, None when it isn't known.
        how: what was counted, in words.
        objects: payload objects of all runs, None when it would take long to count them.
    """

    stored_bytes: int | None
    how: str
    objects: int | None


def files_bytes(folder: Path, *, allocated: bool = False) -> int:
    """Add up the sizes of the files below a folder, or what their file system took for them.

    Our reserve isn't counted.

    What vanishes while we count isn't counted.

    Raises:
        OSError: a folder can't be read.
    """
    total = 0
    folders = [folder]
    while folders:
        try:
            entries = list(os.scandir(folders.pop()))
        except FileNotFoundError:
            continue
        for entry in entries:
            if entry.name == RESERVE:
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
