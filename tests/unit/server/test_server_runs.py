# SPDX-License-Identifier: GPL-3.0-or-later
"""dedup-store through the storage qube's service, with real engines."""

import contextlib
import functools
import os
import signal
import subprocess
from pathlib import Path

import pytest

from testing.server.storage_qube import QUBE, QrexecStore, StorageQube, make_store
from testing.store import archives
from testing.store.put_cases import test_put_that_is_killed_after_its_input

__all__ = ["test_put_that_is_killed_after_its_input"]  # it takes this folder's stores


@functools.cache
def backup() -> bytes:
    qubes = archives.small_qubes()
    qubes[1].volumes["private"] = archives.image(20_000_000, 7)
    return archives.join(archives.members(qubes))


@pytest.mark.sampled(2)
def test_from_init_to_get(store: QrexecStore) -> None:
    again = store.run("init", "--json")
    assert again.returncode == 0, again.stderr
    assert b'"changed": false' in again.stdout
    stored = store.put(backup())
    assert stored["status"] == "whole"
    assert store.runs() == [stored]
    assert store.get() == backup()
    assert store.qube is not None
    assert (store.qube.data / "main" / "config").is_file()
    calls = set((store.qube.folder / "calls").read_text().splitlines())
    assert calls == {f"{QUBE} dedupbackup.Repository+{store.engine}+main"}


def processes(qube: StorageQube, program: str) -> list[int]:
    """Find a program's processes in the storage qube."""
    found = []
    mark = f"DEDUP_SERVER_CONFIG_DIR={qube.folder}/".encode()
    home = f"HOME={qube.folder}/home".encode()
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (path / "cmdline").read_bytes().split(b"\0")
            variables = (path / "environ").read_bytes()
            if (mark in variables or home in variables) and any(
                word.endswith(program.encode()) for word in words[:3]
            ):
                found.append(int(path.name))
    return found


@pytest.mark.parametrize(
    ("engine", "program"),
    [
        pytest.param("borg", "/dedup-server", marks=pytest.mark.thorough),
        pytest.param("borg", "/borg", marks=pytest.mark.thorough),
        ("restic", "rclone"),
    ],
)
def test_service_that_is_killed(
    tmp_path: Path, qube: StorageQube, engine: str, program: str
) -> None:
    """Nothing of it keeps the next backup from being stored; borg's lock is a dead process's."""
    store = make_store(tmp_path / "backup", qube, engine)
    first = store.put(backup())
    with store.start("put", stdin=subprocess.PIPE) as putter:
        assert putter.stdin is not None
        putter.stdin.write(backup()[: len(backup()) // 2])
        putter.stdin.flush()
        while not (found := processes(qube, program)):
            assert putter.poll() is None
        for number in found:
            os.kill(number, signal.SIGKILL)
        putter.stdin.write(backup()[len(backup()) // 2 :])
        putter.stdin.close()
        assert putter.wait() == 1
    second = store.put(backup())
    assert store.runs() == [first, second]
    assert store.get(first["run"]) == store.get(second["run"]) == backup()
