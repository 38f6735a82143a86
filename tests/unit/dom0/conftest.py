# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the tests of qubes-dedup-backup: a dom0, a backup qube, a backup."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

UNIT = Path(__file__).resolve().parents[1]
for place in ("lab_api", "shim", "store", "storage"):
    if str(UNIT / place) not in sys.path:
        sys.path.insert(0, str(UNIT / place))
for side in ("qube", "dom0"):
    sys.path.insert(0, str(UNIT.parents[1] / "payload" / side))

from dom0_system import Dom0, temporary_dom0  # noqa: E402 -- the paths above come first
from real_backup import Backup, make_backup  # noqa: E402


@pytest.fixture(scope="session")
def shared_dom0() -> Iterator[Dom0]:
    """A dom0 with a backup qube, and with the ledgers of the two backups below."""
    with temporary_dom0() as made:
        yield made


@pytest.fixture(scope="session")
def backup(shared_dom0: Dom0) -> Backup:
    """A backup, made by the real shim, in small chunks."""
    return make_backup(shared_dom0.root, "20261124T101500-4711")


@pytest.fixture(scope="session")
def other_backup(shared_dom0: Dom0) -> Backup:
    """Another backup of the same qubes, under the same passphrase."""
    return make_backup(shared_dom0.root, "20261125T101500-4711")


@pytest.fixture
def dom0(shared_dom0: Dom0, backup: Backup) -> Dom0:
    """The dom0, with an honest store that has the backup, nothing of it confirmed."""
    shared_dom0.forget()
    shared_dom0.serve(backup.stream())
    return shared_dom0
