# SPDX-License-Identifier: GPL-3.0-or-later
"""What the backup qube says of errors in the storage qube."""

import shutil

import pytest

from testing.server.maintenance import backup
from testing.server.storage_qube import QrexecStore, StorageQube
from testing.store import disks
from testing.store.driver import leave_exclusive_lock

pytestmark = [pytest.mark.engines, disks.NEEDS_ROOT]


@pytest.mark.sampled(2)
def test_a_read_only_disk_is_the_storage_qubes(store: QrexecStore, qube: StorageQube) -> None:
    """Though its path lies below one of the backup qube's folders by name."""
    with disks.space(disks.read_only(qube.data)) as space:
        store.prefix = (*space.prefix, "env", f"TMPDIR={qube.folder}")
        said = store.run("put", data=backup()).stderr.decode()
    assert "the disk of the repository main in the qube sys-storage is read-only: " in said


def test_a_lock_that_a_killed_restic_left(restic: QrexecStore) -> None:
    """A put fails, without restic's advice that can hit innocent processes; the next removes it."""
    leave_exclusive_lock(restic.files, restic.password)
    result = restic.run("put", data=backup())
    assert result.returncode == 1
    assert b"already locked exclusively" in result.stderr
    assert b"the next backup or prune removes such a lock" in result.stderr
    assert b"`unlock`" not in result.stderr
    restic.put(backup())


@pytest.mark.thorough
def test_a_lock_of_another_machines_borg(borg: QrexecStore) -> None:
    """Only the storage qube sees whose it is."""
    lock = borg.files / "lock.exclusive"
    lock.mkdir()
    (lock / "far@5.4242-0").touch()
    borg.configure(lock_wait=0)
    result = borg.run("put", data=backup())
    assert result.returncode == 1
    assert b"a borg that this qube doesn't see has locked the repository: wait" in result.stderr
    assert b"run borg's own `break-lock` where the repository is" in result.stderr
    assert list(lock.iterdir())
    shutil.rmtree(lock)
    borg.put(backup())
