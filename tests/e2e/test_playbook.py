# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook in a fresh dom0: check mode, idempotence, and what it leaves behind."""

from __future__ import annotations

import json
import re

import pytest
from qubeslab.paths import LabError
from qubeslab.session import Session

from testing.e2e.lab import BACKUP_QUBE, INVENTORY


def changed(output: str) -> list[int]:
    """Return all `changed` counts; plays on qubes have a recap of their own before the last."""
    counts = [int(count) for count in re.findall(r"changed=(\d+) ", output)]
    assert counts, output
    return counts


def test_check_from_nothing_announces_and_changes_nothing(check_from_nothing: str) -> None:
    assert sum(changed(check_from_nothing)) > 0
    assert "failed=0" in check_from_nothing
    assert "dedup:" not in check_from_nothing


def test_second_run_changes_nothing(again: str) -> None:
    assert set(changed(again)) == {0}


def test_check_mode_after_it_announces_nothing(lab: Session) -> None:
    output = lab.playbook("-i", INVENTORY, "--check", "--diff", "playbooks/site.yml")
    assert set(changed(output)) == {0}


def test_backup_qube_is_offline_and_not_in_backups(lab: Session) -> None:
    assert lab.dom0("qvm-prefs", BACKUP_QUBE, "netvm").stdout.strip() in ("", "None")
    assert lab.dom0("qvm-prefs", BACKUP_QUBE, "include_in_backups").stdout.strip() == "False"
    interfaces = lab.run(BACKUP_QUBE, "ls", "/sys/class/net").stdout.split()
    assert set(interfaces) <= {"lo"}


def test_template_has_engines_of_debian_13(lab: Session) -> None:
    borg = lab.run(BACKUP_QUBE, "borg", "--version").stdout.split()[1]
    assert tuple(int(part) for part in borg.split(".")[:3]) >= (1, 2, 5)  # CVE-2023-36811
    assert lab.run(BACKUP_QUBE, "restic", "version").stdout.startswith("restic ")


def test_profiles_are_for_root_and_group_qubes_alone(lab: Session) -> None:
    for engine in ("restic", "borg"):
        path = f"/etc/qubes/backup/dedup-{engine}.conf"
        mode = lab.dom0("sudo", "stat", "-c", "%a %U %G", path).stdout.split()
        assert mode == ["660", "root", "qubes"]


def test_passphrases_are_long_and_differ(passphrases: dict[str, bytes]) -> None:
    restic, borg = passphrases["restic"], passphrases["borg"]
    assert restic != borg
    for passphrase in (restic, borg):
        assert re.fullmatch(rb"dedup:[A-Za-z0-9_-]{43}\n", passphrase)


def test_shim_is_healthy(lab: Session) -> None:
    status = lab.dom0("shimctl", "status", "--json")
    assert json.loads(status.stdout)["changed"] is False


def test_repository_password_is_the_users_alone(lab: Session) -> None:
    for engine in ("restic", "borg"):
        path = f"/rw/config/dedup-store/{engine}.password"
        assert lab.run(BACKUP_QUBE, "stat", "-c", "%a %U", path).stdout.split() == ["600", "user"]


def test_reconcile_puts_the_shim_back(lab: Session) -> None:
    replace = "cp -p /usr/bin/scrypt.bak /usr/bin/new && mv /usr/bin/new /usr/bin/scrypt"
    lab.run("dom0", "systemctl", "stop", "qubes-dedup-backup-guard.path", user="root")
    lab.run("dom0", "sh", "-c", replace, user="root")
    for count in (1, 0):
        assert changed(lab.playbook("-i", INVENTORY, "playbooks/reconcile.yml")) == [count]
    lab.dom0("shimctl", "status")


def test_verify_leaves_a_qube_of_that_name_alone(lab: Session) -> None:
    lab.dom0("qvm-create", "--class=AppVM", "--label=red", "dedup-backup-verify")
    try:
        with pytest.raises(LabError, match="that wasn't made by this"):
            lab.playbook("-i", INVENTORY, "playbooks/verify.yml")
        assert "dedup-backup-verify" in lab.dom0("qvm-ls", "--raw-list").stdout.split()
    finally:
        lab.dom0("qvm-remove", "--force", "dedup-backup-verify")
