# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the tests of qubes-dedup-backup: a dom0, a backup qube, a backup."""

from collections.abc import Iterator

import pytest

from testing.dom0.backup import CHUNK, Backup, make_backup
from testing.dom0.system import Dom0, temporary_dom0


@pytest.fixture(scope="session")
def shared_dom0() -> Iterator[Dom0]:
    """A dom0 with a backup qube, and with the ledgers of the two backups below."""
    with temporary_dom0() as made:
        yield made


def made(dom0: Dom0, backup_id: str, hours: int, chunk: int = CHUNK) -> Backup:
    """Make a backup, some hours ago."""
    backup = make_backup(dom0.root, backup_id, chunk=chunk)
    dom0.backdate(backup_id, 3600 * hours)
    dom0.lasting.add(backup_id)
    return backup


@pytest.fixture(scope="session")
def backup(shared_dom0: Dom0) -> Backup:
    """A backup, made by the real shim, in small chunks."""
    return made(shared_dom0, "20261124T101500-4711", 9)


@pytest.fixture(scope="session")
def other_backup(shared_dom0: Dom0, backup: Backup) -> Backup:
    """Another, later backup of the same qubes, under the same passphrase."""
    assert backup
    return made(shared_dom0, "20261125T101500-4711", 8)


@pytest.fixture(scope="session")
def whole_backup(shared_dom0: Dom0, other_backup: Backup) -> Backup:
    """A later one, in Qubes' own chunks, so that the real dedup-store calls it whole."""
    assert other_backup
    return made(shared_dom0, "20261125T111500-4711", 7, 100 << 20)


@pytest.fixture
def dom0(shared_dom0: Dom0, backup: Backup) -> Dom0:
    """The dom0, with an honest store that has the backup, which succeeded, nothing confirmed."""
    shared_dom0.start_over()
    shared_dom0.serve(backup.stream())
    shared_dom0.succeed(backup.backup_id)
    return shared_dom0
