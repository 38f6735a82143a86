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

import pytest
from conftest import BACKUP_QUBE, INVENTORY, PROJECT, restore
from qubeslab.session import Session, same_content

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


@pytest.fixture(scope="module")
def second() -> Iterator[Session]:
    """A lab in which nothing was ever provisioned."""
    lab = Session("e2e-second")
    lab.lab("down", "--destroy")
    lab.lab("up")
    try:
        yield lab
    finally:
        lab.lab("down", "--destroy")


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


def test_remove_keeps_the_data_and_says_where(second: Session, tree: str) -> None:
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
    lab: Session, second: Session, tree: str
) -> None:
    """Follow docs/recovery.md: each command here is one there."""
    assert "dedup-backup" not in tree
    text = (PROJECT / "docs/recovery.md").read_text().replace("inventory ", f"{INVENTORY} ")

    def documented(command: str) -> str:
        generic = command.replace("--profile borg", "--profile default").replace(
            "dedup-store/borg", "dedup-store/default"
        )
        assert generic in text, generic
        return command

    lab.dom0("qvm-backup", "--yes", "--profile", "dedup-borg")
    passphrase = lab.passphrase("dedup-borg")
    password = lab.run(BACKUP_QUBE, "cat", "/rw/config/dedup-store/borg.password").stdout
    listed = lab.run(BACKUP_QUBE, "dedup-store", "list", "--json", "--profile", "borg").stdout
    run = str(json.loads(listed)["runs"][-1]["run"])

    site = f"ansible-playbook -i {INVENTORY} playbooks/site.yml"
    go = "cd /srv/qubes-dedup-backup && "
    second.dom0("sh", "-c", go + documented(f"{site} --skip-tags repositories"))
    source = [*lab.containers.enter(BACKUP_QUBE, "user"), "tar", "-C", REPOSITORY, "-c", "."]
    with subprocess.Popen(source, stdout=subprocess.PIPE) as packed:
        bring = f"mkdir -p {REPOSITORY} && tar -C {REPOSITORY} -x"
        bring = documented(f"qvm-run --pass-io {BACKUP_QUBE} '{bring}'")
        enter = second.containers.enter("dom0", "user")
        subprocess.run([*enter, "sh", "-c", bring], stdin=packed.stdout, check=True)
    give = f"qvm-run --pass-io {BACKUP_QUBE} 'dedup-store set-password --profile borg'"
    second.dom0("sh", "-c", documented(give), stdin=password.encode())
    second.dom0("sh", "-c", go + documented(site))

    found = second.dom0(
        *documented("sudo qubes-dedup-backup list").split(), "--profile", "dedup-borg"
    )
    assert run in found.stdout
    assert "no ledger" in found.stdout
    checked = second.dom0(
        *("sudo", "qubes-dedup-backup", "verify", run, "--data", "--passphrase-file", "-"),
        *("--profile", "dedup-borg"),
        stdin=passphrase,
        check=False,
    )
    assert checked.returncode == 3, checked.stdout + checked.stderr
    done = restore(
        second, passphrase, documented("dedup-store get RUN --profile borg").replace("RUN", run)
    )
    for qube in ("work", "personal"):
        there, here = second.private_image(qube), lab.private_image(qube)
        assert same_content(there, here), done.stdout + done.stderr
