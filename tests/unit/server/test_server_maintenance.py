# SPDX-License-Identifier: GPL-3.0-or-later
"""Maintenance: full access, for as long as dom0 keeps it open."""

import json
import subprocess

import pytest

from testing.server.maintenance import backup, is_refused, last_transaction, opened, small
from testing.server.storage_qube import QrexecStore, StorageQube
from testing.store.driver import mostly


@pytest.mark.thorough
@mostly("store", "restic")
def test_prune_while_it_is_open(store: QrexecStore, qube: StorageQube) -> None:
    argument = f"{store.engine}+main"
    first, second = store.put(small())["run"], store.put(backup())["run"]
    assert is_refused(qube, argument)
    with opened(qube, argument) as opener:
        if store.engine == "restic":
            listing = store.engine_itself("snapshots", "--json", "--tag", f"run={first}").stdout
            ids = [snapshot["id"] for snapshot in json.loads(listing)]
            result = store.engine_itself("forget", "--prune", *ids, service="Maintenance")
        else:
            result = store.engine_itself(
                *("delete", "-a", f"{first}*", "--force"), service="Maintenance"
            )
            assert result.returncode == 0, result.stderr
            result = store.engine_itself("compact", "--threshold", "0", service="Maintenance")
        assert result.returncode == 0, result.stderr
        assert opener.stdin is not None
        opener.stdin.close()
        assert opener.wait() == 0
    assert is_refused(qube, argument)
    assert [run["run"] for run in store.runs()] == [second]
    assert store.get() == backup()


def test_only_dom0_opens_it(qube: StorageQube) -> None:
    qube.configure("main", "borg")
    for caller in ("dedup-backup", "dom01", ""):
        result = qube.call("dedupbackup.MaintenanceOpen", "borg+main", caller=caller)
        assert result.returncode == 3
        assert b"only dom0 opens maintenance" in result.stderr
    assert list((qube.folder / "run").iterdir()) == []


def test_it_is_for_one_repository(qube: StorageQube) -> None:
    for name, engine in (("main", "borg"), ("other", "borg")):
        qube.configure(name, engine)
    with opened(qube, "borg+main") as opener:
        again = qube.call("dedupbackup.MaintenanceOpen", "borg+main", caller="dom0")
        assert again.returncode == 1
        assert b"is open already" in again.stderr
        assert not is_refused(qube, "borg+main")
        assert is_refused(qube, "borg+other")
        opener.kill()


@pytest.mark.sampled(4)
@pytest.mark.parametrize("how", ["kill", "terminate", "time", "owner"])
def test_it_closes_by_itself(qube: StorageQube, how: str) -> None:
    qube.configure("main", "restic")
    note = qube.folder / "run" / "restic+main"
    with opened(qube, "restic+main") as opener:
        assert not is_refused(qube, "restic+main")
        if how == "time":
            note.write_text("1")
        elif how == "owner":
            note.chmod(0o666)
            subprocess.run(["chown", "nobody", note], check=True)
        else:
            getattr(opener, how)()
            opener.wait()
        assert is_refused(qube, "restic+main")
        opener.kill()
    if how == "kill":  # what a crash leaves doesn't count, and can be opened anew
        assert note.exists()
        with opened(qube, "restic+main") as opener:
            assert not is_refused(qube, "restic+main")
            opener.kill()


def test_a_session_ends_when_it_is_closed(borg: QrexecStore, qube: StorageQube) -> None:
    borg.put(small())
    with (
        opened(qube, "borg+main") as opener,
        qube.start("dedupbackup.Maintenance", "borg+main") as session,
    ):
        mark = qube.data / "main.kept" / "maintenance"
        while not mark.exists():
            assert session.poll() is None
        busy = qube.call("dedupbackup.Repository", "borg+main")
        assert busy.returncode == 1
        assert b"maintenance or a rollback is using repository main" in busy.stderr
        opener.kill()
        opener.wait()
        assert session.wait() == 3
        assert session.stderr is not None
        assert b"maintenance was closed" in session.stderr.read()
    assert len(borg.runs()) == 1


@pytest.mark.thorough
def test_no_rollback_behind_maintenance(borg: QrexecStore, qube: StorageQube) -> None:
    """Also when it crashed: what it compacted is gone."""
    borg.put(small())
    good = last_transaction(qube)
    borg.put(small())
    with opened(qube, "borg+main") as opener:
        with qube.start("dedupbackup.Maintenance", "borg+main") as session:
            mark = qube.data / "main.kept" / "maintenance"
            while not mark.exists():
                assert session.poll() is None
            session.kill()
        opener.kill()
    assert mark.read_text() == "open"
    result = qube.run("rollback", "main", "--to", str(good))
    assert result.returncode == 1
    assert "is older than the last maintenance" in result.stderr
    borg.put(small())
    assert len(borg.runs()) == 3
    newest = last_transaction(qube)
    borg.put(small())
    assert qube.run("rollback", "main", "--to", str(newest)).returncode == 0
