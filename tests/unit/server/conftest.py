# SPDX-License-Identifier: GPL-3.0-or-later
"""A storage qube, and stores in it."""

import functools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from testing.server.storage_qube import QrexecStore, StorageQube, make_store

Make = Callable[[str], QrexecStore]


@pytest.fixture
def qube(tmp_path: Path) -> StorageQube:
    folder = tmp_path / "storage"
    folder.mkdir()
    return StorageQube(folder)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Give a repository of an engine to copy from: borg is started six times to make one."""

    @functools.cache
    def make(engine: str) -> QrexecStore:
        folder = tmp_path_factory.mktemp(engine)
        (folder / "storage").mkdir()
        return make_store(folder / "backup", StorageQube(folder / "storage"), engine)

    return make


def copied(source: QrexecStore, folder: Path, qube: StorageQube) -> QrexecStore:
    """Copy a repository, and what the backup qube knows of it, into another pair of qubes."""
    assert source.qube is not None
    shutil.copytree(source.folder, folder, symlinks=True)
    shutil.copytree(source.qube.data, qube.data, symlinks=True, dirs_exist_ok=True)
    qube.configure(source.name, source.engine)
    store = QrexecStore(folder, source.engine, qube, source.name)
    store.configure()
    return store


@pytest.fixture(params=("restic", "borg"))
def store(
    request: pytest.FixtureRequest, tmp_path: Path, qube: StorageQube, made: Make
) -> QrexecStore:
    """An empty repository of each engine."""
    return copied(made(request.param), tmp_path / "backup", qube)


@pytest.fixture
def borg(tmp_path: Path, qube: StorageQube, made: Make) -> QrexecStore:
    return copied(made("borg"), tmp_path / "backup", qube)


@pytest.fixture
def restic(tmp_path: Path, qube: StorageQube, made: Make) -> QrexecStore:
    return copied(made("restic"), tmp_path / "backup", qube)
