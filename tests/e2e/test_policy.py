# SPDX-License-Identifier: GPL-3.0-or-later
"""The qrexec policy that the playbook installed in dom0, and calls that meet it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import BACKUP_QUBE, PROJECT
from qubeslab.policy import Denied, Loader, PolicySyntaxError, decide
from qubeslab.policy_files import Dom0Files
from qubeslab.session import Session

sys.path.insert(0, str(PROJECT / "tests/unit/ansible"))

from policy_table import DOMAINS, OURS, calls

FILE = "/etc/qubes/policy.d/75-dedup-backup.policy"
OPENED = "/run/qubes/policy.d/74-opened.policy"
REFUSED, NOT_FOUND = 126, 127  # qubes-core-agent-linux: what qrexec-client-vm returns


def call(lab: Session, service: str) -> int:
    """Call a service of dom0 from the backup qube and return the exit status."""
    done = lab.run(BACKUP_QUBE, "qrexec-client-vm", "dom0", service, check=False)
    assert isinstance(done, subprocess.CompletedProcess)
    return done.returncode


def test_written_with_the_rights_of_qubes(lab: Session) -> None:
    shown = lab.dom0("stat", "-c", "%a %U %G", FILE).stdout.split()
    assert shown == ["664", "root", "qubes"]


def test_what_is_installed_denies_every_call_to_our_services(lab: Session, tmp_path: Path) -> None:
    as_root = lab.containers.enter("dom0", "root")
    pack = [*as_root, "tar", "-C", "/", "-c", "etc/qubes/policy.d"]
    packed = subprocess.run(pack, check=True, stdout=subprocess.PIPE).stdout
    subprocess.run(["tar", "-C", str(tmp_path), "-x"], check=True, input=packed)
    rules = Loader(Dom0Files(tmp_path)).load()
    assert len(rules) >= len(OURS)
    count = 0
    for question in calls():
        if question.service in OURS:
            count += 1
            with pytest.raises((Denied, PolicySyntaxError)):
                decide(rules, question, DOMAINS)
    assert count > 10_000


@pytest.fixture
def opened(lab: Session) -> Iterator[None]:
    """An earlier file, gone with the next boot, that lets one service through."""
    rule = f"dedupbackup.Maintenance +restic+default {BACKUP_QUBE} dom0 allow\n"
    lab.dom0("sudo", "install", "-d", "-m", "0775", "-g", "qubes", "/run/qubes/policy.d")
    lab.dom0("sudo", "tee", OPENED, stdin=rule.encode())
    yield
    lab.dom0("sudo", "rm", OPENED)


def test_calls_are_refused(lab: Session) -> None:
    for service in OURS:
        assert call(lab, f"{service}+restic+default") == REFUSED


def test_dom0_can_open_one_for_a_time(lab: Session, opened: None) -> None:
    assert opened is None
    assert call(lab, "dedupbackup.Maintenance+restic+default") == NOT_FOUND  # so it was let in
    assert call(lab, "dedupbackup.Maintenance+restic+other") == REFUSED
    assert call(lab, "dedupbackup.Repository+restic+default") == REFUSED
