# SPDX-License-Identifier: GPL-3.0-or-later
"""A storage qube's disk that is full or read-only: reading goes on, and there is a way to room."""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from testing.server.maintenance import close, opened, small
from testing.server.storage_qube import QrexecStore, StorageQube
from testing.store import archives

# a twentieth of it is more than borg's reserve
SIZE = 14 << 30
pytestmark = pytest.mark.engines


def stream(seed: int) -> bytes:
    made = archives.Qube("work", 7, volumes={"private": archives.noise(2_000_000, seed)})
    return archives.join(archives.members([made]))


@contextmanager
def disk(qube: StorageQube) -> Iterator[None]:
    """A disk, made as Qubes makes a private volume, in place of the folder of repositories."""
    image, old = qube.folder / "disk", qube.folder / "old"
    shutil.copytree(qube.data, old)
    with image.open("wb") as file:
        file.truncate(SIZE)
    make = ["mkfs.ext4", "-q", "-m", "0", "-J", "size=4", "-E", "lazy_itable_init=1", image]
    subprocess.run(make, check=True)
    setup = ["losetup", "--find", "--show", image]
    device = subprocess.run(setup, check=True, capture_output=True, text=True).stdout.strip()
    subprocess.run(["blockdev", "--setrw", device], check=True)  # whoever had it before
    subprocess.run(["mount", "-o", "rw", device, qube.data], check=True)
    try:
        shutil.copytree(old, qube.data, dirs_exist_ok=True)
        yield
    finally:
        # a service may outlive its client for an instant
        while subprocess.run(["umount", qube.data], check=False).returncode:
            time.sleep(0.1)
        subprocess.run(["losetup", "--detach", device], check=True)
        image.unlink()


def fill(folder: Path) -> None:
    """Fill a disk to the last block; most of it isn't written."""
    with (folder / "more").open("ab", buffering=0) as file:
        size = file.tell()
        for step in (1 << 30, 1 << 20, 4096):
            with contextlib.suppress(OSError):
                while True:
                    os.posix_fallocate(file.fileno(), size, step)
                    size += step
    assert shutil.disk_usage(folder).free == 0


def read(store: QrexecStore) -> None:
    """Read what is there, without borg's lock, which can't be written."""
    if store.engine == "restic":
        assert store.run("get", "latest").returncode == 0
        return
    result = store.engine_itself("list", "--bypass-lock", "--short")
    assert result.returncode == 0, result.stderr
    name = result.stdout.split()[0].decode()
    result = store.engine_itself("extract", "--bypass-lock", "--stdout", f"::{name}")
    assert result.returncode == 0, result.stderr


@pytest.mark.sampled(2)
def test_from_a_full_disk_back_to_room(store: QrexecStore, qube: StorageQube) -> None:
    """As docs/storage-qube.md says, with nothing held back at first."""
    argument = f"{store.engine}+main"
    text = (qube.folder / "config/main.toml").read_text()
    (qube.folder / "config/main.toml").write_text(text.replace("reserve_mib = 1\n", ""))
    with disk(qube):
        data = stream(2)
        gone, kept = store.put(stream(1))["run"], store.put(data)["run"]
        fill(qube.data)
        read(store)
        with opened(qube, argument) as opener:
            assert store.run("forget", gone).returncode == 0
            close(opener)
        with opened(qube, argument) as opener:
            result = store.run("prune")
            assert result.returncode == 0, result.stderr
            said = close(opener)
        assert int(said.split()[1]) > 1_500_000  # held back, so there is no room yet
        assert [run["run"] for run in store.runs()] == [kept]
        fill(qube.data)
        refused = qube.call("dedupbackup.MaintenanceOpen", argument, caller="dom0")
        assert refused.returncode == 3
        assert b"run `dedup-server discard main`" in refused.stderr
        assert qube.run("discard", "main").returncode == 0
        assert shutil.disk_usage(qube.data).free > 1_500_000
        assert store.put(small())["status"] == "whole"
        assert store.get(kept) == data


@pytest.mark.sampled(2)
@pytest.mark.parametrize("is_new", [pytest.param(False, marks=pytest.mark.thorough), True])
def test_reading_from_a_read_only_disk(
    store: QrexecStore, qube: StorageQube, *, is_new: bool
) -> None:
    """With what earlier sessions left beside the repository, and without anything there."""
    store.put(small())
    if is_new:
        shutil.rmtree(qube.data / "main.kept")
    with disk(qube):
        subprocess.run(["mount", "-o", "remount,ro", qube.data], check=True)
        read(store)
        assert qube.run("changes", "main").returncode == 0
