# SPDX-License-Identifier: GPL-3.0-or-later
"""dedup-store's forget and prune, while dom0 keeps maintenance open."""

import json
import os
import shutil
import signal
import subprocess
import time

import pytest

from testing.server.maintenance import is_refused, opened
from testing.server.storage_qube import QUBE, QrexecStore, StorageQube
from testing.store import archives
from testing.store.driver import lock_files
from testing.store.puts import children


def stream(seed: int) -> bytes:
    made = archives.Qube("work", 7, volumes={"private": archives.image(300_000, seed)})
    return archives.join(archives.members([made]))


def calls(qube: StorageQube) -> set[str]:
    """Which services were called since the last look."""
    path = qube.folder / "calls"
    found = set(path.read_text().splitlines())
    path.unlink()
    return {line.removeprefix(f"{QUBE} dedupbackup.") for line in found}


@pytest.mark.thorough
def test_forget_and_prune(store: QrexecStore, qube: StorageQube) -> None:
    data, argument = stream(1), f"{store.engine}+main"
    gone, kept, partial = store.put(stream(2)), store.put(data), store.put(data[:-20_000], code=3)
    assert calls(qube) == {f"Repository+{argument}"}
    for words in (["forget", gone["run"]], ["prune"]):
        result = store.run(*words)
        assert result.returncode == 1
        assert b"dom0 opens it for the time of `sudo qubes-dedup-backup prune`" in result.stderr
    assert store.runs() == [gone, kept, partial]
    calls(qube)
    with opened(qube, argument) as opener:
        result = store.run("forget", gone["run"])
        assert result.returncode == 0, result.stderr
        result = store.run("prune", "--json")
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout)["removed"] == [{"run": partial["run"], "was": "partial"}]
        assert calls(qube) == {f"Maintenance+{argument}"}
        assert opener.stdin is not None
        opener.stdin.close()
        assert opener.wait() == 0
    assert is_refused(qube, argument)
    assert store.runs() == [kept]
    assert store.get() == data
    assert store.put(data)["status"] == "whole"


@pytest.mark.thorough
def test_maintenance_that_is_closed_during_a_prune(store: QrexecStore, qube: StorageQube) -> None:
    """Here between the removal of a partial run and the engine's own prune."""
    data, argument = stream(1), f"{store.engine}+main"
    kept, partial = store.put(data), store.put(data[:-20_000], code=3)
    folder, pruning = store.folder, {"restic": "prune", "borg": "compact"}[store.engine]
    engine = qube.folder / "bin" / store.engine  # the first in PATH
    real = shutil.which(store.engine, path=qube.path)
    os.mkfifo(folder / "go")
    engine.write_text(
        f'#!/bin/sh\ncase "$*" in *{pruning}*) echo >{folder}/here; read -r line <{folder}/go;;'
        f' esac\nexec {real} "$@"\n'
    )
    engine.chmod(0o755)
    with opened(qube, argument) as opener, store.start("prune") as pruner:
        while not (folder / "here").exists():
            assert pruner.poll() is None
        opener.kill()
        opener.wait()
        (folder / "go").write_text("go\n")
        assert pruner.wait() == 1
    engine.unlink()
    assert store.runs() == [kept]
    again = store.put(data)
    assert store.runs() == [kept, again]
    assert partial["run"] not in {run["run"] for run in store.runs()}
    assert store.get() == data


@pytest.mark.engines
def test_lock_of_a_killed_put(restic: QrexecStore) -> None:
    """The next put removes it, through the append-only service."""
    with restic.start("put", stdin=subprocess.PIPE) as putter:
        assert putter.stdin is not None
        putter.stdin.write(stream(1)[:-20_000])
        putter.stdin.flush()
        while not lock_files(restic.files):
            assert putter.poll() is None
            time.sleep(0.01)
        for pid in children(putter.pid):
            os.kill(pid, signal.SIGKILL)
        putter.kill()
    run = restic.put(stream(2))
    assert lock_files(restic.files) == []
    assert restic.runs() == [run]
