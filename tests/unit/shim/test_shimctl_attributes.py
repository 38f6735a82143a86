# SPDX-License-Identifier: GPL-3.0-or-later
"""shimctl where files were protected with chattr: it says what to do, and changes nothing."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from testing.shim.driver import PAYLOAD
from testing.shim.shimctl import HOOKS4, System, with_systemd

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="shimctl changes things as root only")
SHIM = (PAYLOAD / "scrypt").read_bytes()
GUIDE = '#!/bin/sh\nprintf "Please enter passphrase: " >&2\ncat "$2" >"$3"\n'


@pytest.fixture
def ext4(system: System, tmp_path: Path) -> Iterator[System]:
    """The same on a file system that has these attributes."""
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-d", system.root, image], check=True)
    subprocess.run(["mount", "-o", "loop", image, system.root], check=True)
    try:
        yield system
    finally:
        subprocess.run(["umount", system.root], check=True)


@contextmanager
def protected(path: Path, letter: str = "i") -> Iterator[None]:
    """Protect a file, or a folder, for a while."""
    subprocess.run(["chattr", f"+{letter}", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["chattr", f"-{letter}", path], check=True)


def told(system: System, path: Path, command: str, letter: str = "i") -> str:
    """Run a command that must fail with the way to mend it, and leave nothing half done behind."""
    error = system.json(command, status=1)["error"]
    assert f"sudo chattr -{letter} {path}" in error
    assert "lsattr" in error
    assert not list(system.root.rglob(".*shimctl*"))
    assert system.works()
    return str(error)


@pytest.mark.parametrize("letter", ["i", "a"])
def test_script_of_the_guide_that_was_protected(ext4: System, letter: str) -> None:
    ext4.scrypt.rename(ext4.real)
    ext4.scrypt.write_text(GUIDE)
    ext4.scrypt.chmod(0o755)
    before = ext4.listing()
    with protected(ext4.scrypt, letter):
        error = ext4.json("install", status=1)["error"]
        assert f"sudo chattr -{letter} {ext4.scrypt}" in error
        assert ext4.run("install", "--check").returncode == 1
        assert ext4.listing() == before
    ext4.json("install")
    assert ext4.json("status")["healthy"]


NAMES = ("scrypt", "real", "folder", "config", "unit", "preset", "links", "hook", "state")


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", NAMES)
def test_installation_that_was_protected(ext4: System, name: str) -> None:
    with_systemd(ext4)
    ext4.json("install")
    unit = ext4.units / "qubes-dedup-backup-guard.path"
    state = ext4.root / "var/lib/qubes-dedup-backup/state.json"
    path = {
        "scrypt": ext4.scrypt,
        "real": ext4.real,
        "folder": ext4.scrypt.parent,
        "config": ext4.config,
        "unit": unit,
        "preset": ext4.units.with_name("system-preset") / "50-qubes-dedup-backup.preset",
        "links": ext4.units / "multi-user.target.wants",
        "hook": ext4.root / "etc/dnf" / HOOKS4 / "dedup-backup.action",
        "state": state,
    }[name]
    before = ext4.listing()
    with protected(path):
        assert "nothing was changed" in told(ext4, path, "remove")
        assert ext4.listing() == before
    ext4.json("remove")
    assert ext4.json("status", status=3)["installed"] == "no"
    assert ext4.scrypt.read_bytes()[:4] == b"\x7fELF"


def test_guard_tells_as_well(ext4: System) -> None:
    ext4.json("install")
    ext4.package(changed=True)
    with protected(ext4.scrypt):
        assert f"sudo chattr -i {ext4.scrypt}" in ext4.trigger("boot").stderr
    ext4.trigger("boot")
    assert ext4.scrypt.read_bytes() == SHIM


def test_protected_unit_does_not_keep_the_shim_from_its_place(ext4: System) -> None:
    with_systemd(ext4)
    ext4.json("install")
    ext4.package(changed=True)
    unit = ext4.units / "qubes-dedup-backup-guard.path"
    unit.write_text("# edited\n")
    with protected(unit):
        assert f"sudo chattr -i {unit}" in ext4.trigger("boot").stderr
        assert ext4.scrypt.read_bytes() == SHIM
