# SPDX-License-Identifier: GPL-3.0-or-later
"""confirm beside other backups: leftovers of dead ones, a lost counter, another store."""

import json
import os
import time
from collections.abc import Iterator

import pytest

from testing.dom0.backup import Backup, make_backup
from testing.dom0.system import QUBE, REPOSITORY, Dom0, run_name, temporary_dom0
from testing.store import archives

DEAD = "20261101T101500-9"
CUT = b'{"member": "backup-header.hmac", "time"'
HEADLESS = b'{"member": "vm1/private.img.000.enc", "length": 5, "sha256": "0", "trailer": "0"}\n'
ROW = {"member": "backup-header.hmac", "length": 5, "sha256": "0", "trailer": "0", "order": None}
LEFT = (b"", CUT, HEADLESS, json.dumps(ROW).encode() + b"\n")
OTHER = "other"


@pytest.fixture(scope="module")
def own_dom0() -> Iterator[Dom0]:
    """A dom0 whose ledgers nobody else uses."""
    with temporary_dom0() as made:
        yield made


@pytest.fixture
def alone(own_dom0: Dom0) -> Dom0:
    """The same, without ledgers and records."""
    own_dom0.forget()
    own_dom0.stamp(None)
    for path in (own_dom0.root.path / "etc/qubes/backup").glob(f"{OTHER}*"):
        path.unlink()
    if own_dom0.root.ledgers.exists():
        for path in own_dom0.root.ledgers.iterdir():
            path.unlink()
    return own_dom0


def made(dom0: Dom0, day: int, *names: str) -> Backup:
    """Make a backup that succeeds, of the qube work if none is named."""
    found = [archives.Qube(name, 7 + n, volumes={"private": b"w"}) for n, name in enumerate(names)]
    content = found or [archives.Qube("work", 7, volumes={"private": b"w"})]
    backup = make_backup(dom0.root, f"202611{day:02}T101500-1", content=content)
    dom0.serve(backup.stream())
    dom0.succeed(backup.backup_id, *(names or ("work",)), later=0)
    return backup


def stored(dom0: Dom0, *backups: Backup) -> list[str]:
    """Let the store list these; give their runs."""
    runs = [run_name(backup.backup_id) for backup in backups]
    rows = [{"run": run, "status": "whole", "reason": ""} for run in runs]
    (dom0.answers / "list").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return runs


def leave(dom0: Dom0, text: bytes, seconds: int) -> None:
    """Leave the ledger of a backup that died, some seconds from now."""
    path = dom0.root.ledgers / DEAD
    path.write_bytes(text)
    os.utime(path, (time.time() + seconds,) * 2)


def test_what_a_dead_backup_left(alone: Dom0) -> None:
    """Of an earlier one it blocks nothing; a later one is not passed over."""
    made(alone, 2)
    for text in LEFT:
        leave(alone, text, -3600)
        for words in ((), (alone.run,)):
            assert alone.json("confirm", *words, code=0)["verdict"] == "confirmed"
            alone.forget()
        leave(alone, text, 5)
        done = alone("confirm")
        assert done.returncode == 2
        assert f"the place of backup {DEAD}".encode() in done.stderr
        assert not alone.confirmed.exists()
    leave(alone, CUT, 5)
    assert DEAD in alone.json("confirm", alone.run, code=3)["unchecked"][0]


def test_a_failed_backup_after_the_counter_was_lost(alone: Dom0) -> None:
    """It is the newest all the same, so no older run stands in for it."""
    good = made(alone, 2), made(alone, 3)
    assert alone.json("confirm", code=0)["run"] == run_name(good[1].backup_id)
    (alone.root.path / "var/lib/qubes-dedup-backup/order").unlink()
    failed = make_backup(alone.root, "20261104T101500-1", cut="vm7/private.img")
    stored(alone, *good)
    done = alone("confirm")
    assert done.returncode == 2
    assert f"{failed.backup_id}, is not in the store".encode() in done.stderr


@pytest.mark.thorough
def test_a_backup_that_was_counted_but_not_noted(alone: Dom0) -> None:
    """dom0's disk was full: the confirmed one before it must not stand in for it."""
    made(alone, 2)
    assert alone.json("confirm", code=0)["verdict"] == "confirmed"
    assert alone.json("confirm", code=0)["verdict"] == "confirmed"
    lost = make_backup(alone.root, "20261103T101500-1")
    (alone.root.ledgers / lost.backup_id).unlink()
    done = alone("confirm")
    assert done.returncode == 2
    assert b"no ledger of the backup that began last" in done.stderr


@pytest.mark.thorough
def test_two_stores_by_turns(alone: Dom0) -> None:
    """Both backed up, then both confirmed, each without a run's name."""
    text = f"destination_vm: {QUBE}\ndestination_path: dedup-store put --repository {OTHER}\n"
    profile = alone.root.path / f"etc/qubes/backup/{OTHER}.conf"
    profile.write_text(f"{text}include: null\npassphrase_text: x\n")
    first = made(alone, 2)
    alone.backdate(first.backup_id, 600)
    alone.succeed(first.backup_id, "work", later=0)
    second = made(alone, 3, "debian")
    alone.serve(first.stream())
    done = alone("confirm")  # the second could have failed
    assert done.returncode == 2
    assert f"{second.backup_id}, is not in the store {REPOSITORY}".encode() in done.stderr
    alone.serve(second.stream())
    assert alone.json("confirm", "--profile", OTHER, code=0)["run"] == run_name(second.backup_id)
    alone.serve(first.stream())
    assert alone.json("confirm", code=0)["run"] == run_name(first.backup_id)
    # a store that has a copy of it confirms that
    alone.serve(second.stream())
    assert alone.json("confirm", code=0)["run"] == run_name(second.backup_id)
