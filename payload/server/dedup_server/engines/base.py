# SPDX-License-Identifier: GPL-3.0-or-later
"""The interface of an engine in sessions; this module imports no engine."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from dedup_server.folder.links import LinkRules
from dedup_server.folder.repository_folder import RepositoryFolder


class Engine(Protocol):
    """An engine's part in sessions of one repository; sessions.py holds the lock meanwhile."""

    @property
    def folder(self) -> RepositoryFolder:
        """The repository's folder."""

    @property
    def link_rules(self) -> LinkRules:
        """The rules for links to its files."""

    @property
    def patience(self) -> float:
        """For how many seconds a session waits for another one's end."""

    def settle(self) -> None:
        """End what an interrupted session left; nobody else uses the repository.

        Raises:
            StorageError: it can't be ended.
        """

    def append_only(self) -> AbstractContextManager[None]:
        """Surround a session that adds and reads."""

    def exclusive(self) -> AbstractContextManager[None]:
        """Surround a rollback or `discard`."""

    def maintenance(self) -> AbstractContextManager[None]:
        """Surround a session that may remove everything; it is held back already."""

    def save_state(self, held: Path) -> None:
        """Record in a folder what a rollback to the files in it must restore beside them."""

    def restore_state(self, back: Path) -> None:
        """Restore what save_state recorded in a folder; this can be repeated."""

    def carry_over(self, held: Path, back: Path, files: Path) -> None:
        """Complete the repository that a rollback is about to put in place.

        Args:
            held: a folder with what save_state noted.
            back: the folder that gets the same, and what mustn't go back.
            files: the new repository, in back.
        """
