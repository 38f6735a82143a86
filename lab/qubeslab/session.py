# SPDX-License-Identifier: GPL-3.0-or-later
"""Drive a lab from the host as its user would: for the demo and the end-to-end tests."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from .containers import Containers
from .paths import DOM0, LAB_DIR, LabError, LabPaths

LAB = LAB_DIR / "lab"
BLOCK = 2**20  # bytes compared at once


class Session:
    """One lab, by name."""

    def __init__(self, name: str) -> None:
        """Take the lab's name; nothing is started."""
        self.name = name
        self.paths = LabPaths.named(name)
        self.containers = Containers(self.paths.state)

    def lab(self, *args: str) -> None:
        """Run the `lab` command.

        Raises:
            LabError: it failed; it has said why on stderr.
        """
        env = dict(os.environ, LAB_NAME=self.name)
        done = subprocess.run([str(LAB), *args], env=env, check=False, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            raise LabError(f"lab {' '.join(args)} failed ({done.returncode})")

    def run(
        self, qube: str, *argv: str, stdin: bytes = b"", user: str = "user", check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a qube and return its exit code, stdout and stderr.

        Raises:
            LabError: with `check`, when the command fails; with the end of what it printed.
        """
        done = subprocess.run(
            [*self.containers.enter(qube, user), *argv],
            input=stdin,
            capture_output=True,
            check=False,
        )
        text = subprocess.CompletedProcess(
            argv,
            done.returncode,
            done.stdout.decode(errors="replace"),
            done.stderr.decode(errors="replace"),
        )
        if check and text.returncode != 0:
            tail = (text.stdout + text.stderr).strip().splitlines()[-12:]
            raise LabError(
                f"{' '.join(argv)} in {qube} failed ({text.returncode}):\n" + "\n".join(tail)
            )
        return text

    def dom0(
        self, *argv: str, stdin: bytes = b"", check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as dom0's user."""
        return self.run(DOM0, *argv, stdin=stdin, check=check)

    def playbook(self, *args: str) -> str:
        """Run ansible-playbook in dom0, from the checkout, and return what it printed."""
        command = 'cd /srv/qubes-dedup-backup && exec ansible-playbook "$@"'
        return self.dom0("sh", "-c", command, "sh", *args).stdout

    def passphrase(self, profile: str) -> bytes:
        """Return a backup profile's passphrase, with a line end."""
        show = "import sys, yaml; print(yaml.safe_load(open(sys.argv[1]))['passphrase_text'])"
        path = f"/etc/qubes/backup/{profile}.conf"
        return self.dom0("sudo", "python3", "-c", show, path).stdout.encode()

    def private_image(self, qube: str) -> Path:
        """Return the host's path of an app qube's private image."""
        return self.paths.qubes / "appvms" / qube / "private.img"

    def same_private(self, one: str, other: str) -> bool:
        """Tell whether two halted app qubes' private images are the same, byte for byte."""
        return same_content(self.private_image(one), self.private_image(other))

    def stored_bytes(self, qube: str) -> int:
        """Return how many bytes of an app qube's private image are stored: 0 when it is blank."""
        image = self.private_image(qube)
        return image.stat().st_blocks * 512 if image.exists() else 0

    def disk_bytes(self, qube: str, folder: str) -> int:
        """Return the sum of the sizes of the files below a folder in a qube, in bytes."""
        out = self.run(qube, "du", "--summarize", "--bytes", folder).stdout
        return int(out.split()[0])


def same_content(one: Path, other: Path) -> bool:
    """Tell whether two files hold the same bytes; a hole in both is not read."""
    with one.open("rb") as first, other.open("rb") as second:
        size = os.fstat(first.fileno()).st_size
        if size != os.fstat(second.fileno()).st_size:
            return False
        at = 0
        while at < size:
            starts = [_next_data(handle.fileno(), at, size) for handle in (first, second)]
            at = min(starts) // BLOCK * BLOCK
            if os.pread(first.fileno(), BLOCK, at) != os.pread(second.fileno(), BLOCK, at):
                return False
            at += BLOCK
    return True


def _next_data(fd: int, at: int, size: int) -> int:
    """Return where the next stored byte is, or the file's size: lseek(2), SEEK_DATA."""
    try:
        return os.lseek(fd, at, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return size


def corpus(target: Path, sources: Iterable[Path], limit: int) -> int:
    """Copy real files from this machine, in a fixed order, until `limit` bytes; return the bytes.

    Raises:
        LabError: the sources hold less than half of that.
    """
    total = 0
    for path in (path for source in sources for path in _files(source)):
        size = path.stat().st_size
        if total + size > limit:
            continue
        copy = target / path.relative_to(path.anchor)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        total += size
        if total > limit - 2**16:
            break
    if total < limit // 2:
        raise LabError(
            f"not enough files on this machine for a corpus of {limit} bytes in {target}"
        )
    return total


def _files(source: Path) -> Sequence[Path]:
    return sorted(path for path in source.rglob("*") if path.is_file() and not path.is_symlink())
