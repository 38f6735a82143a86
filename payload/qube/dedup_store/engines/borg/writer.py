# SPDX-License-Identifier: GPL-3.0-or-later
"""The writer of runs into a borg repository.

borg can read several files in one process only from paths, so each payload object is a named pipe
in a temporary folder: `borg create --read-special --paths-from-stdin` stores what comes through
it as a file.
"""

import contextlib
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import IO

from dedup_store.engines.borg.runner import BorgRunner
from dedup_store.engines.borg.summaries import Summaries
from dedup_store.errors import StoreError
from dedup_store.system import streams
from dedup_store.system.processes import Child

PAYLOAD, MANIFEST = ".payload", ".manifest"  # ends of archives' names
# borg 1.2 and 1.4 read the list of paths 4096 characters at a time (helpers/misc.py
# iter_separated), and take slashes out (os.path.normpath): so a path is written that long
_PATH_RECORD = 4096
_PAUSE = 0.001  # seconds between two looks
_SETTLE = 0.02  # seconds that borg gets at most to come to its first read
# an object's metadata must not change from run to run
_CREATE = ["create", "--files-cache", "disabled"]
_CREATE += ["--noctime", "--nobirthtime", "--noxattrs", "--noacls", "--noflags", "--numeric-ids"]


def object_name(number: int) -> str:
    """Return the name of an object's file in the payload's archive."""
    return f"{number:06}"


def _await_first_read(child: Child) -> None:
    """Wait until borg sleeps, in its first read of the pipe that it has opened.

    Our first write changes the pipe's time, which borg stores, and looks at between opening and
    reading. A lost race costs some kB of metadata, nothing else.
    """
    end = time.monotonic() + _SETTLE
    while not child.is_sleeping() and time.monotonic() < end:
        time.sleep(_PAUSE)


class BorgWriter:
    """A writer of one run: one borg for the payload, one for the manifest (see base.Writer)."""

    def __init__(self, borg: BorgRunner, summaries: Summaries, run: str) -> None:
        self._borg = borg
        self._summaries = summaries
        self._run = run
        self._count = 0
        self._folder = tempfile.TemporaryDirectory(prefix="dedup-store-")
        self._child: Child | None = None
        self._object = -1

    def __enter__(self) -> "BorgWriter":
        return self

    def __exit__(self, *_: object) -> None:
        """Stop what still runs; before its pipe closes, or borg would take it for complete."""
        if self._child:
            self._child.stop()
        self.close_object()
        self._folder.cleanup()

    def open_object(self) -> None:
        """Begin the next object: a named pipe that borg reads."""
        path = Path(self._folder.name) / object_name(self._count)
        self._count += 1
        os.mkfifo(path, 0o600)
        os.utime(path, (0, 0))
        if self._child:
            self._object = self._offer(self._child, path)
        else:
            self._object = self._borg.when_unlocked(partial(self._start_payload, path))
        streams.widen(self._object)

    def _start_payload(self, path: Path) -> int:
        options = ["--read-special", "--paths-from-stdin", f"::{self._run}{PAYLOAD}"]
        child = self._borg.start(
            *_CREATE, *self._borg.create_options(), *options, feed=True, cwd=path.parent
        )
        self._child = child
        try:
            return self._offer(child, path)
        except StoreError:
            child.stop()
            self._child = None
            raise

    @staticmethod
    def _offer(child: Child, path: Path) -> int:
        """Send borg the name of a named pipe, and open the pipe as soon as borg reads it."""
        child.write(f".{path.name:/>{_PATH_RECORD - 2}}\n".encode())
        while True:
            with contextlib.suppress(OSError):  # ENXIO: nobody reads yet
                fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                os.set_blocking(fd, True)
                _await_first_read(child)
                return fd
            if not child.is_running():
                raise child.failure()
            time.sleep(_PAUSE)

    def write(self, data: memoryview) -> None:
        """Add to the open object."""
        try:
            streams.write_all(self._object, data)
        except BrokenPipeError:
            if self._child is None:
                raise
            raise self._child.failure() from None

    def close_object(self) -> None:
        """End the open object."""
        if self._object >= 0:
            os.close(self._object)
            self._object = -1

    def finish(self) -> None:
        """Wait until the payload archive is complete."""
        if self._child:
            child, self._child = self._child, None
            try:
                child.finish()
            finally:
                child.stop()

    def put_manifest(self, file: IO[bytes], summary: str) -> None:
        """Store the manifest's archive."""
        archive = f"::{self._run}{MANIFEST}"
        options = [*self._borg.create_options(), "--stdin-name", "manifest", "--comment", summary]

        def attempt() -> None:
            file.seek(0)
            self._child = self._borg.start(*_CREATE, *options, archive, "-", feed=file)
            self.finish()

        self._borg.when_unlocked(attempt)
        self._summaries.add(f"{self._run}{MANIFEST}", summary)
