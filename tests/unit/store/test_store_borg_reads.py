# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading a borg repository never writes to it."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from testing.store import archives
from testing.store.driver import PAYLOAD, Store

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount"),
]

MOUNTS = {
    "read-only": "mount --bind {repo} {repo} && mount -o remount,ro,bind {repo}",
    "full": (
        "cp -a {repo} {repo}.copy && mount -t tmpfs -o size=8m tmpfs {repo}"
        " && cp -a {repo}.copy/. {repo} && rm {repo}/dedup-store.reserve"
        " && {{ cat /dev/zero >{repo}/more 2>/dev/null || true; }}"
    ),
}


def backup(seed: int) -> bytes:
    data = archives.noise(300_000, seed)
    return archives.join(archives.members([archives.Qube("work", 7, volumes={"private": data})]))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("how", MOUNTS)
def test_reading_where_nothing_can_be_written(borg_store: Store, how: str) -> None:
    """Also after what needs to write failed; that says why, soon."""
    store, data = borg_store, backup(1)
    run = store.put(data)["run"]
    (store.folder / "sent").write_bytes(data)
    program = str(PAYLOAD / "dedup-store")
    script = MOUNTS[how].format(repo=store.repository) + (
        f"\nfor command in 'forget {run}' put; do {program} $command <$SENT; echo $?; done"
        f"\n{program} list; echo $?"
        f"\n{program} get latest | cmp - $SENT; echo $?; {program} init --check; echo $?"
    )
    variables = store.environment | {"SENT": str(store.folder / "sent")}
    command = ["unshare", "--mount", "sh", "-c", script]
    result = subprocess.run(
        command, env=variables, capture_output=True, text=True, check=False, timeout=300
    )
    codes = [line for line in result.stdout.splitlines() if line.isdecimal()]
    assert codes == ["1", "1", "0", "0", "0"], result
    assert f"\n{run} " in result.stdout
    why = {"read-only": "Read-only file system", "full": "No space left on device"}[how]
    assert why in result.stderr
    assert ("forget and prune need" in result.stderr) is (how == "full")  # put doesn't begin
    assert "Traceback" not in result.stderr


def test_check_where_nothing_can_be_written(borg_store: Store) -> None:
    """The engine can't; all runs are read instead, if that is wanted."""
    store = borg_store
    run = store.put(backup(1))["run"]
    program = str(PAYLOAD / "dedup-store")
    script = MOUNTS["read-only"].format(repo=store.repository) + (
        f"\n{program} check; echo $?; {program} check --read-data; echo $?"
    )
    result = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        env=store.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.stdout == f"1\nrepository: ok\n{run} (whole): ok\n0\n", result
    first, second = result.stderr.splitlines()
    assert "`dedup-store check --read-data` reads and compares all runs" in first
    assert "warning: borg's own check is left out, as it needs to write" in second


SHM = Path("/dev/shm")  # noqa: S108 -- it is only looked at
HOMES = {
    "read-only": "mount --bind {home} {home} && mount -o remount,ro,bind {home}",
    "full": (
        "cp -a {home} {home}.copy && mount -t tmpfs -o size=8m tmpfs {home}"
        " && cp -a {home}.copy/. {home} && {{ cat /dev/zero >{home}/more 2>/dev/null || true; }}"
    ),
}


def read_with_home(store: Store, how: str, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script where the home folder is like that; dedup-store is $STORE there."""
    place = HOMES[how].format(home=store.folder / "home")
    variables = store.environment | {
        "STORE": str(PAYLOAD / "dedup-store"),
        "TMPDIR": tempfile.gettempdir(),
    }
    command = ["unshare", "--mount", "sh", "-c", f"set -e; {place}\n{script}"]
    return subprocess.run(
        command, env=variables, capture_output=True, text=True, check=False, timeout=300
    )


def left(store: Store) -> list[Path]:
    """Find what is left in memory of what borg knew of a repository."""
    found = []
    for path in SHM.glob("dedup-store-*/security/*/location"):
        with contextlib.suppress(FileNotFoundError):  # another test's
            if str(store.folder) in path.read_text():
                found.append(path)
    return found


@pytest.mark.sampled(2)
@pytest.mark.parametrize("how", HOMES)
def test_reading_where_the_home_folder_cannot_be_written(borg_store: Store, how: str) -> None:
    """What borg knows is still used: a repository that was moved is asked about."""
    store, data = borg_store, backup(1)
    run = store.put(data)["run"]
    (store.folder / "sent").write_bytes(data)
    result = read_with_home(
        store, how, f"$STORE list; $STORE show {run}; $STORE get {run} | cmp - {store.folder}/sent"
    )
    assert result.returncode == 0, result
    assert result.stderr == ""
    assert f"\n{run} " in result.stdout
    new = store.folder / "new"
    store.repository.rename(new)
    store.configure(location=str(new))
    result = read_with_home(store, how, f"$STORE list || $STORE accept moved {new}")
    assert result.returncode == 1
    assert f"the repository {new} was at {store.repository}" in result.stderr
    assert "accepted: " not in result.stdout
    assert b"accept moved" in store.run("list").stderr
    assert left(store) == []


@pytest.mark.parametrize("how", HOMES)
def test_reading_where_borg_never_kept_anything(borg_store: Store, how: str) -> None:
    """The name in borg's locks can't be made there either."""
    store = borg_store
    run = store.put(backup(1))["run"]
    shutil.rmtree(store.folder / "home")
    (store.folder / "home").mkdir()
    result = read_with_home(store, how, f"$STORE list; $STORE show {run}")
    assert result.returncode == 0, result
    assert f"\n{run} " in result.stdout


@pytest.mark.thorough
def test_reading_where_one_full_disk_holds_it_all(borg_store: Store) -> None:
    store = borg_store
    place = store.folder / "home" / "repo"
    store.repository.rename(place)
    store.configure(location=str(place))
    assert store.run("accept", "moved", str(place)).returncode == 0
    run = store.put(backup(1))["run"]
    result = read_with_home(store, "full", "$STORE list; $STORE get latest | wc -c")
    assert result.returncode == 0, result
    assert f"\n{run} " in result.stdout
    assert result.stdout.endswith(f"\n{len(backup(1))}\n")
