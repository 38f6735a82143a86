# SPDX-License-Identifier: GPL-3.0-or-later
"""Folders that an installation made for the guard's files go with them, and no others."""

import os

import pytest

from testing.shim.shimctl import System, with_systemd

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="shimctl changes things as root only")


def folders(system: System) -> set[str]:
    """Return the folders in etc that there are."""
    etc = system.root / "etc"
    return {str(path.relative_to(etc)) for path in etc.rglob("*") if path.is_dir()}


@pytest.mark.parametrize("there", [(), ("system-preset",), ("system/multi-user.target.wants",)])
def test_folders_that_were_made_for_the_guard_go_with_it(
    system: System, there: tuple[str, ...]
) -> None:
    with_systemd(system)
    for name in there:
        (system.units.parent / name).mkdir()
    before = folders(system)
    system.json("install")
    assert folders(system) > before
    system.json("reconcile")
    system.json("remove")
    assert folders(system) == before


def test_folder_that_somebody_else_uses_meanwhile_stays(system: System) -> None:
    with_systemd(system)
    system.json("install")
    other = system.units / "multi-user.target.wants/other.service"
    other.symlink_to("/usr/lib/systemd/system/other.service")
    system.json("remove")
    assert other.is_symlink()
    assert not system.units.with_name("system-preset").exists()
    assert not system.json("remove")["changed"]
