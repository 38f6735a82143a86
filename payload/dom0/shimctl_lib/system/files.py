# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes to files, each atomic and durable; never a half-written file under its name.

Each takes `was`, which returns whether a file is still the one that was seen: see exchange.py.
"""

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from dom0_common.files import creating, sync_folder

from shimctl_lib.system.exchange import Was, place, remove

# What belongs to the file's place and not to its content: SELinux' label, access control lists.
PLACE_ATTRIBUTES = ("security.selinux", "system.posix_acl_access")


def read(path: Path) -> bytes | None:
    """Return the file's content, None if there is no file."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def temporary(path: Path) -> Path:
    """Return the name that a new file has until it replaces path."""
    return path.with_name(f".{path.name}.shimctl")


def make_folder(folder: Path) -> None:
    """Make a folder that all can read, with its parents, where there is none."""
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)  # the umask is set in cli.main


def copy_attributes(source: int, target: int, names: tuple[str, ...] | None = None) -> None:
    """Copy the extended attributes of source to target, or those of them in names."""
    try:
        for name in os.listxattr(source):
            if names is None or name in names:
                os.setxattr(target, name, os.getxattr(source, name))
    except OSError as error:
        if error.errno != errno.ENOTSUP:  # a filesystem without them
            raise


def script_mode(mode: int) -> int:
    """Return the mode of a script in the place of a binary: whoever runs it must read it."""
    mode = mode & 0o755
    return mode | (mode & 0o111) << 2


@contextlib.contextmanager
def replacing(path: Path, was: Was | None) -> Iterator[BinaryIO]:
    """Yield a new file to fill, which then takes the place of path; see exchange.place.

    On any error before that it is gone.
    """
    new = temporary(path)
    with creating(new) as file:
        yield file
    place(new, path, was)


def write(path: Path, content: bytes, was: Was | None = None) -> None:
    """Replace the file at path by one that all can read."""
    make_folder(path.parent)
    with replacing(path, was) as file:
        file.write(content)
        os.fchmod(file.fileno(), 0o644)


def write_like(path: Path, script: bytes, model: Path, was: Was) -> None:
    """Replace the file at path by a script, with the owner, mode and label of the file model."""
    make_folder(path.parent)
    with replacing(path, was) as new, model.open("rb") as old:
        new.write(script)
        status = os.fstat(old.fileno())
        os.fchown(new.fileno(), status.st_uid, status.st_gid)
        copy_attributes(old.fileno(), new.fileno(), PLACE_ATTRIBUTES)
        os.fchmod(new.fileno(), script_mode(status.st_mode))


def copy(source: Path, path: Path, was: Was) -> None:
    """Replace the file at path by a copy of source, with all its metadata.

    A copy and not a hard link: that would be the package's file under two names.
    """
    with replacing(path, was) as new, source.open("rb") as old:
        shutil.copyfileobj(old, new)
        new.flush()  # before the times are set
        status = os.fstat(old.fileno())
        os.fchown(new.fileno(), status.st_uid, status.st_gid)
        copy_attributes(old.fileno(), new.fileno())
        os.fchmod(new.fileno(), stat.S_IMODE(status.st_mode))
        os.utime(new.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))


def move(source: Path, path: Path, was: Was) -> None:
    """Put the file source in the place of path; it needs no room.

    It has both names for a moment, so that it is never missing. Whatever comes to source meanwhile
    stays there.
    """
    new = temporary(path)
    new.hardlink_to(source)
    place(new, path, was)
    remove(source, lambda held: held.samefile(path))


def link(target: str, path: Path, was: Was) -> None:
    """Make path a symbolic link to target."""
    make_folder(path.parent)
    temporary(path).symlink_to(target)
    place(temporary(path), path, was)


def delete(path: Path, was: Was | None = None) -> None:
    """Remove a file, and its folder if that is ours and empty then; see exchange.remove."""
    if was:
        remove(path, was)
    else:
        path.unlink(missing_ok=True)
        sync_folder(path.parent)
    with contextlib.suppress(OSError):
        if path.parent.name == "qubes-dedup-backup":
            path.parent.rmdir()


def delete_folder(folder: Path) -> None:
    """Remove a folder if nothing is in it."""
    with contextlib.suppress(OSError):
        folder.rmdir()
        sync_folder(folder.parent)


def silence() -> None:
    """Point stdout and stderr to nowhere, so that Python doesn't fail over them at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)
