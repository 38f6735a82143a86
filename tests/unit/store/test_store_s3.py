# SPDX-License-Identifier: GPL-3.0-or-later
"""A restic repository on S3, through rclone."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.store import archives
from testing.store.driver import Store
from testing.store.put_cases import (
    test_put_that_is_ended,
    test_put_that_is_killed_after_its_input,
    test_two_puts_at_once,
)
from testing.store.puts import backup, children, end, is_gone, small_backup, start_put, until
from testing.store.s3_server import BUCKET, RCLONE, S3Server, serving

THOROUGH = pytest.mark.thorough
__all__ = [  # they take this file's store
    "test_put_that_is_ended",
    "test_put_that_is_killed_after_its_input",
    "test_two_puts_at_once",
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[S3Server]:
    with serving(tmp_path / "s3") as started:
        yield started


@pytest.fixture
def bare(tmp_path: Path, server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store without a repository yet."""
    monkeypatch.setenv("PATH", f"{RCLONE.parent}:{os.environ['PATH']}")
    store = Store(tmp_path, "restic")
    store.configure(location=f"rclone:far:{BUCKET}/backup")
    config = store.folder / "home/.config/rclone/rclone.conf"
    config.parent.mkdir(parents=True)
    shutil.copy(server.rclone_config, config)
    return store


@pytest.fixture
def store(bare: Store, fresh: dict[str, Store], server: S3Server) -> Store:
    """An empty repository: that of other tests, laid into the bucket."""
    shutil.copytree(fresh["restic"].repository, server.data / "backup")
    shutil.copy(fresh["restic"].password, bare.password)
    return bare


def test_runs_on_s3(store: Store) -> None:
    stored = store.put(small_backup())
    assert store.runs() == [stored]
    assert store.get() == small_backup()


@THOROUGH
def test_repository_is_made_kept_and_removed(bare: Store, server: S3Server) -> None:
    bare.set_password()
    made = bare.run("init")
    assert made.returncode == 0, made.stderr
    assert (server.data / "backup" / "config").exists()
    assert b"is already there" in bare.run("init").stdout
    data = archives.join(archives.members(archives.small_qubes()))
    gone, kept, partial = (
        bare.put(backup()),
        bare.put(data),
        bare.put(data[:-20_000], code=3),
    )
    one = bare.run("get", gone["run"], "--members", "vm2/")
    assert one.returncode == 0, one.stderr
    assert one.stdout in backup()
    before = sum(path.stat().st_size for path in server.data.rglob("*") if path.is_file())
    for words in (["forget", gone["run"]], ["prune"], ["check", "--read-data"]):
        result = bare.run(*words)
        assert result.returncode == 0, result.stderr
    assert bare.runs() == [kept]
    assert partial["run"] != kept["run"]
    assert bare.get() == data
    after = sum(path.stat().st_size for path in server.data.rglob("*") if path.is_file())
    assert before - after > 30_000_000


def rclone_of(putter: int) -> int:
    """The rclone that the engine of a put has started."""
    (engine,) = children(putter)
    until(lambda: children(engine), "rclone's start")
    (rclone,) = children(engine)
    return rclone


@THOROUGH
def test_rclone_that_is_killed(store: Store) -> None:
    kept = store.put(small_backup())
    putter, stdin = start_put(store, backup()[:15_000_000])
    os.kill(rclone_of(putter.pid), signal.SIGKILL)
    stdin.write(backup()[15_000_000:])
    stdin.close()
    code, message = end(putter)
    assert code == 1, message
    assert b"restic failed" in message
    assert store.runs() == [kept]
    stored = store.put(backup())
    assert store.runs() == [kept, stored]
    assert store.get() == backup()


@THOROUGH
def test_server_that_is_gone_for_a_moment(store: Store, server: S3Server) -> None:
    """Rclone and restic try again: the run is there, or it isn't, but no half of it."""
    kept = store.put(small_backup())
    putter, stdin = start_put(store, backup()[:15_000_000])
    engines = children(putter.pid)
    server.kill()
    server.start()
    stdin.write(backup()[15_000_000:])
    stdin.close()
    code, _ = end(putter)
    until(lambda: all(is_gone(pid) for pid in engines), "the engine's end")
    runs = store.runs()
    assert len(runs) == (2 if code == 0 else 1)
    assert runs[0] == kept
    assert store.get(kept["run"]) == small_backup()
    if code == 0:
        assert store.get() == backup()
    assert store.put(small_backup())["status"] == "whole"


@THOROUGH
def test_server_that_stays_away(store: Store, server: S3Server) -> None:
    kept = store.put(small_backup())
    server.kill()
    result = store.run("list")
    assert result.returncode == 1
    assert b"Traceback" not in result.stderr
    server.start()
    assert store.runs() == [kept]
