# SPDX-License-Identifier: GPL-3.0-or-later
"""Which run is the newest: what came last, whatever the qube's clock says."""

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dedup_store.archive.order import clock_notes, in_order

from testing.store import archives
from testing.store.driver import ENCRYPTED, Store, boot, mostly, replace

# dedup-store with another clock: its first argument is the difference in days
CLOCK = """
import runpy, sys, time
days = int(sys.argv[1])
now, utc = time.time, time.gmtime
time.time = lambda: now() + 86400 * days
time.gmtime = lambda seconds=None: utc(time.time() if seconds is None else seconds)
del sys.argv[:2]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@functools.cache  # each has its own times
def stream(number: int) -> bytes:
    """A small backup."""
    qubes = [archives.Qube("work", 7, volumes={"private": archives.noise(2000, number)})]
    parts = list(archives.members(qubes))
    header = archives.header(backup_id=f"20261128T08000{number}-1")
    parts[:2] = [(parts[0][0], header), (parts[1][0], archives.container(header))]
    return archives.join(parts)


def put(store: Store, number: int, days: int = 0) -> tuple[str, str]:
    """Store a backup, with a clock that is wrong by some days; give the run, and what was said."""
    before = store.prefix
    store.prefix = (*before, sys.executable, "-c", CLOCK, str(days)) if days else before
    done = store.run("put", "--json", data=stream(number))
    store.prefix = before
    assert done.returncode == 0, done.stderr
    said = done.stderr.decode()
    return json.loads(done.stdout)["run"], said


def names(store: Store) -> list[str]:
    return [run["run"] for run in store.runs()]


def counter(store: Store) -> Path:
    (found,) = (store.folder / "home/.config/dedup-store").glob("*.order")
    return found


@pytest.mark.sampled(4)
@pytest.mark.parametrize("days", [400, -400], ids=["ahead", "behind"])
@mostly("store", "restic", "directory")
def test_latest_is_what_came_last(store: Store, days: int) -> None:
    """The clock was a year ahead during one backup, or behind, and is right again."""
    first, _ = put(store, 1)
    wrong, _ = put(store, 2, days)
    last, said = put(store, 3)
    assert names(store) == [first, wrong, last]
    assert store.get() == stream(3)
    listed = store.run("list").stdout.decode().splitlines()[1:]
    assert [line.split()[0] for line in listed] == [first, wrong, last]
    dated = first if days < 0 else wrong
    other = wrong if days < 0 else last
    noted = {run["run"]: run["note"] for run in store.runs() if "note" in run}
    assert noted == {dated: f"dated later than {other}, which came after it: a clock was wrong"}
    assert [dated in line and "a clock was wrong" in line for line in listed].count(True) == 1
    assert ("clock is, or was, wrong" in said) == (days > 0)


def test_a_restore_of_the_latest(directory_store: Store) -> None:
    put(directory_store, 1, 400)
    last, _ = put(directory_store, 2)
    shown = directory_store.run("show", "latest", "--lines")
    assert last.encode() in shown.stdout.splitlines()[0]


def test_a_run_says_when_the_clock_went_back(directory_store: Store) -> None:
    _, said = put(directory_store, 1)
    assert said == ""
    _, said = put(directory_store, 2, -3)
    assert "clock is, or was, wrong" in said
    _, said = put(directory_store, 3)
    assert said == ""


def test_a_counter_that_was_lost_or_is_old(directory_store: Store) -> None:
    runs = [put(directory_store, number)[0] for number in (1, 2, 3)]
    orders = [run["order"] for run in directory_store.runs()]
    assert orders == [1, 2, 3]
    counter(directory_store).unlink()  # a new backup qube
    runs.append(put(directory_store, 4, -400)[0])
    assert names(directory_store) == runs
    counter(directory_store).write_bytes(b"\n")  # its private volume was reverted
    assert names(directory_store) == runs  # the list mends it
    runs.append(put(directory_store, 5, -500)[0])
    assert names(directory_store) == runs
    assert directory_store.get() == stream(5)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("is_booted", [False, True], ids=["home restored", "volume reverted"])
def test_a_counter_that_is_old(store: Store, is_booted: bool) -> None:
    """The repository is elsewhere, and newer."""
    home, old = store.folder / "home", store.folder / "old"
    boot(store, 1)
    runs = [put(store, 1)[0]]
    shutil.copytree(home, old, symlinks=True)
    runs += [put(store, number)[0] for number in (2, 3)]
    replace(home, old)
    if is_booted:
        boot(store, 2)
    runs.append(put(store, 4)[0])
    assert store.get() == stream(4)
    assert names(store) == runs
    assert not [run for run in store.runs() if "note" in run]


def test_a_repository_that_two_qubes_use_in_turn(directory_store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other", "directory")
    other.folder.mkdir()
    other.configure(location=str(directory_store.repository))
    stores = [directory_store, other, other, directory_store, other]
    runs = [put(store, number)[0] for number, store in enumerate(stores, 1)]
    assert names(directory_store) == runs
    assert [run["order"] for run in other.runs()] == [1, 2, 3, 4, 5]


@pytest.mark.sampled(2)
@ENCRYPTED
def test_the_runs_are_listed_once_in_a_boot(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start of the engine takes seconds, with a storage qube or a cloud more."""
    log, program = tmp_path / "calls", tmp_path / "bin" / store.engine
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$*" >>{log}\nexec {shutil.which(store.engine)} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    found = []
    for number, start in enumerate((1, 1, 1, 2, 2), 1):
        boot(store, start)
        log.write_text("")
        put(store, number)
        calls = [set(line.split()) for line in log.read_text().splitlines()]
        listing = [call for call in calls if call & {"snapshots", "list"} and "locks" not in call]
        found.append(len(listing))
    assert found == [1, 0, 0, 1, 0]


def test_a_counter_that_cannot_be_written(directory_store: Store) -> None:
    runs = [put(directory_store, 1)[0]]
    path = counter(directory_store)
    path.unlink()
    path.symlink_to("/etc/hostname")
    for number in (2, 3):
        run, said = put(directory_store, number, -100 * number)
        assert "is taken from the list" in said
        runs.append(run)
    assert names(directory_store) == runs


def test_runs_of_an_older_version_come_before() -> None:
    """They have no number: their names tell."""
    runs = [
        {"run": "20280101T000000Z-a-0001", "order": 0},
        {"run": "20260101T000000Z-a-0002"},
        {"run": "20250101T000000Z-a-0003", "order": 2},
        {"run": "20240101T000000Z-a-0004", "order": 1},
        {"run": "20230101T000000Z-a-0005", "order": "9"},
    ]
    names = [run["run"][-1] for run in in_order(runs)]
    assert names == ["5", "2", "1", "4", "3"]
    assert clock_notes(in_order(runs)) == {}


def test_puts_at_once_have_different_numbers(directory_store: Store) -> None:
    put(directory_store, 1)
    calls = [directory_store.start("put", stdin=subprocess.PIPE) for _ in range(4)]
    for number, call in enumerate(calls, 2):
        assert call.stdin
        call.stdin.write(stream(number))
        call.stdin.close()
    assert [call.wait() for call in calls] == [0] * 4
    for call in calls:
        for pipe in (call.stdout, call.stderr):
            assert pipe
            pipe.close()
    assert sorted(run["order"] for run in directory_store.runs()) == [1, 2, 3, 4, 5]
