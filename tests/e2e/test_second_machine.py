# SPDX-License-Identifier: GPL-3.0-or-later
"""Another dom0, fresh: killed at any task and run again, recovery after docs/recovery.md, removal.

In this order, in one lab.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from qubeslab.session import Session

from testing.e2e.lab import BACKUP_QUBE, INVENTORY, restore, unprovisioned
from testing.paths import PROJECT

SITE = ("-i", INVENTORY, "playbooks/site.yml")
REMOVE = ("-i", INVENTORY, "playbooks/remove.yml")
REPOSITORY = "/rw/dedup-store/borg/repo"
# How many kills; `all` is one at each task, in a chain, and takes half an hour.
KILLS = os.environ.get("E2E_KILLS", "2")
# Each file of dom0 that could be ours or changed by us: what it is, whose, what is in it.
TREE = r"""
find /etc /usr /opt /root /var/lib /var/log -xdev -not -path '*/__pycache__*' \
    -not -path '/var/lib/systemd/*' -not -path '/var/log/journal*' -not -path '/var/lib/qubes/*' \
    -printf '%y %m %u:%g %p %l\n' | sort
find /etc /usr -xdev -type f -not -name '*.pyc' -not -path '/etc/ld.so.cache' \
    -exec sha256sum {} + | sort -k 2
rpm -Va --nomtime || true
systemctl list-unit-files --no-legend --no-pager | sort
qvm-ls --raw-list | sort
"""


class Saved(NamedTuple):
    """What is off the machine: a run's name, the secrets, the repository as an archive."""

    run: str
    passphrase: bytes
    password: bytes
    repository: Path


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A lab in which nothing was ever provisioned."""
    with unprovisioned("e2e-second", tmp_path_factory) as lab:
        yield lab


@pytest.fixture(scope="module")
def tree(second: Session) -> str:
    """dom0's files, units and qubes before anything was done."""
    return second.run("dom0", "sh", "-c", TREE, user="root").stdout


def run_killed(lab: Session, number: int) -> bool:
    """Run the playbook, killed at its task of this number; tell whether it was reached."""
    lab.dom0("tee", "/home/user/kill-at", stdin=str(number).encode())
    # The first for the plays on dom0, the file for those on qubes, which get no environment.
    plugins = "/srv/qubes-dedup-backup/tests/e2e/callbacks"
    settings = f"[defaults]\ncallback_plugins={plugins}\ncallbacks_enabled=kill_at\n"
    lab.dom0("tee", "/home/user/.ansible.cfg", stdin=settings.encode())
    command = (
        f"cd /srv/qubes-dedup-backup && ANSIBLE_CALLBACK_PLUGINS={plugins}"
        ' ANSIBLE_CALLBACKS_ENABLED=kill_at exec setsid -w ansible-playbook "$@"'
    )
    done = lab.dom0("sh", "-c", command, "sh", *SITE, check=False)
    left = int(lab.dom0("cat", "/home/user/kill-at").stdout)
    lab.dom0("rm", "/home/user/kill-at", "/home/user/.ansible.cfg")
    if left > 0:
        assert done.returncode == 0, done.stdout[-3000:]
        return False
    assert done.returncode != 0
    return True


def test_killed_at_any_task_the_next_run_completes_it(second: Session, tree: str) -> None:
    assert "dedup-backup" not in tree
    number, step = (1, 1) if KILLS == "all" else (9, 170 // int(KILLS))
    while run_killed(second, number):
        works = second.dom0("sh", "-c", "echo x | scrypt --version")
        assert works.stdout.startswith("scrypt 1.")
        number += step
    assert number > step
    assert set(re.findall(r"changed=(\d+)", second.playbook(*SITE))) == {"0"}
    second.playbook("-i", INVENTORY, "playbooks/verify.yml")


@pytest.fixture(scope="module")
def saved(second: Session, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """What a careful user has elsewhere, taken from the machine before it is lost."""
    second.dom0("qvm-start", "--skip-if-running", BACKUP_QUBE)
    second.dom0("qvm-backup", "--yes", "--profile", "dedup-borg")
    passphrase = second.passphrase("dedup-borg")
    password = second.run(BACKUP_QUBE, "cat", "/rw/config/dedup-store/borg.password").stdout
    listed = second.run(BACKUP_QUBE, "dedup-store", "list", "--json", "--repository", "borg").stdout
    run = str(json.loads(listed)["runs"][-1]["run"])
    archive = tmp_path_factory.mktemp("saved") / "repository.tar"
    source = [*second.containers.enter(BACKUP_QUBE, "user"), "tar", "-C", REPOSITORY, "-c", "."]
    with archive.open("wb") as file:
        subprocess.run(source, stdout=file, check=True)
    return Saved(run, passphrase, password.encode(), archive)


def test_remove_keeps_the_data_and_says_where(second: Session, tree: str, saved: Saved) -> None:
    assert saved.run
    output = second.playbook(*REMOVE)
    for kept in (BACKUP_QUBE, "dedup-storage", "/etc/qubes/backup", "export-keys"):
        assert kept in output[output.index("Say what is kept") :]
    after = second.run("dom0", "sh", "-c", TREE, user="root").stdout
    left = set(after.splitlines()) - set(tree.splitlines())
    places = ("/etc/qubes/backup", "/var/lib/qubes-dedup-backup")
    assert {line for line in left if not any(place in line for place in places)} == {
        "debian-13-dedup-backup",
        BACKUP_QUBE,
        "dedup-storage",
    }
    assert set(tree.splitlines()) <= set(after.splitlines())
    assert second.run("dom0", "rpm", "-V", "scrypt").stdout == ""


def test_remove_with_the_data_leaves_dom0_as_before(second: Session, tree: str) -> None:
    second.playbook(*REMOVE, "-e", "remove_data=true")
    after = second.run("dom0", "sh", "-c", TREE, user="root").stdout
    assert after.splitlines() == tree.splitlines()
    assert set(
        re.findall(r"changed=(\d+)", second.playbook(*REMOVE, "-e", "remove_data=true"))
    ) == {"0"}


def test_recovery_with_the_repository_and_the_secrets_alone(
    second: Session, tree: str, saved: Saved
) -> None:
    """Follow docs/recovery.md: each command here is one there."""
    assert second.run("dom0", "sh", "-c", TREE, user="root").stdout == tree
    text = (PROJECT / "docs/recovery.md").read_text().replace("inventory ", f"{INVENTORY} ")

    def documented(command: str) -> str:
        generic = command.replace("--repository borg", "--repository default").replace(
            "dedup-store/borg", "dedup-store/default"
        )
        assert generic in text, generic
        return command

    site = f"ansible-playbook -i {INVENTORY} playbooks/site.yml"
    go = "cd /srv/qubes-dedup-backup && "
    second.dom0("sh", "-c", go + documented(f"{site} --skip-tags repositories"))
    bring = f"mkdir -p {REPOSITORY} && tar -C {REPOSITORY} -x"
    bring = documented(f"qvm-run --pass-io {BACKUP_QUBE} '{bring}'")
    with saved.repository.open("rb") as archive:
        enter = second.containers.enter("dom0", "user")
        subprocess.run([*enter, "sh", "-c", bring], stdin=archive, check=True)
    give = f"qvm-run --pass-io {BACKUP_QUBE} 'dedup-store set-password --repository borg'"
    second.dom0("sh", "-c", documented(give), stdin=saved.password)
    second.dom0("sh", "-c", go + documented(site))

    found = second.dom0(
        *documented("sudo qubes-dedup-backup list").split(), "--profile", "dedup-borg"
    )
    assert saved.run in found.stdout
    assert "no ledger" in found.stdout
    checked = second.dom0(
        *("sudo", "qubes-dedup-backup", "verify", saved.run, "--data", "--passphrase-file", "-"),
        *("--profile", "dedup-borg"),
        stdin=saved.passphrase,
        check=False,
    )
    assert checked.returncode == 3, checked.stdout + checked.stderr
    location = documented("dedup-store get RUN --repository borg").replace("RUN", saved.run)
    done = restore(second, saved.passphrase, location)
    for qube in ("work", "personal"):
        assert second.same_private(qube, f"{qube}-1"), done.stdout + done.stderr
