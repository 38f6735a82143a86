# SPDX-License-Identifier: GPL-3.0-or-later
"""A lab of containers with two small qubes, and a restore in it."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from qubeslab.session import Session, corpus

INVENTORY = "tests/e2e/inventory/hosts.yml"
BACKUP_QUBE = "dedup-backup"


@contextlib.contextmanager
def unprovisioned(name: str, factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A lab in which nothing is provisioned yet, with the halted qubes `work` and `personal`."""
    lab = Session(name)
    lab.lab("down", "--destroy")
    lab.lab("up")
    try:
        for qube, size in (("work", ""), ("personal", "300M")):
            data = factory.mktemp(qube)
            corpus(data / "files", [Path("/usr/lib")], 20_000_000)
            (data / "files" / "name.txt").write_text(f"this is qube {qube}\n")
            lab.lab("add-qube", qube, "--data", str(data / "files"), f"--size={size}")
        yield lab
    finally:
        lab.lab("down", "--destroy")


def restore(
    lab: Session, passphrase: bytes, location: str, *args: str
) -> subprocess.CompletedProcess[str]:
    """Run the official restore from the backup qube and return how it ended."""
    return lab.dom0(
        *("qvm-backup-restore", "--rename-conflicting", "-d", BACKUP_QUBE, "-p", "-"),
        *(*args, location),
        stdin=passphrase,
        check=False,
    )
