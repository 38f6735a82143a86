# SPDX-License-Identifier: GPL-3.0-or-later
"""What maintenance removed is held back: shown, brought back, let go."""

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from testing.server.borg_rpc import Client as BorgClient
from testing.server.http2 import Client
from testing.server.maintenance import (
    accept_older,
    backup,
    close,
    last_transaction,
    opened,
    small,
    tree,
)
from testing.server.storage_qube import PAYLOAD, QrexecStore, StorageQube
from testing.store.driver import mostly

ROW = re.compile(r"^(\d{8}T\d{6}Z) +(\d+) +(\d+|-) +(\d+)$", re.MULTILINE)

NAMES = ("config", "keys/a", "snapshots/b", "index/c", "data/dd", "data/ee", "data/ff")


def rows(qube: StorageQube) -> list[tuple[str, int, str, int]]:
    """What `changes` tells of maintenance: time, files, snapshots, bytes."""
    result = qube.run("changes", "main")
    assert result.returncode == 0, result.stderr
    return [(a, int(b), c, int(d)) for a, b, c, d in ROW.findall(result.stdout)]


def next_second() -> None:
    """Times in names are of seconds."""
    now = time.time()
    while int(time.time()) == int(now):
        time.sleep(0.02)


def destroy(qube: StorageQube) -> None:
    """A hostile client of borg's."""
    with qube.start("dedupbackup.Maintenance", "borg+main") as server:
        client = BorgClient(server)
        client.open()
        client.call("destroy")
        server.communicate()


def ruin(qube: StorageQube) -> None:
    """One of restic's: overwrites files in place, removes all, and blocks names."""
    with qube.start("dedupbackup.Maintenance", "restic+main") as server:
        web = Client(server)
        names = sorted(tree(qube.data / "main"))
        for number, name in enumerate(names):
            short = "data/" + name.rpartition("/")[2] if name.startswith("data/") else name
            if number % 2:
                web.request("POST", f"/{short}", b"overwritten")
            else:
                assert web.request("DELETE", f"/{short}").status == 200
        web.request("DELETE", "/config")
        web.request("POST", "/config/x", b"in the way")
        server.kill()


def remove_all(store: QrexecStore, runs: list[str]) -> None:
    """The same with the engine: forget and prune everything."""
    if store.engine == "restic":
        listing = json.loads(store.engine_itself("snapshots", "--json").stdout)
        ids = [snapshot["id"] for snapshot in listing]
        result = store.engine_itself("forget", "--prune", *ids, service="Maintenance")
    else:
        names = [f"{run}.{part}" for run in runs for part in ("payload", "manifest")]
        result = store.engine_itself("delete", f"::{names[0]}", *names[1:], service="Maintenance")
        assert result.returncode == 0, result.stderr
        result = store.engine_itself("compact", "--threshold", "0", service="Maintenance")
    assert result.returncode == 0, result.stderr


@pytest.mark.thorough
@mostly("store", "restic")
def test_all_that_was_removed_comes_back(store: QrexecStore, qube: StorageQube) -> None:
    """Everything is forgotten and pruned in a maintenance, and in the next one all is destroyed."""
    argument = f"{store.engine}+main"
    run = store.put(backup())
    assert rows(qube) == []
    with opened(qube, argument) as opener:
        remove_all(store, [run["run"]])
        said = close(opener)
    [(when, files, snapshots, size)] = rows(qube)
    assert files > 3
    assert snapshots.isdecimal() == (store.engine == "restic")
    assert said == b"held %d\n" % size
    store.put(small())
    next_second()
    with opened(qube, argument) as opener:
        (destroy if store.engine == "borg" else ruin)(qube)
        close(opener)
    for service in ("Repository", "Maintenance"):
        with opened(qube, argument) as opener:
            refused = qube.call(f"dedupbackup.{service}", argument)
            assert refused.returncode == 1
            assert b"changes main` lists what a rollback can bring back" in refused.stderr
            close(opener)
    assert rows(qube)[0][0] == when
    result = qube.run("rollback", "main", "--to", when)
    assert result.returncode == 0, result.stderr
    if store.engine == "borg":
        accept_older(store)
    assert store.runs() == [run]
    assert store.get() == backup()
    [away] = (qube.data / "main.kept").glob("rolled-back.*")
    assert (away / "main").is_dir() == (store.engine == "restic")  # borg's was gone
    assert str(away) in qube.run("changes", "main").stdout
    assert store.put(small())["status"] == "whole"


@pytest.fixture
def bare(qube: StorageQube) -> StorageQube:
    """With files as restic names them, in a repository `main`."""
    qube.configure("main", "restic")
    with qube.start("dedupbackup.Repository", "restic+main") as server:
        web = Client(server)
        web.request("POST", "/?create=true", b"")
        for name in NAMES:
            assert web.request("POST", f"/{name}", name.encode() * 100).status == 200
        server.kill()
    return qube


def ruin_in_maintenance(qube: StorageQube) -> Path:
    """Give the folder that holds back what there was."""
    with opened(qube, "restic+main") as opener:
        ruin(qube)
        close(opener)
    [held] = (qube.data / "main.kept").glob("held.*")
    return held


def test_a_file_that_is_overwritten_comes_back(bare: StorageQube) -> None:
    """Debian's rclone overwrites in place, and a hard link would have the new bytes."""
    path = bare.data / "main"
    before = tree(path)
    assert len(before) == 7
    ruin_in_maintenance(bare)
    [(when, files, snapshots, size)] = rows(bare)
    assert (files, snapshots) == (4, "1")  # what was to be overwritten was refused
    assert size == 100 * sum(map(len, sorted(NAMES)[::2]))
    assert bare.run("rollback", "main", "--to", when).returncode == 0
    assert tree(path) == before
    [away] = (bare.data / "main.kept").glob("rolled-back.*")
    assert (away / "main/config/x").read_bytes() == b"in the way"


def test_what_is_due_goes_when_the_next_maintenance_begins(bare: StorageQube) -> None:
    first, config = ruin_in_maintenance(bare), bare.data / "main/config"
    shutil.rmtree(config)
    os.link(first / "files/config", config)
    week = time.gmtime(time.time() - 7 * 86400 - 60)
    older = first.with_name(f"held.{time.strftime('%Y%m%dT%H%M%SZ', week)}.{'0' * 16}")
    first.rename(older)
    young = time.gmtime(time.time() - 7 * 86400 + 3600)
    kept = first.with_name(f"held.{time.strftime('%Y%m%dT%H%M%SZ', young)}.{'1' * 16}")
    shutil.copytree(older, kept, copy_function=os.link)
    with opened(bare, "restic+main") as opener:
        assert older.exists()  # nothing came, so nothing goes
        bare.call("dedupbackup.Maintenance", "restic+main")
        close(opener)
    assert not older.exists()
    assert kept.exists()
    bare.configure("main", "restic", keep_removed_days=0)
    with opened(bare, "restic+main") as opener:
        bare.call("dedupbackup.Maintenance", "restic+main")
        close(opener)
    assert not kept.exists()


def test_nothing_is_held_of_a_maintenance_that_removed_nothing(bare: StorageQube) -> None:
    for _ in range(3):
        with opened(bare, "restic+main") as opener:
            for _ in range(2):  # one folder for all sessions
                bare.call("dedupbackup.Maintenance", "restic+main")
            assert close(opener) == b"held 0\n"
        assert len(list((bare.data / "main.kept").glob("held.*"))) == 1
    assert rows(bare) == []


def test_discard(bare: StorageQube) -> None:
    with opened(bare, "restic+main") as opener:
        ruin(bare)
        result = bare.run("discard", "main")
        assert result.returncode == 3
        assert "maintenance of main open" in result.stderr
        close(opener)
    variables = bare.environment | {"QREXEC_REMOTE_DOMAIN": "dom0"}
    by_qrexec = subprocess.run(
        [PAYLOAD / "dedup-server", "discard", "main"],
        env=variables,
        capture_output=True,
        check=False,
    )
    assert by_qrexec.returncode == 3
    assert b"for a person" in by_qrexec.stderr
    [held] = (bare.data / "main.kept").glob("held.*")
    with (held / "files/config").open("rb") as still_open:
        result = bare.run("discard", "main")
        assert os.fstat(still_open.fileno()).st_nlink == 0
    assert result.returncode == 0, result.stderr
    assert re.match(r"freed [0-9.]+ (bytes|kB), held back of 1 maintenance", result.stdout)
    assert not held.exists()
    assert rows(bare) == []


def test_no_service_discards() -> None:
    words = {service.read_text().split()[-3] for service in (PAYLOAD / "rpc").iterdir()}
    assert words == {"serve", "maintain", "maintenance-open"}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("at", ["unfinished", "prepared", "old away", "new there"])
def test_an_interrupted_rollback_is_ended(bare: StorageQube, at: str) -> None:
    """Whoever comes next ends it; what isn't complete yet is removed."""
    path, place = bare.data / "main", bare.data / "main.kept"
    before = tree(path)
    held, name = ruin_in_maintenance(bare), "20990101T000000Z"
    ruined = tree(path)
    back, away = place / f"back.{name}", place / f"rolled-back.{name}"
    shutil.copytree(held, place / "back.new" if at == "unfinished" else back, copy_function=os.link)
    if at in ("old away", "new there"):
        away.mkdir()
        path.rename(away / "main")
    if at == "new there":
        (back / "files").rename(path)
    result = bare.call("dedupbackup.Repository", "restic+main")
    if at == "unfinished":  # still ruined
        assert result.returncode == 1
        assert tree(path) == ruined
    else:
        assert result.returncode == 0, result.stderr
        assert tree(path) == before
        assert tree(away / "main") == ruined
    assert list(place.glob("back.*")) == []
    assert held.exists()


@pytest.mark.parametrize("at", ["linking", "letting go"])
def test_interrupted_holding_is_ended(bare: StorageQube, at: str) -> None:
    """Half a state is never taken for all of it."""
    place = bare.data / "main.kept"
    before = tree(bare.data / "main")
    (place / "held.new/files/data").mkdir(parents=True)
    if at == "linking":
        os.link(bare.data / "main/config", place / "held.new/files/config")
    held = ruin_in_maintenance(bare)
    assert tree(held / "files") == before
    assert bare.run("rollback", "main", "--to", held.name.split(".")[1]).returncode == 0
    assert tree(bare.data / "main") == before


@pytest.mark.thorough
def test_a_rollback_brings_back_how_far_borg_s_can_go(borg: QrexecStore, qube: StorageQube) -> None:
    borg.put(small())
    good = last_transaction(qube)
    borg.put(small())
    with opened(qube, "borg+main") as opener:
        destroy(qube)
        close(opener)
    [(when, *_)] = rows(qube)
    assert qube.run("rollback", "main", "--to", when).returncode == 0
    assert qube.run("rollback", "main", "--to", str(good)).returncode == 0
    accept_older(borg)
    assert len(borg.runs()) == 1


def test_rollback_of_what_is_not_held(bare: StorageQube) -> None:
    before = tree(bare.data)
    for wanted, said in (("20261130T000000Z", "nothing is held back of"), ("7", "--to takes")):
        result = bare.run("rollback", "main", "--to", wanted)
        assert result.returncode == 2
        assert said in result.stderr
    assert tree(bare.data) == before


@pytest.mark.parametrize("command", [("discard", "main"), ("rollback", "main", "--to", "7")])
def test_another_user_than_the_services(bare: StorageQube, command: tuple[str, ...]) -> None:
    """What root would put there, the service couldn't read."""
    shutil.chown(bare.data / "main", "nobody")
    before = tree(bare.data)
    result = bare.run(*command)
    assert result.returncode == 2
    assert "sudo -u 'nobody'" in result.stderr
    assert tree(bare.data) == before


def test_nothing_can_be_held_elsewhere(qube: StorageQube) -> None:
    """A server or remote of rclone's: it is told where people look, and to dom0."""
    qube.configure("main", "restic", place="ssh://host/srv")
    result = qube.run("changes", "main")
    assert result.returncode == 2
    assert "is not held back there" in result.stderr
    with opened(qube, "restic+main") as opener:
        assert close(opener) == b"unheld\n"


def test_nothing_can_be_held_without_hard_links(bare: StorageQube, tmp_path: Path) -> None:
    path, bound = bare.data / "main", tmp_path / "bound"
    bound.write_text(f'#!/bin/sh\nmount --bind {path} {path} && exec "$@"\n')
    bound.chmod(0o755)
    with opened(bare, "restic+main") as opener:
        bare.prefix = ("unshare", "--mount", str(bound))
        result = bare.call("dedupbackup.Maintenance", "restic+main")
        bare.prefix = ()
        assert b"can't hold back what this maintenance removes" in result.stderr
        assert close(opener) == b"unheld\n"
    assert "nothing of the last maintenance is held back" in bare.run("changes", "main").stdout
    ruin_in_maintenance(bare)
    assert "nothing is" not in bare.run("changes", "main").stdout
