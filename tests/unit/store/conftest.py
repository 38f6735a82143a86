# SPDX-License-Identifier: GPL-3.0-or-later
"""Profiles with real, empty repositories."""

import shutil
import sys
from pathlib import Path

import pytest
from store_profile import PAYLOAD, Store

sys.path.insert(0, str(PAYLOAD))

ENGINES = ("restic", "borg", "directory")


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Store]:
    """An initialised profile per engine, to copy from: making restic's key takes seconds."""
    stores = {}
    for engine in ENGINES:
        store = Store(tmp_path_factory.mktemp(engine), engine)
        store.configure()
        store.make()
        stores[engine] = store
    return stores


def copy(source: Store, folder: Path) -> Store:
    """Copy a profile; borg's note of where the repository was must not come along."""
    shutil.copytree(source.repository, folder / "repo")
    store = Store(folder, source.engine)
    store.configure()
    if store.engine != "directory":
        shutil.copy(source.password, store.password)
    return store


@pytest.fixture
def directory_store(fresh: dict[str, Store], tmp_path: Path) -> Store:
    """An empty repository of plain files."""
    return copy(fresh["directory"], tmp_path)


@pytest.fixture(params=ENGINES)
def store(request: pytest.FixtureRequest, fresh: dict[str, Store], tmp_path: Path) -> Store:
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
