# SPDX-License-Identifier: GPL-3.0-or-later
"""Make a backup.

Stands in for Backup.backup_do and its helpers in qubes-core-admin qubes/backup.py. One difference
is wanted: when a backup to a qube fails or is cancelled in dom0, upstream waits for the qube's
service before it closes the service's stdin, and so may wait for ever; here the stream is closed
first.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import string
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import qubesadmin

from .contents import Item, Part, disk_usage, files_to_backup
from .inventory import Qube, load_globals, load_labels
from .profile import Profile
from .qubesxml import Content, write_qubes_xml
from .scrypt import start_encryption
from .streams import Options, send_files, store_items
from .system import opened, problem

HEADER = "backup-header"
QUEUE_LENGTH = 10  # finished chunks that may wait to be sent
PROGRESS_SECONDS = 1
PRINTABLE = set(string.printable) - set("\r\n%{}")


class Progress:
    """Reports percents, at most once a second."""

    def __init__(self, sizes: Sequence[int], report: Callable[[float], None]) -> None:
        """Take the sizes of the qubes in the order in which they are stored."""
        self._sizes = list(sizes)
        self._total = sum(sizes)
        self._done = 0
        self._current = 0
        self._report = report
        self._last = time.monotonic()

    def add(self, count: int) -> None:
        """Count bytes of the current qube."""
        self._current += count
        self._update()

    def group_done(self) -> None:
        """The current qube is stored."""
        self._done += self._sizes.pop(0)
        self._current = 0
        self._update()

    def _update(self) -> None:
        now = time.monotonic()
        if self._total and now - self._last >= PROGRESS_SECONDS:
            self._last = now
            self._report(100 * (self._done + self._current) / self._total)


def header_text(profile: Profile, backup_id: str) -> str:
    """Return the content of the file `backup-header`."""
    return (
        "version=4\n"
        "encrypted=True\n"
        f"compressed={profile.compressed}\n"
        f"compression-filter={profile.compression_filter}\n"
        "hmac-algorithm=scrypt\n"
        f"backup-id={backup_id}\n"
    )


async def _write_header(folder: Path, profile: Profile, passphrase: bytes, backup_id: str) -> None:
    header = folder / HEADER
    header.write_text(header_text(profile, backup_id), encoding="ascii")
    line = f"{HEADER}!".encode() + passphrase
    encryption = await start_encryption(str(header), folder / f"{HEADER}.hmac", line)
    if await encryption.process.wait():
        errors = (await opened(encryption.process.stderr).read()).decode(errors="replace")
        raise problem(f"Failed to compute hmac of header file: {errors}")
    encryption.terminal.close()


@dataclass
class Target:
    """Where the backup goes: a stream, and the service that reads it, if it is in a qube."""

    stream: BinaryIO
    service: subprocess.Popen[bytes] | None
    name: str = ""


def _open_service(qube: Qube, path: str) -> Target:
    if not qube.vm.is_running():
        raise problem(f"Domain is not running: {qube.name!r}")
    reading, writing = os.pipe()
    stream = os.fdopen(writing, "wb", buffering=0)
    try:
        service = qube.vm.run_service(
            "qubes.Backup",
            stdin=reading,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            autostart=False,
        )
        stream.write((path.replace("\r", "").replace("\n", "") + "\n").encode())
    except BaseException:
        stream.close()
        raise
    finally:
        os.close(reading)
    return Target(stream, service, qube.name)


def _open_file(path: str) -> Target:
    target = Path(path)
    if target.is_dir():
        target = target / time.strftime("qubes-%Y-%m-%dT%H%M%S")
    elif not os.path.exists(os.path.dirname(path)):  # noqa: PTH110, PTH120 -- "" isn't "."
        raise problem(f"ERROR: the backup directory for {path} does not exists")
    return Target(target.open("wb", buffering=0), None)


async def _watch(service: subprocess.Popen[bytes], name: str) -> None:
    """Wait for the qube's service; its stderr is read only when it failed.

    Stands in for _monitor_process. What the qube printed is untrusted.
    """
    stderr = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stderr), opened(service.stderr)
    )
    try:
        status = await asyncio.to_thread(service.wait)
    except BaseException:
        service.terminate()
        raise
    if status:
        text = (await stderr.read()).decode("ascii", errors="ignore")
        cleaned = "".join(char for char in text if char in PRINTABLE)
        raise problem(f"Writing backup to VM {name} failed: {cleaned}")


def _cancel_on_error(later: asyncio.Task[None], earlier: asyncio.Task[None]) -> None:
    """Cancel `earlier` when `later`, which it feeds, fails."""

    def ended(task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is not None:
            earlier.cancel()

    later.add_done_callback(ended)


class Backup:
    """One backup."""

    def __init__(self, app: qubesadmin.Qubes, qubes: Sequence[Qube], profile: Profile) -> None:
        """Look up what is to be stored.

        Raises:
            QubesException: dom0's home can't be stored.
        """
        self.app = app
        self.qubes = qubes
        self.profile = profile
        self.backup_id = time.strftime("%Y%m%dT%H%M%S-") + str(os.getpid())
        self.folder = Path(tempfile.mkdtemp())
        empty = self.folder / "empty"
        empty.touch()
        self.parts: Mapping[int, Part] = files_to_backup(profile.selected, empty)

    def close(self) -> None:
        """Remove the temporary folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write_qubes_xml(self) -> Path:
        for part in self.parts.values():
            unsafe = any(volume.snapshots_disabled for volume in part.qube.volumes)
            if unsafe and part.qube.vm.is_running():
                raise problem(f"Domain is not powered off: {part.qube.name!r}")
        contents = {qid: Content(part.path, part.size) for qid, part in self.parts.items()}
        path = self.folder / "qubes.xml"
        write_qubes_xml(path, self.qubes, load_globals(self.app), load_labels(self.app), contents)
        return path

    async def run(self, report: Callable[[float], None]) -> None:
        """Make the backup, and note its time in each qube.

        Args:
            report: told the percents done.

        Raises:
            QubesException: it failed; the text is upstream's.
            asyncio.CancelledError: it was cancelled; what was finished by then was sent.
        """
        passphrase = self.profile.passphrase
        if passphrase is None:
            raise problem("No passphrase set")
        qubes_xml = self._write_qubes_xml()
        work = self.folder / "chunks"
        work.mkdir()
        destination = self.profile.destination
        if destination is not None:
            target = _open_service(destination, self.profile.path)
        else:
            target = _open_file(self.profile.path)
        groups = [[Item(qubes_xml, "", qubes_xml.name, disk_usage(qubes_xml))]]
        groups += [part.items for part in self.parts.values()]
        progress = Progress([sum(item.size for item in items) for items in groups], report)
        options = Options(
            work,
            self.backup_id,
            passphrase,
            self.profile.compression_filter if self.profile.compressed else None,
            progress.add,
        )
        await self._transfer(target, groups, options, progress)
        # Only now, and the time anew for each: Backup.backup_do. An AdminVM has no such property.
        for part in self.parts.values():
            if part.qube.qid:
                part.qube.vm.backup_timestamp = int(time.time())

    async def _transfer(
        self, target: Target, groups: list[list[Item]], options: Options, progress: Progress
    ) -> None:
        service = None
        if target.service is not None:
            service = asyncio.create_task(_watch(target.service, target.name))
        try:
            await _write_header(options.folder, self.profile, options.passphrase, self.backup_id)
            await self._send(target.stream, service, groups, options, progress)
        except BaseException as error:
            target.stream.close()
            if service is not None:
                outcome = await asyncio.gather(service, return_exceptions=True)
                # We were cancelled because the service failed, or by the user.
                if isinstance(error, asyncio.CancelledError) and isinstance(outcome[0], Exception):
                    raise outcome[0] from error
            raise
        target.stream.close()
        if service is not None:
            await service

    async def _send(
        self,
        stream: BinaryIO,
        service: asyncio.Task[None] | None,
        groups: list[list[Item]],
        options: Options,
        progress: Progress,
    ) -> None:
        queue: asyncio.Queue[str | None] = asyncio.Queue(QUEUE_LENGTH)
        sender = asyncio.create_task(send_files(queue, options.folder, stream.fileno()))
        for name in (HEADER, f"{HEADER}.hmac"):
            queue.put_nowait(name)
        storing = asyncio.create_task(store_items(groups, queue, options, progress.group_done))
        _cancel_on_error(sender, storing)
        if service is not None:
            _cancel_on_error(service, sender)
        try:
            await storing
        except BaseException:
            storing.cancel()
            await asyncio.wait({storing})
            # What is finished is still sent, as by upstream; then the stream ends.
            ending = asyncio.create_task(queue.put(None))
            await asyncio.wait({sender})
            ending.cancel()
            sender.result()
            raise
        await sender
