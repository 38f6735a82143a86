# SPDX-License-Identifier: GPL-3.0-or-later
"""A backup that the forum guide's script made comes back by `restore-guide`, and no other way."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from testing.lab.system import MIB, System
from testing.paths import LAB

PROGRAM = LAB.parent / "payload/dom0/qubes-dedup-backup"
ANY = "anything"  # typed because the window asks; the script takes no notice
DATA = (os.urandom(3000) + bytes(1096)) * 700


@pytest.fixture
def guided(system: System) -> System:
    """A system with a backup of the qube `work` that the guide's script made; it is gone now."""
    system.add_qube("work", DATA + bytes(MIB))
    system.profile(passphrase_text=ANY)
    fast = (system.state / "bin/scrypt").rename(system.state / "fast")
    (system.state / "bin/scrypt").symlink_to(LAB / "guide-scrypt")
    system.backup()
    fast.replace(system.state / "bin/scrypt")
    assert DATA[:3000] in system.archive.read_bytes()
    return system


def restore_guide(system: System, *words: str) -> subprocess.CompletedProcess[str]:
    """Run it as dom0's user does, with the lab's qvm-backup-restore."""
    argv = " ".join(system.command("qvm_backup_restore"))
    system.program("qvm-backup-restore", f'exec {argv} "$@"\n')
    source = ["-d", "backup", f"cat '{system.archive}'"]
    return subprocess.run(
        [sys.executable, PROGRAM, "restore-guide", "--unchecked", "-p", "-", *words, *source],
        check=False,
        capture_output=True,
        text=True,
        input="another passphrase\n",
        env=system.environment(),
        cwd=system.dom0,
    )


def test_backup_of_the_guides_script_comes_back(guided: System) -> None:
    assert restore_guide(guided, "--verify-only").returncode == 0
    done = restore_guide(guided, "--rename-conflicting")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-2] == "qubesadmin.backup: -> Done."
    assert guided.data("work-1") == guided.data("work") == DATA + bytes(MIB)


def test_other_restores_refuse_it(guided: System) -> None:
    done = guided.restore("-d", "backup", f"cat '{guided.archive}'", passphrase=ANY)
    assert done.returncode == 1
    assert "Corrupted backup header" in done.stderr
