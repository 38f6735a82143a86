# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that are written whole or not at all, and then survive a power cut."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def sync_folder(folder: Path) -> None:
    """Write a folder to disk: a rename, a new or a removed name in it survives a power cut."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextlib.contextmanager
def creating(path: Path) -> Iterator[BinaryIO]:
    """Create a file that only root can read, and write it to disk; remove it on any error.

    Raises:
        FileExistsError: there is one already; it stays.
    """
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(opened, "wb") as file:
            yield file
            file.flush()
            os.fsync(opened)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to report
            path.unlink(missing_ok=True)
        raise


def replace(path: Path, content: bytes) -> None:
    """Put a file that only root can read at path; it replaces any file there."""
    new = path.with_name(f".{secrets.token_hex(8)}.new")
    with creating(new) as file:
        file.write(content)
    try:
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
    sync_folder(path.parent)
