# SPDX-License-Identifier: GPL-3.0-or-later
"""borg's counter, kept ahead of all that it ever was.

borg 1.x encrypts in counter mode, with one key for all: blocks that were encrypted at the same
count can be read without the key, when one of them is known (borg/crypto/key.py AESKeyBase). It
goes on from the greatest of three counts (borg/crypto/nonces.py NonceManager): two of them come
with the repository, and are old when an old repository is played back. The third is the file
`nonce` in this qube; it is missing on a new machine, and old when the qube's private volume is.

So before the first write after each start of the qube, and when the file is missing, the count is
moved ahead: to the greatest of what it is, what the repository's manifest shows, and what the clock
says; and from there by a random number. By the clock, since on a new machine nothing else is later
than all that was, and a repository that is played back shows what it likes of the old counts. By a
random number, since a clock can be wrong, and show the same time twice.

The room suffices: _PER_SECOND is 64 GiB, more than a machine encrypts in a second; 2^64 come after
136 years. A step is at most a part of the room that is left, so they don't use it up.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from dedup_store.config import state_folder
from dedup_store.errors import StoreError
from dedup_store.system import files
from dedup_store.system.environment import environment

# Counts are blocks of 16 bytes. borg reserves 2^28 and what it needs, and fails at 2^64.
_LOWEST = 1 << 60  # what borg alone never reaches
_PER_SECOND = 1 << 32
_CLOCK_BEGIN = 1767225600  # 2026-01-01T00:00:00Z
_CLOCK_MAX = 1 << 63  # a clock that is far ahead leaves half of the room
_END = (1 << 64) - (1 << 40)  # 16 TiB are left for what is being written
# Steps are smaller than the second number, and than the room that is left divided by the first.
_NEW_START = (1 << 16, 1 << 46)  # so at most 4.6 hours of the clock's
_LOST = (1 << 9, 1 << 54)  # 49 days

_COUNT, _START = "nonce", "dedup-store-start"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def security_folder(repository: str) -> Path:
    """Return borg's folder of facts about a repository (borg/helpers/fs.py).

    Args:
        repository: its id.
    """
    variables = environment()
    config = variables.get("XDG_CONFIG_HOME") or Path(variables["HOME"]) / ".config"
    return Path(config) / "borg" / "security" / repository


def cache_folder(repository: str) -> Path:
    """Return borg's folder for its cache of a repository (borg/helpers/fs.py).

    Args:
        repository: its id.
    """
    variables = environment()
    caches = variables.get("XDG_CACHE_HOME") or Path(variables["HOME"]) / ".cache"
    return Path(caches) / "borg" / repository


def prepare(repository: str, shown: Callable[[], bytes]) -> Path:
    """Prepare for writing into a repository.

    Args:
        repository: its id.
        shown: reads its manifest, as it is encrypted.

    Returns:
        A folder for borg to use as BORG_SECURITY_DIR. borg can't make another folder in it (root
        must give up CAP_DAC_OVERRIDE for that): so it can't write into a repository with another
        id, for which it would count from zero. Whoever holds the repository says what its id
        is, and the key doesn't show it.

    Raises:
        StoreError: it can't be done, or no count is left.
    """
    folder = security_folder(repository)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(folder):
            _advance(folder, shown)
            return _with_one(repository, folder)
    except OSError as error:
        raise StoreError(
            f"borg can't write: {error.filename or folder}, where its counter is kept:"
            f" {error.strerror}"
        ) from None


def forget_state(repository: str) -> None:
    """Drop borg's record of how new a repository was; the next write moves the count ahead.

    Args:
        repository: its id.

    Raises:
        StoreError: it can't be done.
    """
    folder, cache = security_folder(repository), cache_folder(repository)
    try:
        for name in (_START, "manifest-timestamp"):  # borg/cache.py SecurityManager
            (folder / name).unlink(missing_ok=True)
        if cache.is_dir():
            shutil.rmtree(cache)
    except OSError as error:
        raise StoreError(f"{error.filename} can't be removed: {error.strerror}") from None


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _advance(folder: Path, shown: Callable[[], bytes]) -> None:
    """Move the count ahead, unless that was done since the qube started."""
    start = _BOOT_ID.read_text(encoding="ascii").strip()
    count = _read_count(folder / _COUNT)
    if count is None or _read(folder / _START) != start:
        count = ahead(count, time.time(), _end_of(shown()))
        files.replace(folder / _COUNT, f"{count:016x}")
        files.replace(folder / _START, start)
    if count >= _END:
        raise StoreError(
            f"borg's counter in {folder / _COUNT} is at its end: nothing can be written into this"
            " repository any more, only read. Whoever stores it may have done that: make a new one"
        )


def _end_of(envelope: bytes) -> int:
    """Return the count after this object (borg/crypto/key.py AESKeyBase: type, MAC, count)."""
    return int.from_bytes(envelope[33:41]) + len(envelope) // 16 + 1


def ahead(count: int | None, now: float, shown: int) -> int:
    """Return a count beyond all that was used.

    Args:
        count: where it is; None when that isn't known.
        now: seconds since 1970.
        shown: where the repository seems to be.
    """
    seconds = max(0, int(now) - _CLOCK_BEGIN)
    base = max(count or 0, shown, min(_LOWEST + seconds * _PER_SECOND, _CLOCK_MAX))
    part, most = _LOST if count is None else _NEW_START
    room = max(0, _END - base)
    return base + secrets.randbelow(min(most, room // part) + 1)


def _read(path: Path) -> str | None:
    with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
        return path.read_text(encoding="ascii")
    return None


def _read_count(path: Path) -> int | None:
    """Read the count as borg wrote it, 8 bytes in hex; None when the file is malformed."""
    with contextlib.suppress(ValueError):
        data = bytes.fromhex(_read(path) or "")
        return int.from_bytes(data) if len(data) == 8 else None
    return None


def _with_one(repository: str, folder: Path) -> Path:
    """Return a folder with a link to borg's own of this repository, which takes nothing else."""
    place = state_folder() / "borg" / repository
    link = place / repository
    place.mkdir(parents=True, exist_ok=True)
    is_made = [entry.name for entry in place.iterdir()] == [repository] and link.is_symlink()
    if not is_made or link.readlink() != folder:
        place.chmod(0o700)
        for entry in place.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        link.symlink_to(folder)
    place.chmod(0o500)
    return place
