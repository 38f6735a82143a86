# SPDX-License-Identifier: GPL-3.0-or-later
"""The contenders of bench/store.py: how each stores, restores and prunes."""

import json
import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from debian import DEDUP_STORE, MEMORY, Debian

PASSWORD = "correct horse battery staple"  # noqa: S105 -- of repositories that are thrown away
# our default, and our setting "small" (payload/qube/dedup_store/engine_options.py)
CHUNKS = {"borg": "buzhash,16,20,18,4095", "borg-small": "buzhash,14,18,16,4095"}
ENGINES = {"restic": "restic", "borg": "borg", "borg-small": "borg, small chunks"}
TITLES = {
    "guide-restic": "guide's script, restic",
    "guide-borg": "guide's script, borg",
    **{f"ours-{name}": f"this project, {title}" for name, title in ENGINES.items()},
    "ours-directory": "this project, files on Btrfs",
    **{f"raw-{name}": f"{title}, on the images" for name, title in ENGINES.items()},
    "wyng": "wyng, on the images",
    "official-gzip": "official, gzip",
    "official-none": "official, not compressed",
}


@dataclass
class Contender:
    """A repository, and the program in front of it.

    Attributes:
        name: `guide-restic`, `ours-borg`, `raw-borg-small` and so on.
        folder: has all that is its own.
        qube: where its programs run.
        empty: bytes that the repository took when it was empty, if its file system counts.
        setting: a line for dedup-store's configuration.
        like: a repository that exists and is empty when this one is made; the engine then cuts
            both at the same places, which it else chooses by chance for each repository.
    """

    name: str
    folder: Path
    qube: Debian
    empty: int = 0
    setting: str = ""
    like: "Contender | None" = None

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
        """The environment of its programs."""
        return {
            "PATH": os.defpath,
            "HOME": str(self.folder / "home"),
            "TMPDIR": MEMORY,
            "DEDUP_STORE_CONFIG_DIR": str(self.folder),
            "RESTIC_REPOSITORY": str(self.repository),
            "RESTIC_PASSWORD": PASSWORD,
            "RESTIC_FROM_PASSWORD": PASSWORD,
            "BORG_REPO": str(self.repository),
            "BORG_PASSPHRASE": PASSWORD,
        }

    def make(self) -> None:
        """Make an empty repository; an older one goes."""
        if self.engine == "directory":
            shutil.rmtree(self.repository, ignore_errors=True)  # its parent is a mount point
        else:
            self.remove()
        (self.folder / "home").mkdir(parents=True, exist_ok=True)
        self.empty = 0
        if self.kind == "ours":
            self._configure()
            self.run(DEDUP_STORE, "init", "--new")
        elif self.engine == "restic":
            other = self.like and [
                "--copy-chunker-params",
                "--from-repo",
                str(self.like.repository),
            ]
            self.run("restic", "init", "--quiet", *(other or []))
        elif self.like:  # with its key, which decides where borg cuts
            ours = shutil.ignore_patterns("dedup-store*")
            shutil.copytree(self.like.repository, self.repository, ignore=ours)
        else:
            self.run("borg", "init", "--encryption", "repokey-blake2")
        if self.engine == "directory":
            self.empty = self.size()

    def remove(self) -> None:
        """Remove all of it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _configure(self) -> None:
        engine, _, small = self.engine.partition("-")
        text = f'engine = "{engine}"\nlocation = "{self.repository}"\n'
        text += f'chunks = "{small}"\n' if small else ""
        text += f"{self.setting}\n"
        (self.folder / "default.toml").write_text(text)
        if engine != "directory":
            password = self.folder / "default.password"
            password.touch(0o600)
            password.write_text(f"{PASSWORD}\n")

    def store(self, name: str = "backup") -> list[str]:
        """Return the command that stores what comes on stdin."""
        return self.qube.argv(*self._store(name))

    def _store(self, name: str) -> list[str]:
        if self.kind == "ours":
            return [DEDUP_STORE, "put"]
        if self.engine == "restic":
            return ["restic", "--quiet", "backup", "--stdin", "--stdin-filename", name]
        # The guide's benchmark has borg's own chunks, and zstd, whose default is 3.
        chunks = ["--chunker-params", CHUNKS[self.engine]] if self.kind == "raw" else []
        archive = f"::{name}-{{now:%s.%f}}"
        return ["borg", "create", "--compression", "zstd,3", *chunks, archive, "-"]

    def line(self, copy: Path | None = None) -> str:
        """Return the same as a command line for a backup's destination.

        Args:
            copy: a file for what comes; it takes time.
        """
        values = [f"{key}={value}" for key, value in self.environment().items()]
        command = self.store()
        if copy:
            script = f"tee {shlex.quote(str(copy))} | {shlex.join(command)}"
            command = ["sh", "-c", script]
        return shlex.join(["env", *values, *command])

    def restore(self, name: str = "backup") -> list[str]:
        """Return the command that writes what was stored last to stdout."""
        if self.kind == "ours":
            return self.get()
        if self.engine == "restic":
            return self.qube.argv("restic", "dump", "--path", f"/{name}", "latest", name)
        archive = self.run("borg", "list", "--short", "--last", "1", "-a", f"{name}-*")
        return self.qube.argv("borg", "extract", "--stdout", f"::{archive.decode().strip()}")

    def get(self, *options: str) -> list[str]:
        """Return dedup-store's command that writes the last run to stdout."""
        return self.qube.argv(DEDUP_STORE, "get", self._runs()[-1], *options)

    def _runs(self) -> list[str]:
        listed = json.loads(self.run(DEDUP_STORE, "list", "--json"))
        return [run["run"] for run in listed["runs"]]

    def prune(self) -> None:
        """Keep the newest backup only, and give back the space of the others."""
        if self.kind == "ours":
            if old := self._runs()[:-1]:
                self.run(DEDUP_STORE, "forget", *old)
            self.run(DEDUP_STORE, "prune")
        elif self.engine == "restic":
            # with --stdin, the name of the file is the snapshot's path, by which restic groups
            self.run("restic", "forget", "--quiet", "--keep-last", "1", "--prune")
        else:
            archives = self.run("borg", "list", "--short").decode().split()
            for prefix in {archive.rpartition("-")[0] for archive in archives}:
                self.run("borg", "prune", "--keep-last", "1", "-a", f"{prefix}-*")
            self.run("borg", "compact")

    def size(self) -> int:
        """Return the bytes that the repository takes."""
        if self.engine == "directory":  # blocks are shared: the file system knows
            subprocess.run(["sync", "--file-system", self.folder], check=True)
            found = os.statvfs(self.folder)
            return (found.f_blocks - found.f_bfree) * found.f_frsize - self.empty
        return size_of(self.repository)

    def run(self, *command: str) -> bytes:
        """Run a program of its own, which must succeed; give its output."""
        done = subprocess.run(
            self.qube.argv(*command), env=self.environment(), capture_output=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{self.name}: {shlex.join(command)}: {done.stderr.decode()}")
        return done.stdout


_RESERVE = "dedup-store.reserve"  # repository/reserve.py; what it takes is no content


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder, without dedup-store's reserve."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != _RESERVE)
    return sum(path.stat().st_size for path in files)
