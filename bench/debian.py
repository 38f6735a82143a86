# SPDX-License-Identifier: GPL-3.0-or-later
"""The backup qube's side of bench/store.py: a root of Debian 13, with its Python and its engines.

tools/bench-root.sh makes it of the packages that a backup template has. Programs run in it by
chroot; this costs nothing that a backup qube wouldn't.
"""

import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
MEMORY = "/dev/shm"  # noqa: S108 -- /tmp is in memory in Qubes, in dom0 and in qubes
ROOT = CHECKOUT / ".cache/bench-root"
_PROGRAMS = "usr/lib/qubes-dedup-backup"  # roles/backup_template/vars/main.yml
DEDUP_STORE = f"/{_PROGRAMS}/dedup-store"


class Debian:
    """The root, at work in a folder."""

    def __init__(self, shared: Path) -> None:
        """Mount it at shared/debian.

        Args:
            shared: a folder that is the same inside and outside. What is mounted in it isn't there
                inside, but `shared/plain`.

        Raises:
            SystemExit: it wasn't made.
        """
        if not (ROOT / "made").exists():
            raise SystemExit(f"{ROOT} is missing: tools/bench-root.sh makes it")
        self.place = shared / "debian"
        self._ends = ExitStack()
        try:
            self._mount(shared)
        except BaseException:
            self.close()
            raise

    def _mount(self, shared: Path) -> None:
        # dedup-store makes mount namespaces, so that the root must be a mount point
        self._at("", "--bind", ROOT)
        self._ends.callback(self._unmount)
        self._at("proc", "-t", "proc", "proc")
        self._at("dev", "--bind", "/dev")
        self._at("dev/shm", "--bind", MEMORY)
        for name in ("run", "tmp", _PROGRAMS):
            self._at(name, "-t", "tmpfs", "tmpfs")
        inside = str(shared).lstrip("/")
        self._at(inside, "--bind", shared)
        self._at(f"{inside}/plain", "--bind", shared / "plain")
        # as the role backup_template lays them down: without compiled files
        payload = CHECKOUT / "payload"
        for name in ("backup_format", "qube/dedup_store"):
            target = self.place / _PROGRAMS / Path(name).name
            compiled = shutil.ignore_patterns("__pycache__")
            shutil.copytree(payload / name, target, ignore=compiled)
        shutil.copy(payload / "qube/dedup-store", self.place / _PROGRAMS)

    def _at(self, inside: str, *arguments: str | Path) -> None:
        target = self.place / inside
        target.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", *arguments, target], check=True)
        # what is mounted on it isn't mounted on what it shows
        subprocess.run(["mount", "--make-private", target], check=True)

    def _unmount(self) -> None:
        subprocess.run(["umount", "--recursive", self.place], check=True)

    def argv(self, *command: str) -> list[str]:
        """Return the command line that runs a program in it: the same process becomes that."""
        return ["/usr/sbin/chroot", str(self.place), *command]

    def version(self, *command: str) -> str:
        """Run a program in it, and return its output."""
        done = subprocess.run(self.argv(*command), capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def close(self) -> None:
        """Unmount it."""
        self._ends.close()
