# SPDX-License-Identifier: GPL-3.0-or-later
"""A storage qube, and stores in it."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "store"))  # archives, store_profile

from storage_qube import PAYLOAD, QrexecStore, StorageQube, make_store

sys.path.insert(0, str(PAYLOAD))


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
