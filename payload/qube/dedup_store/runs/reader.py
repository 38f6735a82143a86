# SPDX-License-Identifier: GPL-3.0-or-later
"""The reader of a run: its manifest, and its stream or some members of it."""

from collections.abc import Sequence

from dedup_store.archive.joiner import Joiner, MemberSelection
from dedup_store.archive.manifest import WHOLE
from dedup_store.engines.base import Engine
from dedup_store.errors import DamagedError
from dedup_store.runs.catalog import read_manifest, resolve
from dedup_store.system import notify, progress, streams
from dedup_store.system.processes import ChildStream
from dedup_store.system.streams import Stream


class RunReader:
    """A run open for reading, as a context manager that stops the engine.

    Args:
        repository: where from.
        wanted: a run's name, or `latest`, the newest whole one.
        prefixes: only members whose names begin with one of these, each with all of its bytes;
            None for the whole stream. Only payload objects that have some of them are read.

    Raises:
        NoRunError: when there is no such run.
        StoreError: when the engine failed, or the manifest isn't what was stored.

    Attributes:
        manifest: of the run.
    """

    def __init__(
        self, repository: Engine, wanted: str, prefixes: Sequence[str] | None = None
    ) -> None:
        run = resolve(repository, wanted)
        begun = repository.begin(run) if prefixes is None else None
        self._payload: Stream | None = begun
        try:
            self.manifest, self._recipe = read_manifest(repository, run)
            self._selection = MemberSelection(self.manifest, prefixes)
            if wanted_objects := self._selection.objects:
                lengths = self.manifest.objects
                self._payload = repository.payload(run, lengths, wanted_objects, begun)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "RunReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the engine."""
        if self._payload:
            self._payload.close()

    def warn_unless_whole(self) -> None:
        """Warn when the run isn't whole."""
        if self.manifest.status != WHOLE:
            notify.warn(f"{self.manifest.run} is {self.manifest.status}: {self.manifest.reason}")

    def write(self, fd: int) -> None:
        """Write the stream, or the selected part of it, to a file descriptor.

        Raises:
            StoreError: when the engine failed, or the data aren't what was stored; what was
                written by then is not the whole stream, or not known to be right.
            BrokenPipeError: when the reader has gone.
        """
        streams.widen(fd)
        payload = self._payload if self._selection.objects else None
        joiner = Joiner(self.manifest, payload or ChildStream(), fd, self._selection)
        with progress.shown(lambda: joiner.written):
            joiner.run(self._recipe)
        if joiner.written != self._selection.length:
            run, wrong, right = self.manifest.run, joiner.written, self._selection.length
            raise DamagedError(f"{run} has {wrong} bytes instead of {right}")
