# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies of a repository by hard links: they take no room until a file is removed.

A file that is overwritten in place changes in the copy, too, as rclone before 1.63 does it
(backend/local/local.go Update). So where the engine never writes to a file twice, its files lose
the right to be written.
"""

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from dedup_server.folder.files import replace_file

# a file system that has no hard links, or a file of somebody else's; a mount point
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV)


@dataclass(frozen=True)
class LinkRules:
    """The treatment of an engine's files.

    Attributes:
        locks: names at the top of a repository that belong to sessions, and are left out.
        growing: files at the top that are written to in place, and are copied instead.
        protect: whether the right to write to a file is taken away.
    """

    locks: frozenset[str]
    growing: frozenset[str] = frozenset()
    protect: bool = False


def link_tree(source: Path, target: Path, rules: LinkRules) -> None:
    """Make a folder with the same files as links.

    Args:
        source: a repository, or such a folder; it may be missing.
        target: the folder to make, with those above it.
        rules: of the repository's engine.

    Raises:
        OSError: with NO_LINKS when there can be no links; what was made so far is left.
    """
    target.mkdir(mode=0o700, parents=True)
    if not source.exists():
        return
    for parent, folders, names in os.walk(source, onerror=_raise):
        here = target / Path(parent).relative_to(source)
        is_top = Path(parent) == source
        if is_top:
            folders[:] = [name for name in folders if name not in rules.locks]
        for name in folders:
            if not Path(parent, name).is_symlink():
                (here / name).mkdir(mode=0o700)
        for name in names:
            if is_top and name in rules.locks:
                continue
            if is_top and name in rules.growing:
                replace_file(here / name, Path(parent, name).read_bytes())
                continue
            if rules.protect:
                _protect(Path(parent, name))
            os.link(Path(parent, name), here / name, follow_symlinks=False)


def list_files(top: Path, rules: LinkRules, *, strict: bool) -> dict[str, os.stat_result]:
    """List a repository's files without locks and growing ones.

    Args:
        top: a repository, or a folder that link_tree made; it may be missing.
        rules: of the repository's engine.
        strict: whether an error is raised; else what can't be read is left out, as in a repository
            that goes on being used.

    Returns:
        By the names relative to top.
    """
    found: dict[str, os.stat_result] = {}
    if not top.exists():
        return found
    skipped = rules.locks | rules.growing
    for parent, folders, names in os.walk(top, onerror=_raise if strict else None):
        is_top = Path(parent) == top
        if is_top:
            folders[:] = [name for name in folders if name not in skipped]
        for name in names:
            path = Path(parent, name)
            if is_top and name in skipped:
                continue
            try:
                found[str(path.relative_to(top))] = path.lstat()
            except FileNotFoundError:
                if strict:
                    raise
    return found


def _protect(path: Path) -> None:
    info = path.lstat()
    if stat.S_ISREG(info.st_mode) and info.st_mode & 0o222:
        path.chmod(stat.S_IMODE(info.st_mode) & ~0o222)


def _raise(error: OSError) -> NoReturn:
    raise error
