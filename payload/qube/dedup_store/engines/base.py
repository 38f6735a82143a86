# SPDX-License-Identifier: GPL-3.0-or-later
"""The interface of an engine. Whatever handles a repository's contents uses only this."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import IO, Protocol

from dedup_store.system.processes import ChildStream
from dedup_store.system.streams import Stream

MAX_MANIFEST = 1 << 30  # bytes of a manifest object
RESERVE = "dedup-store.reserve"  # a file of ours in a repository's folder: repository/reserve.py


@dataclass(frozen=True)
class Session:
    """The facts that an engine needs of the command that uses it.

    Attributes:
        lock: descriptor that the engine's processes keep open, so that they hold the lock too.
        removes: whether the command may remove something.
        known_id: the id that a repository elsewhere must have to be written to; empty when that is
            unknown. An engine that can refuse another one doesn't ask for the id then.
    """

    lock: int
    removes: bool
    known_id: str = ""


@dataclass(frozen=True)
class StoredRun:
    """A run in the repository: its name, and its summary as pack_summary wrote it."""

    run: str
    summary: str


@dataclass(frozen=True)
class Usage:
    """The room that a repository takes.

    Attributes:
        stored_bytes: its size, None when it isn't known.
        how: what was counted, in words.
    """

    stored_bytes: int | None
    how: str


class Writer(Protocol):
    """A writer of the objects of one run. As a context manager it stops the engine on errors."""

    def __enter__(self) -> "Writer": ...

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
        """Stop what still runs."""

    def open_object(self) -> None:
        """Begin the next payload object."""

    def write(self, data: memoryview) -> None:
        """Add to the open object."""

    def close_object(self) -> None:
        """End the open object."""

    def finish(self) -> None:
        """End the payload: no more objects will come."""

    def put_manifest(self, file: IO[bytes], summary: str) -> None:
        """Store the manifest object, after all payload objects; from then on the run exists.

        If we are killed while the engine reads the file, no half of it may become an object.
        """


class Engine(Protocol):
    """A repository of one kind. All methods raise StoreError."""

    def exists(self) -> bool:
        """Return whether there is a repository that the password (if any) opens.

        A repository of another kind, or a wrong password, is an error.
        """

    def identity(self) -> str | None:
        """Return the repository's unique id; None when it has none."""

    def create(self) -> None:
        """Make the repository."""

    def key(self) -> str | None:
        """Return what to keep beside the password, in case the repository loses it."""

    def runs(self) -> list[StoredRun]:
        """List the runs (those that have a manifest)."""

    def writer(self, run: str) -> Writer:
        """Begin a new run."""

    def manifest(self, run: str) -> bytes:
        """Read the manifest object of a run, of at most MAX_MANIFEST bytes."""

    def reading_many(self, runs: Sequence[str]) -> AbstractContextManager[None]:
        """Prepare for calls of manifest() for these runs, in this order, while it is open."""

    def begin(self, run: str) -> ChildStream | None:
        """Begin to read all payload objects of a run, before its manifest is read.

        Returns:
            A stream for payload(), or for the caller to close; None when that saves no time.
        """

    def payload(
        self,
        run: str,
        lengths: Sequence[int],
        wanted: Sequence[int],
        begun: ChildStream | None = None,
    ) -> Stream:
        """Read payload objects of a run, one after the other.

        Args:
            run: its name.
            lengths: bytes of each object that it has.
            wanted: numbers of those to read, ascending; all, when begun is given.
            begun: what begin() gave.
        """

    def leftovers(self) -> list[str]:
        """List the runs that have objects but no manifest, so that they don't exist."""

    def forget(self, runs: Sequence[str]) -> None:
        """Remove all objects of these runs, or leftovers, and nothing else.

        The manifests go first: if this ends early, no incomplete run looks whole.
        """

    def prune(self) -> None:
        """Free the space of what was removed."""

    def unlock(self) -> None:
        """Remove the engine's own locks that killed processes left.

        Called when no other command of ours uses the repository.
        """

    def check(self, *, read_data: bool) -> None:
        """Run the engine's own check; its findings about single runs come from lost_objects.

        Raises:
            DamagedError: something is lost or altered.
        """

    def lost_objects(self, run: str, lengths: Sequence[int]) -> set[int]:
        """Return the numbers of a run's payload objects that are lost, after a check.

        Args:
            run: its name.
            lengths: bytes that each object must have; the objects aren't read. An engine whose own
                check compares lengths needn't compare them again.
        """

    def payload_id(self, run: str) -> str:
        """Return what is equal for runs whose payload is equal; empty when that is unknown."""

    def usage(self) -> Usage:
        """Return the room that the repository takes."""

    def is_asking(self, kind: str) -> bool:
        """Return whether the repository changed since this qube last saw it.

        Args:
            kind: of the difference: errors.MOVED or errors.OLDER.

        Raises:
            QuestionError: there is a difference of another kind.
        """

    def accept(self, kind: str) -> None:
        """Accept the repository as it is from now on, if it changed in this way."""
