# SPDX-License-Identifier: GPL-3.0-or-later
"""One lab for all end-to-end tests: provisioned by the playbook, with two small qubes."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT / "lab"))

from outcome import Outcome, keep  # noqa: E402 -- the path above comes first
from qubeslab.session import Session, corpus  # noqa: E402 -- the same

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


@pytest.fixture(scope="session")
def fresh_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """The lab of most tests, before the playbook was run."""
    with unprovisioned("e2e", tmp_path_factory) as lab:
        yield lab


@pytest.fixture(scope="session")
def check_from_nothing(fresh_lab: Session) -> str:
    """What `--check --diff` prints before anything is provisioned; dom0 must stay as it was."""
    places = ("/etc", "/usr", "/var/lib/qubes-dedup-backup")
    # Python's caches of the lab's own modules are no change.
    which = ("-type", "f", "-newer", "/home/user/before", "-not", "-name", "*.pyc")
    fresh_lab.dom0("touch", "/home/user/before")
    output = fresh_lab.playbook("-i", INVENTORY, "--check", "--diff", "playbooks/site.yml")
    assert fresh_lab.dom0("sudo", "find", *places, *which, check=False).stdout == ""
    assert fresh_lab.dom0("qvm-ls", "--raw-list").stdout.split() == sorted(
        ["debian-13-minimal", "dom0", "personal", "work"]
    )
    return output


@pytest.fixture(scope="session")
def provisioned(fresh_lab: Session, check_from_nothing: str) -> str:
    """All that the playbook prints when it provisions the lab."""
    assert "PLAY RECAP" in check_from_nothing
    return fresh_lab.playbook("-vvv", "--diff", "-i", INVENTORY, "playbooks/site.yml")


@pytest.fixture(scope="session")
def ansible_outcome(fresh_lab: Session, provisioned: str) -> Outcome:
    """What the playbook made, before any test changes it."""
    assert "PLAY RECAP" in provisioned
    return keep(fresh_lab, "ansible")


@pytest.fixture(scope="session")
def lab(fresh_lab: Session, ansible_outcome: Outcome) -> Session:
    """The lab after the playbook, with the backup qube running."""
    assert ansible_outcome
    fresh_lab.dom0("qvm-start", "--skip-if-running", BACKUP_QUBE)
    return fresh_lab


@pytest.fixture(scope="session")
def again(lab: Session) -> str:
    """All that the playbook prints when it is run once more."""
    return lab.playbook("-vvv", "--diff", "-i", INVENTORY, "playbooks/site.yml")


@pytest.fixture
def passphrases(lab: Session) -> dict[str, bytes]:
    """The generated passphrase of each profile, with a line end."""
    return {engine: lab.passphrase(f"dedup-{engine}") for engine in ("restic", "borg")}


@pytest.fixture
def restored(lab: Session) -> Iterator[None]:
    """Remove the qubes that a test restored under new names."""
    yield
    names = [name for name in lab.dom0("qvm-ls", "--raw-list").stdout.split() if name[-2:] == "-1"]
    if names:
        lab.dom0("qvm-remove", "--force", *names)


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
