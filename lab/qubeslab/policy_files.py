# SPDX-License-Identifier: GPL-3.0-or-later
"""Read dom0's policy files from outside dom0.

Source: qubes-core-qrexec qrexec/policy/parser.py (filter_filepaths,
AbstractFileSystemLoader.load_policy_dirs and resolve_path).
"""

from __future__ import annotations

import os
import string
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from .policy import PolicySyntaxError

# A file in the first replaces one of the same name in the second.
POLICY_DIRS = ("/run/qubes/policy.d", "/etc/qubes/policy.d")
SUFFIX = ".policy"
NAME_CHARACTERS = frozenset(string.digits + string.ascii_lowercase + "_.-")
LINKS_MAX = 40


class Dom0Files:
    """The policy files below a folder that is dom0's root."""

    def __init__(self, root: Path, dirs: tuple[str, ...] = POLICY_DIRS) -> None:
        """Take dom0's root as seen here."""
        self.root, self.dirs = root, dirs

    def top(self) -> Iterable[tuple[str, str]]:
        """Return name and text of all files, sorted by name.

        Raises:
            PolicySyntaxError: a file's name is wrong, or it can't be read.
        """
        found: dict[str, str] = {}
        for folder in self.dirs:
            try:
                names = self._names(folder)
            except FileNotFoundError as error:
                if folder != self.dirs[-1]:
                    continue
                raise PolicySyntaxError(f"no policy: {folder} is missing") from error
            for path in names:
                found.setdefault(PurePosixPath(path).name, path)
        for name in sorted(found):
            try:
                yield found[name], self._text(found[name])
            except (OSError, UnicodeDecodeError) as error:
                raise PolicySyntaxError(f"can't read {found[name]}: {error}") from error

    def read(self, base: str, path: str) -> tuple[str, str]:
        """Return name and text of an included file; relative to the folder of the top file."""
        name = str(PurePosixPath(base).parent / path)
        return name, self._text(name)

    def read_dir(self, base: str, path: str) -> Iterable[tuple[str, str]]:
        """Return name and text of the files of an included folder."""
        folder = str(PurePosixPath(base).parent / path)
        return [(name, self._text(name)) for name in self._names(folder)]

    def _names(self, folder: str) -> list[str]:
        entries = sorted(os.listdir(inside(self.root, folder)))  # noqa: PTH208 - names only
        names = [
            name
            for name in entries
            if name.endswith(SUFFIX)
            and not name.startswith(".")
            and inside(self.root, f"{folder}/{name}").is_file()
        ]
        for name in names:
            if not NAME_CHARACTERS.issuperset(name):
                raise PolicySyntaxError(f"invalid filename: {folder}/{name}")
        return [f"{folder}/{name}" for name in names]

    def _text(self, path: str) -> str:
        return inside(self.root, path).read_text(encoding="utf-8")


def inside(root: Path, path: str) -> Path:
    """Follow `path` as a process with that root would, so that a link can't lead out of it.

    Raises:
        OSError: links go round in circles.
    """
    todo = [part for part in reversed(PurePosixPath(path).parts) if part != "/"]
    done: list[str] = []
    links = 0
    while todo:
        part = todo.pop()
        if part == "..":
            del done[-1:]
            continue
        here = root.joinpath(*done, part)
        if not here.is_symlink():
            done.append(part)
            continue
        links += 1
        if links > LINKS_MAX:
            raise OSError(f"too many symbolic links in {path}")
        target = here.readlink()
        if target.is_absolute():
            done.clear()
        todo += [part for part in reversed(target.parts) if part != "/"]
    return root.joinpath(*done)
