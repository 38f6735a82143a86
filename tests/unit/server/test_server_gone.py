# SPDX-License-Identifier: GPL-3.0-or-later
"""A place in the storage qube whose repository is gone is no place for a new one."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from testing.server.maintenance import backup
from testing.server.storage_qube import QrexecStore, StorageQube, make_store
from testing.store.driver import mostly


def absent(path: Path) -> None:
    path.rename(path.with_name("away"))


def empty(path: Path) -> None:
    absent(path)
    path.mkdir(mode=0o700)


@pytest.mark.parametrize("lose", [absent, pytest.param(empty, marks=pytest.mark.thorough)])
@mostly("store", "restic")
def test_nobody_makes_a_new_one(
    store: QrexecStore, qube: StorageQube, tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    """Not even a backup qube that knows nothing of what was there."""
    stored = store.put(backup())
    lose(store.files)
    said = store.run("list").stderr.decode()
    assert f"{store.files.name}.kept away first" in said  # the end of what dedup-server says
    other = QrexecStore(tmp_path / "other", store.engine, qube, "main")
    other.folder.mkdir()
    other.configure()
    other.set_password()
    assert other.run("init").returncode == 1
    refused = qube.call("dedupbackup.Repository", f"{store.engine}+main")
    assert refused.returncode == 1
    said = refused.stderr.decode()
    assert f"the repository {store.files} is gone: bring it back" in said
    assert f"move {store.files}.kept away first" in said
    if store.files.exists():
        assert not list(store.files.iterdir())
        store.files.rmdir()
    store.files.with_name("away").rename(store.files)
    assert store.runs() == [stored]
    assert store.get() == backup()


@pytest.mark.thorough
@mostly("store", "restic")
def test_a_new_one_where_there_was_one(store: QrexecStore, qube: StorageQube) -> None:
    """With what was kept moved away, as the message says."""
    store.put(backup())
    absent(store.files)
    kept = Path(f"{store.files}.kept")
    kept.rename(kept.with_name("away.kept"))
    other = make_store(qube.folder / "other", qube, store.engine)
    assert other.runs() == []


def test_several_that_begin_at_once(restic: QrexecStore, qube: StorageQube) -> None:
    """After an update from a version that left no note of a repository; on a slow disk."""
    (Path(f"{restic.files}.kept") / "made").unlink()
    log = qube.folder / "log"
    qube.prefix = ("strace", "-f", "-qq", "-o", str(log), "-e", "inject=fsync:delay_enter=300000")
    sessions = [qube.start("dedupbackup.Repository", "restic+main") for _ in range(3)]
    for session in sessions:
        _, errors = session.communicate()
        assert session.returncode == 0, errors


@pytest.mark.sampled(2)
@mostly("store", "restic")
@pytest.mark.parametrize("lose", [absent, empty])
def test_what_holds_it_is_gone_with_what_was_kept(
    store: QrexecStore, qube: StorageQube, lose: Callable[[Path], None]
) -> None:
    """A disk of the storage qube that isn't mounted: only the backup qube can know."""
    stored = store.put(backup())
    lose(qube.data)
    for words in (["init"], ["init", "--check"]):
        result = store.run(*words)
        assert result.returncode == 1
        said = result.stderr.decode()
        assert "the repository qrexec:sys-storage/main, in use here since" in said
        assert "is gone: is what holds it attached, mounted" in said
    assert store.run("put", data=backup()).returncode == 1
    assert not qube.data.exists() or not (qube.data / "main" / "config").exists()
    if qube.data.exists():
        shutil.rmtree(qube.data)
    qube.data.with_name("away").rename(qube.data)
    assert store.runs() == [stored]
    if lose is empty:
        absent(qube.data)
        qube.data.mkdir()
        assert store.run("init", "--new").returncode == 0
        store.put(backup())
        assert len(store.runs()) == 1
