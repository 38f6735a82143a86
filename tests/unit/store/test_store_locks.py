# SPDX-License-Identifier: GPL-3.0-or-later
"""restic's locks that nobody holds any more: they go, and no innocent process is hit.

A lock's number is chosen by making it in a process number space of its own, where that can be set.
"""

import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from testing.store import archives
from testing.store.driver import PAYLOAD, Store, leave_exclusive_lock, lock_files

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a space of process numbers"),
]


def stream(size: int = 300_000) -> bytes:
    qube = archives.Qube("work", 7, volumes={"private": archives.image(size, 1)})
    return archives.join(archives.members([qube]))


def locks(store: Store) -> list[Path]:
    return lock_files(store.repository)


def leave_lock(store: Store, pid: int, *, host: str | None = None) -> None:
    """Have a restic with this number make a lock, and kill it."""
    name = f"hostname {host};" if host else ""
    script = (
        f"{name} echo {pid - 1} >/proc/sys/kernel/ns_last_pid;"
        " exec 3<&0; restic -q backup --stdin <&3 & wait"
    )
    variables = store.environment | {
        "RESTIC_REPOSITORY": str(store.repository),
        "RESTIC_PASSWORD_FILE": str(store.password),
    }
    before = len(locks(store))
    command = ["unshare", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc", "sh", "-c"]
    with subprocess.Popen([*command, script], stdin=subprocess.PIPE, env=variables) as maker:
        while len(locks(store)) == before:
            assert maker.poll() is None
            time.sleep(0.01)
        maker.kill()  # and with it all in its space
    assert len(locks(store)) == before + 1


@contextmanager
def started_restic(store: Store) -> Iterator[subprocess.Popen[bytes]]:
    """Give a restic that has a lock, and waits for data."""
    variables = {
        "RESTIC_REPOSITORY": str(store.repository),
        "RESTIC_PASSWORD_FILE": str(store.password),
    }
    command = ["restic", "-q", "backup", "--stdin"]
    environment = store.environment | variables
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment) as started:
        while not locks(store):
            assert started.poll() is None
            time.sleep(0.01)
        yield started


def test_an_exclusive_lock_that_a_restic_of_somebody_left(restic_store: Store) -> None:
    """Nothing of ours was cut short; a put can't read its stream twice."""
    leave_exclusive_lock(restic_store.repository, restic_store.password)
    restic_store.put(stream())
    assert locks(restic_store) == []


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A program of the user, which SIGHUP ends."""
    with subprocess.Popen(["sleep", "3600"]) as program:
        yield program
        program.kill()


def test_a_program_with_the_number_of_a_dead_lock(
    restic_store: Store, bystander: subprocess.Popen[bytes]
) -> None:
    store = restic_store
    leave_lock(store, bystander.pid)
    result = store.run("prune")
    assert result.returncode == 0, result.stderr
    assert bystander.poll() is None
    assert locks(store) == []


def test_prune_has_the_number_of_a_dead_lock_itself(restic_store: Store) -> None:
    store, number = restic_store, 4242
    leave_lock(store, number)
    script = f'echo {number - 1} >/proc/sys/kernel/ns_last_pid; "$@" & echo $!; wait $!'
    space = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    store.prefix = (*space, "sh", "-c", script, "sh")
    result = store.run("prune")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0] == str(number).encode()
    assert locks(store) == []


def test_a_restic_that_somebody_runs_is_waited_for(restic_store: Store) -> None:
    """Its lock stays, whatever we do."""
    store = restic_store
    store.configure(lock_wait=0)
    with started_restic(store) as other:
        result = store.run("prune")
        assert result.returncode == 1
        name = f"process {other.pid} on {os.uname().nodename}, "
        assert f"another restic has locked the repository ({name}".encode() in result.stderr
        assert len(locks(store)) == 1
        store.configure()
        with store.start("prune") as pruner:
            assert pruner.stderr is not None
            assert b"waiting for another restic that has locked" in pruner.stderr.readline()
            other.communicate(b"its data")
            assert other.returncode == 0
            assert pruner.wait() == 0


def test_a_dead_restic_that_nobody_has_waited_for(restic_store: Store) -> None:
    """It has its number and its name until then."""
    store = restic_store
    store.configure(lock_wait=0)
    with started_restic(store) as dead:
        dead.kill()
        os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
        result = store.run("prune")
        assert result.returncode == 0, result.stderr
        assert locks(store) == []


def test_a_lock_of_another_machine(restic_store: Store) -> None:
    """It may live there, until it hasn't been renewed for half an hour."""
    store = restic_store
    leave_lock(store, 4242, host="elsewhere")
    run = store.put(stream())  # it isn't in the way of that
    store.configure(lock_wait=0)
    result = store.run("forget", run["run"])
    assert result.returncode == 1
    assert b"(process 4242 on elsewhere, " in result.stderr
    assert b"unlock --remove-all" in result.stderr
    assert len(locks(store)) == 1
    assert store.put(stream())["status"] == "whole"
    assert len(locks(store)) == 1


def test_what_a_killed_put_and_a_power_cut_left(restic_store: Store) -> None:
    """With restic 0.18, no lock is made beside one that can't be read, not even to add data."""
    store = restic_store
    store.prefix = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    with store.start("put", stdin=subprocess.PIPE) as putter:
        assert putter.stdin is not None
        putter.stdin.write(stream()[:-20_000])
        putter.stdin.flush()
        while not locks(store):
            assert putter.poll() is None
            time.sleep(0.01)
        putter.send_signal(signal.SIGKILL)  # and with it all in its space
    store.prefix = ()
    (store.repository / "locks" / secrets.token_hex(32)).write_bytes(os.urandom(120))
    run = store.put(stream())
    assert locks(store) == []
    assert store.runs() == [run]


def test_reading_takes_no_lock_and_leaves_what_a_failed_prune_left(restic_store: Store) -> None:
    store = restic_store
    run = store.put(stream())
    real = shutil.which("restic")
    fake = store.folder / "bin" / "restic"
    fake.parent.mkdir()
    calls = "unlink,unlinkat,rmdir"
    fake.write_text(
        f'#!/bin/sh\ncase "$*" in *forget*) exec strace -f -o /dev/null -e trace={calls}'
        f' -e inject={calls}:signal=KILL {real} "$@";; *) exec {real} "$@";; esac\n'
    )
    fake.chmod(0o755)
    gone = store.put(stream(310_000))
    variables = store.environment | {"PATH": f"{fake.parent}:{os.environ['PATH']}"}
    command = [PAYLOAD / "dedup-store", "forget", gone["run"]]
    assert subprocess.run(command, env=variables, check=False).returncode == 1
    left = locks(store)
    assert left
    for words in (["list"], ["get", run["run"]], ["show", run["run"]], ["check"], ["stats"]):
        result = store.run(*words)
        assert result.returncode == 0, result.stderr
    assert locks(store) == left
    store.put(stream(320_000))
    assert locks(store) == []
