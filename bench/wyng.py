# SPDX-License-Identifier: GPL-3.0-or-later
"""wyng as a contender of bench/store.py; WYNG=path names its program."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from contenders import size_of
from corpus import Volume
from debian import MEMORY


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
        self._second = 0
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        self._run("arch-init")

    def send(self, volumes: list[Volume]) -> float:
        """Back up volumes; give the seconds."""
        while int(time.time()) == self._second:  # by which wyng names a session
            time.sleep(0.01)
        start = time.perf_counter()
        self._run("send", *(volume.image.name for volume in volumes))
        seconds = time.perf_counter() - start
        self._second = int(time.time())
        return seconds

    def receive(self, volume: Volume, target: Path) -> float:
        """Restore a volume into a file, sparsely; give the seconds."""
        start = time.perf_counter()
        self._run(f"--save-to={target}", "--sparse", "receive", volume.image.name)
        return time.perf_counter() - start

    def prune(self) -> None:
        """Remove all sessions but the newest, of each volume."""
        self._run("--session=newest", "--all-before", "--all", "prune")

    def size(self) -> int:
        """Return the bytes that the archive takes."""
        return size_of(self.folder / "archive")

    def close(self) -> None:
        """Remove its snapshots."""
        for path in self._volumes.glob("*.wyng*"):
            path.unlink()

    def _run(self, *arguments: str) -> None:
        archive, meta = self.folder / "archive", self.folder / "meta"
        options = [f"--dest=file:{archive}", f"--meta-dir={meta}"]
        if not any(argument.startswith("--save-to") for argument in arguments):
            options.append(f"--local={self._volumes}")
        options += ["--unattended", "--passcmd=echo correct-horse-battery"]
        meta.mkdir(exist_ok=True)
        done = subprocess.run(
            [sys.executable, self._program, *options, *arguments],
            env=os.environ | {"HOME": str(self.folder), "TMPDIR": MEMORY},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            shown = f"{done.stdout[-2000:]} {done.stderr[-2000:]}"
            raise SystemExit(f"wyng {' '.join(arguments)}: {shown}")
