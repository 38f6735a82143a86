# SPDX-License-Identifier: GPL-3.0-or-later
"""The qrexec policy that the playbook installed in dom0, and calls that meet it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from qubeslab.policy import Denied, Loader, PolicySyntaxError, decide
from qubeslab.policy_files import Dom0Files
from qubeslab.session import Session

from testing.ansible.policy_table import DOMAINS, OURS, STORAGE, calls, is_allowed
from testing.e2e.lab import BACKUP_QUBE

FILE = "/etc/qubes/policy.d/75-dedup-backup.policy"
REPOSITORIES = ("restic+restic", "borg+borg")
REFUSED = 126  # qubes-core-agent-linux: what qrexec-client-vm returns


def call(lab: Session, target: str, service: str) -> int:
    """Call a service from the backup qube and return the exit status."""
    done = lab.run(BACKUP_QUBE, "qrexec-client-vm", target, service, check=False)
    assert isinstance(done, subprocess.CompletedProcess)
    return done.returncode


def test_written_with_the_rights_of_qubes(lab: Session) -> None:
    shown = lab.dom0("stat", "-c", "%a %U %G", FILE).stdout.split()
    assert shown == ["664", "root", "qubes"]


def test_what_is_installed_lets_nothing_through_but_what_is_meant(
    lab: Session, tmp_path: Path
) -> None:
    as_root = lab.containers.enter("dom0", "root")
    pack = [*as_root, "tar", "-C", "/", "-c", "etc/qubes/policy.d"]
    packed = subprocess.run(pack, check=True, stdout=subprocess.PIPE).stdout
    subprocess.run(["tar", "-C", str(tmp_path), "-x"], check=True, input=packed)
    rules = Loader(Dom0Files(tmp_path)).load()
    assert len(rules) >= len(OURS)
    allowed = count = 0
    for question in calls():
        if question.service not in OURS:
            continue
        count += 1
        try:
            target = decide(rules, question, DOMAINS).target
        except (Denied, PolicySyntaxError):
            target = ""
        expected = is_allowed(question, STORAGE, REPOSITORIES)
        assert target == (STORAGE if expected else ""), question
        allowed += expected
    assert count > 10_000
    assert allowed == 2 * 2 * len(REPOSITORIES)  # two services, by name and by uuid


def test_calls_are_refused(lab: Session) -> None:
    for service in OURS:
        for target in ("dom0", "work"):
            assert call(lab, target, f"{service}+restic+restic") == REFUSED
    for service in ("dedupbackup.Repository", "dedupbackup.Maintenance"):
        assert call(lab, STORAGE, f"{service}+restic+borg") == REFUSED
    assert call(lab, STORAGE, "dedupbackup.MaintenanceOpen+restic+restic") == REFUSED
