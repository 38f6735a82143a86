# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine directory: plain files, not encrypted, for file systems that deduplicate.

    REPOSITORY/dedup-store-runs/RUN/0, 1, ...      payload objects
                                    manifest       the manifest object
                                    objects.json   the summary, length and SHA-256 of each object

A run is written as RUN.unfinished, flushed to the disk, and appears by one rename; to be removed it
is renamed back first. So what has a run's name is whole, whatever was killed, and what a killed
command leaves shows by its name. Runs don't depend on each other: any can be removed with `rm`.
Two puts at once work: each has a folder of its own.
"""

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from dedup_store.archive.manifest import WHOLE, is_run_name, read_summary
from dedup_store.archive.order import in_order
from dedup_store.config import Config
from dedup_store.engines import folder
from dedup_store.engines.base import MAX_MANIFEST, StoredRun, Usage
from dedup_store.engines.directory import layout
from dedup_store.engines.directory.index import (
    MANIFEST,
    UNFINISHED,
    failing,
    open_file,
    read_index,
)
from dedup_store.engines.directory.stream import DirectoryStream
from dedup_store.engines.directory.writer import DirectoryWriter
from dedup_store.errors import StoreError
from dedup_store.system import files
from dedup_store.system.files import files_bytes
from dedup_store.system.processes import ChildStream
from dedup_store.system.streams import Stream, read_all


class Directory:
    """A folder with a folder for each run (see base.Engine)."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._place = Path(config.location)
        self._runs = self._place / layout.RUNS

    def exists(self) -> bool:
        """Return whether there is a repository; no password protects it."""
        return folder.check(self._config)

    def identity(self) -> str | None:
        """Return its id; one that is older than ids has none."""
        return layout.read_id(self._place)

    def create(self) -> None:
        """Make the repository; the last mkdir is what makes it one."""
        with failing(f"repository {self._place} can't be made"):
            self._place.mkdir(mode=0o700, parents=True, exist_ok=True)
            layout.make_id(self._place)
            self._runs.mkdir(mode=0o700)
            files.flush(self._place)
            files.flush(self._place.parent)

    def key(self) -> None:
        """Return nothing: there is no key."""

    def runs(self) -> list[StoredRun]:
        """List the runs; one that is malformed has an empty summary."""
        return [StoredRun(name, self._summary(name)) for name in self._names("")]

    def leftovers(self) -> list[str]:
        """List what killed puts and removals left."""
        return self._names(UNFINISHED)

    def forget(self, runs: Sequence[str]) -> None:
        """Remove these runs or leftovers."""
        gone = [self._runs / f"{run}{UNFINISHED}" for run in runs]
        with failing(f"a run in {self._runs} can't be removed"):
            for run, left in zip(runs, gone, strict=True):
                with contextlib.suppress(FileNotFoundError):  # it is a leftover
                    (self._runs / run).rename(left)
            files.flush(self._runs)
            for left in gone:
                shutil.rmtree(left)

    def prune(self) -> None:
        """Do nothing: forget has removed the files."""

    def unlock(self) -> None:
        """Do nothing: there are no locks."""

    def check(self, *, read_data: bool) -> None:  # noqa: ARG002 -- the engines' interface
        """Check the folder only: each run stands for itself."""
        self._names("")

    def lost_objects(self, run: str, lengths: Sequence[int]) -> set[int]:
        """Return the payload objects of a run that aren't there with their length."""
        indexed, lost = read_index(self._runs / run).objects, set(range(len(lengths)))
        for number, length in enumerate(lengths):
            stored = indexed.get(str(number))
            if stored is None or stored.length != length:
                continue
            with contextlib.suppress(StoreError):
                fd = open_file(self._runs / run / str(number))
                if os.fstat(fd).st_size == length:
                    lost.remove(number)
                os.close(fd)
        return lost

    def payload_id(self, run: str) -> str:  # noqa: ARG002 -- the engines' interface
        """Return nothing: it is unknown."""
        return ""

    def usage(self) -> Usage:
        """Return the room that the repository takes."""
        with failing(f"{self._place} can't be read"):
            size = files_bytes(self._place, allocated=True)
        how = "the blocks of the repository's files; those that files share count for each"
        return Usage(size, how)

    def writer(self, run: str) -> DirectoryWriter:
        """Begin a new run, which may share blocks with the newest whole one."""
        found = (read_summary(stored.summary, stored.run) for stored in self.runs())
        whole = in_order(summary for summary in found if summary and summary["status"] == WHOLE)
        newest = self._runs / whole[-1]["run"] if whole else None
        return DirectoryWriter(self._runs, run, newest)

    def reading_many(
        self,
        runs: Sequence[str],  # noqa: ARG002 -- the engines' interface
    ) -> contextlib.nullcontext[None]:
        """Do nothing: a start costs nothing here."""
        return contextlib.nullcontext()

    def manifest(self, run: str) -> bytes:
        """Read the manifest object of a run."""
        return read_all(self._read(run, [MANIFEST]), MAX_MANIFEST)

    def begin(self, run: str) -> None:
        """Begin nothing: an early start saves no time here."""

    def payload(
        self,
        run: str,
        lengths: Sequence[int],  # noqa: ARG002 -- the engines' interface
        wanted: Sequence[int],
        begun: ChildStream | None = None,  # noqa: ARG002 -- the engines' interface
    ) -> Stream:
        """Read payload objects of a run."""
        return self._read(run, [str(number) for number in wanted])

    def _read(self, run: str, names: list[str]) -> Stream:
        index = read_index(self._runs / run)
        for name in names:
            if name not in index.objects:
                raise StoreError(f"object {name} of {run} is not in the repository")
        return DirectoryStream(self._runs / run, [(name, index.objects[name]) for name in names])

    def _names(self, ending: str) -> list[str]:
        """List the runs whose folders have this ending to their names."""
        with failing(f"{self._runs} can't be read"), os.scandir(self._runs) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        runs = [name.removesuffix(ending) for name in names if name.endswith(ending)]
        return [run for run in runs if is_run_name(run)]

    def _summary(self, run: str) -> str:
        with contextlib.suppress(StoreError):
            return read_index(self._runs / run).summary
        return ""

    def is_asking(self, kind: str) -> bool:  # noqa: ARG002 -- the engines' interface
        """Return False: this qube keeps no record of its state."""
        return False

    def accept(self, kind: str) -> None:
        """Do nothing: there is nothing to accept."""
