# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of dom0 that are replaced in one step."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .dedup_common import ProvisionError


@dataclass(frozen=True)
class Rights:
    """Owner, group and mode of a file."""

    uid: int
    gid: int
    mode: int

    @classmethod
    def of(cls, owner: str, group: str, mode: int) -> Rights:
        """Return the rights for these names of owner and group.

        Raises:
            ProvisionError: there is no such user or group here.
        """
        try:
            return cls(pwd.getpwnam(owner).pw_uid, grp.getgrnam(group).gr_gid, mode)
        except KeyError as error:
            raise ProvisionError(f"no such user or group in dom0: {error}") from error

    def are_those_of(self, path: Path) -> bool:
        """Return whether a path is an ordinary file with these rights."""
        found = path.lstat()
        mode = stat.S_IMODE(found.st_mode)
        return stat.S_ISREG(found.st_mode) and (found.st_uid, found.st_gid, mode) == (
            self.uid,
            self.gid,
            self.mode,
        )


def replace_file(path: Path, text: str, rights: Rights) -> None:
    """Replace or make a file in one step; it never has other rights, or half its content.

    Raises:
        ProvisionError: it can't be written; it is as before.
    """
    try:
        # mkstemp makes it 0600; a name that begins with a dot is read by nothing in these folders.
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fchown(file.fileno(), rights.uid, rights.gid)
                os.fchmod(file.fileno(), rights.mode)
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                Path(temporary).unlink()
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise ProvisionError(f"can't write {path}: {error.strerror or error}") from error


def remove_file(path: Path) -> None:
    """Remove a file that may be gone already.

    Raises:
        ProvisionError: it can't be removed.
    """
    try:
        path.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise ProvisionError(f"can't remove {path}: {error.strerror or error}") from error


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
