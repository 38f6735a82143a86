# SPDX-License-Identifier: GPL-3.0-or-later
"""qvm-backup's own options: profiles that it writes, questions, and usage errors."""

from __future__ import annotations

import stat
from pathlib import Path

import yaml

from testing.lab.system import PASSPHRASE, System, members


def test_without_a_profile(system: System) -> None:
    system.add_qube("work")
    system.add_qube("mail")
    target = system.state / "backup-file"
    words = ["--yes", "--passphrase-file", "-", "--no-compress", str(target), "wor[k]"]
    done = system.run("qvm_backup", *words, text=f"{PASSPHRASE}  \n")
    assert done.returncode == 0, done.stderr
    assert list(system.profiles.iterdir()) == []
    assert len(members(target)) == 4
    assert system.restore("--verify-only", str(target)).returncode == 0


def test_saved_profile(system: System) -> None:
    system.add_qube("work")
    passphrase = system.state / "passphrase"
    passphrase.write_text(f"{PASSPHRASE}\nsecond line\n")
    options = ["-y", "-e", "-p", str(passphrase), "-x", "mail", "-Z", "bzip2", "-d", "backup"]
    location = f"dd of={system.archive}"
    done = system.run("qvm_backup", *options, "--save-profile", "mine", location, "work")
    assert done.returncode == 0, done.stderr
    saved = system.profiles / "mine.conf"
    assert yaml.safe_load(saved.read_text()) == {
        "compression": "bzip2",
        "destination_path": location,
        "destination_vm": "backup",
        "exclude": ["mail"],
        "include": ["work"],
        "passphrase_text": PASSPHRASE,
    }
    assert stat.S_IMODE(saved.stat().st_mode) & 0o600 == 0o600
    system.archive.unlink()
    assert system.run("qvm_backup", "--profile", "mine", "-y").returncode == 0
    assert system.archive.exists()


def test_a_folder_relative_to_the_current_one(system: System) -> None:
    system.add_qube("work")
    (system.dom0 / "here").mkdir()
    done = system.run("qvm_backup", "-y", "-p", "-", "here", "work", text="secret\n")
    assert done.returncode == 0, done.stderr
    assert len(list((system.dom0 / "here").iterdir())) == 1


def test_declining_stores_nothing(system: System) -> None:
    system.add_qube("work")
    target = system.state / "backup-file"
    done = system.run("qvm_backup", "-p", "-", "-x", "dom0", str(target), text="n\n")
    assert done.returncode == 0
    assert "Do you want to proceed? [y/N]" in done.stdout
    assert not target.exists()
    assert list(system.profiles.iterdir()) == []


def test_errors(system: System) -> None:
    system.profile()
    for words, code, message in (
        ([], 2, "either --profile or 'backup_location' is required"),
        (["--profile", "test", "-x", "a"], 2, "--exclude-list option could not be used together"),
        (["--profile", "test", "-z"], 2, "--compression option could not be used together"),
        (["/no", "no-such-qube"], 2, "no such domain: 'no-such-qube'"),
        (["--profile", "no"], 1, "Backup preparation error: Backup profile does not exist: no"),
        (["-p", "/no/file", "-x", "dom0", "-y", "/no"], 1, "No such file or directory: '/no/file'"),
    ):
        done = system.run("qvm_backup", *words)
        assert (done.returncode, message in done.stderr) == (code, True), done.stderr
    assert [Path(path).name for path in system.profiles.iterdir()] == ["test.conf"]
