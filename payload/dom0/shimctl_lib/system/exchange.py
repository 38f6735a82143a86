# SPDX-License-Identifier: GPL-3.0-or-later
"""The replacement of a file without loss of what somebody else puts there meanwhile.

Package managers don't know our lock. What one of them puts under a name after we looked must
neither be replaced nor removed. So a file is exchanged with the one that is there, and only then
that one is inspected: when it isn't the inspected one, it goes back. Until that is settled it lies
beside its place under a name of ours; recover() brings it back after a run was killed.
"""

import contextlib
import ctypes
import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from dom0_common.files import sync_folder

from shimctl_lib.errors import ChangedError

NOREPLACE, EXCHANGE, AT_FDCWD = 1, 2, -100  # linux/fs.h, linux/fcntl.h; see rename(2)
PROGRAM = (
    b"\x7fELF"  # how a real scrypt begins (elf(5)); neither the shim nor a guide's script does
)
UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)
Was = Callable[[Path], bool]  # is what lies there now what was seen?


class _UnsupportedError(Exception):
    """The kernel or the file system lacks the operation."""


def aside(path: Path) -> Path:
    """Return the name beside path for what comes to its place, and for what leaves it."""
    return path.with_name(f".{path.name}.shimctl-aside")


def place(new: Path, path: Path, was: Was | None = None) -> None:
    """Put the file new in the place of path; without `was` whatever is there.

    Raises:
        ChangedError: what is at path isn't what was seen; it stays there, and new is gone.
    """
    try:
        new.replace(aside(path) if was else path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to report
            new.unlink()
        raise
    if was:
        _place_for(aside(path), path, was)
    sync_folder(path.parent)


def remove(path: Path, was: Was) -> None:
    """Remove the file at path.

    Raises:
        ChangedError: it isn't what was seen; it stays there.
    """
    held = aside(path)
    with contextlib.suppress(FileNotFoundError):
        path.rename(held)
        if not was(held):
            _put_back(held, path)
            raise _changed(path)
        held.unlink()
        sync_folder(path.parent)


def _changed(path: Path) -> ChangedError:
    return ChangedError(f"{path} is being changed by somebody else: try again")


def _place_for(new: Path, path: Path, was: Was) -> None:
    ours = _identity(new)
    try:
        exchanged = _bring(new, path, was)
    except BaseException:
        with contextlib.suppress(OSError):
            if _identity(new) == ours:
                new.unlink()
        raise
    if exchanged and not was(new):
        _swap_back(new, path, ours)
        raise _changed(path)
    if exchanged:
        new.unlink()


def _bring(new: Path, path: Path, was: Was) -> bool:
    """Give new the name path; return whether what was there has new's name now."""
    if not was(path):
        raise _changed(path)
    there = os.path.lexists(path)
    try:
        _rename(new, path, EXCHANGE if there else NOREPLACE)
    except _UnsupportedError:
        new.replace(path)  # as it was just now; the instant between can't be closed here
        return False
    except (FileExistsError, FileNotFoundError) as error:
        raise _changed(path) from error
    return there


def _swap_back(held: Path, path: Path, placed: tuple[int, int]) -> None:
    """Put what is held back in its place, or whatever newer came there since."""
    while True:
        back = _identity(held)
        try:
            _rename(held, path, EXCHANGE)
        except FileNotFoundError:  # ours was removed there
            _put_back(held, path)
            return
        if _identity(held) == placed:
            held.unlink()
            sync_folder(path.parent)
            return
        placed = back


def _put_back(held: Path, path: Path) -> None:
    """Put what is held back in its place, unless something newer is there."""
    try:
        _rename(held, path, NOREPLACE)
    except FileExistsError:
        held.unlink()
    except _UnsupportedError:
        held.rename(path)
    sync_folder(path.parent)


def _identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


def _rename(source: Path, target: Path, flags: int) -> None:
    """Call renameat2(2), which Python doesn't have."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:  # a libc of its own
        raise _UnsupportedError
    paths = [ctypes.c_char_p(os.fsencode(path)) for path in (source, target)]
    if call(AT_FDCWD, paths[0], AT_FDCWD, paths[1], ctypes.c_uint(flags)) != 0:
        number = ctypes.get_errno()
        if number in UNSUPPORTED:
            raise _UnsupportedError
        raise OSError(number, os.strerror(number), str(target))


def recover(path: Path, is_ours: Callable[[bytes], bool], elsewhere: Sequence[Path]) -> None:
    """Settle what a killed process left beside path.

    What lies there goes back when it is a program, and not a script, that is kept nowhere else,
    while path has nothing, or what is ours or kept elsewhere: a package manager brought it. Else it
    was to go, as the forum guide's script, or was never in its place.
    """
    held = aside(path)
    if not os.path.lexists(held):
        return
    content = held.read_bytes() if held.is_file() and not held.is_symlink() else b""
    now = path.read_bytes() if path.is_file() else None
    kept = [other.read_bytes() for other in elsewhere if other != path and other.is_file()]
    replaceable = now is None or is_ours(now) or now in kept
    if content.startswith(PROGRAM) and content not in (now, *kept) and replaceable:
        held.replace(path)
    else:
        held.unlink()
    sync_folder(path.parent)
