# SPDX-License-Identifier: GPL-3.0-or-later
"""What maintenance may remove is held back, in FOLDER/NAME.kept, out of its clients' reach.

A hostile backup qube can remove all while dom0 keeps maintenance open. So before it gets access,
all files are linked, to `held.TIME.WINDOW/files`: once for each time that dom0 opens maintenance
(WINDOW is its number), however many sessions come then. Such links go when maintenance is opened
`keep_removed_days` or more after them, so two or ten in a row take nothing away; or by `discard`.

Hard links don't help against a file that is overwritten in place, as rclone before 1.63 does
(backend/local/local.go Update). So restic's files lose the right to be written, which
restic's own local backend takes from them, too (internal/backend/local/local.go Save). borg never
writes to a file that is there, but for `transactions`, which is copied; when it removes one it
looks whether it has other links (borg/helpers/fs.py safe_unlink).

- `rolled-back.TIME`: what a rollback took away. `back.TIME`: what it is about to put in its place.
- `unheld`: the WINDOW in which nothing could be linked.
"""

import contextlib
import errno
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dedup_server import kept, tell
from dedup_server.config import Repository
from dedup_server.errors import StorageError, UsageError

TIME = re.compile(r"[0-9]{8}T[0-9]{6}Z")
_HELD = re.compile(r"held\.([0-9]{8}T[0-9]{6}Z)\.([0-9a-f]{16})")
_BACK = re.compile(r"back\.([0-9]{8}T[0-9]{6}Z)")
_NEW = ("held.new", "back.new")
_FILES, _FLOOR, _UNHELD, _NONCE = "files", "floor", "unheld", "nonce"
# of each engine, what belongs to sessions: restic's locks; borg's (borg/locking.py)
_LOCKS = {"restic": {"locks"}, "borg": {"lock.exclusive", "lock.roster"}}
_GROWING = {"restic": set[str](), "borg": {"transactions"}}
_DAY = 86400
_MAX_NONCE = 64  # bytes of borg's file
# a file system that has no hard links, or a file of somebody else's; a mount point
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV)


@dataclass(frozen=True)
class Held:
    """What there was when dom0 opened maintenance.

    Attributes:
        time: when, UTC, as kept.TIME_FORMAT and Z.
        window: its number.
        path: the folder.
    """

    time: str
    window: str
    path: Path


@dataclass(frozen=True)
class Removed:
    """What was removed between one maintenance and the next, or now.

    Attributes:
        time: when the maintenance was opened.
        files: how many files.
        snapshots: how many of them are restic's snapshots.
        size: their bytes.
    """

    time: str
    files: int
    snapshots: int
    size: int


Files = dict[str, os.stat_result]


def begin(repository: Repository, folder: Path, window: str) -> None:
    """Hold back all that there is, once for each opening; let go what is due.

    Raises:
        StorageError: there is no room for the links.
    """
    place = kept.folder_of(repository, folder)
    known = held(repository, folder)
    if any(item.window == window for item in known):
        return
    _let_go(repository, folder, known)
    if not (folder / repository.name).exists():
        return
    new = place / _NEW[0]
    try:
        link_tree(repository, folder / repository.name, new / _FILES, protect=True)
    except OSError as error:
        if error.errno in kept.FULL:  # else a full disk would let all be removed for good
            raise StorageError(
                f"{folder} has no room to hold back what maintenance may remove: run `dedup-server"
                f" discard {repository.name}` in this qube, or enlarge its volume or disk"
            ) from None
        if error.errno not in NO_LINKS:
            raise
        shutil.rmtree(new)
        kept.write(place / _UNHELD, window.encode())
        tell.say(f"{folder} can't hold back what this maintenance removes: it has no hard links")
        return
    (place / _UNHELD).unlink(missing_ok=True)
    if repository.engine == "borg":
        kept.write(new / _FLOOR, str(kept.floor(repository, folder)).encode())
    _name(repository, folder, new, place / f"held.{now()}.{window}")


def now() -> str:
    """Give the time as it stands in names."""
    return time.strftime(kept.TIME_FORMAT, time.gmtime()) + "Z"


def _name(repository: Repository, folder: Path, new: Path, path: Path) -> None:
    """Give a folder that is complete its name."""
    kept.flush(repository, folder)
    new.rename(path)
    kept.sync(path.parent)


def held(repository: Repository, folder: Path) -> list[Held]:
    """List what is held back, oldest first."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for path in kept.folder_of(repository, folder).iterdir():
            if match := _HELD.fullmatch(path.name):
                found.append(Held(match[1], match[2], path))
    return sorted(found, key=lambda item: item.time)


def is_unheld(repository: Repository, folder: Path, window: str | None = None) -> bool:
    """Tell whether nothing could be held back in a maintenance, or in the last one."""
    path = kept.folder_of(repository, folder) / _UNHELD
    with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
        return path.read_text(encoding="ascii") == window or window is None
    return False


def _let_go(repository: Repository, folder: Path, known: list[Held]) -> None:
    """Remove what is older than the limit, and what has nothing that isn't in the repository."""
    limit = time.time() - repository.keep_removed_days * _DAY
    due = time.strftime(kept.TIME_FORMAT, time.gmtime(limit)) + "Z"
    there = {info.st_ino for info in _files(repository, folder / repository.name).values()}
    for item in known:
        if item.time <= due or not _lost(repository, item, there):
            _remove(item.path)


def _lost(repository: Repository, item: Held, there: set[int]) -> bool:
    files = _files(repository, item.path / _FILES)
    return any(info.st_ino not in there for info in files.values())


def _remove(path: Path) -> None:
    """Remove a folder; what is left when it is interrupted isn't taken for all of it."""
    new = path.with_name(_NEW[0])
    if path != new:
        path.rename(new)
        kept.sync(new.parent)
    shutil.rmtree(new)


def link_tree(repository: Repository, source: Path, target: Path, *, protect: bool = False) -> None:
    """Make a folder that has the same files, as links, but no locks.

    Args:
        repository: whose folder it is.
        source: what there is.
        target: is made, and the folders above it.
        protect: whether restic's files must not be written any more.
    """
    target.mkdir(mode=0o700, parents=True)
    skipped, growing = _LOCKS[repository.engine], _GROWING[repository.engine]
    for place, folders, names in os.walk(source, onerror=_raise):
        here = target / Path(place).relative_to(source)
        is_top = Path(place) == source
        if is_top:
            folders[:] = [name for name in folders if name not in skipped]
        for name in folders:
            if not Path(place, name).is_symlink():
                (here / name).mkdir(mode=0o700)
        for name in names:
            if is_top and name in skipped:
                continue
            if is_top and name in growing:
                kept.write(here / name, Path(place, name).read_bytes())
                continue
            if protect and repository.engine == "restic":
                _protect(Path(place, name))
            os.link(Path(place, name), here / name, follow_symlinks=False)


def _protect(path: Path) -> None:
    info = path.lstat()
    if stat.S_ISREG(info.st_mode) and info.st_mode & 0o222:
        path.chmod(stat.S_IMODE(info.st_mode) & ~0o222)


def _raise(error: OSError) -> None:
    raise error


def _files(repository: Repository, top: Path) -> Files:
    """Find a repository's files, by their names relative to it, but locks and what only grows."""
    found: Files = {}
    skipped = _LOCKS[repository.engine] | _GROWING[repository.engine]
    for place, folders, names in os.walk(top):
        is_top = Path(place) == top
        if is_top:
            folders[:] = [name for name in folders if name not in skipped]
        for name in names:
            path = Path(place, name)
            with contextlib.suppress(FileNotFoundError):  # it goes on being used
                if not (is_top and name in skipped):
                    found[str(path.relative_to(top))] = path.lstat()
    return found


def removed(repository: Repository, folder: Path) -> list[Removed]:
    """Tell what each maintenance, and whatever came till the next one, removed."""
    found = []
    known = held(repository, folder)
    states = [_files(repository, item.path / _FILES) for item in known]
    states.append(_files(repository, folder / repository.name))
    for item, before, after in zip(known, states, states[1:], strict=False):
        there = {info.st_ino for info in after.values()}
        gone = {name: info for name, info in before.items() if info.st_ino not in there}
        snapshots = sum(name.startswith("snapshots/") for name in gone)
        size = sum(info.st_size for info in gone.values())
        found.append(Removed(item.time, len(gone), snapshots, size))
    return found


def size(repository: Repository, folder: Path) -> int:
    """Tell how many bytes are held back."""
    there = {info.st_ino for info in _files(repository, folder / repository.name).values()}
    gone = {
        info.st_ino: info.st_size
        for item in held(repository, folder)
        for info in _files(repository, item.path / _FILES).values()
    }
    return sum(length for inode, length in gone.items() if inode not in there)


def discard(repository: Repository, folder: Path) -> None:
    """Remove all that is held back; nobody else may use the repository."""
    for item in held(repository, folder):
        _remove(item.path)


def settle(repository: Repository, folder: Path) -> None:
    """End what was interrupted; nobody else may use the repository."""
    place = kept.folder_of(repository, folder)
    for path in list(place.iterdir()) if place.exists() else ():
        if match := _BACK.fullmatch(path.name):
            try:
                _put_back(repository, folder, path, place / f"rolled-back.{match[1]}")
            except OSError as error:
                raise StorageError(
                    f"the rollback of {repository.name} that was interrupted can't be ended:"
                    f" {error.strerror}"
                ) from None
    for name in _NEW:
        if (place / name).exists():
            shutil.rmtree(place / name)


def rollback(repository: Repository, folder: Path, wanted: str) -> Path:
    """Make a repository what it was before a maintenance; nobody else may use it.

    What it was till now is moved, not removed. Once the new one is complete, it is finished by
    whoever comes next, if it is interrupted.

    Args:
        repository: which.
        folder: that it is in.
        wanted: the maintenance's time.

    Returns:
        The folder that has what it was till now.

    Raises:
        UsageError: nothing is held back from before a maintenance of that time.
        StorageError: a rollback of this second is there already.
    """
    known = [item for item in held(repository, folder) if item.time == wanted]
    if not known:
        raise UsageError(
            f"nothing is held back of a maintenance {wanted}: see `changes {repository.name}`"
        )
    place, at = kept.folder_of(repository, folder), now()
    away = place / f"rolled-back.{at}"
    if away.exists():
        raise StorageError(f"{away} is there already: try again")
    new = place / _NEW[1]
    link_tree(repository, known[0].path / _FILES, new / _FILES)
    if repository.engine == "borg":
        kept.write(new / _FLOOR, (known[0].path / _FLOOR).read_bytes())
        _keep_nonce(folder / repository.name, new / _FILES)
    _name(repository, folder, new, place / f"back.{at}")
    _put_back(repository, folder, place / f"back.{at}", away)
    return away


def _keep_nonce(path: Path, target: Path) -> None:
    """Leave borg's counter where it is now, when that is further (borg/repository.py get_nonce)."""
    for info in (path / _NONCE, target / _NONCE):
        if info.is_symlink() or not info.is_file() or info.stat().st_size > _MAX_NONCE:
            return
    with contextlib.suppress(ValueError):
        if int((path / _NONCE).read_text(), 16) > int((target / _NONCE).read_text(), 16):
            kept.write(target / _NONCE, (path / _NONCE).read_bytes())


def _put_back(repository: Repository, folder: Path, back: Path, away: Path) -> None:
    """Exchange a repository for another; it can be repeated after it was interrupted."""
    path, place = folder / repository.name, back.parent
    away.mkdir(mode=0o700, exist_ok=True)
    if path.exists() and (back / _FILES).exists():
        path.rename(away / repository.name)
    kept.sync(away)
    if (back / _FILES).exists():
        kept.sync(back / _FILES)
        (back / _FILES).rename(path)
    kept.sync(folder)
    with contextlib.suppress(FileNotFoundError):
        kept.set_floor(repository, folder, (back / _FLOOR).read_text(encoding="ascii"))
    _remove_back(back, place)


def _remove_back(back: Path, place: Path) -> None:
    new = place / _NEW[1]
    back.rename(new)
    kept.sync(place)
    shutil.rmtree(new)


def others(repository: Repository, folder: Path) -> Iterator[Path]:
    """Find what else takes room beside a repository, and is for a person to remove."""
    place = kept.folder_of(repository, folder)
    with contextlib.suppress(FileNotFoundError):
        for path in sorted(place.iterdir()):
            if path.name.startswith(("rolled-back.", "torn.")):
                yield path
