# SPDX-License-Identifier: GPL-3.0-or-later
"""Our playbooks through upstream's qubes-ansible: strategy, connection, guard, qubes.AnsibleVM."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator

import pytest
from qubeslab.session import Session

from testing.upstream.ansible_lab import INVENTORY, ansible_lab, disposable, project
from testing.upstream.sources import Sources

TEMPLATE, BACKUP_QUBE = "debian-13-dedup-backup", "dedup-backup"
# The qubes of the inventory, and the role of the play on each.
HOSTS = {
    TEMPLATE: "backup_template",
    BACKUP_QUBE: "backup_qube",
    "dedup-storage": "storage_qube",
    "debian-13-minimal": "management_shim",
}
GUARD = "is considered insecure"
Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def lab(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """The lab with upstream's Ansible parts, nothing provisioned."""
    with ansible_lab(tmp_path_factory.mktemp("ansible"), sources, list(HOSTS)) as lab:
        yield lab


@pytest.fixture(scope="module")
def provisioned(lab: Session) -> str:
    """What `site.yml` printed at its first run."""
    return site(lab)


def site(lab: Session, program: str = "ansible-playbook") -> str:
    """Run the whole playbook and return all that it prints."""
    command = f"cd /srv/qubes-dedup-backup && exec {program} -i {INVENTORY} playbooks/site.yml"
    done = lab.dom0("sh", "-c", command)
    return done.stdout + done.stderr


def recaps(output: str) -> dict[str, list[dict[str, int]]]:
    """Return the counts of each recap, by qube; plays on qubes have recaps of their own."""
    found: dict[str, list[dict[str, int]]] = {}
    for line in re.sub(r"\x1b\[[0-9;]*m", "", output).splitlines():
        name, colon, counts = line.partition(" : ")
        if colon and "unreachable=" in counts:
            pairs = re.findall(r"(\w+)=(\d+)", counts)
            found.setdefault(name.strip(), []).append({key: int(n) for key, n in pairs})
    return found


def test_our_plays_succeed_in_the_qubes(lab: Session, provisioned: str) -> None:
    counts = recaps(provisioned)
    for host in HOSTS:
        assert f"QUBESOS [{disposable(host)}: PLAY" in provisioned
        inside = counts[host][0]
        assert inside["changed"] > 0, provisioned
        assert inside["failed"] == inside["unreachable"] == 0
    lab.dom0("qvm-start", "--skip-if-running", BACKUP_QUBE)
    listed = lab.run(BACKUP_QUBE, "dedup-store", "list", "--repository", "restic", "--json")
    assert '"runs"' in listed.stdout


def test_the_guard_does_not_complain(provisioned: str) -> None:
    assert GUARD not in provisioned
    assert "qubesos_strategy_guard" not in provisioned  # nor does it fail


# Under 2.19 upstream's guard fails: Ansible only warns of that, and the strategy works.
@pytest.mark.parametrize("program", ["ansible-playbook", "/usr/bin/ansible-playbook"])
def test_a_second_run_changes_nothing(lab: Session, provisioned: str, program: str) -> None:
    assert provisioned
    counts = recaps(site(lab, program))
    assert set(counts) >= {"dom0", *HOSTS}
    assert {count["changed"] for rows in counts.values() for count in rows} == {0}


def test_only_the_roles_of_a_play_reach_the_disposable(lab: Session, provisioned: str) -> None:
    assert provisioned
    for host, role in HOSTS.items():
        lab.dom0("qvm-start", "--skip-if-running", disposable(host))
        folder = "/home/user/QubesIncoming/dom0"
        tars = lab.run(disposable(host), "ls", folder).stdout.split()
        assert tars
        for tar in tars:
            names = lab.run(disposable(host), "tar", "-tf", f"{folder}/{tar}").stdout.split()
            parts = {name.split("/")[1] for name in names if name != "./"}
            assert parts == {"inventory", "playbook.yaml", "host_vars", "roles"}
            shipped = {name.split("/")[2] for name in names if name.startswith("./roles/")}
            assert shipped == {role, ""}
        lab.dom0("qvm-shutdown", "--wait", disposable(host))


def test_no_secret_is_in_what_upstream_leaves_behind(lab: Session, provisioned: str) -> None:
    """Upstream doesn't remove the archives that it sends, with all of a host's variables."""
    assert provisioned
    find = 'find /tmp -name "qubes-ansible-*.tar"'
    assert len(lab.dom0("sh", "-c", find).stdout.split()) >= len(HOSTS)
    passphrases = "grep -ho 'dedup:[A-Za-z0-9_-]*' /etc/qubes/backup/*.conf"
    secrets = lab.run("dom0", "sh", "-c", passphrases, user="root").stdout
    lab.dom0("qvm-start", "--skip-if-running", BACKUP_QUBE)
    secrets += lab.run(BACKUP_QUBE, "sh", "-c", "cat /rw/config/dedup-store/*.password").stdout
    assert len(secrets.split()) == 8
    look = f"{find} -exec grep -aFf - {{}} +"
    found = lab.dom0("sh", "-c", look, stdin=secrets.encode(), check=False)
    assert (found.stdout, found.stderr) == ("", "")


MODULE = """\
from ansible.module_utils.basic import AnsibleModule
AnsibleModule({}).exit_json()
"""
PLAY = """\
- hosts: all
  gather_facts: false
  {how}
  roles: [control]
"""
TASK = "- name: Use what is outside of the role\n  {what}\n"


def control(lab: Session, how: str, what: str, inventory: str) -> Done:
    """Run a play whose only role does one thing, on the backup qube, or in dom0."""
    folder = project(
        lab,
        {
            "ansible.cfg": "[defaults]\nlibrary = library\nroles_path = roles\n",
            "inventory": f"{inventory}\n",
            "play.yml": PLAY.format(how=how),
            "roles/control/tasks/main.yml": TASK.format(what=what),
            "roles/other/tasks/main.yml": TASK.format(what="ansible.builtin.ping:"),
            "library/outside.py": MODULE,
        },
    )
    command = 'cd "$0" && exec ansible-playbook -i inventory play.yml'
    return lab.dom0("sh", "-c", command, folder, check=False)


OUTSIDE = [
    ("outside:", "couldn't resolve module/action 'outside'"),
    ("ansible.builtin.include_role: {name: other}", "the role 'other' was not found"),
]
PYTHON = "ansible_python_interpreter=/usr/bin/python3"
IN_QUBE = f"{BACKUP_QUBE} ansible_connection=qubesos.core.qubes {PYTHON}"
PROXY = "strategy: qubesos.security.qubes_proxy"


@pytest.mark.usefixtures("provisioned")
@pytest.mark.parametrize(("what", "message"), OUTSIDE)
def test_a_role_that_needs_more_than_itself_fails(lab: Session, what: str, message: str) -> None:
    here = control(lab, "", what, "localhost ansible_connection=local")
    assert here.returncode == 0, here.stdout + here.stderr
    there = control(lab, PROXY, what, IN_QUBE)
    assert there.returncode != 0
    assert message in " ".join((there.stdout + there.stderr).split())
    alone = control(lab, PROXY, "ansible.builtin.ping:", IN_QUBE)
    assert alone.returncode == 0, alone.stdout + alone.stderr


@pytest.mark.usefixtures("provisioned")
def test_the_guard_is_there(lab: Session) -> None:
    version = lab.dom0("ansible-playbook", "--version").stdout
    assert "[core 2.16." in version
    inventory = IN_QUBE.replace("qubesos.core.qubes", "qubes")
    done = control(lab, "strategy: linear", "ansible.builtin.ping:", inventory)
    assert done.returncode != 0
    assert GUARD in done.stdout + done.stderr
