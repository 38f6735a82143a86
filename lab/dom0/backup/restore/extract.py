# SPDX-License-Identifier: GPL-3.0-or-later
"""Unpack inner archives: decrypted chunks go in order into tar, and its output to a handler.

Stands in for ExtractWorker3 of qubes-core-admin-client qubesadmin/backup/restore.py, with threads
where upstream has processes. Its failures are logged, and don't end the restore: upstream's quirk.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import re
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from ..system import opened

Handler = Callable[[IO[bytes], int | None], None]  # gets a stream and the size, if it is known

log = logging.getLogger("qubesadmin.backup.extract")

# A line of `tar -xvv`: mode, owner/group, size, date, time, name.
_SIZE = re.compile(r"[^ ]+ [^ ]+/[^ ]+ *([0-9]+) ")


class _Import(threading.Thread):
    """Runs a handler on what an extracting program writes to stdout."""

    def __init__(
        self,
        owner: Extractor,
        program: subprocess.Popen[bytes],
        handler: Handler,
        sized: bool,
    ) -> None:
        super().__init__(daemon=True)
        self._owner = owner
        self._program = program
        self._handler = handler
        self._sized = sized
        self.failed = False

    def run(self) -> None:
        """Call the handler; what it leaves unread breaks the program's pipe."""
        stdout = opened(self._program.stdout)
        try:
            self._handler(stdout, self._size() if self._sized else None)
        except Exception as error:  # noqa: BLE001 -- told through `failed`
            log.error("ERROR: %s", error)
            self.failed = True
        finally:
            stdout.close()

    def _size(self) -> int | None:
        """Return the file's size, which tar tells before it writes any data."""
        for line in opened(self._program.stderr):
            text = line.decode(errors="replace")
            if match := _SIZE.match(text):
                return int(match[1])
            log.warning("unexpected tar output (no file size report): %s", text)
        if not self._owner.aborting:
            log.warning("EOF from tar before got file size info")
        return None


class Extractor(threading.Thread):
    """Takes chunks in the order of `put`, unpacks and deletes them.

    Attributes:
        aborting: an archive is being given up, so its handler's complaints mean nothing.
        failed: the thread itself failed.
    """

    def __init__(
        self, folder: Path, handlers: Mapping[str, Handler], compression_filter: str | None
    ) -> None:
        """Take where the chunks are, and what to do with each inner file.

        Args:
            folder: chunks are below it.
            handlers: by name in the archive, such as vm7/private.img; others are ignored.
            compression_filter: the program to decompress with, or None.
        """
        super().__init__(daemon=True)
        self.aborting = False
        self.failed = False
        self._folder = folder
        self._handlers = handlers
        self._filter = compression_filter
        self._queue: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self._program: subprocess.Popen[bytes] | None = None
        self._import: _Import | None = None
        self._current = ""
        self._errors: list[str] = []

    def put(self, chunk: Path) -> None:
        """Add a decrypted chunk, FOLDER/NAME.NNN."""
        self._queue.put(chunk)

    def finish(self, cancel: bool = False) -> None:
        """Unpack what was put, or give up (`cancel`), and wait for the end."""
        if cancel:
            self._cancelled.set()
        self._queue.put(None)
        self.join()

    def run(self) -> None:
        """Work until `finish`."""
        try:
            while (chunk := self._queue.get()) is not None:
                self._take(chunk)
            self._end(abort=self._cancelled.is_set())
        except Exception as error:  # noqa: BLE001 -- told through `failed`
            log.error("ERROR: %s", error)
            self.failed = True
            if self._program is not None:
                self._program.kill()

    def _take(self, chunk: Path) -> None:
        if chunk.name.endswith(".000"):
            self._end(abort=False)
            if not self._start(str(chunk.relative_to(self._folder))[: -len(".000")]):
                chunk.unlink()
                return
        elif self._program is None:
            chunk.unlink()
            return
        else:
            base, number = self._current.rsplit(".", 1)
            expected = f"{base}.{int(number) + 1:03d}"
            if str(chunk) != expected:
                self._end(abort=True)
                log.error("Unexpected file in archive: %s, expected %s", chunk, expected)
                chunk.unlink()
                return
        self._current = str(chunk)
        self._feed(chunk)
        chunk.unlink()

    def _start(self, name: str) -> bool:
        """Start the program that unpacks the inner file `name`; False if nobody wants it."""
        if name not in self._handlers:
            return False
        sized = not name.startswith("dom0-home/")
        if sized:
            command = ["tar", "-xvvO", name]
            if self._filter is not None:
                command.insert(-1, f"--use-compress-program={self._filter} ")
        else:
            command = ["cat"] if self._filter is None else [self._filter, "-d"]
        self._errors = []
        pipe = subprocess.PIPE
        self._program = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)
        self._import = _Import(self, self._program, self._handlers[name], sized)
        self._import.start()
        return True

    def _feed(self, chunk: Path) -> None:
        program = opened(self._program)
        feeder = subprocess.run(["cat", str(chunk)], stdout=program.stdin, check=False)
        if feeder.returncode:
            self._collect_errors()
            problem = "\n".join(self._errors)
        elif program.poll():
            problem = "addproc failed"
        elif opened(self._import).failed:
            problem = "data_import failed"
        else:
            return
        log.error("Error while processing '%s': %s", self._current, problem)
        self._end(abort=True)

    def _collect_errors(self) -> None:
        """Take what the program wrote to stderr, if it has ended and nobody else reads it."""
        program = opened(self._program)
        stderr = opened(program.stderr)
        if program.poll() is not None and not stderr.closed:
            opened(self._import).join()
            self._errors += stderr.read().decode(errors="replace").splitlines()

    def _end(self, abort: bool) -> None:
        """End the current inner archive, if there is one."""
        program, importing = self._program, self._import
        if program is None or importing is None:
            return
        self.aborting = abort
        if abort:
            program.terminate()
        with contextlib.suppress(BrokenPipeError):
            opened(program.stdin).close()
        program.wait()
        importing.join()
        self._collect_errors()
        opened(program.stderr).close()
        if program.returncode:
            log.error(
                "ERROR: unable to extract files for %s, tar output:\n  %s",
                self._current,
                "\n  ".join(self._errors),
            )
        self._program = self._import = None
        self.aborting = False
