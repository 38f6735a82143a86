# SPDX-License-Identifier: GPL-3.0-or-later
"""A restore as upstream's disposable does it: by qubes.RestoreById, as long as dom0 wants it.

Source of the calls and tags: qubes-core-admin-client qubesadmin/backup/dispvm.py
(RestoreInDisposableVM).
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from qubeslab.session import Session

from testing.e2e.lab import BACKUP_QUBE, restore

# Upstream's service fails when the command does, which it does when only a part of it is read.
RUN = "dedup-store get latest --repository restic"
MANAGER_TAG, STORAGE_TAG = "backup-restore-mgmt", "backup-restore-storage"
REFUSED = 126


@contextmanager
def registered(lab: Session, location: str) -> Iterator[str]:
    """Hold a call of qubes.RegisterBackupLocation in the backup qube open, and give its ID."""
    call = ("qvm-run", "--pass-io", "--no-gui", "--service", BACKUP_QUBE)
    argv = [*lab.containers.enter("dom0", "user"), *call, "qubes.RegisterBackupLocation"]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe) as held:
        assert held.stdin is not None
        assert held.stdout is not None
        held.stdin.write(f"{location}\n".encode())
        held.stdin.flush()
        yield held.stdout.readline().decode().strip()


@pytest.fixture(scope="module")
def stored(lab: Session) -> Session:
    """The lab with a backup in the store."""
    lab.dom0("qvm-backup", "--yes", "--profile", "dedup-restic")
    return lab


@pytest.mark.usefixtures("restored")
def test_a_whole_restore_while_the_location_is_registered(
    stored: Session, passphrases: dict[str, bytes]
) -> None:
    with registered(stored, RUN) as identity:
        location = f"qubes.RestoreById+{identity}"
        done = restore(stored, passphrases["restic"], location, "--location-is-service")
        assert done.returncode == 0, done.stderr
        for qube in ("work", "personal"):
            assert stored.same_private(qube, f"{qube}-1"), done.stdout + done.stderr
    late = restore(stored, passphrases["restic"], location, "--location-is-service")
    assert late.returncode != 0
    assert "Invalid location ID" in late.stderr


def fetch(lab: Session, identity: str) -> subprocess.CompletedProcess[str]:
    """Ask for the backup's header from qube `work`."""
    call = ("qrexec-client-vm", BACKUP_QUBE, f"qubes.RestoreById+{identity}")
    return lab.run("work", *call, stdin=b"backup-header\n", check=False)


@pytest.fixture
def tags(stored: Session) -> Iterator[None]:
    """A running qube `work`, and no tags afterwards."""
    stored.dom0("qvm-start", "--skip-if-running", "work")
    yield
    stored.dom0("qvm-tags", "work", "del", MANAGER_TAG, check=False)
    stored.dom0("qvm-tags", BACKUP_QUBE, "del", STORAGE_TAG, check=False)
    stored.dom0("qvm-shutdown", "--wait", "work")


@pytest.mark.usefixtures("tags")
def test_only_upstream_s_tags_let_a_qube_fetch_a_backup(stored: Session) -> None:
    with registered(stored, RUN) as identity:
        assert fetch(stored, identity).returncode == REFUSED
        stored.dom0("qvm-tags", "work", "add", MANAGER_TAG)
        assert fetch(stored, identity).returncode == REFUSED
        stored.dom0("qvm-tags", BACKUP_QUBE, "add", STORAGE_TAG)
        allowed = fetch(stored, identity)
        assert "backup-header" in allowed.stdout
        assert "version=4" in allowed.stdout
        stored.dom0("qvm-tags", "work", "del", MANAGER_TAG)
        assert fetch(stored, identity).returncode == REFUSED
