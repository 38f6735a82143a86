# SPDX-License-Identifier: GPL-3.0-or-later
"""The hold on what maintenance can remove: FOLDER/NAME.kept, out of its clients' reach.

A hostile backup qube can remove everything while dom0 keeps maintenance open. So before it gets
access, all files are linked (links.py), to `held.TIME.WINDOW/files`: once for each time that dom0
opens maintenance (WINDOW is the number of that opening), however many sessions come then. Such
links go when maintenance is opened `keep_removed_days` or more after them, so several in a row
remove none; or by `discard`.

- `rolled-back.TIME`: what a rollback took away. `back.TIME`: what it is about to put in its place.
- `unheld`: the WINDOW in which nothing could be linked.
"""

import contextlib
import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from dedup_server.engines.base import Engine
from dedup_server.errors import StorageError, UsageError
from dedup_server.folder.files import FULL, replace_file, sync_folder
from dedup_server.folder.links import NO_LINKS, link_tree, list_files
from dedup_server.folder.repository_folder import TIME_FORMAT
from dedup_server.notify import notify

TIME = re.compile(r"[0-9]{8}T[0-9]{6}Z")
_HELD = re.compile(r"held\.([0-9]{8}T[0-9]{6}Z)\.([0-9a-f]{16})")
_BACK = re.compile(r"back\.([0-9]{8}T[0-9]{6}Z)")
_NEW_HELD, _NEW_BACK = "held.new", "back.new"
_FILES, _UNHELD = "files", "unheld"
_DAY = 86400


@dataclass(frozen=True)
class Held:
    """The repository when dom0 opened maintenance.

    Attributes:
        time: when, UTC, as TIME.
        window: the number of that opening.
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


def hold(engine: Engine, window: str) -> None:
    """Hold back all that there is, once for each opening; remove what is due.

    Raises:
        StorageError: there is no room for the links.
    """
    folder, known = engine.folder, list_held(engine)
    if any(item.window == window for item in known):
        return
    _remove_due(engine, known)
    if not folder.path.exists():
        return
    new = folder.state_folder / _NEW_HELD
    try:
        link_tree(folder.path, new / _FILES, engine.link_rules)
    except OSError as error:
        if error.errno in FULL:  # else a full disk would let all be removed for good
            raise StorageError(
                f"{folder.parent} has no room to hold back what maintenance may remove: run"
                f" `dedup-server discard {folder.repository.name}` in this qube, or enlarge its"
                " volume or disk"
            ) from None
        if error.errno not in NO_LINKS:
            raise
        shutil.rmtree(new)
        replace_file(folder.state_folder / _UNHELD, window.encode())
        notify(
            f"{folder.parent} can't hold back what this maintenance removes: it has no hard links"
        )
        return
    (folder.state_folder / _UNHELD).unlink(missing_ok=True)
    engine.save_state(new)
    _complete(engine, new, folder.state_folder / f"held.{_utc(time.time())}.{window}")


def list_held(engine: Engine) -> list[Held]:
    """List what is held back, oldest first."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for path in engine.folder.state_folder.iterdir():
            if match := _HELD.fullmatch(path.name):
                found.append(Held(match[1], match[2], path))
    return sorted(found, key=lambda item: item.time)


def is_unheld(engine: Engine, window: str | None = None) -> bool:
    """Return whether nothing could be held back in an opening; None stands for the last one."""
    path = engine.folder.state_folder / _UNHELD
    with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
        return path.read_text(encoding="ascii") == window or window is None
    return False


def list_removed(engine: Engine) -> list[Removed]:
    """List what each maintenance removed, and what came later did, oldest first."""
    known = list_held(engine)
    listings = [_list(engine, item.path / _FILES) for item in known]
    listings.append(_list(engine, engine.folder.path))
    found = []
    for item, before, after in zip(known, listings, listings[1:], strict=False):
        there = {info.st_ino for info in after.values()}
        gone = {name: info for name, info in before.items() if info.st_ino not in there}
        snapshots = sum(name.startswith("snapshots/") for name in gone)
        size_gone = sum(info.st_size for info in gone.values())
        found.append(Removed(item.time, len(gone), snapshots, size_gone))
    return found


def size(engine: Engine) -> int:
    """Return how many bytes are held back."""
    there = _inodes(engine)
    gone = {
        info.st_ino: info.st_size
        for item in list_held(engine)
        for info in _list(engine, item.path / _FILES).values()
    }
    return sum(length for inode, length in gone.items() if inode not in there)


def discard(engine: Engine) -> None:
    """Remove all that is held back; nobody else may use the repository."""
    for item in list_held(engine):
        _remove(item.path)


def settle(engine: Engine) -> None:
    """End what was interrupted; nobody else may use the repository.

    Raises:
        StorageError: a rollback can't be ended.
    """
    state_folder = engine.folder.state_folder
    for path in list(state_folder.iterdir()) if state_folder.exists() else ():
        if match := _BACK.fullmatch(path.name):
            try:
                _exchange(engine, path, state_folder / f"rolled-back.{match[1]}")
            except OSError as error:
                raise StorageError(
                    f"the rollback of {engine.folder.repository.name} that was interrupted can't be"
                    f" ended: {error.strerror}"
                ) from None
    for name in (_NEW_HELD, _NEW_BACK):
        if (state_folder / name).exists():
            shutil.rmtree(state_folder / name)


def rollback(engine: Engine, wanted: str) -> Path:
    """Make a repository what it was before a maintenance; nobody else may use it.

    What it was until now is moved, not removed. Once the new one is complete, the next session
    ends a rollback that was interrupted.

    Args:
        engine: of the repository.
        wanted: the maintenance's time.

    Returns:
        The folder that has what it was until now.

    Raises:
        UsageError: nothing is held back from before a maintenance of that time.
        StorageError: a rollback of this second is there already.
    """
    state_folder, name = engine.folder.state_folder, engine.folder.repository.name
    known = [item for item in list_held(engine) if item.time == wanted]
    if not known:
        raise UsageError(f"nothing is held back of a maintenance {wanted}: see `changes {name}`")
    now = _utc(time.time())
    away, back, new = (
        state_folder / f"rolled-back.{now}",
        state_folder / f"back.{now}",
        state_folder / _NEW_BACK,
    )
    if away.exists():
        raise StorageError(f"{away} is there already: try again")
    link_tree(known[0].path / _FILES, new / _FILES, engine.link_rules)
    engine.carry_over(known[0].path, new, new / _FILES)
    _complete(engine, new, back)
    _exchange(engine, back, away)
    return away


def describe_leftovers(engine: Engine) -> str:
    """Return a line for each folder that takes room, too, and is for a person to remove."""
    names = ("rolled-back.", "torn.")
    with contextlib.suppress(FileNotFoundError):
        found = [
            path for path in engine.folder.state_folder.iterdir() if path.name.startswith(names)
        ]
        return "".join(
            f"also there, to be removed when all is well: {path}\n" for path in sorted(found)
        )
    return ""


def _utc(seconds: float) -> str:
    return time.strftime(TIME_FORMAT, time.gmtime(seconds)) + "Z"


def _list(engine: Engine, top: Path) -> dict[str, os.stat_result]:
    return list_files(top, engine.link_rules, strict=False)


def _inodes(engine: Engine) -> set[int]:
    """List what is in the repository now."""
    return {info.st_ino for info in _list(engine, engine.folder.path).values()}


def _remove_due(engine: Engine, known: list[Held]) -> None:
    """Remove what is older than the limit, and what has nothing that isn't in the repository."""
    due = _utc(time.time() - engine.folder.repository.keep_removed_days * _DAY)
    there = _inodes(engine)
    for item in known:
        files = _list(engine, item.path / _FILES).values()
        if item.time <= due or all(info.st_ino in there for info in files):
            _remove(item.path)


def _remove(held: Path) -> None:
    """Remove a folder; what is left when this is interrupted isn't taken for all of it."""
    new = held.with_name(_NEW_HELD)
    held.rename(new)
    sync_folder(new.parent)
    shutil.rmtree(new)


def _complete(engine: Engine, new: Path, path: Path) -> None:
    """Rename a folder that is complete."""
    engine.folder.flush()
    new.rename(path)
    sync_folder(path.parent)


def _exchange(engine: Engine, back: Path, away: Path) -> None:
    """Put another repository in place; this can be repeated after it was interrupted."""
    path, files = engine.folder.path, back / _FILES
    away.mkdir(mode=0o700, exist_ok=True)
    if path.exists() and files.exists():
        path.rename(away / path.name)
    sync_folder(away)
    if files.exists():
        sync_folder(files)
        files.rename(path)
    sync_folder(path.parent)
    engine.restore_state(back)
    new = back.with_name(_NEW_BACK)
    back.rename(new)
    sync_folder(new.parent)
    shutil.rmtree(new)
