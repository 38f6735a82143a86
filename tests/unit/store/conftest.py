# SPDX-License-Identifier: GPL-3.0-or-later
"""Profiles with real repositories, and dedup-store run as a program."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PAYLOAD = Path(__file__).resolve().parents[3] / "payload" / "qube"
sys.path.insert(0, str(PAYLOAD))

ENGINES = ("restic", "borg")


@dataclass
class Store:
    """A profile `default` in a folder of its own."""

    folder: Path
    engine: str

    @property
    def repository(self) -> Path:
        return self.folder / "repo"

    @property
    def config(self) -> Path:
        return self.folder / "config" / "default.toml"

    @property
    def password(self) -> Path:
        return self.folder / "config" / "default.password"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder / "home"),
            "DEDUP_STORE_CONFIG_DIR": str(self.folder / "config"),
        }

    def configure(self, **settings: object) -> None:
        values = {"engine": self.engine, "repository": str(self.repository)} | settings
        self.config.parent.mkdir(parents=True, exist_ok=True)
        (self.folder / "home").mkdir(exist_ok=True)
        self.config.write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in values.items()))

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": self.environment}
        return subprocess.Popen([PAYLOAD / "dedup-store", *arguments], **(pipes | options))

    def run(self, *arguments: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run dedup-store to its end."""
        command = [PAYLOAD / "dedup-store", *arguments]
        return subprocess.run(
            command, input=data, capture_output=True, env=self.environment, check=False
        )

    def put(self, data: bytes, *, code: int = 0) -> dict[str, Any]:
        result = self.run("put", "--json", data=data)
        assert result.returncode == code, result.stderr
        return json.loads(result.stdout)

    def runs(self) -> list[dict[str, Any]]:
        result = self.run("list", "--json")
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)["runs"]

    def get(self, run: str = "latest") -> bytes:
        result = self.run("get", run)
        assert result.returncode == 0, result.stderr
        return result.stdout

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


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Store]:
    """An initialised profile per engine, to copy from: making restic's key takes seconds."""
    stores = {}
    for engine in ENGINES:
        store = Store(tmp_path_factory.mktemp(engine), engine)
        store.configure()
        assert store.run("init").returncode == 0
        stores[engine] = store
    return stores


def copy(source: Store, folder: Path) -> Store:
    """Copy a profile; borg's note of where the repository was must not come along."""
    shutil.copytree(source.repository, folder / "repo")
    store = Store(folder, source.engine)
    store.configure()
    shutil.copy(source.password, store.password)
    return store


@pytest.fixture(params=ENGINES)
def store(
    request: pytest.FixtureRequest, fresh: dict[str, Store], tmp_path: Path
) -> Iterator[Store]:
    """An empty repository, of each engine."""
    return copy(fresh[request.param], tmp_path)


@pytest.fixture
def restic_store(fresh: dict[str, Store], tmp_path: Path) -> Store:
    """An empty repository, for what doesn't depend on the engine."""
    return copy(fresh["restic"], tmp_path)


@pytest.fixture
def borg_store(fresh: dict[str, Store], tmp_path: Path) -> Store:
    """An empty repository, for what doesn't depend on the engine and must be quick."""
    return copy(fresh["borg"], tmp_path)
