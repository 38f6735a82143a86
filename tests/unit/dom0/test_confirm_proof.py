# SPDX-License-Identifier: GPL-3.0-or-later
"""confirm: only with dom0's own proof that the backup succeeded."""

import gzip
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from testing.dom0.backup import Backup, make_backup
from testing.dom0.system import QUBES, Dom0, ledger
from testing.store import archives

MISSING = "backup_timestamp of debian is what it was before it"


def rewrite(path: Path, **changes: Any) -> None:  # noqa: ANN401 - None drops a key
    """Change keys of all rows."""
    rows = [json.loads(line) | changes for line in path.read_text().splitlines()]
    rows = [{key: value for key, value in row.items() if value is not None} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def unproven(dom0: Dom0, why: str) -> None:
    """Confirm must not record, and say why; with --succeeded it must."""
    told = dom0.json("confirm", dom0.run, code=3)
    assert (told["verdict"], told["confirmed"], told["problems"]) == ("unproven", False, [])
    assert why in told["unchecked"][0], told["unchecked"]
    assert "--succeeded" in told["unchecked"][0]
    assert not dom0.confirmed.exists()
    told = dom0.json("confirm", dom0.run, "--succeeded", code=0)
    assert told["verdict"] == "confirmed"
    assert json.loads((dom0.confirmed / f"{dom0.run}.json").read_text())["proof"] != (
        "backup_timestamp"
    )
    assert dom0.json("confirm", dom0.run, code=0)["verdict"] == "confirmed"  # it was, already


def refused(dom0: Dom0, why: str) -> None:
    """Confirm must say that the backup failed, whatever anybody saw."""
    for words in ((), ("--succeeded",)):
        told = dom0.json("confirm", dom0.run, *words, code=1)
        assert told["verdict"] == "not confirmed"
        assert any(why in text for text in told["problems"]), told["problems"]
    assert not dom0.confirmed.exists()


def test_proven(dom0: Dom0, backup: Backup) -> None:
    stamp = dom0.succeed(backup.backup_id)
    dom0.stamp(stamp + 1, "personal")
    assert dom0.json("confirm", dom0.run, code=0)["verdict"] == "confirmed"
    record = json.loads((dom0.confirmed / f"{dom0.run}.json").read_text())
    assert record["proof"] == "backup_timestamp"
    assert (record["stamp_first"], record["stamp_last"]) == (stamp, stamp + 1)
    assert (
        record["order"]
        == json.loads((dom0.root.ledgers / backup.backup_id).read_text().splitlines()[0])["order"]
    )


def test_qubes_notes_no_success(dom0: Dom0) -> None:
    dom0.stamp(None)
    refused(dom0, MISSING)


def test_the_stamps_of_before(dom0: Dom0) -> None:
    """The backup failed; the stamps are those of the last one that succeeded."""
    before = int(time.time()) - 86400
    content = [archives.Qube("work", 7, volumes={"private": b"w"}, stamp=before)]
    made = make_backup(dom0.root, "20261127T101500-1", content=content)
    dom0.serve(made.stream())
    dom0.stamp(before, "work")
    refused(dom0, "backup_timestamp of work is what it was")
    dom0.succeed(made.backup_id, "work")
    assert dom0.json("confirm", dom0.run, code=0)["verdict"] == "confirmed"


def test_dom0s_home_alone(dom0: Dom0) -> None:
    made = make_backup(dom0.root, "20261127T111500-1", content=[archives.Qube("dom0", 0)])
    dom0.serve(made.stream())
    unproven(dom0, "only dom0's home is in it")


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ((-90, "work"), "more than a minute apart"),
        ((-20,), "is earlier than the backup's last file"),
        ((2 * 3600,), "more than an hour later"),
    ],
    ids=["apart", "early", "late"],
)
def test_stamps_of_another_time(
    dom0: Dom0, backup: Backup, change: tuple[Any, ...], why: str
) -> None:
    stamp = dom0.succeed(backup.backup_id)
    with dom0.only_ledger(backup.backup_id):
        dom0.stamp(stamp + change[0], *change[1:])
        unproven(dom0, why)


def test_the_stamps_prove_another_run(dom0: Dom0, backup: Backup, other_backup: Backup) -> None:
    """Of the same qubes: one failed behind all files, the next one succeeded."""
    dom0.serve(other_backup.stream())
    dom0.succeed(other_backup.backup_id)
    other = dom0.run
    assert dom0.json("confirm", dom0.run, code=0)["verdict"] == "confirmed"
    dom0.serve(backup.stream())
    told = dom0.json("confirm", dom0.run, code=3)
    assert other in told["unchecked"][0]
    (dom0.confirmed / f"{other}.json").unlink()  # not even when the other one isn't confirmed
    dom0.confirmed.rmdir()
    unproven(dom0, f"backup {other_backup.backup_id} began at ")


def test_a_backup_of_more_qubes_set_the_stamps(dom0: Dom0, backup: Backup) -> None:
    """It went elsewhere, really encrypted, so dom0 has no ledger of it."""
    name = "not-in-it"  # by qubes.xml it was there when the backup began
    dom0.create(name)
    try:
        dom0.succeed(backup.backup_id, *QUBES, name)
        unproven(dom0, f"a backup that had {name} in it")
    finally:
        dom0.api(name, "admin.vm.Remove")


def test_a_really_encrypted_backup_set_the_stamps(dom0: Dom0, backup: Backup) -> None:
    """After this one had failed; the shim counted it, and noted when it began."""
    noted = dom0.root.path / "var/lib/qubes-dedup-backup/encrypted"
    counter = noted.with_name("order")
    with dom0.only_ledger(backup.backup_id):
        stamp = dom0.succeed(backup.backup_id)
        own = counter.stat().st_size
        first = json.loads((dom0.root.ledgers / backup.backup_id).read_text().splitlines()[0])
        os.truncate(counter, own + 1)
        try:
            for order, at, why in (
                (0, 0, "dom0 counted 1 backup(s) after this one"),
                (own + 1, stamp + 1, ""),
                (own + 1, stamp, "a backup began at "),
                # dom0's clock was ahead, and was put right between the two
                (own + 1, first["time"] - 600, "a backup began at "),
            ):
                noted.write_text(f'cut\n{{"order": {order}, "time": {at}}}\n')
                if why:
                    unproven(dom0, why)
                else:
                    assert dom0.json("confirm", dom0.run, code=0)["verdict"] == "confirmed"
                dom0.forget()
        finally:
            noted.unlink()


@pytest.mark.sampled(4)
@pytest.mark.parametrize("row", ["1796051796057054", "[" * 9000, "9" * 5000, '{"time": 1e400}', ""])
def test_note_that_makes_no_sense(dom0: Dom0, backup: Backup, row: str) -> None:
    """As a full disk leaves it; the backup was counted."""
    noted = dom0.root.path / "var/lib/qubes-dedup-backup/encrypted"
    with dom0.only_ledger(backup.backup_id):
        dom0.succeed(backup.backup_id)
        os.truncate(noted.with_name("order"), noted.with_name("order").stat().st_size + 1)
        noted.write_text(f"{row}\n")
        try:
            unproven(dom0, "dom0 counted 1 backup(s) after this one")
            dom0.forget()
            done = dom0("confirm")
            assert done.returncode == 2
            assert b"must be named to be confirmed" in done.stderr
        finally:
            noted.unlink()


def test_a_later_backup_that_was_forgotten(
    dom0: Dom0, backup: Backup, other_backup: Backup
) -> None:
    """What it set is not taken for this one's."""
    dom0.serve(other_backup.stream())
    dom0.succeed(other_backup.backup_id)
    assert dom0.json("confirm", dom0.run, code=0)["verdict"] == "confirmed"
    with ledger(dom0, other_backup.backup_id) as path:
        path.unlink()
        dom0.forget()
        dom0.serve(backup.stream())
        unproven(dom0, "after this one of which it has no record")


def test_a_copy_of_one_of_its_qubes(dom0: Dom0, backup: Backup) -> None:
    """qvm-clone copies the stamp; what is made since can't have been in the backup."""
    stamp = dom0.succeed(backup.backup_id)
    dom0.create("work-copy")
    try:
        dom0.stamp(stamp, "work-copy")
        assert dom0.json("confirm", dom0.run, code=0)["verdict"] == "confirmed"
        dom0.forget()
        dom0.stamp(stamp + 1, "work-copy")  # not copied
        unproven(dom0, "a backup that had work-copy in it")
        dom0.forget()
        dom0.succeed(backup.backup_id, *QUBES, "work-copy", later=1800)
        with dom0.only_ledger(backup.backup_id):
            unproven(dom0, "a backup that had work-copy in it")
    finally:
        dom0.api("work-copy", "admin.vm.Remove")


def test_a_qube_that_was_restored_or_made_anew_since(dom0: Dom0, backup: Backup) -> None:
    """It doesn't make a good backup a failed one; nor would it one in which others went on."""
    dom0.stamp(None, "work")
    unproven(dom0, "backup_timestamp of work is what it was before it, but not that of debian")
    dom0.forget()
    dom0.succeed(backup.backup_id)
    dom0.api("work", "admin.vm.Remove")
    dom0.create("work")
    unproven(dom0, "one was restored or created again since")


@pytest.mark.thorough
def test_compressed_files_whose_end_nobody_sees(dom0: Dom0) -> None:
    """One was cut, and half an hour later a backup of the same qubes succeeded elsewhere."""
    content = [
        archives.Qube("work", 7, volumes={"private": b"w" * 5000}),
        archives.Qube("personal", 8, volumes={"private": b"p" * 5000}),
    ]
    xml = gzip.compress(dict(archives.inner_archives(content))["qubes.xml"])
    backup_id = "20261129T101500-1"
    made = make_backup(dom0.root, backup_id, xml, content=content, cut="vm8/private.img")
    dom0.serve(made.stream())
    for words in ((), ("--data",)):
        told = dom0.json("verify", dom0.run, *words, code=3)
        assert "whether its files reach their end" in told["unchecked"][0]
    with dom0.without_ledger():
        told = dom0.json("verify", dom0.run, "--data", code=3)
        assert any("whether its files reach their end" in text for text in told["unchecked"])
    with dom0.only_ledger(backup_id):
        dom0.stamp(None)
        dom0.succeed(backup_id, "work", "personal", later=1800)
        unproven(dom0, "more than ten minutes later than its last file")
        dom0.forget()
        dom0.succeed(backup_id, "work", "personal", later=300)
        assert dom0.json("confirm", dom0.run, code=0)["verdict"] == "confirmed"
        assert dom0.json("verify", dom0.run, code=0)["verdict"] == "right"


def test_a_qube_that_is_gone(dom0: Dom0) -> None:
    dom0.api("debian", "admin.vm.Remove")
    try:
        told = dom0.json("confirm", dom0.run, code=0)
        assert told["verdict"] == "confirmed"
        assert "debian can't be asked any more" in told["notes"][0]
    finally:
        dom0.create("debian")


def test_all_its_qubes_are_gone(dom0: Dom0) -> None:
    content = [archives.Qube("gone", 12, volumes={"private": b"g"})]
    made = make_backup(dom0.root, "20261127T121500-1", content=content)
    dom0.serve(made.stream())
    unproven(dom0, "none of its qubes is there any more")


def test_a_ledger_of_an_older_version(dom0: Dom0, backup: Backup) -> None:
    with dom0.only_ledger(backup.backup_id), ledger(dom0, backup.backup_id) as path:
        rewrite(path, time=None, zeros=None, order=None, offset=None)
        done = dom0("confirm")
        assert done.returncode == 2
        assert b"name the run to confirm" in done.stderr
        unproven(dom0, "its ledger is of an older version")
        assert dom0.json("verify", code=0)["verdict"] == "right"
        assert "order" not in json.loads((dom0.confirmed / f"{dom0.run}.json").read_text())


@pytest.mark.sampled(4)
@pytest.mark.parametrize("row", [{"zeros": 1025}, {"time": "x"}, {"order": 0}, {"order": True}])
def test_a_ledger_that_makes_no_sense(dom0: Dom0, backup: Backup, row: dict[str, Any]) -> None:
    with ledger(dom0, backup.backup_id) as path:
        rewrite(path, **row)
        done = dom0("confirm", dom0.run)
        assert done.returncode == 4
        assert str(path).encode() in done.stderr
    assert not dom0.confirmed.exists()


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", ["vm7/private.img", "dom0-home/user", "vm7/firewall.xml"])
def test_a_file_that_ends_in_its_middle(dom0: Dom0, name: str) -> None:
    """Its tar died in dom0, so the backup failed; a store that lies calls the run whole."""
    content = [
        archives.Qube("work", 7, volumes={"private": b"w" * 5000}, files={"firewall.xml": b"<x/>"}),
        archives.Qube("dom0", 0),
    ]
    backup_id = f"20261128T101500-{len(name)}"
    made = make_backup(dom0.root, backup_id, content=content, cut=name)
    dom0.serve(made.stream())
    whole = (dom0.answers / "show").read_bytes().replace(b'"partial"', b'"whole"', 1)
    honest = (dom0.answers / "show").read_bytes()
    assert whole != honest
    dom0.succeed(backup_id, "work")
    for answer in (honest, whole):
        (dom0.answers / "show").write_bytes(answer)
        refused(dom0, f"{name} stops before its end")
        for words in ((), ("--data",)):
            told = dom0.json("verify", dom0.run, *words, code=1)
            assert told["verdict"] == "wrong"
    with dom0.without_ledger():  # a new machine: the archive itself tells
        told = dom0.json("verify", dom0.run, "--data", code=1)
        assert any(f"{name} stops before its end" in text for text in told["problems"])


def test_what_the_store_calls_partial(dom0: Dom0) -> None:
    head, _, rest = (dom0.answers / "show").read_bytes().partition(b"\n")
    row = json.loads(head) | {"status": "partial", "reason": "so it is"}
    (dom0.answers / "show").write_bytes(json.dumps(row).encode() + b"\n" + rest)
    refused(dom0, "the store calls it partial: so it is")
    for words in ((), ("--data",)):
        assert dom0.json("verify", dom0.run, *words, code=1)["verdict"] == "wrong"


def test_a_last_chunk_may_be_short_or_empty(dom0: Dom0) -> None:
    """A tar archive's end lies over two chunks then."""
    for number, over in enumerate((0, 100, 1023, 1024)):
        data = archives.noise(50 * 1024)
        chunk = len(archives.sparse_archive("vm7/private.img", data)) - over
        content = [archives.Qube("work", 7, volumes={"private": data})]
        backup_id = f"20261128T1115{number:02}-1"
        made = make_backup(dom0.root, backup_id, content=content, chunk=chunk)
        assert len(made.member("vm7/private.img.001.enc")) == 128 + over
        dom0.serve(made.stream())
        dom0.succeed(backup_id, "work")
        told = json.loads(dom0("verify", dom0.run, "--data", "--json").stdout)
        assert not any("stops before its end" in text for text in told["problems"]), told
