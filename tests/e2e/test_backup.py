# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups with the official tools, through the shim and the store, and back."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any

import pytest
from qubeslab.paths import DOM0
from qubeslab.session import Session

from testing.e2e.lab import BACKUP_QUBE, restore

ENGINES = ("restic", "borg")
QUBES = ("work", "personal")


def runs(lab: Session, engine: str) -> list[dict[str, Any]]:
    """Return the store's runs, oldest first."""
    out = lab.run(BACKUP_QUBE, "dedup-store", "list", "--repository", engine, "--json").stdout
    return sorted(json.loads(out)["runs"], key=lambda run: str(run["run"]))


def backup(lab: Session, engine: str) -> str:
    """Back up by profile and return the name of the new run."""
    before = {run["run"] for run in runs(lab, engine)}
    lab.dom0("qvm-backup", "--yes", "--profile", f"dedup-{engine}")
    (new,) = [run for run in runs(lab, engine) if run["run"] not in before]
    assert new["status"] == "whole"
    return str(new["run"])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.usefixtures("restored")
def test_all_qubes_come_back_byte_for_byte(
    lab: Session, passphrases: dict[str, bytes], engine: str
) -> None:
    backup(lab, engine)
    lab.dom0("qvm-features", "work", "lab-test", "kept")
    done = restore(lab, passphrases[engine], f"dedup-store get latest --repository {engine}")
    assert done.returncode == 0, done.stderr
    for qube in QUBES:
        assert lab.same_private(qube, f"{qube}-1"), done.stdout + done.stderr


@pytest.mark.parametrize("engine", ENGINES)
def test_unchanged_backup_hardly_grows(lab: Session, engine: str) -> None:
    backup(lab, engine)
    folder = f"/rw/dedup-store/{engine}"
    before = lab.disk_bytes(BACKUP_QUBE, folder)
    backup(lab, engine)
    growth = lab.disk_bytes(BACKUP_QUBE, folder) - before
    # The fixed cost of a run counts for much in 40 MB; the demo judges 0.1 % on a real size.
    assert growth < 0.005 * runs(lab, engine)[-1]["stream_bytes"]


@pytest.mark.parametrize("engine", ENGINES)
def test_store_gives_back_the_same_stream(lab: Session, engine: str) -> None:
    lab.dom0(
        *("qvm-backup", "--yes", "--no-compress", "--passphrase-file=-", "-d", BACKUP_QUBE),
        *(f"sh -c 'tee /home/user/sent | dedup-store put --repository {engine}'", *QUBES),
        stdin=b"dedup:a passphrase for this test alone\n",
    )
    name = runs(lab, engine)[-1]["run"]
    compare = f"dedup-store get {name} --repository {engine} | cmp - /home/user/sent"
    lab.run(BACKUP_QUBE, "bash", "-o", "pipefail", "-c", compare)
    members = lab.run(BACKUP_QUBE, "tar", "-itf", "/home/user/sent").stdout.split()
    assert members[:3] == ["backup-header", "backup-header.hmac", "qubes.xml.000.enc"]


@pytest.mark.usefixtures("restored")
def test_an_older_run_can_be_named(lab: Session, passphrases: dict[str, bytes]) -> None:
    first = backup(lab, "restic")
    backup(lab, "restic")
    location = f"dedup-store get {first} --repository restic"
    done = restore(lab, passphrases["restic"], location, "--verify-only")
    assert done.returncode == 0, done.stdout + done.stderr


# Amid the first of two qubes of like size: in the middle of all, it may be padding that is altered.
FLIP = """
import sys
data = bytearray(sys.stdin.buffer.read())
data[len(data) // 4] ^= 1
sys.stdout.buffer.write(data)
"""


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", [(), ("--verify-only",)], ids=["restore", "verify"])
@pytest.mark.usefixtures("restored")
def test_an_altered_byte_is_refused(
    lab: Session, passphrases: dict[str, bytes], engine: str, options: tuple[str, ...]
) -> None:
    backup(lab, engine)
    lab.run(BACKUP_QUBE, "tee", "/home/user/flip.py", stdin=FLIP.encode())
    command = f"sh -c 'dedup-store get latest --repository {engine} | python3 /home/user/flip.py'"
    done = restore(lab, passphrases[engine], command, *options)
    # Its exit status is 0 all the same: qubes-core-admin-client restore.py restore_do.
    assert "failed to decrypt" in done.stdout + done.stderr
    for qube in QUBES:
        copy = f"{qube}-1"
        assert lab.stored_bytes(copy) == 0 or lab.same_private(qube, copy)


@pytest.mark.usefixtures("restored")
def test_wrong_passphrase_is_refused(lab: Session) -> None:
    backup(lab, "restic")
    done = restore(lab, b"dedup:" + b"x" * 43 + b"\n", "dedup-store get latest --repository restic")
    assert done.returncode != 0
    assert "Is the password correct" in done.stderr


def test_cancelled_backup_is_no_whole_run(lab: Session) -> None:
    backup(lab, "borg")
    whole = [run["run"] for run in runs(lab, "borg") if run["status"] == "whole"]
    argv = ["qvm-backup", "--yes", "--profile", "dedup-borg"]
    process = subprocess.Popen([*lab.containers.enter(DOM0, "user"), *argv])
    while lab.dom0("pgrep", "-f", "scrypt enc - ", check=False).returncode != 0:
        assert process.poll() is None, "the backup ended before it could be cancelled"
    lab.dom0("pkill", "-INT", "-f", "qvm-backup --yes")
    assert process.wait() != 0
    deadline = time.monotonic() + 60
    while lab.run(BACKUP_QUBE, "pgrep", "-f", "dedup-store put", check=False).returncode == 0:
        assert time.monotonic() < deadline, "put is still running"
    assert [run["run"] for run in runs(lab, "borg") if run["status"] == "whole"] == whole


def test_engine_failure_reaches_the_user(lab: Session) -> None:
    lab.run(BACKUP_QUBE, "mv", "/rw/dedup-store/restic", "/rw/dedup-store/away")
    try:
        done = lab.dom0("qvm-backup", "--yes", "--profile", "dedup-restic", check=False)
    finally:
        lab.run(BACKUP_QUBE, "mv", "/rw/dedup-store/away", "/rw/dedup-store/restic")
    assert done.returncode != 0
    assert BACKUP_QUBE in done.stderr


@pytest.mark.usefixtures("restored")
def test_ordinary_passphrase_is_really_encrypted(lab: Session) -> None:
    lab.dom0("sh", "-c", "rm -rf plain; mkdir plain")
    lab.dom0(
        *("qvm-backup", "--yes", "--no-compress", "--passphrase-file=-"),
        *("/home/user/plain", "work"),
        stdin=b"an ordinary passphrase\n",
    )
    count = r"cat plain/* | grep -acP 'scrypt\x80|this is qube work'"
    assert lab.dom0("sh", "-c", count, check=False).stdout.strip() == "0"
    done = lab.dom0(
        "sh",
        "-c",
        "exec qvm-backup-restore --rename-conflicting -p - plain/*",
        stdin=b"an ordinary passphrase\n",
    )
    assert lab.same_private("work", "work-1"), done.stderr
