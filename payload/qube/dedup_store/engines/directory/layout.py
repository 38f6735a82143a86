# SPDX-License-Identifier: GPL-3.0-or-later
"""The folder of a repository of plain files: its runs, and its id."""

import contextlib
import fcntl
import os
import re
import secrets
from pathlib import Path

RUNS = "dedup-store-runs"  # a folder with a folder for each run
ID_FILE = "dedup-store-id"
_ID = re.compile(r"[0-9a-f]{32}")


def read_id(place: Path) -> str | None:
    """Return a repository's id, None when it has none."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        text = (place / ID_FILE).read_text(encoding="ascii")
        return text if _ID.fullmatch(text) else None
    return None


def make_id(place: Path) -> None:
    """Make the repository's id, unless it has one. It can be repeated after a cut.

    Raises:
        OSError: it can't be written.
    """
    folder = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if read_id(place) is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(place / ID_FILE, flags, 0o600), "wb", buffering=0) as file:
                file.write(secrets.token_hex(16).encode("ascii"))
                os.fsync(file.fileno())
        os.fsync(folder)
    finally:
        os.close(folder)
