# SPDX-License-Identifier: GPL-3.0-or-later
"""The writer of runs into a restic repository."""

from typing import IO

from dedup_store.engines.restic.extents import CUT
from dedup_store.engines.restic.runner import HOST, MANIFEST, PAYLOAD, ResticRunner
from dedup_store.system.gate import Gate
from dedup_store.system.processes import Child
from dedup_store.system.streams import BUFFER

_CONSTANT_TIME = "2000-01-01 00:00:00"


class ResticWriter:
    """A writer of one run: one restic for the payload, one for the manifest (see base.Writer).

    Each is started before its data come, so that its key derivation costs no time: the second one
    while the first one finishes.
    """

    def __init__(self, restic: ResticRunner, run: str) -> None:
        self._restic = restic
        self._run = run
        self._has_payload = False
        self._payload: Child | None = None
        self._manifest: Child | None = None

    def __enter__(self) -> "ResticWriter":
        self._payload = self._backup(PAYLOAD, PAYLOAD, "--time", _CONSTANT_TIME, feed=True)
        return self

    def __exit__(self, *_: object) -> None:
        for child in (self._manifest, self._payload):
            if child:
                child.stop()

    def open_object(self) -> None:
        """Begin the next object."""
        self._has_payload = True

    def write(self, data: memoryview) -> None:
        """Add to the open object."""
        if self._payload:
            self._payload.write(data)

    def close_object(self) -> None:
        """End the open object: restic's next chunk begins with the next one."""
        self.write(memoryview(CUT))

    def finish(self) -> None:
        """End the payload."""
        if self._payload and self._has_payload:
            self._payload.close_stdin()
        elif self._payload:
            self._payload.interrupt()

    def put_manifest(self, file: IO[bytes], summary: str) -> None:
        """Store the manifest object, as soon as the payload is complete."""
        self._manifest = self._backup(MANIFEST, f"summary={summary}", feed=Gate())
        if self._payload and self._has_payload:
            self._payload.finish()
        while data := file.read(BUFFER):
            self._manifest.write(data)
        self._manifest.finish()
        self._restic.flush()

    def _backup(self, filename: str, tag: str, *more: str, feed: bool | Gate) -> Child:
        arguments = ["backup", "--stdin", "--stdin-filename", filename, "--host", HOST]
        arguments += self._restic.backup_options()
        return self._restic.start(*arguments, "--tag", f"run={self._run},{tag}", *more, feed=feed)
