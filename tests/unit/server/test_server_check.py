# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands check and stats with a storage qube, through the service that only adds."""

import json
import os

from testing.server.storage_qube import QUBE, QrexecStore
from testing.store import archives
from testing.store.driver import mostly


@mostly("store", "restic")
def test_check(store: QrexecStore) -> None:
    """Damage on the storage qube's side is found through the service that only adds."""
    qubes = archives.small_qubes()
    qubes[1].volumes["private"] = archives.noise(17 << 20, 7)
    run = store.put(archives.join(archives.members(qubes)))["run"]
    well = store.run("check", "--json")
    assert well.returncode == 0, well
    report = json.loads(well.stdout)
    assert [row["run"] for row in report["runs"] if row["ok"]] == [run]
    # who holds the files checked them: that is said
    assert ("storage qube" in report["repository"]["message"]) is (store.engine == "borg")
    stats = json.loads(store.run("stats", "--json").stdout)
    assert 17 << 20 < stats["stored_bytes"] < 18 << 20

    assert store.qube is not None
    files = (store.qube.data / "main").glob("data/*/*")
    largest = max(files, key=lambda path: path.stat().st_size)
    largest.chmod(0o600)
    with largest.open("r+b") as file:
        byte = os.pread(file.fileno(), 1, largest.stat().st_size // 2)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 1]), largest.stat().st_size // 2)
    found = store.run("check", "--json", "--read-data")
    assert found.returncode == 5, found
    report = json.loads(found.stdout)
    assert report["repository"]["ok"] is False
    (row,) = report["runs"]
    assert (row["run"], row["ok"], row["damaged"]) == (run, False, ["work"])
    assert row["restorable"] == ["debian", "disp", "dom0"]
    assert store.run("get", run, "--members", "vm5/").returncode == 0
    calls = set((store.qube.folder / "calls").read_text().splitlines())
    assert calls == {f"{QUBE} dedupbackup.Repository+{store.engine}+main"}


@mostly("store", "restic")
def test_out_of_reach(store: QrexecStore) -> None:
    """That is no damage."""
    store.put(archives.join(archives.members(archives.small_qubes())))
    assert store.qube is not None
    (store.qube.data / "main").rename(store.qube.data / "other")
    result = store.run("check", "--json")
    assert result.returncode == 1, result
    assert json.loads(result.stdout)["exit_code"] == 1
