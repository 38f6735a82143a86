# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of the lab's backup tools share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from qubesadmin import config

from testing.lab.system import System
from testing.paths import LAB


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH, with the packages under their names in dom0."""
    folder = tmp_path_factory.mktemp("packages")
    (folder / "qubes").symlink_to(LAB / "dom0/backup")
    (folder / "qubesadmin").symlink_to(LAB / "dom0/qubesadmin")
    return folder


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> Iterator[System]:
    # pytest's own folders have names too long for a socket's path.
    state = Path(tempfile.mkdtemp(prefix="lab"))
    monkeypatch.setattr(config, "QUBESD_SOCKET", str(state / "run/dom0/qubesd.sock"))
    monkeypatch.setattr(config, "QREXEC_CLIENT", str(state / "dom0bin/qrexec-client"))
    monkeypatch.setattr(config, "QREXEC_SERVICES_DIR", str(state / "dom0bin"))
    system = System(state)
    try:
        yield system
    finally:
        system.close()
