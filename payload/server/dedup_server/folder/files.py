# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that survive a power cut, and the errors of a file system."""

import errno
import os
import subprocess
from pathlib import Path

from dedup_server.errors import StorageError, clean

FLUSH = "sync --file-system"  # of coreutils
# nothing can be written, but everything can be read
FULL = (errno.EROFS, errno.ENOSPC, errno.EDQUOT)


def replace_file(path: Path, data: bytes) -> None:
    """Write a new file and rename it to path; it is on the disk afterwards."""
    new = path.with_name(f"{path.name}.new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(fd)
    new.rename(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Write a folder's names to the disk, after a rename in it."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def flush_file_system(path: Path) -> None:
    """Write everything on the file system of path to the disk.

    Raises:
        StorageError: the disk reports an error.
    """
    variables = {"PATH": os.environ.get("PATH") or os.defpath, "LC_ALL": "C.UTF-8"}
    command = [*FLUSH.split(), str(path)]
    result = subprocess.run(command, stderr=subprocess.PIPE, check=False, env=variables)
    if result.returncode:
        reason = clean(result.stderr.decode(errors="replace"))
        raise StorageError(f"{path}: the disk didn't take what was written: {reason}")
