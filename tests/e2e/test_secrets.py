# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the secrets are, and that they are nowhere else."""

from __future__ import annotations

import pytest
from qubeslab.session import Session

from testing.e2e.lab import BACKUP_QUBE, INVENTORY

PROFILES = ("dedup-restic", "dedup-borg", "far-restic", "far-borg")
STORES = ("restic", "borg", "far-restic", "far-borg")
PROFILE_FOLDER, STORE_FOLDER = "/etc/qubes/backup", "/rw/config/dedup-store"
# All that a run could leave behind; /srv is the project and the packages, as they were; in
# /var/lib/qubes are the qubes' volumes.
SEARCH = r"""
journalctl --no-pager --output=export >/tmp/journal.txt
find / \( -path /proc -o -path /sys -o -path /srv -o -path /dev -o -path /var/lib/qubes \
    -o -path /run/patterns \) -prune -o -type f -print0 |
    xargs -0 grep --text --files-with-matches --fixed-strings --file=/run/patterns
"""


@pytest.fixture(scope="module")
def secrets(lab: Session) -> dict[str, str]:
    """All secrets by what they are; of borg's key, a line in its middle."""
    found = {f"passphrase {name}": lab.passphrase(name).decode().strip() for name in PROFILES}
    for name in STORES:
        password = lab.run(BACKUP_QUBE, "cat", f"{STORE_FOLDER}/{name}.password").stdout.strip()
        assert len(password) >= 43  # 256 bits in base64
        found[f"password {name}"] = password
    shown = lab.run(BACKUP_QUBE, "dedup-store", "export-keys", "--repository", "borg").stdout
    assert found["password borg"] in shown
    key = shown[shown.index("BORG_KEY") :].splitlines()
    found["borg key"] = key[len(key) // 2]
    assert len(set(found.values())) == len(found)
    return found


def places(lab: Session, qube: str, secrets: dict[str, str]) -> set[str]:
    """Return the files in a qube in which one of the secrets is, the journal as text among them."""
    patterns = "\n".join(secrets.values()).encode()
    lab.run(qube, "sh", "-c", "umask 077; cat >/run/patterns", stdin=patterns, user="root")
    try:
        done = lab.run(qube, "sh", "-c", SEARCH, user="root", check=False)
    finally:
        lab.run(qube, "rm", "/run/patterns", user="root")
    return set(done.stdout.split())


def test_dom0_has_the_passphrases_in_the_profiles_alone(
    lab: Session, secrets: dict[str, str]
) -> None:
    assert places(lab, "dom0", secrets) == {f"{PROFILE_FOLDER}/{name}.conf" for name in PROFILES}


def test_the_backup_qube_has_the_passwords_in_their_files_alone(
    lab: Session, secrets: dict[str, str]
) -> None:
    wanted = {f"{STORE_FOLDER}/{name}.password" for name in STORES}
    # borg's key is in the repository, encrypted with the password.
    found = {path for path in places(lab, BACKUP_QUBE, secrets) if not path.endswith("/config")}
    assert found == wanted


def test_the_storage_qube_has_none(lab: Session, secrets: dict[str, str]) -> None:
    assert places(lab, "dedup-storage", secrets) == set()


def test_the_playbook_shows_none(secrets: dict[str, str], provisioned: str, again: str) -> None:
    for output in (provisioned, again):
        assert [name for name, secret in secrets.items() if secret in output] == []


def test_it_ends_with_how_each_is_shown(
    lab: Session, secrets: dict[str, str], provisioned: str
) -> None:
    told = provisioned[provisioned.rindex("Say which secrets there are") :]
    for name in PROFILES:
        assert f"/etc/qubes/backup/{name}.conf" in told
    for name in STORES:
        command = f"qvm-run --pass-io {BACKUP_QUBE} 'dedup-store export-keys --repository {name}'"
        assert command in told
        assert secrets[f"password {name}"] in lab.dom0("sh", "-c", command).stdout


def test_a_store_that_can_not_be_asked_is_told(lab: Session) -> None:
    lab.dom0("qvm-shutdown", "--wait", BACKUP_QUBE)
    output = lab.playbook("-i", INVENTORY, "playbooks/secrets.yml")
    lab.dom0("qvm-start", BACKUP_QUBE)
    assert f"{BACKUP_QUBE} is not running" in output
    assert f"/etc/qubes/backup/{PROFILES[0]}.conf" in output
