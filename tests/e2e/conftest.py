# SPDX-License-Identifier: GPL-3.0-or-later
"""One lab for all end-to-end tests: provisioned by the playbook, with two small qubes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from qubeslab.session import Session

from testing.e2e.lab import BACKUP_QUBE, INVENTORY, unprovisioned
from testing.e2e.outcome import Outcome, keep


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
