# SPDX-License-Identifier: GPL-3.0-or-later
"""borg's repositories: borg itself ensures that a power cut leaves them whole."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dedup_server.engines import borg_history, borg_locks, borg_records
from dedup_server.folder.files import FULL, replace_file
from dedup_server.folder.links import LinkRules
from dedup_server.folder.locks import INSTANT
from dedup_server.folder.repository_folder import RepositoryFolder
from dedup_server.notify import notify

_FLOOR, _NONCE = "floor", "nonce"
_MAX_NONCE = 64  # bytes of borg's file


@dataclass(frozen=True)
class Borg:
    """borg's part in sessions (base.py Engine)."""

    folder: RepositoryFolder
    # Its locks: borg/locking.py. It writes to no file twice except `transactions`, and looks for
    # other links before it removes a file (borg/helpers/fs.py safe_unlink).
    link_rules: ClassVar[LinkRules] = LinkRules(
        locks=frozenset({"lock.exclusive", "lock.roster"}), growing=frozenset({"transactions"})
    )
    patience: ClassVar[float] = INSTANT

    def settle(self) -> None:
        """Remove a dead process's lock, and record the last segment after maintenance."""
        borg_locks.remove_dead(self.folder.path)
        self._settle_floor()

    @contextlib.contextmanager
    def append_only(self) -> Iterator[None]:
        """Keep a copy of the configuration before and after, which has the key."""
        self._copy_config()
        try:
            yield
        finally:
            self._copy_config()

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep a copy of the configuration."""
        borg_records.copy_config(self.folder)
        yield

    @contextlib.contextmanager
    def maintenance(self) -> Iterator[None]:
        """Keep a copy of the configuration, and record what may have been compacted."""
        borg_records.copy_config(self.folder)
        borg_records.set_floor(self.folder, borg_records.OPEN)
        yield
        self._settle_floor()

    def save_state(self, held: Path) -> None:
        """Note how far back a rollback of these files can go.

        Raises:
            StorageError: the note of that is malformed.
        """
        replace_file(held / _FLOOR, str(borg_records.floor(self.folder)).encode())

    def restore_state(self, back: Path) -> None:
        """Note how far back a rollback can go now."""
        with contextlib.suppress(FileNotFoundError):
            borg_records.set_floor(self.folder, (back / _FLOOR).read_text(encoding="ascii"))

    def carry_over(self, held: Path, back: Path, files: Path) -> None:
        """Leave borg's counter where it is, when that is further (borg/repository.py get_nonce)."""
        replace_file(back / _FLOOR, (held / _FLOOR).read_bytes())
        now, then = self.folder.path / _NONCE, files / _NONCE
        for path in (now, then):
            if path.is_symlink() or not path.is_file() or path.stat().st_size > _MAX_NONCE:
                return
        with contextlib.suppress(ValueError):
            if int(now.read_text(), 16) > int(then.read_text(), 16):
                replace_file(then, now.read_bytes())

    def _settle_floor(self) -> None:
        """Record how far back a rollback can go, after maintenance."""
        if borg_records.is_open(self.folder):
            last = max(borg_history.segments(self.folder.path), default=-1)
            borg_records.set_floor(self.folder, str(last))

    def _copy_config(self) -> None:
        """Keep a copy, unless nothing can be written: the repository can be read all the same."""
        try:
            borg_records.copy_config(self.folder)
        except OSError as error:
            if self.folder.state_folder.is_dir() and error.errno not in FULL:
                raise
            notify(f"{self.folder.parent}: {error.strerror}: no copy is kept of borg's config")
