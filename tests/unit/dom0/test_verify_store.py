# SPDX-License-Identifier: GPL-3.0-or-later
"""confirm, verify and list, with a backup by the real shim in the real dedup-store."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.dom0.backup import Backup, join, make_backup
from testing.dom0.system import QUBE, REPOSITORY, Dom0, run_name
from testing.store.driver import Store, mostly


@pytest.fixture(params=("restic", "borg", "directory"))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A real, empty repository."""
    made = Store(tmp_path, request.param)
    made.configure()
    made.make()
    return made


@pytest.fixture
def newest(dom0: Dom0, backup: Backup) -> Iterator[None]:
    """Let there be no later backup."""
    with dom0.only_ledger(backup.backup_id):
        yield


@pytest.mark.sampled(2)
@mostly("store", "restic", "directory")
def test_from_confirm_to_verify(dom0: Dom0, whole_backup: Backup, store: Store) -> None:
    backup = whole_backup
    run = store.put(backup.stream())["run"]
    dom0.real_store(store.environment)
    stamp = dom0.succeed(backup.backup_id)
    assert dom0("verify").returncode == 2  # nothing is confirmed yet
    assert dom0.json("list", code=0)["runs"][0]["dom0"] == "unconfirmed"
    assert dom0.json("verify", run, code=0)["confirmed"] is False

    with dom0.only_ledger(backup.backup_id):
        confirmed = dom0.json("confirm", code=0)
    assert (confirmed["run"], confirmed["verdict"]) == (run, "confirmed")
    assert confirmed["qubes"] == ["debian", "work", "personal", "dom0"]
    assert confirmed["members"] == len(backup.parts)
    record = json.loads((dom0.confirmed / f"{run}.json").read_text())
    assert record["backup_id"] == backup.backup_id
    assert (record["qube"], record["repository"]) == (QUBE, REPOSITORY)
    assert (record["stamp_first"], record["stamp_last"]) == (stamp, stamp)
    assert dom0.confirmed.stat().st_mode & 0o777 == 0o700
    assert (dom0.confirmed / f"{run}.json").stat().st_mode & 0o777 == 0o600

    for words in ((), ("--data",)):
        result = dom0.json("verify", *words, code=0)
        assert (result["run"], result["verdict"]) == (run, "right")
        assert result["problems"] == result["unchecked"] == []
        assert result["bytes"] == confirmed["bytes"]
    assert dom0.json("list", code=0)["runs"][0]["dom0"] == "confirmed"

    with dom0.without_ledger():
        for words in ((), ("--data",)):
            result = dom0.json("verify", run, *words, code=3)
            assert (result["problems"], len(result["unchecked"])) == ([], 1)
            assert result["qubes"] == confirmed["qubes"]

    partial = store.put(join(backup.parts[:-1]), code=3)["run"]
    assert any("missing" in text for text in dom0.json("confirm", partial, code=1)["problems"])
    assert [path.stem for path in dom0.confirmed.iterdir()] == [run]
    assert dom0.json("verify", code=0)["run"] == run


@mostly("store", "restic", "directory")
def test_damaged_repository(dom0: Dom0, whole_backup: Backup, store: Store) -> None:
    run = store.put(whole_backup.stream())["run"]
    dom0.real_store(store.environment)
    dom0.succeed(whole_backup.backup_id)
    assert dom0("confirm", run).returncode == 0
    packs = [p for p in store.repository.rglob("*") if p.is_file() and p.stat().st_size > 100_000]
    for path in packs:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.chmod(0o600)
        path.write_bytes(data)
    assert packs
    assert dom0("verify", run, "--data").returncode == 1


@pytest.mark.usefixtures("newest")
def test_a_lost_run(dom0: Dom0, backup: Backup) -> None:
    assert dom0.json("confirm", code=0)["run"] == dom0.run
    dom0.answer(b"", b"", b"")
    result = dom0.json("list", code=1)["runs"]
    assert [(row["run"], row["store"], row["dom0"]) for row in result] == [
        (dom0.run, "missing", "confirmed")
    ]
    assert b"has lost 1 confirmed run" in dom0("list").stderr
    done = dom0("confirm")
    assert done.returncode == 1
    assert f"{backup.backup_id}, is not in the store".encode() in done.stderr
    dom0.store("echo 'dedup-store: there is no run' >&2; exit 4")
    assert "there is no run" in dom0.json("verify", code=1)["problems"][0]


def test_confirm_without_a_ledger(dom0: Dom0, backup: Backup) -> None:
    with dom0.without_ledger():
        done = dom0("confirm", dom0.run)
        assert done.returncode == 2
        assert f"no ledger of backup {backup.backup_id}".encode() in done.stderr
        assert b"there is no ledger in" in dom0("confirm").stderr
        assert dom0.json("list", code=0)["runs"][0]["dom0"] == "no ledger"


@pytest.mark.parametrize(
    "tail", [b"", b'{"member": "x"}\n', b'{"member'], ids=["twice", "keys", "cut"]
)
def test_damaged_ledger(dom0: Dom0, backup: Backup, tail: bytes) -> None:
    path = dom0.root.ledgers / backup.backup_id
    whole = path.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    path.write_bytes(whole + (tail or last))
    try:
        done = dom0("confirm", dom0.run)
    finally:
        path.write_bytes(whole)
    assert done.returncode == 4
    assert str(path).encode() in done.stderr
    assert not dom0.confirmed.exists()


def test_a_ledger_that_misses_a_member(dom0: Dom0, backup: Backup) -> None:
    path = dom0.root.ledgers / backup.backup_id
    whole = path.read_bytes()
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    try:
        result = dom0.json("confirm", dom0.run, code=1)
    finally:
        path.write_bytes(whole)
    assert result["problems"][0] == f"{backup.names[-1]} is not in the ledger"


def test_the_store_on_the_command_line(dom0: Dom0) -> None:
    dom0.profile("include: null\n")
    assert b"give --qube and --repository" in dom0("list").stderr
    dom0.profile("destination_path: dedup-store put\n")
    assert b"isn't the name of a qube" in dom0("list").stderr
    named = ("--qube", QUBE, "--repository", REPOSITORY)
    assert dom0.json("list", *named, code=0)["runs"][0]["run"] == dom0.run
    done = dom0("list", "--profile", "other")
    assert done.returncode == 2
    assert b"there is no" in done.stderr
    done = dom0("list", "--qube", "nobody", "--repository", REPOSITORY)
    assert done.returncode == 4
    assert b"there is no qube nobody" in done.stderr


@pytest.mark.parametrize(
    "command",
    ["/usr/bin/dedup-store put", "/usr/lib/x/dedup-store --json put", "dedup-store {} put"],
)
def test_the_store_by_the_path_of_the_program(dom0: Dom0, command: str) -> None:
    named = f"--repository {REPOSITORY}"
    text = command.format(named) if "{}" in command else f"{command} {named}"
    dom0.profile(f"destination_vm: {QUBE}\ndestination_path: {text}\n")
    try:
        assert dom0.json("list", code=0)["runs"][0]["run"] == dom0.run
    finally:
        dom0.profile()


def test_passphrases(dom0: Dom0, tmp_path: Path) -> None:
    assert dom0("verify", dom0.run, "--data").returncode == 0
    dom0.profile(f"destination_vm: {QUBE}\ndestination_path: dedup-store put\n")
    done = dom0("verify", dom0.run, "--data")
    assert (done.returncode, b"use --passphrase-file" in done.stderr) == (2, True)
    (tmp_path / "secret").write_text("dedup:correct-horse-battery-staple\nnot this\n")
    assert (
        dom0("verify", dom0.run, "--data", "--passphrase-file", str(tmp_path / "secret")).returncode
        == 0
    )
    assert dom0("verify", dom0.run).returncode == 0  # the ledger needs none


def test_not_as_user(dom0: Dom0) -> None:
    dom0.lab.state.chmod(0o711)
    try:
        done = dom0("list", prefix=("setpriv", "--reuid=65534", "--clear-groups", "--"))
    finally:
        dom0.lab.state.chmod(0o700)
    assert done.returncode == 2
    assert b"use sudo" in done.stderr


def test_a_run_that_nobody_confirmed_is_no_default(dom0: Dom0, other_backup: Backup) -> None:
    dom0.serve(other_backup.stream())
    dom0.succeed(other_backup.backup_id)
    assert dom0.json("confirm", dom0.run, code=0)["verdict"] == "confirmed"
    assert dom0.json("verify", code=0)["run"] == run_name(other_backup.backup_id)


def test_a_compression_that_python_does_not_know(dom0: Dom0) -> None:
    zstd = b"\x28\xb5\x2f\xfd" + bytes(range(200))
    dom0.serve(make_backup(dom0.root, "20261126T101500-4711", zstd).stream())
    for words in (("confirm", dom0.run), ("verify", dom0.run, "--data")):
        report = dom0.json(*words, code=3)
        assert report["problems"] == []
        assert "qubes.xml is compressed in another way" in report["unchecked"][0]
    assert not dom0.confirmed.exists()
