# SPDX-License-Identifier: GPL-3.0-or-later
"""The file with a repository's password. dom0 makes the password; nothing here does."""

import os
import re
import secrets
import stat
from pathlib import Path

from dedup_store.config import Config
from dedup_store.errors import UsageError
from dedup_store.system import files

# What both engines take as it is (restic trims spaces off the file) and a person can type
_PASSWORD = re.compile(rb"[!-~][ -~]{14,510}[!-~]\n")
MAX_LINE = 513  # bytes of the longest password's line
UNENCRYPTED = (
    "the engine directory encrypts nothing. Whoever can read the repository's file system reads all"
    " backups in it, so that must be encrypted"
)


def require(config: Config) -> None:
    """Refuse to go on without the password, if the engine has one.

    Raises:
        UsageError: see check.
    """
    if config.is_encrypted:
        check(config.password_file)


def check(path: Path) -> None:
    """Refuse a password file that others can have read or written.

    Raises:
        UsageError: when it is absent, no regular file, not the caller's, open to others, or empty.
    """
    try:
        info = path.lstat()
    except FileNotFoundError:
        raise UsageError(
            f"password file {path} does not exist: dom0 hands a new one over with"
            " `sudo qubes-dedup-backup init`; one that you kept a copy of is brought back with"
            " `dedup-store set-password`"
        ) from None
    except OSError as error:
        raise UsageError(f"password file {path} can't be read: {error.strerror}") from None
    if not stat.S_ISREG(info.st_mode):
        raise UsageError(f"password file {path} is not a regular file")
    if info.st_uid != os.geteuid():
        raise UsageError(f"password file {path} belongs to uid {info.st_uid}, not to the caller")
    if stat.S_IMODE(info.st_mode) & 0o177:
        mode = stat.S_IMODE(info.st_mode)
        raise UsageError(f"password file {path} has mode {mode:04o}: run `chmod 600 {path}`")
    if info.st_size == 0:
        raise UsageError(
            f"password file {path} is empty: remove it, and set the password with"
            " `dedup-store set-password`"
        )


def is_there(path: Path) -> bool:
    """Return whether anything is in the password file's place."""
    return os.path.lexists(path)


def read(path: Path) -> str:
    """Read the password: the file's first line, as the engines do."""
    try:
        return path.read_text(encoding="utf-8").partition("\n")[0]
    except UnicodeDecodeError:
        raise UsageError(f"password file {path} isn't text") from None


def store(path: Path, line: bytes) -> bool:
    """Store a password, unless there is one, which is never replaced.

    Args:
        path: the password file.
        line: the password with its end of line; without that, its end may be missing.

    Returns:
        Whether it was stored; then it is on the disk, all of it.

    Raises:
        UsageError: when it can't be a password, or can't be written.
    """
    if not line.endswith(b"\n"):
        raise UsageError("the password must be one line, of at most 512 characters, with its end")
    if not _PASSWORD.fullmatch(line):
        raise UsageError(
            "the password must have 16 to 512 printable ASCII characters,"
            " and no space at its beginning or end"
        )
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(new, flags, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(line)
                file.flush()
                os.fsync(fd)
            path.hardlink_to(new)  # there whole or not at all; of two callers, one succeeds
        finally:
            new.unlink(missing_ok=True)
        files.flush(path.parent)
    except FileExistsError:
        return False
    except OSError as error:
        raise UsageError(f"password file {path} can't be made: {error.strerror}") from None
    return True
