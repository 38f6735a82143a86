# SPDX-License-Identifier: GPL-3.0-or-later
"""wyng as a contender of bench/store.py; WYNG=path names its program."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path


class Wyng:
    """An archive of wyng's, encrypted as by default, of volumes in a Btrfs subvolume."""

    def __init__(self, program: str, volumes: Path, folder: Path) -> None:
        """Make an empty archive.

        Args:
            program: wyng.
            volumes: the subvolume.
            folder: has all that is its own.
        """
        self._program = program
        self._volumes = volumes
        self.folder = folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        self._run("arch-init")

    def send(self, names: list[str]) -> float:
        """Back up volumes, by their file names; give the seconds."""
        start = time.perf_counter()
        self._run("send", *names)
        return time.perf_counter() - start

    def size(self) -> int:
        """Give the bytes that the archive takes."""
        files = (self.folder / "archive").rglob("*")
        return sum(path.stat().st_size for path in files if path.is_file())

    def close(self) -> None:
        """Remove its snapshots."""
        for path in self._volumes.glob("*.wyng*"):
            path.unlink()

    def _run(self, command: str, *names: str) -> None:
        archive, meta = self.folder / "archive", self.folder / "meta"
        options = [f"--dest=file:{archive}", f"--local={self._volumes}", f"--meta-dir={meta}"]
        options += ["--unattended", "--passcmd=echo correct-horse-battery"]
        meta.mkdir(exist_ok=True)
        done = subprocess.run(
            [sys.executable, self._program, *options, command, *names],
            env=os.environ | {"HOME": str(self.folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"wyng {command}: {done.stdout[-2000:]} {done.stderr[-2000:]}")
