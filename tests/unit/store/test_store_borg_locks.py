# SPDX-License-Identifier: GPL-3.0-or-later
"""borg's locks whose owner is dead, while another process has its number by now."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.store import archives
from testing.store.driver import Store

pytestmark = pytest.mark.engines


def stream(seed: int, size: int = 300_000) -> bytes:
    data = archives.noise(size, seed)
    return archives.join(archives.members([archives.Qube("work", 7, volumes={"private": data})]))


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A program of the user."""
    with subprocess.Popen(["sleep", "3600"]) as program:
        yield program
        program.kill()


def is_locked(folder: Path) -> bool:
    """Both are written in turn, and the roster anew."""
    roster = folder / "lock.roster"
    return bool(list(folder.glob("lock.exclusive/*")) and roster.exists() and roster.read_text())


def leave_locks(store: Store, pid: int) -> None:
    """Kill a put and its borg, and let their locks be those of the process with this number."""
    folders = [store.repository, *(store.folder / "home/.cache/borg").glob("?" * 64)]
    assert len(folders) == 2
    with store.start("put", stdin=subprocess.PIPE) as putter:
        assert putter.stdin is not None
        putter.stdin.write(stream(2)[:-20_000])
        putter.stdin.flush()
        while not all(map(is_locked, folders)):
            assert putter.poll() is None
            time.sleep(0.01)
        name = next((store.repository / "lock.exclusive").iterdir()).name
        number = name.rpartition("-")[0].rpartition(".")[2]
        os.kill(int(number), signal.SIGKILL)
        putter.kill()
    for folder in folders:
        for entry in list((folder / "lock.exclusive").iterdir()):
            entry.rename(entry.with_name(entry.name.replace(f".{number}-", f".{pid}-")))
        roster = folder / "lock.roster"
        roster.write_text(roster.read_text().replace(f" {number},", f" {pid},"))


@pytest.mark.thorough
def test_a_program_with_the_number_of_a_dead_lock(
    borg_store: Store, bystander: subprocess.Popen[bytes]
) -> None:
    """Reading goes on beside the lock; what removes, or stores, takes it away."""
    store = borg_store
    run = store.put(stream(1))["run"]
    store.configure(lock_wait=30)
    leave_locks(store, bystander.pid)
    for words in (["list"], ["get", run]):
        result = store.run(*words)
        assert result.returncode == 0, result.stderr
        assert result.stderr == b""
    assert list((store.repository / "lock.exclusive").iterdir())
    result = store.run("prune")
    assert result.returncode == 0, result.stderr
    assert not (store.repository / "lock.exclusive").exists()
    leave_locks(store, bystander.pid)
    store.put(stream(3))
    assert bystander.poll() is None
    assert len(store.runs()) == 2


def test_a_lock_of_another_machine(borg_store: Store) -> None:
    """It may live there: it is waited for, and named."""
    store, name = borg_store, b"another borg that has locked the repository (process 4242 on far@5)"
    run = store.put(stream(1))["run"]
    lock = store.repository / "lock.exclusive"
    lock.mkdir()
    (lock / "far@5.4242-0").touch()
    store.configure(lock_wait=0)
    result = store.run("forget", run)
    assert result.returncode == 1
    assert b"another borg has locked the repository (process 4242 on far@5)" in result.stderr
    assert b"borg's own `break-lock`" in result.stderr
    assert list(lock.iterdir())
    store.configure()
    with store.start("forget", run) as waiter:
        assert waiter.stderr is not None
        assert b"waiting for " + name in waiter.stderr.readline()
        shutil.rmtree(lock)
        assert waiter.wait() == 0
