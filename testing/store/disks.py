# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks in a mount namespace of their own: small, full, read-only."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
_PIECE = 4096


class Space:
    """A mount namespace that stays; what is started with `prefix` is in it."""

    def __init__(self, script: str) -> None:
        """Make it, and run a shell script in it."""
        command = ["unshare", "--mount", "--propagation=private", "sh", "-ec"]
        self._holder = subprocess.Popen(
            [*command, f"{script}\necho up; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"up\n"

    @property
    def prefix(self) -> tuple[str, ...]:
        """What starts a program in it."""
        return ("nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", "--")

    def path(self, path: Path) -> Path:
        """A path in it, as seen from outside."""
        return Path(f"/proc/{self._holder.pid}/root{path}")

    def run(self, *command: str | Path) -> None:
        """Run a program in it."""
        subprocess.run([*self.prefix, *command], check=True)

    def fill(self, folder: Path) -> None:
        """Leave not one byte of the disk that a folder is on."""
        path = self.path(folder / "more")
        with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(_PIECE))

    def close(self) -> None:
        """End it."""
        self._holder.communicate()


@contextlib.contextmanager
def space(script: str) -> Iterator[Space]:
    """Make a namespace, and end it."""
    made = Space(script)
    try:
        yield made
    finally:
        made.close()


def small(folder: Path, size: str) -> str:
    """A script that puts a small file system in a folder's place, with what the folder holds."""
    return (
        f"cp -a {folder} {folder}.kept; mount -t tmpfs -o size={size} tmpfs {folder};"
        f" cp -a {folder}.kept/. {folder}"
    )


def read_only(folder: Path) -> str:
    """A script that makes a folder read-only."""
    return f"mount --bind {folder} {folder}; mount -o remount,ro,bind {folder}"
