# SPDX-License-Identifier: GPL-3.0-or-later
"""Backup profiles: what they select, and what is said about wrong ones."""

from __future__ import annotations

from testing.lab.system import System


def selected(system: System) -> list[str]:
    """Return the names in the table that `--info` prints, in its order."""
    done = system.run("backup_run", "--info", "test")
    assert done.returncode == 0, done.stderr
    rows = (line.split("|")[0].strip() for line in done.stdout.splitlines() if "|" in line)
    return [name for name in rows if name not in ("VM", "Total size:")]


def test_include_and_exclude(system: System) -> None:
    for name in ("work", "mail", "untrusted"):
        system.add_qube(name)
    system.app.domains["mail"].tags.add("keep")
    system.app.domains["untrusted"].include_in_backups = False
    cases: list[tuple[dict[str, object], list[str]]] = [
        ({"include": None, "exclude": ["dom0"]}, ["debian-13-minimal", "backup", "work", "mail"]),
        (
            {"include": None, "exclude": ["dom0", "@type:TemplateVM", "backup", "no"]},
            ["work", "mail"],
        ),
        ({"include": ["@tag:keep", "untrusted", "no-such"], "exclude": ...}, ["mail", "untrusted"]),
        ({"include": ["$type:AppVM"], "exclude": ["$tag:keep"]}, ["backup", "work", "untrusted"]),
        ({"include": ["@type:appvm"]}, []),
        ({"include": []}, []),
    ]
    for keys, expected in cases:
        system.profile(**keys)
        assert selected(system) == expected, keys


WRONG: dict[str, tuple[dict[str, object], str]] = {
    "no destination_vm": ({"destination_vm": ...}, "missing 'destination_vm'"),
    "no destination_path": ({"destination_path": ...}, "missing 'destination_path'"),
    "no include": ({"include": ...}, "missing 'include'"),
    "unknown qube": (
        {"destination_vm": "no"},
        "Invalid destination_vm specified in backup profile",
    ),
    "exclude null": ({"exclude": None}, "exclude is not a list of names"),
    "include a name": ({"include": "work"}, "include is not a list of names"),
    "no passphrase": (
        {"passphrase_text": ...},
        "you need to specify passphrase_text or passphrase_vm",
    ),
    "number as passphrase": ({"passphrase_text": 1234}, "passphrase_text must be in quotes"),
    "unknown passphrase_vm": (
        {"passphrase_text": ..., "passphrase_vm": "no"},
        "invalid passphrase_vm",
    ),
}


def test_wrong_profiles(system: System) -> None:
    for what, (keys, message) in WRONG.items():
        system.profile(**keys)
        done = system.run("backup_run", "test")
        assert (done.returncode, done.stdout) == (1, ""), what
        assert message in done.stderr, what
        assert done.stderr.count("\n") == 1, what
    done = system.run("backup_run", "nowhere")
    assert (done.returncode, done.stderr) == (1, "Backup profile does not exist: nowhere\n")
    (system.profiles / "test.conf").write_text("a: [")
    assert "not YAML" in system.run("backup_run", "test").stderr
    assert not system.archive.exists()


def test_info_needs_no_passphrase_and_asks_nobody_for_it(system: System) -> None:
    system.add_qube("work")
    system.profile(passphrase_text=..., passphrase_vm="work")  # noqa: S106
    assert selected(system) == ["work"]


def test_passphrase_from_a_qube(system: System) -> None:
    system.add_qube("work")
    system.profile(passphrase_text=..., passphrase_vm="backup")  # noqa: S106
    service = "qubes.BackupPassphrase"
    system.lab.service("backup", service, 'test "$1" = test && echo "  from a qube "')
    system.backup()
    typed = "from a qube"
    done = system.restore("--verify-only", str(system.archive), passphrase=typed)
    assert done.returncode == 0, done.stderr
    system.lab.service("backup", service, "exit 1")
    done = system.run("backup_run", "test")
    assert done.stderr == "Failed to retrieve passphrase from 'backup' VM\n"
    system.lab.service("backup", service, "echo two; echo lines")
    done = system.run("backup_run", "test")
    assert done.stderr == "Passphrase must not contain newline character\n"


def test_table_of_what_is_stored(system: System) -> None:
    system.add_qube("work", b"\x01" * 2**21)
    system.profile(exclude=["dom0"])
    text = system.run("backup_run", "--info", "test").stdout
    head = "------------------+--------------+--------------+"
    lines = text.splitlines()
    assert lines[0] == lines[2] == head
    assert lines[1] == "               VM |         type |         size |"
    assert "             work |           VM |      2.0 MiB |" in lines
    assert any(line.startswith("debian-13-minimal |  Template VM |") for line in lines)
    running = [line for line in lines if "running" in line]
    assert running == [
        "           backup |           VM |            0 | <-- The VM is running, backup will "
        "contain its state from before its start!"
    ]
    assert text.endswith("VMs not selected for backup:\n - dom0\n")
