# SPDX-License-Identifier: GPL-3.0-or-later
"""Repositories in the storage qube: used, protected from the backup qube, and maintained."""

from __future__ import annotations

import json
import subprocess

import pytest
from qubeslab.paths import DOM0
from qubeslab.session import Session

from testing.e2e.lab import BACKUP_QUBE, restore

ENGINES = ("restic", "borg")
STORAGE_QUBE = "dedup-storage"
NOT_OPEN = 3  # dedup-server's exit code for what it refuses


@pytest.fixture(scope="module")
def stored(lab: Session) -> dict[str, str]:
    """A confirmed run in each repository, by engine."""
    found = {}
    for engine in ENGINES:
        lab.dom0("qvm-backup", "--yes", "--profile", f"far-{engine}")
        done = lab.dom0(
            "sudo", "qubes-dedup-backup", "confirm", "--json", "--profile", f"far-{engine}"
        )
        found[engine] = str(json.loads(done.stdout)["run"])
    return found


def maintain(lab: Session, engine: str) -> subprocess.CompletedProcess[str]:
    """Call the maintenance service from the backup qube, and end it at once when it's let in."""
    service = f"dedupbackup.Maintenance+{engine}+{engine}"
    return lab.run(BACKUP_QUBE, "qrexec-client-vm", STORAGE_QUBE, service, check=False)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.usefixtures("restored")
def test_a_qube_comes_back_byte_for_byte(lab: Session, stored: dict[str, str], engine: str) -> None:
    passphrase = lab.passphrase(f"far-{engine}")
    location = f"dedup-store get {stored[engine]} --repository far-{engine}"
    done = restore(lab, passphrase, location)
    assert lab.same_private("work", "work-1"), done.stdout + done.stderr


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.usefixtures("restored")
def test_the_restore_service_reads_it_too(
    lab: Session, stored: dict[str, str], engine: str
) -> None:
    service = f"dedupbackup.Restore+far-{engine}+{stored[engine]}"
    passphrase = lab.passphrase(f"far-{engine}")
    done = lab.dom0(
        *("qvm-backup-restore", "--rename-conflicting", "-d", BACKUP_QUBE, "-p", "-"),
        *("--location-is-service", service),
        stdin=passphrase,
        check=False,
    )
    assert lab.same_private("work", "work-1"), done.stdout + done.stderr


@pytest.mark.usefixtures("stored")
def test_the_storage_qube_has_only_ciphertext_and_no_key(lab: Session) -> None:
    for text in ("this is qube work", "qubes.xml", "dedup:"):
        grep = ("grep", "--recursive", "--text", "--files-with-matches", text, "/rw", "/home")
        assert lab.run(STORAGE_QUBE, *grep, user="root", check=False).stdout == ""
    for engine in ENGINES:
        path = f"/rw/config/dedup-store/far-{engine}.password"
        password = lab.run(BACKUP_QUBE, "cat", path).stdout.strip()
        grep = ("grep", "--recursive", "--files-with-matches", password, "/rw", "/home", "/run")
        assert lab.run(STORAGE_QUBE, *grep, user="root", check=False).stdout == ""


@pytest.mark.parametrize("engine", ENGINES)
def test_a_run_can_not_be_forgotten_without_dom0(
    lab: Session, stored: dict[str, str], engine: str
) -> None:
    argv = ("dedup-store", "forget", "--repository", f"far-{engine}", stored[engine])
    done = lab.run(BACKUP_QUBE, *argv, check=False)
    assert done.returncode != 0
    assert maintain(lab, engine).returncode == NOT_OPEN
    listed = lab.run(BACKUP_QUBE, "dedup-store", "list", "--repository", f"far-{engine}").stdout
    assert stored[engine] in listed


@pytest.mark.parametrize("engine", ENGINES)
def test_dom0_opens_maintenance_for_one_prune(
    lab: Session, stored: dict[str, str], engine: str
) -> None:
    # Through a file: as long as borg reads a repository, nothing is stored in it.
    cut = f"dedup-store get {stored[engine]} --repository far-{engine} | head -c 5000000 >/tmp/cut"
    put = f"dedup-store put --repository far-{engine} </tmp/cut"
    lab.run(BACKUP_QUBE, "sh", "-c", f"{cut}; {put}", check=False)
    listing = ("dedup-store", "list", "--repository", f"far-{engine}")
    assert "partial" in lab.run(BACKUP_QUBE, *listing).stdout
    lab.dom0("sudo", "qubes-dedup-backup", "prune", "--profile", f"far-{engine}")
    after = lab.run(BACKUP_QUBE, *listing).stdout
    assert "partial" not in after
    assert stored[engine] in after
    assert maintain(lab, engine).returncode == NOT_OPEN
    lab.dom0("sudo", "qubes-dedup-backup", "verify", "--data", "--profile", f"far-{engine}")


@pytest.mark.usefixtures("stored")
def test_maintenance_closes_when_dom0_s_call_is_killed(lab: Session) -> None:
    service = f"dedupbackup.MaintenanceOpen+{ENGINES[0]}+{ENGINES[0]}"
    argv = [*lab.containers.enter(DOM0, "user"), "qvm-run", "--pass-io", "--service"]
    with subprocess.Popen(
        [*argv, STORAGE_QUBE, service], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as opened:
        assert opened.stdout is not None
        assert opened.stdout.readline() == b"open\n"
        assert maintain(lab, ENGINES[0]).returncode != NOT_OPEN
        lab.dom0("pkill", "-KILL", "-f", service.replace("+", "."))
    call = f"qrexec-client-vm {STORAGE_QUBE} {service.replace('Open', '')}"
    closed = f"until {call} || [ $? = {NOT_OPEN} ]; do sleep 0.1; done"
    lab.run(BACKUP_QUBE, "timeout", "60", "sh", "-c", closed)
