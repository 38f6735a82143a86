# SPDX-License-Identifier: GPL-3.0-or-later
"""The folder of a repository, FOLDER/NAME, and the folder beside it, FOLDER/NAME.kept.

Clients reach the first one only. The second one has:

- `lock`: shared by append-only sessions, exclusive for maintenance and rollback (locks.py).
- `made`: a repository was here once, so an empty place isn't a new one.
- `reserve`: room for maintenance on a full disk (reserve.py).
- `held.TIME.WINDOW`, `unheld`, `back.TIME`, `rolled-back.TIME`: what maintenance removed, and what
  a rollback exchanged (held_back.py, engines/borg_history.py).
- `before.BOOT`, `torn.BOOT`: a restic repository before maintenance, and what a power cut left of
  its successor (engines/restic_recovery.py).
- `config.TIME`, `maintenance`: borg's configuration in each of its versions, and how far back a
  rollback can go (engines/borg_records.py).
"""

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from dedup_server.config import Repository
from dedup_server.errors import StorageError, UsageError
from dedup_server.folder.files import FULL, flush_file_system, sync_folder

TIME_FORMAT = "%Y%m%dT%H%M%S"  # of times in names, which are UTC


@dataclass(frozen=True)
class RepositoryFolder:
    """The place of a repository in this qube.

    Attributes:
        repository: its configuration.
        parent: FOLDER.
    """

    repository: Repository
    parent: Path

    @property
    def path(self) -> Path:
        """The repository, FOLDER/NAME."""
        return self.parent / self.repository.name

    @property
    def state_folder(self) -> Path:
        """FOLDER/NAME.kept; a repository's name has no dot, so none can have this one."""
        return self.parent / f"{self.repository.name}.kept"

    @property
    def mounted(self) -> Path:
        """A path on the repository's file system: FOLDER/NAME can be a mount point itself."""
        return self.path if self.path.exists() else self.parent

    def flush(self) -> None:
        """Write everything on the repository's file system to the disk.

        Raises:
            StorageError: the disk reports an error.
        """
        flush_file_system(self.mounted)

    def require_present(self) -> None:
        """Note that a repository is here; refuse an empty place where there was one.

        Raises:
            StorageError: it is gone.
        """
        mark = self.state_folder / "made"
        if (self.path / "config").is_file():  # of both engines
            try:
                # a folder that is missing couldn't be made, for want of room
                if self.state_folder.exists() and not mark.exists():
                    # of several sessions that begin at once, any may make it
                    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                    os.close(os.open(mark, flags, 0o600))
                    sync_folder(self.state_folder)
            except OSError as error:
                if error.errno not in FULL:
                    raise
        elif mark.exists() or any(self.state_folder.glob("config.*")):
            raise StorageError(
                f"the repository {self.path} is gone: bring it back (`dedup-server changes"
                f" {self.repository.name}` lists what a rollback can bring back). To have a new,"
                f" empty one there, move {self.state_folder} away first"
            )

    def require_owner(self) -> None:
        """Refuse to make files that the service's user could then not read.

        Raises:
            UsageError: the repository belongs to another user.
        """
        for path in (self.path, self.state_folder):
            if path.exists() and (owner := path.stat().st_uid) != os.geteuid():
                try:
                    name = pwd.getpwuid(owner).pw_name
                except KeyError:
                    name = f"#{owner}"
                raise UsageError(
                    f"{path} belongs to another user: run this as that one, with `sudo -u '{name}'`"
                )


def find(repository: Repository) -> RepositoryFolder | None:
    """Return where a repository is; None when it isn't in this qube."""
    return RepositoryFolder(repository, repository.folder) if repository.folder else None


def require(repository: Repository) -> RepositoryFolder:
    """Return where a repository is.

    Raises:
        UsageError: it isn't in this qube.
    """
    folder = find(repository)
    if folder is None:
        raise UsageError(
            f"{repository.name} is not in this qube: run this where {repository.place} is."
            " What maintenance removes through this qube is not held back there"
        )
    return folder
