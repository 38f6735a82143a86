# SPDX-License-Identifier: GPL-3.0-or-later
"""Maintenance as dom0 opens and ends it; backups to store, and what then is in the qube."""

import functools
import hashlib
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testing.server.storage_qube import QUBE, QrexecStore, StorageQube
from testing.store import archives

REFUSED = b"is not open: dom0 must open it"
SECRET = b"of another repository"


@functools.cache
def backup() -> bytes:
    return archives.join(archives.members(archives.small_qubes()))


def small() -> bytes:
    qube = archives.Qube("work", 7, volumes={"private": b"x"})
    return archives.join(archives.members([qube]))


def tree(folder: Path) -> dict[str, str]:
    """All files but locks, with their content's hash."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name != "locks"
    }


@contextmanager
def opened(qube: StorageQube, argument: str) -> Iterator[subprocess.Popen[bytes]]:
    """Maintenance, kept open as dom0 does."""
    with qube.start("dedupbackup.MaintenanceOpen", argument, caller="dom0") as opener:
        assert opener.stdout is not None
        assert opener.stdout.readline() == b"open\n"
        yield opener


def is_refused(qube: StorageQube, argument: str) -> bool:
    result = qube.call("dedupbackup.Maintenance", argument)
    return result.returncode == 3 and REFUSED in result.stderr


def close(opener: subprocess.Popen[bytes]) -> bytes:
    """End maintenance as dom0 does; give what is said at its end."""
    out, errors = opener.communicate()
    assert opener.returncode == 0, errors
    return out


def last_transaction(qube: StorageQube) -> int:
    result = qube.run("changes", "main")
    assert result.returncode == 0, result.stderr
    return int(re.findall(r"^ +(\d+)  \S+Z ", result.stdout, re.MULTILINE)[-1])


def accept_older(store: QrexecStore) -> None:
    """As docs/storage-qube.md says, after a rollback."""
    result = store.run("accept", "older", f"qrexec:{QUBE}/{store.name}")
    assert result.returncode == 0, result.stderr
