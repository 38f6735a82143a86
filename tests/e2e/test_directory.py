# SPDX-License-Identifier: GPL-3.0-or-later
"""Engine `directory`: a backup and a restore with the official tools."""

from __future__ import annotations

import json

import pytest
from qubeslab.session import Session

from testing.e2e.lab import BACKUP_QUBE, restore

PASSPHRASE = b"dedup:a passphrase for this test alone\n"
CONFIG = b'engine = "directory"\nlocation = "/rw/dedup-store/plain"\n'


@pytest.mark.usefixtures("restored")
def test_a_qube_comes_back_byte_for_byte(lab: Session) -> None:
    lab.run(BACKUP_QUBE, "tee", "/rw/config/dedup-store/plain.toml", stdin=CONFIG)
    lab.run(BACKUP_QUBE, "dedup-store", "init", "--repository", "plain")
    lab.dom0(
        *("qvm-backup", "--yes", "--no-compress", "--passphrase-file=-", "-d", BACKUP_QUBE),
        *("dedup-store put --repository plain", "work"),
        stdin=PASSPHRASE,
    )
    listed = lab.run(BACKUP_QUBE, "dedup-store", "list", "--repository", "plain", "--json").stdout
    (run,) = json.loads(listed)["runs"]
    assert run["status"] == "whole"
    done = restore(lab, PASSPHRASE, "dedup-store get latest --repository plain")
    assert lab.same_private("work", "work-1"), done.stdout + done.stderr
