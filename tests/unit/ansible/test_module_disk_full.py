# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules on a disk without space: a small file system that the test fills."""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from testing.ansible.modules import Dom0, Modules

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")

TEMPLATE = "debian-13-minimal"
FULL = "No space left on device"


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a file system of 256 KiB on a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all the space that is left."""
    filler = folder / "filler"
    subprocess.run(
        ["dd", "if=/dev/zero", f"of={filler}", "bs=4096"], check=False, stderr=subprocess.DEVNULL
    )
    assert os.statvfs(folder).f_bavail == 0
    return filler


def tree(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def ours() -> dict[str, str]:
    """Return an owner and a group that exist here."""
    return {
        "owner": pwd.getpwuid(os.getuid()).pw_name,
        "group": grp.getgrgid(os.getgid()).gr_name,
    }


def test_profile(dom0: Dom0, tmp_path: Path) -> None:
    with small_disk(tmp_path / "backup") as folder:
        params: dict[str, Any] = {
            "name": "a",
            "destination_vm": TEMPLATE,
            "destination_path": "dedup-store put",
            "folder": str(folder),
            **ours(),
        }
        dom0("backup_profile", **params)
        filler, before = fill(folder), tree(folder)
        for wanted in ({"include": ["dom0"]}, {"name": "b"}):
            message = dom0.refused("backup_profile", **params | wanted)
            assert message.startswith(f"can't write {folder}/")
            assert message.endswith(FULL)
            assert tree(folder) == before
        filler.unlink()
        kept = yaml.safe_load(before["a.conf"])
        dom0("backup_profile", **params | {"include": ["dom0"]})
        assert yaml.safe_load((folder / "a.conf").read_text()) == {**kept, "include": ["dom0"]}


def test_policy(modules: Modules, tmp_path: Path) -> None:
    with small_disk(tmp_path / "etc/qubes/policy.d") as folder:
        params: dict[str, Any] = {"name": "75-a.policy", "root": str(tmp_path), **ours()}
        modules("qrexec_policy", rules=["test.A * work vault allow"], **params)
        filler, before = fill(folder), tree(folder)
        message = modules.refused("qrexec_policy", rules=["test.A * * * deny"], **params)
        assert message == f"can't write {folder}/75-a.policy: {FULL}"
        assert tree(folder) == before
        assert modules("qrexec_policy", state="absent", **params)["changed"]
        filler.unlink()
        assert modules("qrexec_policy", rules=["test.A * * * deny"], **params)["changed"]


@pytest.fixture
def small_pool(dom0: Dom0) -> Iterator[Path]:
    """The pool's folder for templates, which is full; the data of the only one is kept."""
    folder = dom0.state / "qubes/vm-templates"
    images = tree(folder)
    images["root.img"] = os.urandom(64 * 1024)
    with small_disk(folder):
        (folder / TEMPLATE).mkdir()
        for name, data in images.items():
            (folder / TEMPLATE / name).write_bytes(data)
        yield folder


def test_a_clone_that_does_not_fit(dom0: Dom0, small_pool: Path) -> None:
    filler, before = fill(small_pool), dom0.qubes()
    # Room for its folder and half of its data.
    os.truncate(filler, filler.stat().st_size - 32 * 1024)
    message = dom0.refused("qube", name="copy", clone_of=TEMPLATE)
    assert message.startswith(f"copy: qubesd can't do it: can't clone {TEMPLATE}:root: not enough")
    assert dom0.qubes() == before
    assert sorted(path.name for path in small_pool.iterdir()) == [TEMPLATE, "filler"]
    filler.unlink()
    assert dom0("qube", name="copy", clone_of=TEMPLATE)["created"]
    data = [(small_pool / name / "root.img").read_bytes() for name in ("copy", TEMPLATE)]
    assert data[0] == data[1]
