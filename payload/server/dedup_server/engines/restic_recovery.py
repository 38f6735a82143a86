# SPDX-License-Identifier: GPL-3.0-or-later
"""What keeps a restic repository in a folder whole when the power goes: rclone flushes nothing.

`restic prune` copies what is still needed into new files and removes the old ones. So maintenance
begins with hard links to all files, in FOLDER/NAME.kept/before.BOOT, and ends with a flush and
their removal. A session that finds such links knows that the one before ended otherwise. With
another boot since, new files may be torn: the repository becomes again what the links are, and what
is new is moved to FOLDER/NAME.kept/torn.BOOT. In the same boot nothing was lost, and it is flushed.
"""

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from dedup_server import held, kept, room, tell
from dedup_server.config import Repository
from dedup_server.errors import StorageError

_BOOT = Path("/proc/sys/kernel/random/boot_id")  # drivers/char/random.c random_table
_BEFORE = re.compile(r"before\.([0-9a-f-]{36})")
_NEW = "before.new"
_LOCKS = "locks"
_SECONDS = 300  # for the flush of maintenance whose client has gone on


@contextlib.contextmanager
def session(repository: Repository, folder: Path) -> Iterator[int]:
    """An append-only session; give a descriptor that must stay open while it lasts.

    It begins with a flush, so what it refers to, of earlier ones, is there for good.

    Raises:
        StorageError: when maintenance is under way, the repository is gone, or the disk doesn't
            take the flush.
    """
    with kept.locked(repository, folder, fcntl.LOCK_SH, _settle, _SECONDS) as lock:
        kept.expect(repository, folder)
        kept.flush(repository, folder)
        room.make(repository, folder)
        yield lock


@contextlib.contextmanager
def exclusive(repository: Repository, folder: Path) -> Iterator[None]:
    """Nobody else uses the repository through this program.

    Raises:
        StorageError: when somebody does.
    """
    with kept.locked(repository, folder, fcntl.LOCK_EX, _settle):
        yield


@contextlib.contextmanager
def maintenance(repository: Repository, folder: Path, window: str) -> Iterator[None]:
    """Full access; all that was there before is kept until what comes is on the disk.

    Args:
        repository: which.
        folder: that it is in.
        window: the number of dom0's opening, for which it is held back for longer, too.

    Raises:
        StorageError: when the repository is in use or gone, or the disk doesn't take a flush.
    """
    with kept.locked(repository, folder, fcntl.LOCK_EX, _settle, _SECONDS):
        kept.expect(repository, folder)
        room.give_up(repository, folder)
        held.begin(repository, folder, window)
        links = _link_all(repository, folder)
        kept.flush(repository, folder)
        try:
            yield
        finally:
            kept.flush(repository, folder)
            if links:
                _remove(links)


def _boot() -> str:
    return _BOOT.read_text(encoding="ascii").strip()


def _link_all(repository: Repository, folder: Path) -> Path | None:
    """Link all files but locks; None where there are no hard links."""
    new = kept.folder_of(repository, folder) / _NEW
    path = folder / repository.name
    new.mkdir(mode=0o700)
    try:
        for name in _files(path):
            (new / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.link(path / name, new / name, follow_symlinks=False)
    except OSError as error:
        if error.errno not in held.NO_LINKS:
            raise
        shutil.rmtree(new)
        tell.say(
            f"{folder} has no hard links, so a power cut during this maintenance can lose data"
        )
        return None
    kept.flush(repository, folder)
    links = new.with_name(f"before.{_boot()}")
    new.rename(links)
    kept.sync(links.parent)
    return links


def _settle(repository: Repository, folder: Path) -> None:
    """End what didn't end in order."""
    place = kept.folder_of(repository, folder)
    held.settle(repository, folder)
    if not place.exists():
        return
    if (place / _NEW).exists():
        shutil.rmtree(place / _NEW)
    for path in list(place.iterdir()):
        if match := _BEFORE.fullmatch(path.name):
            if match[1] != _boot():
                away = place / f"torn.{match[1]}"
                try:
                    _put_back(path, folder / repository.name, away)
                except OSError as error:
                    raise StorageError(
                        f"a boot ended maintenance of {repository.name}, and it can't be put back"
                        f" as it was before: {error.strerror}"
                    ) from None
                tell.say(
                    f"{repository.name} is as before the maintenance that a boot ended ({away})"
                )
            kept.flush(repository, folder)
            _remove(path)


def _put_back(links: Path, path: Path, away: Path) -> None:
    """Make a repository what its links are; what else it has is moved away.

    It can be repeated after it was interrupted.
    """
    old, now = _files(links), _files(path)
    for name in sorted(old):
        if now.get(name) != old[name]:
            new = path / f"{name}.back"
            new.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            new.unlink(missing_ok=True)
            os.link(links / name, new)
            new.rename(path / name)
    for name in _files(path).keys() - old.keys():
        (away / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        (path / name).rename(away / name)


def _files(top: Path) -> dict[str, int]:
    """Find a repository's files but locks; give their names, relative to it, and inodes."""
    found: dict[str, int] = {}
    if not top.exists():
        return found
    for place, folders, names in os.walk(top, onerror=_raise):
        if Path(place) == top and _LOCKS in folders:
            folders.remove(_LOCKS)
        for name in names:
            path = Path(place, name)
            found[str(path.relative_to(top))] = path.lstat().st_ino
    return found


def _raise(error: OSError) -> None:
    raise error


def _remove(links: Path) -> None:
    """Remove links; what is left when it is interrupted isn't taken for all of them."""
    new = links.with_name(_NEW)
    links.rename(new)
    kept.sync(new.parent)
    shutil.rmtree(new)
