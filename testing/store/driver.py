# SPDX-License-Identifier: GPL-3.0-or-later
"""A real repository, and dedup-store run as a program."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from testing import paths
from testing.store.weak_keys import weaken

PAYLOAD = paths.PAYLOAD / "qube"
PASSWORD = "correct horse battery staple"  # noqa: S105 (of an empty repository)


def mostly(fixture: str, *engines: str) -> pytest.MarkDecorator:
    """Run a test for these engines; borg, which takes several times as long, not in CI."""
    slow = pytest.param("borg", marks=pytest.mark.thorough)
    return pytest.mark.parametrize(fixture, [*engines, slow], indirect=True)


# for tests of what has a password, or is a program of its own
ENCRYPTED = pytest.mark.parametrize("store", ["restic", "borg"], indirect=True)


@dataclass
class Store:
    """A repository `default` in a folder of its own."""

    folder: Path
    engine: str
    prefix: tuple[str, ...] = field(default=(), init=False)  # what dedup-store is started with

    @property
    def repository(self) -> Path:
        """The repository."""
        return self.folder / "repo"

    @property
    def files(self) -> Path:
        """Where the repository's files are."""
        return self.repository

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.folder / "config" / "default.toml"

    @property
    def password(self) -> Path:
        """The password file."""
        return self.folder / "config" / "default.password"

    @property
    def environment(self) -> dict[str, str]:
        """All that dedup-store gets of an environment."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "home"),  # a killed put leaves its named pipes there
            "DEDUP_STORE_CONFIG_DIR": str(self.folder / "config"),
        }

    def configure(self, **settings: object) -> None:
        """Write the configuration."""
        values = {"engine": self.engine, "location": str(self.repository)} | settings
        self.config.parent.mkdir(parents=True, exist_ok=True)
        (self.folder / "home").mkdir(exist_ok=True)
        self.config.write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in values.items()))

    def start(self, *arguments: str, stdin: int | None = None) -> subprocess.Popen[bytes]:
        """Start dedup-store."""
        return subprocess.Popen(
            [*self.prefix, PAYLOAD / "dedup-store", *arguments],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment,
        )

    def run(self, *arguments: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run dedup-store to its end."""
        command: list[str | Path] = [*self.prefix, PAYLOAD / "dedup-store", *arguments]
        return subprocess.run(
            command, input=data, capture_output=True, env=self.environment, check=False
        )

    def set_password(self, text: str = PASSWORD) -> None:
        """Hand over a password, as dom0 does."""
        result = self.run("set-password", data=text.encode() + b"\n")
        assert result.returncode == 0, result.stderr

    def make(self) -> None:
        """Make the repository, with a password."""
        if self.engine != "directory":
            self.set_password()
        result = self.run("init")
        assert result.returncode == 0, result.stderr
        if self.engine == "restic" and self.files.exists():
            weaken(self.files, self.password.read_text().strip())

    def put(self, data: bytes, *, code: int = 0) -> dict[str, Any]:
        """Store a stream, and give the report."""
        result = self.run("put", "--json", data=data)
        assert result.returncode == code, result.stderr
        report: dict[str, Any] = json.loads(result.stdout)
        return report

    def runs(self) -> list[dict[str, Any]]:
        """List the runs."""
        result = self.run("list", "--json")
        assert result.returncode == 0, result.stderr
        found: list[dict[str, Any]] = json.loads(result.stdout)["runs"]
        return found

    def get(self, run: str = "latest") -> bytes:
        """Get a stream back."""
        result = self.run("get", run)
        assert result.returncode == 0, result.stderr
        return result.stdout

    @property
    def stored(self) -> Path:
        """With the engine directory: the folder that has one for each run."""
        return self.repository / "dedup-store-runs"

    def native(self, *arguments: str, data: bytes = b"") -> bytes:
        """Run the engine itself on the repository."""
        password = self.password.read_text().strip()
        variables = {
            "restic": {"RESTIC_REPOSITORY": str(self.repository), "RESTIC_PASSWORD": password},
            "borg": {"BORG_REPO": str(self.repository), "BORG_PASSPHRASE": password},
        }[self.engine]
        return subprocess.run(
            [self.engine, *arguments],
            input=data,
            stdout=subprocess.PIPE,
            check=True,
            env=self.environment | variables,
        ).stdout


def copy(source: Store, folder: Path) -> Store:
    """Copy a repository; borg's note of where the repository was must not come along."""
    shutil.copytree(source.repository, folder / "repo")
    store = Store(folder, source.engine)
    store.configure()
    if store.engine != "directory":
        shutil.copy(source.password, store.password)
    return store


@dataclass
class Filled:
    """A repository with two runs; of the second, only what is in the qube `work` is new.

    Attributes:
        store: the repository.
        runs: their names.
        streams: what was stored.
        new: data files of the repository that the second run brought, the largest first.
    """

    store: Store
    runs: list[str]
    streams: list[bytes]
    new: list[Path]


def refusal(store: Store, *arguments: str, data: bytes = b"") -> str:
    """Run a command that must end with exit code 2; give its message."""
    result = store.run(*arguments, data=data)
    assert result.returncode == 2, result
    assert result.stdout == b""
    text = result.stderr.decode()
    assert text.count("\n") == 1
    assert "Traceback" not in text
    return text


def boot(store: Store, number: int) -> None:
    """From now on, it is another start of the qube."""
    path = store.folder / f"boot-{number}"
    path.write_text(f"00000000-0000-4000-8000-{number:012}\n")
    script = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"'
    store.prefix = ("unshare", "--mount", "sh", "-c", script, str(path))


def replace(folder: Path, source: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(source, folder, symlinks=True)


def lock_files(repository: Path) -> list[Path]:
    """Return restic's locks, without one that is being written: a kill leaves that for good."""
    return [
        path for path in (repository / "locks").iterdir() if re.fullmatch("[0-9a-f]{64}", path.name)
    ]


def leave_exclusive_lock(repository: Path, password: Path) -> None:
    """Have a restic that keeps all others out die before it removes its lock."""
    calls = "unlink,unlinkat,rmdir"
    trace = ["strace", "-f", "-o", os.devnull, "-e", f"trace={calls}"]
    command = [*trace, "-e", f"inject={calls}:signal=KILL", "restic", "-q", "--no-cache", "prune"]
    names = {"RESTIC_REPOSITORY": str(repository), "RESTIC_PASSWORD_FILE": str(password)}
    assert subprocess.run(command, env=os.environ | names, check=False).returncode
    assert lock_files(repository)
