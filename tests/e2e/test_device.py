# SPDX-License-Identifier: GPL-3.0-or-later
"""A repository on an attached block device, found by its file system's label."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from qubeslab.paths import LabError
from qubeslab.session import Session

from testing.e2e.lab import BACKUP_QUBE, INVENTORY, restore

LABEL = "backup-disk"
SETTING = json.dumps(
    {"backup_qube_repositories": [{"name": "disk", "engine": "restic", "device": LABEL}]}
)
PLAY = ("-i", INVENTORY, "-e", SETTING, "playbooks/backup_qube.yml")
PASSPHRASE = b"dedup:a passphrase for this test alone\n"


@pytest.fixture(scope="module")
def disk(lab: Session, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk with a labelled file system, attached to the backup qube."""
    image = tmp_path_factory.mktemp("disk") / "disk.img"
    with image.open("wb") as handle:
        handle.truncate(300 * 2**20)
    subprocess.run(["mkfs.ext4", "-q", "-L", LABEL, str(image)], check=True)
    note = "/etc/qubes-dedup-backup/server.toml"  # these settings have other repositories
    lab.dom0("sudo", "cp", "-p", note, "/home/user/server.toml")
    with pytest.raises(LabError, match=f"labelled {LABEL} is attached"):
        lab.playbook(*PLAY)
    lab.lab("attach-disk", BACKUP_QUBE, str(image))
    yield image
    lab.dom0("sudo", "cp", "-p", "/home/user/server.toml", note)
    lab.run(BACKUP_QUBE, "umount", f"/mnt/dedup-store/{LABEL}", user="root", check=False)
    lab.lab("detach-disk", BACKUP_QUBE, str(image))


@pytest.mark.usefixtures("restored")
def test_backup_and_restore(lab: Session, disk: Path) -> None:
    lab.playbook(*PLAY)
    assert "changed=0" in lab.playbook(*PLAY).splitlines()[-2]
    # As after the next start of the qube: it is mounted when it is needed.
    lab.run(BACKUP_QUBE, "umount", f"/mnt/dedup-store/{LABEL}")
    lab.dom0(
        *("qvm-backup", "--yes", "--no-compress", "--passphrase-file=-", "-d", BACKUP_QUBE),
        *("dedup-store put --repository disk", "work"),
        stdin=PASSPHRASE,
    )
    done = restore(lab, PASSPHRASE, "dedup-store get latest --repository disk")
    assert lab.same_private("work", "work-1"), done.stdout + done.stderr

    lab.run(BACKUP_QUBE, "umount", f"/mnt/dedup-store/{LABEL}")
    lab.lab("detach-disk", BACKUP_QUBE, str(disk))
    lost = lab.run(BACKUP_QUBE, "dedup-store", "list", "--repository", "disk", check=False)
    assert lost.returncode != 0
    assert f"labelled {LABEL}" in lost.stderr
    assert "qvm-block attach" in lost.stderr
    assert lab.run(BACKUP_QUBE, "ls", f"/mnt/dedup-store/{LABEL}").stdout == ""
    lab.lab("attach-disk", BACKUP_QUBE, str(disk))
    lab.run(BACKUP_QUBE, "dedup-store", "list", "--repository", "disk")
