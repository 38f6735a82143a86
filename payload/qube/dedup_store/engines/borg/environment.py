# SPDX-License-Identifier: GPL-3.0-or-later
"""borg's environment: its version, this qube's name, answers to its questions."""

import contextlib
import functools
import os
import re
import secrets
import signal
from functools import partial
from pathlib import Path

from dedup_store.config import state_folder
from dedup_store.errors import StoreError, clean
from dedup_store.system import files
from dedup_store.system.disk_errors import NO_ROOM
from dedup_store.system.environment import environment
from dedup_store.system.processes import Child, ChildStream, Command
from dedup_store.system.streams import read_all

_SAFE_VERSION = (1, 2, 5)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@functools.cache
def require_safe_version() -> None:
    """Refuse a borg that the holder of the repository can deceive (CVE-2023-36811).

    Raises:
        StoreError: when it is too old.
    """
    command = Command(["borg", "--version"], environment(), signal.SIGTERM)
    text = read_all(ChildStream(partial(Child, command, False)), 4096)
    match = re.match(rb"borg (\d+)\.(\d+)\.(\d+)", text)
    if not match or tuple(map(int, match.groups())) < _SAFE_VERSION:
        found = clean(text.decode(errors="replace"), 40)
        raise StoreError(
            f"{found} is too old for a repository in a storage qube: 1.2.5 or newer is needed"
            " (CVE-2023-36811)"
        )


def variables(*, is_moved: bool) -> dict[str, str]:
    """Return all variables except the repository and its password.

    Args:
        is_moved: whether a repository may be at another place than before.
    """
    return environment() | {
        "BORG_HOST_ID": host_id(),
        # answers to its questions: it would take our input for an answer
        "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes" if is_moved else "no",
        "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "no",
    }


def host_id() -> str:
    """Name this qube in locks, the same after each boot.

    borg itself takes a network card's address, and in a qube without one a random number for each
    process: it could then never know that a lock's owner is dead. Without a stored name, one
    lasts until the next boot.
    """
    path = state_folder() / "host-id"
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _make(path)
        return f"dedup-store@{path.read_text(encoding='ascii')}"
    except OSError as error:
        if error.errno in NO_ROOM:
            return f"dedup-store@{_BOOT_ID.read_text(encoding='ascii').strip()}"
        raise StoreError(f"{path} can't be made or read: {error.strerror}") from None


def _make(path: Path) -> None:
    new = path.with_suffix(f".{os.getpid()}")
    try:
        with new.open("w", encoding="ascii") as file:
            file.write(secrets.token_hex(8))
            file.flush()
            os.fsync(file.fileno())  # what is in a lock must outlive a power cut
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(new)  # of two processes, one succeeds
    finally:
        new.unlink(missing_ok=True)
    files.flush(path.parent)
