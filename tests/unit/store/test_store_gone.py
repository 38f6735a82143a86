# SPDX-License-Identifier: GPL-3.0-or-later
"""A place where there was a repository is no place for a new one."""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from testing.store import archives
from testing.store.driver import Store, mostly

WRITERS = (["init"], ["init", "--check"], ["put"], ["prune"], ["forget", "x"])
READERS = (["list"], ["get", "latest"], ["export-keys"])


@functools.cache
def backup() -> bytes:
    return archives.join(archives.members(archives.small_qubes()))


def absent(path: Path) -> None:
    path.rename(path.with_name("away"))


def empty(path: Path) -> None:
    absent(path)
    path.mkdir(mode=0o700)


def bring_back(path: Path) -> None:
    if path.exists():
        path.rmdir()  # so nothing was written into it
    path.with_name("away").rename(path)


def refused(store: Store, *words: str) -> str:
    """Run a command that must fail; give its message."""
    result = store.run(*words, data=backup() if words[0] == "put" else b"")
    assert (result.returncode, result.stdout) == (1, b""), (words, result)
    return result.stderr.decode()


def another(store: Store, folder: Path) -> None:
    """Put another repository, with the same password, in a store's place."""
    other = Store(folder, store.engine)
    other.folder.mkdir()
    other.configure(location=str(store.repository))
    if store.password.exists():
        other.set_password(store.password.read_text().strip())
    result = other.run("init")
    assert result.returncode == 0, result.stderr


@pytest.mark.sampled(4)
@pytest.mark.parametrize("lose", [absent, empty])
def test_a_place_that_is_gone(store: Store, lose: Callable[[Path], None]) -> None:
    kept = store.put(backup())
    lose(store.repository)
    for words in (*WRITERS, *READERS):
        if words == ["export-keys"] and store.engine == "directory":
            continue
        message = refused(store, *words)
        assert f"the repository {store.repository}, in use here since 20" in message
        assert "is gone: is what holds it attached" in message
        assert "`dedup-store init --new --repository default`" in message
    bring_back(store.repository)
    assert store.run("init", "--check", "--json").stdout.startswith(b'{"changed": false')
    assert store.runs() == [kept]


@pytest.mark.sampled(3)
def test_a_new_one_must_be_wanted(store: Store) -> None:
    """From init on, also when nothing was stored."""
    assert store.run("init").returncode == 0
    absent(store.repository)
    assert "is gone" in refused(store, "init")
    assert b"would be made" in store.run("init", "--new", "--check").stdout
    assert not store.repository.exists()
    assert b"made" in store.run("init", "--new").stdout
    assert store.runs() == []
    assert b"is already there" in store.run("init").stdout
    store.put(backup())


@pytest.mark.sampled(2)
@mostly("store", "restic", "directory")
def test_another_one_in_its_place(store: Store, tmp_path: Path) -> None:
    kept = store.put(backup())
    absent(store.repository)
    another(store, tmp_path / "other")
    for words in (["put"], ["init"], ["init", "--check"], ["prune"]):
        message = refused(store, *words)
        assert f"at {store.repository} is another repository than before" in message
        assert "`dedup-store init --new --repository default`" in message
    read = store.run("list", "--lines")
    assert (read.returncode, read.stdout) == (0, b"")
    assert b"warning: at " in read.stderr
    assert store.run("init", "--new").returncode == 0
    store.put(backup())
    # disks that are used in turn are asked for once
    other = store.repository.with_name("second")
    store.repository.rename(other)
    bring_back(store.repository)
    assert store.runs() == [kept]
    store.put(backup())
    shutil.rmtree(store.repository)
    other.rename(store.repository)
    result = store.run("list")
    assert (result.returncode, result.stderr) == (0, b"")


@pytest.mark.sampled(3)
def test_a_repository_that_was_moved_and_is_remembered_by_its_place(store: Store) -> None:
    """A new place is a new place: only what was in use there is expected there."""
    store.put(backup())
    store.configure(location=str(store.folder / "elsewhere"))
    assert store.run("init").returncode == 0
    assert store.runs() == []


def test_restic_may_write_its_config_anew(restic_store: Store) -> None:
    """Its file changes, its id doesn't."""
    shutil.rmtree(restic_store.repository)
    restic_store.native("init", "--repository-version", "1")
    restic_store.put(backup())
    before = (restic_store.repository / "config").read_bytes()
    restic_store.native("migrate", "upgrade_repo_v2")
    assert (restic_store.repository / "config").read_bytes() != before
    restic_store.put(backup())
    assert b"already there" in restic_store.run("init").stdout


def test_plain_files_from_before_there_were_ids(directory_store: Store) -> None:
    """Such a repository gets one, once it is in use."""
    (directory_store.repository / "dedup-store-id").unlink()
    directory_store.put(backup())
    assert (directory_store.repository / "dedup-store-id").exists()
    directory_store.put(backup())
    assert len(directory_store.runs()) == 2
    absent(directory_store.repository)
    assert "is gone" in refused(directory_store, "init")


def test_plain_files_without_an_id_where_one_is_known(directory_store: Store) -> None:
    """They are another repository: what an older version made, or only the folders."""
    store = directory_store
    kept = store.put(backup())
    absent(store.repository)
    store.stored.mkdir(parents=True)
    for words in (["put"], ["init"], ["init", "--check"], ["prune"]):
        assert "is another repository than before, one without an id" in refused(store, *words)
    assert list(store.stored.iterdir()) == []
    read = store.run("list", "--lines")
    assert (read.returncode, read.stdout) == (0, b"")
    assert b"warning: at " in read.stderr
    assert store.run("init", "--new").returncode == 0
    store.put(backup())
    # disks that are used in turn
    shutil.rmtree(store.repository)
    bring_back(store.repository)
    assert store.run("list").stderr == b""
    assert store.runs() == [kept]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("spelling", ["{}/", "{}/.", "{}//repo", "/{}/repo", "{}/./repo"])
def test_a_place_has_one_name(directory_store: Store, spelling: str) -> None:
    store = directory_store
    kept = store.put(backup())
    place = store.folder if spelling.endswith("repo") else store.repository
    store.configure(location=spelling.format(place))
    shown = store.run("init", "--json")
    assert b'"changed": false' in shown.stdout
    assert json.loads(shown.stdout)["location"] == str(store.repository)
    assert store.runs() == [kept]
    absent(store.repository)
    for words in (["init"], ["init", "--check"], ["put"], ["list"]):
        assert f"the repository {store.repository}, in use here since" in refused(store, *words)


def test_rclone_that_is_named_directly(restic_store: Store) -> None:
    """Its remote is renamed, or leads to another place."""
    store, far = restic_store, restic_store.folder / "far"
    settings = store.folder / "home" / ".config" / "rclone" / "rclone.conf"
    settings.parent.mkdir(parents=True)

    def remote(name: str, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        settings.write_text(f"[{name}]\ntype = alias\nremote = {folder}\n")

    remote("far", far)
    store.configure(location="rclone:far:repo")
    assert store.run("init").returncode == 0
    kept = store.put(backup())
    for name, folder in (("other", far), ("far", store.folder / "empty")):
        remote(name, folder)
        for words in (["init"], ["put"]):
            result = store.run(*words, data=backup())
            assert result.returncode == 1
            assert b"rclone:far:repo" in result.stderr
        assert b"is gone: is what holds it" in store.run("init", "--check").stderr
        assert not list((store.folder / "empty").glob("*"))
    remote("far", far)
    assert store.runs() == [kept]
