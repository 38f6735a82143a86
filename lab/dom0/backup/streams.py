# SPDX-License-Identifier: GPL-3.0-or-later
"""The two streams of a backup: inner archives cut into encrypted chunks, and chunks sent out.

Stands in for SendWorker, Backup._wrap_and_send_files, Backup._split_and_send and handle_streams of
qubes-core-admin qubes/backup.py. Where upstream copies through qubesd's own buffers, this lets the
kernel move the data (splice), which nobody outside can tell but by the clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .contents import DOM0_HOME, Item
from .scrypt import start_encryption
from .system import problem

CHUNK_BYTES = 100 * 1024 * 1024
PIPE_BYTES = 1024 * 1024

Queue = asyncio.Queue[str | None]  # names of finished chunks; None is the end
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Options:
    """What the inner archives need.

    Attributes:
        folder: where chunks wait to be sent.
        backup_id: part of each chunk's passphrase.
        passphrase: the user's.
        compression_filter: a program, or None.
        progress: told the number of bytes that were read from inner archives.
    """

    folder: Path
    backup_id: str
    passphrase: bytes
    compression_filter: str | None
    progress: Progress


def make_pipe() -> tuple[io.FileIO, io.FileIO]:
    """Return a pipe's reading and writing end, with a large buffer."""
    reading, writing = os.pipe()
    with contextlib.suppress(OSError):  # the system may allow no more large ones
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return io.FileIO(reading, "rb"), io.FileIO(writing, "wb")


async def terminate(process: asyncio.subprocess.Process) -> None:
    """End a process by SIGTERM, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    await process.wait()


def move(source: int, target: int, limit: int, progress: Progress) -> bool:
    """Move up to `limit` bytes from one pipe to another.

    When nobody reads `target` any more, the rest of the bytes is dropped: upstream writes without
    waiting for the reader, and a writer's failure is only logged.

    Returns:
        True at the limit, False at the source's end.
    """
    left = limit
    broken = False
    while left:
        if broken:
            count = len(os.read(source, min(left, PIPE_BYTES)))
        else:
            try:
                count = os.splice(source, target, min(left, PIPE_BYTES))
            except BrokenPipeError:
                broken = True
                continue
        if not count:
            return False
        left -= count
        progress(count)
    return True


def archive_command(item: Item, compression_filter: str | None) -> list[str]:
    """Return the argv of the program that writes an item's inner archive to stdout."""
    if item.volume:
        name = f"--override-name={item.folder}{item.name}"
        command = ["python3", "-m", "qubes.tarwriter", name, str(item.path)]
    else:
        command = ["tar", "-Pc", "--sparse", "-C", str(item.path.parent)]
        if item.folder != DOM0_HOME:
            command.append("--dereference")
        command += [f"--xform=s:^{item.path.name}:{item.folder}\\0:", item.path.name]
    if compression_filter is not None:
        command.insert(-2, f"--use-compress-program={compression_filter}")
    return command


async def _encrypt_chunk(
    source: io.FileIO, producer: asyncio.subprocess.Process, member: str, options: Options
) -> bool:
    """Encrypt the next chunk of an inner archive into `options.folder`/`member`.enc.

    Returns:
        True if there may be more: the chunk is full. So an archive of exactly n chunks gets an
        empty one at its end.
    """
    passphrase = f"{options.backup_id}!{member}!".encode() + options.passphrase
    reading, writing = make_pipe()
    with writing:
        with reading:
            encryption = await start_encryption(
                "-", options.folder / f"{member}.enc", passphrase, reading.fileno()
            )
        copying = asyncio.ensure_future(
            asyncio.to_thread(
                move, source.fileno(), writing.fileno(), CHUNK_BYTES, options.progress
            )
        )
        try:
            full = await asyncio.shield(copying)
        except BaseException:
            await terminate(encryption.process)
            await terminate(producer)
            await copying  # ends now, as both its pipes did
            raise
    await encryption.process.wait()  # and its status doesn't count: upstream only logs it
    encryption.terminal.close()
    return full


async def _store_item(item: Item, queue: Queue, options: Options) -> None:
    name = f"{item.folder}{item.name}"
    (options.folder / name).parent.mkdir(parents=True, exist_ok=True)
    reading, writing = make_pipe()
    with reading:
        with writing:
            producer = await asyncio.create_subprocess_exec(
                *archive_command(item, options.compression_filter), stdout=writing.fileno()
            )
        try:
            number, more = 0, True
            while more:
                member = f"{name}.{number:03d}"
                more = await _encrypt_chunk(reading, producer, member, options)
                await queue.put(f"{member}.enc")
                number += 1
        except BaseException:
            await terminate(producer)
            raise
    if await producer.wait():
        raise problem(f"Failed to archive {item.path} file")


async def store_items(
    groups: list[list[Item]], queue: Queue, options: Options, group_done: Callable[[], None]
) -> None:
    """Write the chunks of all items, one after another, and put their names into the queue.

    Args:
        groups: the items of each qube.
        queue: gets names relative to `options.folder`, and None at the end.
        options: see there.
        group_done: called after each qube.

    Raises:
        QubesException: something can't be archived, or scrypt doesn't behave.
    """
    for items in groups:
        for item in items:
            await _store_item(item, queue, options)
        group_done()
    await queue.put(None)


async def send_files(queue: Queue, folder: Path, target: int) -> None:
    """Send files, each as a tar archive of its own, to one descriptor, and delete them.

    Only tar's status 2 and up is an error. A tar that was killed by a signal has a negative status,
    so one that nobody listens to (SIGPIPE) counts as a success: upstream's quirk.

    Raises:
        QubesException: tar failed.
    """
    while (name := await queue.get()) is not None:
        tar = await asyncio.create_subprocess_exec(
            *("tar", "-cO", "--posix", "-C", str(folder), name), stdout=target
        )
        try:
            status = await tar.wait()
        except asyncio.CancelledError:
            await terminate(tar)  # nobody reads any more: upstream leaves it to SIGPIPE
            raise
        if status >= 2:
            raise problem(
                "ERROR: Failed to write the backup, out of disk space? "
                "Check console output or ~/.xsession-errors for details."
            )
        (folder / name).unlink()
