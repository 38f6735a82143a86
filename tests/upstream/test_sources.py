# SPDX-License-Identifier: GPL-3.0-or-later
"""What upstream reads volumes from, how large they are, and dom0's home."""

import os
from pathlib import Path

import pytest
from corpus import assert_same, image
from dom0 import CHUNK_SIZE, QUBE, Dom0, Qube, complaints


def test_block_device_goes_through_tarwriter(old: Dom0, new: Dom0, tmp_path: Path) -> None:
    device = old.machine.run("losetup", "--find", "--show", old.inside("work")).stdout.strip()
    try:
        old.export("work", device)
        old.backup("work", to=tmp_path / "archive")
    finally:
        old.machine.run("losetup", "--detach", device)
        old.export("work", old.inside("work"))
    assert f"qubes.tarwriter --override-name=vm" in old.log()
    assert complaints(new.restore(source=tmp_path / "archive", verify_only=True)) == []
    assert complaints(new.restore(source=tmp_path / "archive")) == []
    assert_same(old, new, "work")
