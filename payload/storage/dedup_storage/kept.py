# SPDX-License-Identifier: GPL-3.0-or-later
"""What is kept beside a repository, in FOLDER/NAME.kept, out of its clients' reach.

- `lock`: shared by append-only sessions, exclusive for maintenance and rollback.
- `held.TIME.WINDOW`, `rolled-back.TIME`: what maintenance may remove (held.py). `reserve`: room.py.
- `made`: there was a repository once, so an empty place isn't a new one.
- `before.BOOT`, `torn.BOOT`: a restic repository before maintenance, and what a power cut then left
  (durable.py). The rest is borg's:
- `config.TIME`: each version of the repository's `config`, which has the key.
- `maintenance`: `open`, or the last segment after the last maintenance. What is older may have
  been compacted, so a rollback goes no further back.
"""

import contextlib
import errno
import fcntl
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from dedup_storage import tell
from dedup_storage.config import Repository
from dedup_storage.errors import StorageError, clean

FLUSH = "sync --file-system"  # of coreutils
TIME_FORMAT = "%Y%m%dT%H%M%S"
_COPY = re.compile(r"config\.([0-9]{8}T[0-9]{6})\.([0-9]{6})Z")
_MAX_CONFIG = 1 << 20
OPEN = "open"
_INSTANT, _POLL = 5, 0.02  # seconds
_MARK = "maintenance"
# nothing can be written, but all be read
FULL = (errno.EROFS, errno.ENOSPC, errno.EDQUOT)


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


def flush(repository: Repository, folder: Path) -> None:
    """Have all that was written to a repository's file system on the disk.

    Raises:
        StorageError: when the disk doesn't take it.
    """
    path = folder / repository.name
    command = [*FLUSH.split(), str(path if path.exists() else folder)]
    variables = {"PATH": os.environ.get("PATH") or os.defpath, "LC_ALL": "C.UTF-8"}
    result = subprocess.run(command, stderr=subprocess.PIPE, check=False, env=variables)
    if result.returncode:
        said = clean(result.stderr.decode(errors="replace"))
        raise StorageError(f"what was written to {folder} isn't on the disk: {said}")


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
    is_alone = how == fcntl.LOCK_EX
    with contextlib.ExitStack() as stack:
        lock = _open_lock(repository, folder, how)
        stack.callback(os.close, lock)
        try:
            # alone, or with others that were alone before
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _try_to_settle(repository, folder, settle, must=is_alone)
            _wait(lock, how, seconds)
            path = folder / repository.name
            if is_alone and path.is_dir():  # for who couldn't make the file
                stack.callback(os.close, other := os.open(path, os.O_RDONLY | os.O_CLOEXEC))
                _wait(other, how, seconds)
        except BlockingIOError:
            who = "a session" if is_alone else "maintenance or a rollback"
            raise StorageError(
                f"{who} is using repository {repository.name}: try again when it has ended"
            ) from None
        yield lock


def _open_lock(repository: Repository, folder: Path, how: int) -> int:
    """Open what is locked: a file, or for who only reads, as nothing can be written, the folder."""
    place = folder_of(repository, folder)
    safe = os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        return os.open(place / "lock", os.O_RDWR | os.O_CREAT | safe, 0o600)
    except OSError as error:
        if how == fcntl.LOCK_EX or error.errno not in FULL:
            raise
        for path in (place / "lock", folder / repository.name):
            with contextlib.suppress(FileNotFoundError):
                return os.open(path, os.O_RDONLY | safe)
        raise


def _try_to_settle(
    repository: Repository, folder: Path, settle: Callable[[Repository, Path], None], *, must: bool
) -> None:
    """End what was interrupted; what can't be ended as nothing can be written may wait."""
    try:
        settle(repository, folder)
    except OSError as error:
        if must or error.errno not in FULL:
            raise
        tell.say(f"{folder}: {error.strerror}: what is left of an earlier session stays")


def expect(repository: Repository, folder: Path) -> None:
    """Note that there is a repository; refuse an empty place where there was one.

    Raises:
        StorageError: when it is gone.
    """
    kept, path = folder_of(repository, folder), folder / repository.name
    mark = kept / "made"
    if (path / "config").is_file():  # of both engines
        try:
            if kept.exists() and not mark.exists():  # else it couldn't be made, for want of room
                # of several that begin at once, any may make it
                flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                os.close(os.open(mark, flags, 0o600))
                sync(kept)
        except OSError as error:
            if error.errno not in FULL:
                raise
    elif mark.exists() or (kept.exists() and copies(repository, folder)):
        raise StorageError(
            f"the repository {path} is gone: bring it back (`dedup-storage changes"
            f" {repository.name}` lists what a rollback can bring back). To have a new, empty one"
            f" there, move {kept} away first"
        )


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


def floor(repository: Repository, folder: Path) -> int:
    """Give the oldest transaction that a rollback can go to; -1 when there was no maintenance."""
    mark = folder_of(repository, folder) / _MARK
    try:
        return int(mark.read_text(encoding="ascii"))
    except FileNotFoundError:
        return -1
    except ValueError:
        raise StorageError(f"{mark} can't be understood") from None


def set_floor(repository: Repository, folder: Path, value: str) -> None:
    """Note that transaction, or that maintenance is open."""
    write(folder_of(repository, folder) / _MARK, value.encode())


def settle_floor(repository: Repository, folder: Path) -> None:
    """After maintenance, note how far back a rollback can go."""
    with contextlib.suppress(FileNotFoundError):
        mark = folder_of(repository, folder) / _MARK
        if mark.read_text(encoding="ascii") == OPEN:
            last = max(segments(folder / repository.name), default=-1)
            set_floor(repository, folder, str(last))


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
    with contextlib.suppress(FileNotFoundError):
        for path in folder_of(repository, folder).iterdir():
            if match := _COPY.fullmatch(path.name):
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
