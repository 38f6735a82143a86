# SPDX-License-Identifier: GPL-3.0-or-later
"""restic's repositories: rclone serves them, and flushes nothing."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dedup_server.engines import restic_recovery
from dedup_server.folder.links import LinkRules
from dedup_server.folder.repository_folder import RepositoryFolder


@dataclass(frozen=True)
class Restic:
    """restic's part in sessions (base.py Engine)."""

    folder: RepositoryFolder
    # restic writes no file twice, and protects them itself on a local disk
    # (internal/backend/local/local.go Save)
    link_rules: ClassVar[LinkRules] = LinkRules(locks=frozenset({"locks"}), protect=True)
    patience: ClassVar[float] = 300  # for the flush of maintenance whose client has gone on

    def settle(self) -> None:
        """See base.py.

        Raises:
            StorageError: what a power cut left can't be put right.
        """
        restic_recovery.settle(self.folder, self.link_rules)

    @contextlib.contextmanager
    def append_only(self) -> Iterator[None]:
        """Flush first: then what the session refers to, of earlier ones, is on the disk.

        Raises:
            StorageError: the disk reports an error.
        """
        self.folder.flush()
        yield

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Do nothing: restic needs nothing more."""
        yield

    @contextlib.contextmanager
    def maintenance(self) -> Iterator[None]:
        """Keep all that there is until what comes is on the disk.

        Raises:
            StorageError: the disk reports an error.
        """
        links = restic_recovery.link_all(self.folder, self.link_rules)
        self.folder.flush()
        try:
            yield
        finally:
            self.folder.flush()
            if links:
                restic_recovery.remove(links)

    def save_state(self, held: Path) -> None:
        """Do nothing: the files are all there is."""

    def restore_state(self, back: Path) -> None:
        """Do nothing: the files are all there is."""

    def carry_over(self, held: Path, back: Path, files: Path) -> None:
        """Do nothing: the files are all there is."""
