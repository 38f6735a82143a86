# SPDX-License-Identifier: GPL-3.0-or-later
"""Who takes part in bench/store.py: how each stores, restores and prunes."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
DEDUP_STORE = CHECKOUT / "payload/qube/dedup-store"
PASSWORD = "correct horse battery staple"  # noqa: S105 (of repositories that are thrown away)
CHUNKS = {"borg": "buzhash,16,20,18,4095", "borg-small": "buzhash,14,18,16,4095"}
BORG = ["--compression", "zstd,3", "--files-cache", "disabled"]  # as dedup-store has it


@dataclass
class Contender:
    """A repository, and the program in front of it.

    Attributes:
        name: `guide-restic`, `ours-borg`, `raw-borg-small` and so on.
        folder: has all that is its own.
        setting: a line for dedup-store's profile.
    """

    name: str
    folder: Path
    setting: str = ""

    @property
    def kind(self) -> str:
        """`guide` (with its scrypt script), `ours` (with the shim), or `raw` (the images alone)."""
        return self.name.partition("-")[0]

    @property
    def engine(self) -> str:
        """`restic`, `borg`, `borg-small`, or `directory`."""
        return self.name.partition("-")[2]

    @property
    def repository(self) -> Path:
        """The repository."""
        return self.folder / "repo"

    def environment(self) -> dict[str, str]:
        """All that its programs get of an environment."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder / "home"),
            "TMPDIR": "/tmp",  # noqa: S108 (what a qube has)
            "DEDUP_STORE_CONFIG_DIR": str(self.folder),
            "RESTIC_REPOSITORY": str(self.repository),
            "RESTIC_PASSWORD": PASSWORD,
            "BORG_REPO": str(self.repository),
            "BORG_PASSPHRASE": PASSWORD,
        }

    def make(self) -> None:
        """Make an empty repository; an older one goes."""
        if self.engine == "directory" and self.repository.exists():
            shutil.rmtree(self.repository)  # its parent is a mount point
        elif self.engine != "directory":
            shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "home").mkdir(parents=True, exist_ok=True)
        if self.kind == "ours":
            self._configure()
            self.run([str(DEDUP_STORE), "init"])
        elif self.engine == "restic":
            self.run(["restic", "init", "--quiet"])
        else:
            self.run(["borg", "init", "--encryption", "repokey-blake2"])

    def _configure(self) -> None:
        engine, _, small = self.engine.partition("-")
        text = f'engine = "{engine}"\nrepository = "{self.repository}"\n'
        text += f'chunks = "{small}"\n' if small else ""
        text += f"{self.setting}\n"
        (self.folder / "default.toml").write_text(text)
        if engine != "directory":
            password = self.folder / "default.password"
            password.touch(0o600)
            password.write_text(f"{PASSWORD}\n")

    def store(self, name: str = "backup") -> list[str]:
        """Give the command that stores what comes on stdin."""
        if self.kind == "ours":
            return [str(DEDUP_STORE), "put"]
        if self.engine == "restic":
            return ["restic", "--quiet", "backup", "--stdin", "--stdin-filename", name]
        # the guide's benchmark has borg's own chunks, and zstd
        chunks = ["--chunker-params", CHUNKS[self.engine]] if self.kind == "raw" else []
        return ["borg", "create", *BORG, *chunks, f"::{name}-{{now:%s.%f}}", "-"]

    def line(self) -> str:
        """Give the same as a command line for a backup's destination."""
        values = [f"{key}={value}" for key, value in self.environment().items()]
        return shlex.join(["env", *values, *self.store()])

    def restore(self) -> list[str]:
        """Give the command that writes the newest stored backup to stdout."""
        if self.kind == "ours":
            names = self.run([str(DEDUP_STORE), "list", "--lines"]).split(b'"run": "')[1:]
            return [str(DEDUP_STORE), "get", names[-1].split(b'"')[0].decode()]
        if self.engine == "restic":
            return ["restic", "dump", "latest", "backup"]
        name = self.run(["borg", "list", "--short", "--last", "1"]).decode().strip()
        return ["borg", "extract", "--stdout", f"::{name}"]

    def prune(self) -> None:
        """Keep the newest backup only, and give back the space of the others."""
        if self.kind == "ours":
            names = self.run([str(DEDUP_STORE), "list", "--lines"]).split(b'"run": "')[1:]
            old = [name.split(b'"')[0].decode() for name in names[:-1]]
            if old:
                self.run([str(DEDUP_STORE), "forget", *old])
            self.run([str(DEDUP_STORE), "prune"])
        elif self.engine == "restic":
            self.run(["restic", "forget", "--quiet", "--keep-last", "1", "--prune"])
        else:
            archives = self.run(["borg", "list", "--short"]).decode().split()
            for prefix in {archive.rpartition("-")[0] for archive in archives}:
                self.run(["borg", "prune", "--keep-last", "1", "-a", f"{prefix}-*"])
            self.run(["borg", "compact"])

    def size(self) -> int:
        """Give the bytes that the repository takes."""
        if self.engine == "directory":  # blocks are shared: the file system knows
            subprocess.run(["sync", "--file-system", self.folder], check=True)
            found = os.statvfs(self.folder)
            return (found.f_blocks - found.f_bfree) * found.f_frsize
        return sum(path.stat().st_size for path in self.repository.rglob("*") if path.is_file())

    def run(self, command: Sequence[str]) -> bytes:
        """Run a program of its own, which must succeed; give its output."""
        done = subprocess.run(command, env=self.environment(), capture_output=True, check=False)
        if done.returncode:
            raise SystemExit(f"{self.name}: {shlex.join(command)}: {done.stderr.decode()}")
        return done.stdout
