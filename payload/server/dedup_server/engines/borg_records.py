# SPDX-License-Identifier: GPL-3.0-or-later
"""What is kept beside a borg repository for a rollback.

- `config.TIME`: each version of the repository's `config`, which has the key.
- `maintenance`: `open`, or the floor: the last segment after the last maintenance. What is older
  may have been compacted, so a rollback of transactions goes no further back.
"""

import contextlib
import os
import re
import time
from pathlib import Path

from dedup_server.errors import StorageError
from dedup_server.folder.files import replace_file
from dedup_server.folder.repository_folder import TIME_FORMAT, RepositoryFolder

OPEN = "open"
_COPY = re.compile(r"config\.([0-9]{8}T[0-9]{6})\.([0-9]{6})Z")
_MAX_CONFIG = 1 << 20
_MARK = "maintenance"


def floor(folder: RepositoryFolder) -> int:
    """Return the oldest transaction that a rollback can go to; -1 before the first maintenance.

    Raises:
        StorageError: the note of it is malformed.
    """
    mark = folder.state_folder / _MARK
    try:
        return int(mark.read_text(encoding="ascii"))
    except FileNotFoundError:
        return -1
    except ValueError:
        raise StorageError(f"{mark} is malformed") from None


def set_floor(folder: RepositoryFolder, value: str) -> None:
    """Note that transaction, or OPEN."""
    replace_file(folder.state_folder / _MARK, value.encode())


def is_open(folder: RepositoryFolder) -> bool:
    """Return whether maintenance began, and didn't end."""
    with contextlib.suppress(FileNotFoundError):
        return (folder.state_folder / _MARK).read_text(encoding="ascii") == OPEN
    return False


def copies(folder: RepositoryFolder) -> list[tuple[str, Path]]:
    """List the copies of `config`, oldest first, with their times (UTC, in TIME_FORMAT)."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for path in folder.state_folder.iterdir():
            if match := _COPY.fullmatch(path.name):
                found.append((match[1], path))
    return sorted(found, key=lambda copy: copy[1].name)


def copy_config(folder: RepositoryFolder) -> None:
    """Keep a copy of `config` when it isn't the same as the last one.

    Raises:
        StorageError: it can't be borg's.
    """
    config = folder.path / "config"
    try:
        fd = os.open(config, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return  # not made yet
    with os.fdopen(fd, "rb") as file:
        data = file.read(_MAX_CONFIG + 1)
    if len(data) > _MAX_CONFIG:
        raise StorageError(f"{config} is too large to be borg's")
    known = copies(folder)
    if known and known[-1][1].read_bytes() == data:
        return
    now = time.time_ns() // 1000
    text = time.strftime(TIME_FORMAT, time.gmtime(now // 1_000_000))
    replace_file(folder.state_folder / f"config.{text}.{now % 1_000_000:06}Z", data)
