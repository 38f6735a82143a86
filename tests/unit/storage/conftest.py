# SPDX-License-Identifier: GPL-3.0-or-later
"""A storage qube, and stores in it."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "store"))  # archives, store_profile

from storage_qube import PAYLOAD, QrexecStore, StorageQube

sys.path.insert(0, str(PAYLOAD))


def make_store(folder: Path, qube: StorageQube, engine: str, name: str = "main") -> QrexecStore:
    """Make a repository in the storage qube, through the service."""
    folder.mkdir()
    qube.configure(name, engine)
    store = QrexecStore(folder, engine, qube, name)
    store.configure()
    result = store.run("init")
    assert result.returncode == 0, result.stderr
    return store


@pytest.fixture
def qube(tmp_path: Path) -> StorageQube:
    folder = tmp_path / "storage"
    folder.mkdir()
    return StorageQube(folder)


@pytest.fixture(params=("restic", "borg"))
def store(request: pytest.FixtureRequest, tmp_path: Path, qube: StorageQube) -> QrexecStore:
    """An empty repository of each engine."""
    return make_store(tmp_path / "backup", qube, request.param)


@pytest.fixture
def borg(tmp_path: Path, qube: StorageQube) -> QrexecStore:
    return make_store(tmp_path / "backup", qube, "borg")


@pytest.fixture
def restic(tmp_path: Path, qube: StorageQube) -> QrexecStore:
    return make_store(tmp_path / "backup", qube, "restic")
