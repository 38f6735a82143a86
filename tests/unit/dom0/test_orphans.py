# SPDX-License-Identifier: GPL-3.0-or-later
"""Ledgers of backups that are not in the store: `list` shows them, `prune` drops old ones."""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.dom0.backup import Backup
from testing.dom0.system import QUBE, REPOSITORY, Dom0, run_name

DAY = 24 * 3600
FAILED, ELSEWHERE, DAMAGED = "20240101T101500-11", "20240201T101500-12", "20240301T101500-13"
OTHER = "20240401T101500-14"


@pytest.fixture
def at(dom0: Dom0, backup: Backup, other_backup: Backup) -> Iterator[Dom0]:
    """A dom0 whose store has one of two backups, and says that it pruned nothing."""
    with dom0.only_ledger(backup.backup_id, other_backup.backup_id):
        before = {path.name: path.read_bytes() for path in dom0.root.ledgers.iterdir()}
        for name in before:
            os.utime(dom0.root.ledgers / name)
        dom0.serve(backup.stream())
        (dom0.answers / "prune").touch()
        yield dom0
        for path in dom0.root.ledgers.iterdir():
            path.unlink()
        for name, data in before.items():
            (dom0.root.ledgers / name).write_bytes(data)
    for path in (dom0.root.path / "etc/qubes/backup").glob("other*"):
        path.unlink()


def ledger(dom0: Dom0, backup_id: str, days: float, *, order: int | None = None) -> Path:
    """Leave a ledger that was written last so many days ago."""
    path = dom0.root.ledgers / backup_id
    row = {"member": "backup-header.hmac", "length": 77, "sha256": "0" * 64, "trailer": "0" * 64}
    more = {} if order is None else {"order": order}
    lines = [row | more, row | {"member": "qubes.xml.000.enc", "length": 5000}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    when = time.time() - days * DAY
    os.utime(path, (when, when))
    return path


def confirm_elsewhere(dom0: Dom0, backup_id: str, qube: str, repository: str) -> None:
    """Leave the record of a run that was confirmed in another store."""
    run = run_name(backup_id)
    record = {"run": run, "backup_id": backup_id, "qube": qube, "repository": repository}
    dom0.confirmed.mkdir(exist_ok=True)
    record["confirmed"] = "2024-01-01T00:00:00Z"
    (dom0.confirmed / f"{run}.json").write_text(json.dumps(record))


def listed(dom0: Dom0) -> list[str]:
    """Name the backups that `list` says are not in the store."""
    return [row["backup_id"] for row in dom0.json("list", code=0)["not_in_this_store"]]


def dropped(dom0: Dom0, code: int = 0) -> list[str]:
    """Prune, and name the backups whose ledgers went."""
    before = {path.name for path in dom0.root.ledgers.iterdir()}
    found = dom0.json("prune", code=code)["dropped_ledgers"]
    assert before - {path.name for path in dom0.root.ledgers.iterdir()} == set(found)
    return list(found)


def test_list_tells_what_left_dom0_and_is_not_there(
    at: Dom0, backup: Backup, other_backup: Backup
) -> None:
    ledger(at, FAILED, 20)
    ledger(at, DAMAGED, 10).write_bytes(b'{"member')
    assert at.json("list", code=0)["not_in_this_store"][0] == {
        "backup_id": FAILED,
        "last_written": time.strftime(
            "%Y-%m-%dT%H:%M:%SZ", time.gmtime((at.root.ledgers / FAILED).stat().st_mtime)
        ),
        "members": 3,  # its header is in clear, too
        "bytes": 5154,
        "perhaps_running": False,
    }
    text = at("list").stdout.decode()
    assert "Left dom0 in clear, and not in this store:" in text
    assert f"backup {FAILED}, last written 20" in text
    assert f"{other_backup.backup_id}, last written" in text
    assert "its ledger is damaged" in text
    assert "perhaps still being made" in text
    (head, tail) = text.split("Left dom0 in clear")
    assert backup.backup_id in head
    assert backup.backup_id not in tail


def test_list_without_any(at: Dom0, other_backup: Backup) -> None:
    (at.root.ledgers / other_backup.backup_id).unlink()
    assert listed(at) == []
    assert b"clear" not in at("list").stdout


def test_what_another_store_has_is_not_called_lost(at: Dom0, other_backup: Backup) -> None:
    ledger(at, OTHER, 20)
    assert listed(at) == [OTHER, other_backup.backup_id]
    confirm_elsewhere(at, OTHER, QUBE, "other")
    assert listed(at) == [other_backup.backup_id]
    # the store that dom0 knows of by that record, and by a profile, may have the other one
    (at.root.path / "etc/qubes/backup/other.conf").write_text(
        "destination_vm: elsewhere\ndestination_path: dedup-store put\n"
    )
    told = at("list").stdout.decode().splitlines()[-1]
    assert f"the store other in {QUBE}" in told
    assert "the store default in elsewhere" in told
    (at.root.path / "etc/qubes/backup/other.conf").write_text("[")
    done = at("list")
    assert (done.returncode, b"can't read" in done.stdout) == (0, True)


def test_prune_drops_old_ones(at: Dom0, backup: Backup, other_backup: Backup) -> None:
    ledger(at, FAILED, 91)
    ledger(at, DAMAGED, 92).write_bytes(b'{"member')
    os.utime(at.root.ledgers / DAMAGED, (0, 0))
    ledger(at, ELSEWHERE, 89)
    # as old, but the store has it
    when = time.time() - 100 * DAY
    os.utime(at.root.ledgers / backup.backup_id, (when, when))
    confirm_elsewhere(at, OTHER, "gone", REPOSITORY)
    ledger(at, OTHER, 200)
    assert dropped(at) == [DAMAGED, FAILED]
    left = {path.name for path in at.root.ledgers.iterdir()}
    assert left == {ELSEWHERE, OTHER, backup.backup_id, other_backup.backup_id}
    ledger(at, FAILED, 91)
    assert (
        f"removed the ledger of backup {FAILED}: it is in no store".encode() in at("prune").stdout
    )


def test_prune_keeps_the_newest(at: Dom0, backup: Backup, other_backup: Backup) -> None:
    """Whichever it is: by the time of its last row, or by the number that the shim gave it."""
    for made in (backup, other_backup):
        (at.root.ledgers / made.backup_id).unlink()
    ledger(at, FAILED, 400)
    assert dropped(at) == []
    ledger(at, ELSEWHERE, 200)
    assert dropped(at) == [FAILED]
    ledger(at, OTHER, 1)
    # made when the clock was far behind
    ledger(at, FAILED, 5000, order=3)
    ledger(at, ELSEWHERE, 200, order=2)
    assert dropped(at) == [ELSEWHERE]


def test_a_clock_that_is_ahead_makes_none_old(at: Dom0, backup: Backup) -> None:
    """All ledgers are of one day, and dom0 believes that this was long ago."""
    for path in at.root.ledgers.iterdir():
        os.utime(path, (time.time() - 300 * DAY,) * 2)
    ledger(at, FAILED, 310)
    assert dropped(at) == []
    assert (at.root.ledgers / backup.backup_id).exists()


def test_one_that_is_being_written_stays(at: Dom0) -> None:
    path = ledger(at, FAILED, 91)
    with path.open("ab") as shim:
        fcntl.flock(shim, fcntl.LOCK_EX)
        assert dropped(at) == []
    assert dropped(at) == [FAILED]


def test_another_store_is_asked_first(at: Dom0, backup: Backup) -> None:
    ledger(at, FAILED, 91)
    ledger(at, ELSEWHERE, 91)
    profile = at.root.path / "etc/qubes/backup/other.conf"
    # the second store has one of them, and nobody confirmed it
    row = {"run": run_name(ELSEWHERE), "status": "whole", "reason": ""}
    (at.answers / "list-other").write_text(json.dumps(row) + "\n")
    at.store(
        f'[ "$1$3" = listother ] && exec cat {at.answers}/list-other; exec cat {at.answers}/$1'
    )
    profile.write_text(
        f"destination_vm: {QUBE}\ndestination_path: dedup-store put --repository other\n"
    )
    assert dropped(at) == [FAILED]
    # who can't be asked may have what is left, and is not started for it
    at.store(f'[ "$1$3" = listother ] && exit 9; exec cat {at.answers}/$1')
    assert dropped(at) == []
    assert b"another store can't be asked" in at("prune").stderr
    # a store whose qube is gone has nothing
    profile.write_text("destination_vm: gone\ndestination_path: dedup-store put\n")
    assert dropped(at) == [ELSEWHERE]
    assert backup.backup_id in {path.name for path in at.root.ledgers.iterdir()}
