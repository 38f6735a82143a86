# SPDX-License-Identifier: GPL-3.0-or-later
"""The writer of runs into a restic repository."""

from typing import IO

from dedup_store.engines.restic.runner import HOST, ResticRunner
from dedup_store.system.processes import Child

_CONSTANT_TIME = "2000-01-01 00:00:00"


class ResticWriter:
    """A writer of one run, with one restic process per object (see base.Writer).

    A process is started when the object before is complete, as it must know its data, and not only
    when the next one begins: dom0 reads a whole volume before the first of its bytes comes
    (qubes-core-admin qubes/tarwriter.py get_sparse_map). The last one remains unused.
    """

    def __init__(self, restic: ResticRunner, run: str) -> None:
        self._restic = restic
        self._run = run
        self._count = 0
        self._child: Child | None = None
        self._next: Child | None = None

    def __enter__(self) -> "ResticWriter":
        self._start_next()
        return self

    def __exit__(self, *_: object) -> None:
        for child in (self._child, self._next):
            if child:
                child.stop()

    def _start_next(self) -> None:
        tag = f"object={self._count}"
        self._next = self._backup("payload", tag, "--time", _CONSTANT_TIME)

    def open_object(self) -> None:
        """Begin the next object."""
        self._child, self._next = self._next, None
        self._count += 1

    def write(self, data: memoryview) -> None:
        """Add to the open object."""
        if self._child:
            self._child.write(data)

    def close_object(self) -> None:
        """End the open object."""
        self._wait()
        self._start_next()

    def finish(self) -> None:
        """End the process that waits for another object while the manifest is stored."""
        if self._next:
            self._next.interrupt()

    def _wait(self) -> None:
        """Wait until the object that restic has is complete."""
        if self._child:
            child, self._child = self._child, None
            try:
                child.finish()
            finally:
                child.stop()

    def put_manifest(self, file: IO[bytes], summary: str) -> None:
        """Store the manifest object."""
        self._child = self._backup("manifest", f"summary={summary}", feed=file)
        self._wait()
        self._restic.flush()

    def _backup(self, filename: str, tag: str, *more: str, feed: bool | IO[bytes] = True) -> Child:
        arguments = ["backup", "--stdin", "--stdin-filename", filename, "--host", HOST]
        arguments += self._restic.backup_options()
        return self._restic.start(*arguments, "--tag", f"run={self._run},{tag}", *more, feed=feed)
