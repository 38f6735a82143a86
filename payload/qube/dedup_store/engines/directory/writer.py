# SPDX-License-Identifier: GPL-3.0-or-later
"""The writer of runs into a repository of plain files."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import IO

from dedup_store.engines.directory.index import (
    INDEX,
    MANIFEST,
    UNFINISHED,
    Index,
    Stored,
    failing,
    open_file,
    read_index,
)
from dedup_store.engines.directory.object_file import ObjectFile, has_reflinks
from dedup_store.errors import StoreError
from dedup_store.system import files
from dedup_store.system.streams import BUFFER

_HEAD = 4096  # bytes by which an object is recognised


class DirectoryWriter:
    """A writer of one run; each object is stored as soon as it is closed (see base.Writer).

    Args:
        runs: the folder that has a folder for each run.
        run: its name.
        older: folder of the run to share blocks with, if the file system can.
    """

    def __init__(self, runs: Path, run: str, older: Path | None) -> None:
        self._run = run
        self._whole = runs / run
        self._folder = runs / f"{run}{UNFINISHED}"
        self._older = older
        self._older_names: list[str] = []  # of its objects, when blocks can be shared
        self._stored: dict[str, Stored] = {}
        self._object: ObjectFile | None = None

    def __enter__(self) -> "DirectoryWriter":
        with self._writing():
            if self._older and has_reflinks(self._whole.parent):
                with contextlib.suppress(StoreError):
                    self._older_names = list(read_index(self._older).objects)
            self._folder.mkdir(mode=0o700)
        return self

    def __exit__(self, *_: object) -> None:
        if self._object:
            self._object.abandon()
        shutil.rmtree(self._folder, ignore_errors=True)  # prune removes what stays

    def open_object(self) -> None:
        """Begin the next object."""
        self._open(str(len(self._stored)), self._find_older)

    def write(self, data: memoryview) -> None:
        """Add to the open object."""
        if self._object:
            with self._writing():
                self._object.write(data)

    def close_object(self) -> None:
        """End the open object; then it is on the disk."""
        if self._object:
            with self._writing():
                self._object.finish()
            name, made, self._object = self._object.path.name, self._object, None
            self._stored[name] = Stored(made.length, made.sha256)

    def finish(self) -> None:
        """Do nothing: each object is complete when it is closed."""

    def put_manifest(self, file: IO[bytes], summary: str) -> None:
        """Store the manifest object, and give the run its name."""
        self._open(MANIFEST)
        while data := file.read(BUFFER):
            self.write(memoryview(data))
        self.close_object()
        index = asdict(Index(self._run, summary, self._stored))
        self._open(INDEX)
        self.write(memoryview(json.dumps(index, separators=(",", ":")).encode() + b"\n"))
        self.close_object()
        with self._writing():
            files.flush(self._folder)
            self._folder.rename(self._whole)
            files.flush(self._whole.parent)

    def _open(self, name: str, find_older: Callable[[bytes], int | None] | None = None) -> None:
        with self._writing():
            self._object = ObjectFile(self._folder / name, find_older)

    def _find_older(self, beginning: bytes) -> int | None:
        """Open the older run's object that begins alike, else the one with the same number.

        A qube that is new in a backup moves the numbers of all that come after it.
        """
        if not self._older or not self._older_names or not self._object:
            return None
        same = self._object.path.name
        names = sorted(self._older_names, key=lambda name: name != same)
        heads = ((name, _head(self._older / name)) for name in names)
        alike = next((name for name, head in heads if head == beginning[:_HEAD]), same)
        with contextlib.suppress(StoreError):
            return open_file(self._older / alike)
        return None

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        return failing(f"{self._folder} can't be written")


def _head(path: Path) -> bytes:
    """Return a file's first bytes; none when it can't be read."""
    with contextlib.suppress(StoreError, OSError), os.fdopen(open_file(path), "rb") as file:
        return file.read(_HEAD)
    return b""
