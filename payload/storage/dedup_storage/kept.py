# SPDX-License-Identifier: GPL-3.0-or-later
"""What is kept beside a repository, in FOLDER/NAME.kept, out of its clients' reach.

- `lock`: shared by append-only sessions, exclusive for maintenance and rollback.
- `before.BOOT`, `torn.BOOT`: a restic repository before maintenance, and what a power cut then left
  (durable.py). The rest is borg's:
- `config.TIME`: each version of the repository's `config`, which has the key.
- `maintenance`: `open`, or the last segment after the last maintenance. What is older may have
  been compacted, so a rollback goes no further back.
"""

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from dedup_storage.config import Repository
from dedup_storage.errors import StorageError

TIME_FORMAT = "%Y%m%dT%H%M%S"
_COPY = re.compile(r"config\.([0-9]{8}T[0-9]{6})\.([0-9]{6})Z")
_MAX_CONFIG = 1 << 20
_OPEN = "open"
_INSTANT, _POLL = 5, 0.02  # seconds


def folder_of(repository: Repository, folder: Path) -> Path:
    """Give the folder NAME.kept; no repository can have that name."""
    return folder / f"{repository.name}.kept"


def write(path: Path, data: bytes) -> None:
    """Replace a file, durably."""
    new = path.with_name(f"{path.name}.new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(fd)
    new.rename(path)
    sync(path.parent)


def sync(folder: Path) -> None:
    """Make what was renamed in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def session(repository: Repository, folder: Path) -> Iterator[None]:
    """An append-only session of borg's.

    Raises:
        StorageError: when maintenance or a rollback is under way.
    """
    with locked(repository, folder, fcntl.LOCK_SH, _settle):
        copy_config(repository, folder)
        try:
            yield
        finally:
            copy_config(repository, folder)


@contextlib.contextmanager
def exclusive(repository: Repository, folder: Path) -> Iterator[None]:
    """Nobody else uses the repository through this program.

    Raises:
        StorageError: when somebody does.
    """
    with locked(repository, folder, fcntl.LOCK_EX, _settle):
        copy_config(repository, folder)
        yield


@contextlib.contextmanager
def maintenance(repository: Repository, folder: Path) -> Iterator[None]:
    """Full access; what it may compact is noted, also if it crashes."""
    with exclusive(repository, folder):
        mark = folder_of(repository, folder) / "maintenance"
        write(mark, _OPEN.encode())
        yield
        _settle(repository, folder)


@contextlib.contextmanager
def locked(
    repository: Repository,
    folder: Path,
    how: int,
    settle: Callable[[Repository, Path], None],
    seconds: float = _INSTANT,
) -> Iterator[int]:
    """Lock a repository for a session.

    Args:
        repository: which.
        folder: that it is in.
        how: shared (fcntl.LOCK_SH) or exclusive (fcntl.LOCK_EX).
        settle: called when nobody else uses it, to end what was interrupted.
        seconds: how long to wait for who uses it.

    Yields:
        The descriptor that has the lock.

    Raises:
        StorageError: when it is in use.
    """
    kept = folder_of(repository, folder)
    kept.mkdir(mode=0o700, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    lock = os.open(kept / "lock", flags, 0o600)
    try:
        try:
            # alone, or with others that were alone before
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                settle(repository, folder)
            _wait(lock, how, seconds)
        except BlockingIOError:
            other = "maintenance or a rollback" if how == fcntl.LOCK_SH else "a session"
            raise StorageError(
                f"{other} is using repository {repository.name}: try again when it has ended"
            ) from None
        yield lock
    finally:
        os.close(lock)


def _wait(lock: int, how: int, seconds: float) -> None:
    """Lock; another session that begins at the same time is alone for an instant.

    Raises:
        BlockingIOError: when somebody keeps it.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            return fcntl.flock(lock, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise
        time.sleep(_POLL)


def _settle(repository: Repository, folder: Path) -> None:
    """After maintenance, note how far back a rollback can go."""
    mark = folder_of(repository, folder) / "maintenance"
    with contextlib.suppress(FileNotFoundError):
        if mark.read_text(encoding="ascii") == _OPEN:
            last = max(segments(folder / repository.name), default=-1)
            write(mark, str(last).encode())


def floor(repository: Repository, folder: Path) -> int:
    """Give the oldest transaction that a rollback can go to; -1 when there was no maintenance."""
    mark = folder_of(repository, folder) / "maintenance"
    try:
        return int(mark.read_text(encoding="ascii"))
    except FileNotFoundError:
        return -1
    except ValueError:
        raise StorageError(f"{mark} can't be understood") from None


def segments(path: Path) -> dict[int, Path]:
    """Find a repository's segment files (borg/repository.py LoggedIO.segment_filename)."""
    found = {}
    for file in (path / "data").glob("*/*"):
        if file.name.isdecimal() and file.parent.name.isdecimal():
            found[int(file.name)] = file
    return found


def copies(repository: Repository, folder: Path) -> list[tuple[str, Path]]:
    """List the copies of `config`, oldest first, with their times (UTC, as TIME_FORMAT)."""
    found = []
    for path in folder_of(repository, folder).iterdir():
        match = _COPY.fullmatch(path.name)
        if match:
            found.append((match[1], path))
    return sorted(found, key=lambda copy: copy[1].name)


def copy_config(repository: Repository, folder: Path) -> None:
    """Keep a copy of `config` when it isn't the same as the last one."""
    try:
        fd = os.open(folder / repository.name / "config", os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return  # not made yet
    with os.fdopen(fd, "rb") as file:
        data = file.read(_MAX_CONFIG + 1)
    if len(data) > _MAX_CONFIG:
        raise StorageError(f"{folder / repository.name / 'config'} is too large to be borg's")
    known = copies(repository, folder)
    if known and known[-1][1].read_bytes() == data:
        return
    now = time.time_ns() // 1000
    text = time.strftime(TIME_FORMAT, time.gmtime(now // 1_000_000))
    name = f"config.{text}.{now % 1_000_000:06}Z"
    write(folder_of(repository, folder) / name, data)
