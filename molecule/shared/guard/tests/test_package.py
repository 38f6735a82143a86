# SPDX-License-Identifier: GPL-3.0-or-later
"""Our own RPM with the real dnf: install, upgrade, erase."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testing.guard.dom0 import NEW, OLD, PACKAGE, PATH_UNIT, PROGRAMS, SECONDS, UNITS, Dom0, within

CONFIG = f"/etc/{PACKAGE}"


@pytest.fixture
def installed(clean: Dom0) -> Iterator[Dom0]:
    """dom0 with our package, and nothing else done."""
    clean.transaction("install", PACKAGE, repositories="lab,own")
    yield clean
    clean.clean()


def leftovers(dom0: Dom0) -> list[str]:
    """Return all files in dom0 that are named after us, or that only we make."""
    folders = ["/usr", "/etc", "/var/lib", "-path", "/var/lib/dnf", "-prune", "-o"]
    names = ["-name", "*dedup-backup*", "-o", "-name", "*shimctl*", "-o", "-name", "scrypt.bak*"]
    found = dom0.output("find", *folders, "(", *names, ")", "-print")
    return found.splitlines()


def test_installing_changes_nothing(installed: Dom0) -> None:
    installed.output("rpm", "-V", "scrypt", PACKAGE)
    assert installed.version("/usr/bin/scrypt") == installed.old
    assert not installed.file("/usr/bin/scrypt.bak").exists()
    assert not installed.file(f"{UNITS}/{PATH_UNIT}").exists()
    assert installed.run("shimctl", "status").returncode == 3


def test_using_it_writes_no_bytecode_and_changes_no_file(installed: Dom0) -> None:
    installed.output("shimctl", "install")
    installed.output("shimctl", "status")
    installed.output("shimctl", "reconcile")
    installed.output("rpm", "-V", PACKAGE)
    owned = installed.output("rpm", "-ql", PACKAGE).splitlines()
    folders = [path for path in (PROGRAMS, f"/usr/share/{PACKAGE}") if path in owned]
    assert len(folders) == 2
    there = installed.output("find", *folders).splitlines()
    assert sorted(there) == sorted(p for p in owned if p.startswith(tuple(folders)))


def test_upgrade_brings_the_new_shim_and_keeps_settings(installed: Dom0) -> None:
    installed.output("shimctl", "install", "--mode", "off")
    before = installed.shim()
    with installed.file(f"{CONFIG}/group_vars/all.yml").open("a") as settings:
        settings.write("# mine\n")

    installed.transaction("upgrade", PACKAGE, repositories="lab,own-next")

    assert b"# a later version" not in before
    assert installed.shim().endswith(b"# a later version\n")
    assert within(SECONDS, lambda: installed.shim_is_in_place(OLD))
    assert installed.file(f"{CONFIG}/group_vars/all.yml").read_text().endswith("# mine\n")
    assert "mode = off" in installed.file(f"{CONFIG}/scrypt.conf").read_text()
    status = installed.status()
    assert (status["healthy"], status["mode"]) == (True, "off")
    if installed.boots:
        assert installed.file(f"{UNITS}/{PATH_UNIT}").read_text().endswith("# a later version\n")
        assert installed.output("systemctl", "is-active", PATH_UNIT) == "active"

    installed.transaction("downgrade", PACKAGE, repositories="lab,own")
    assert within(SECONDS, lambda: installed.scrypt() == before)


@pytest.mark.parametrize("scrypt", [OLD, NEW])
def test_erasing_leaves_what_scrypts_package_shipped(installed: Dom0, scrypt: str) -> None:
    installed.output("shimctl", "install")
    if scrypt == NEW:
        installed.transaction("upgrade", "scrypt", repositories="lab,new")
    installed.transaction("remove", PACKAGE)
    installed.output("rpm", "-V", "scrypt")
    assert installed.version("/usr/bin/scrypt") == (installed.old if scrypt == OLD else scrypt)
    assert leftovers(installed) == []


def test_erasing_scrypt_erases_both(installed: Dom0) -> None:
    installed.output("shimctl", "install")
    installed.transaction("remove", "scrypt")
    assert installed.scrypt() is None
    assert leftovers(installed) == []


def test_a_shim_that_cant_be_removed_keeps_the_package(installed: Dom0) -> None:
    """Its programs are what the user needs then."""
    installed.output("shimctl", "install")
    installed.keep_only("none")
    installed.file("/usr/bin/scrypt.bak").unlink()
    done = installed.run("rpm", "-e", PACKAGE)
    assert done.returncode != 0
    assert "reinstall" in done.stderr
    installed.output("rpm", "-V", PACKAGE)
    installed.transaction("reinstall", "scrypt")
    assert within(SECONDS, lambda: installed.shim_is_in_place(OLD))


def test_it_takes_over_what_the_playbook_laid_down(clean: Dom0) -> None:
    clean.lay_down()
    clean.transaction("install", PACKAGE, repositories="lab,own")
    clean.output("rpm", "-V", PACKAGE)
    assert clean.status()["healthy"] is True
    assert clean.status()["triggers"]["rpm"]["health"] == "ready"
    clean.transaction("remove", PACKAGE)
    clean.output("rpm", "-V", "scrypt")
    assert leftovers(clean) == []


def test_a_guard_that_crashes_breaks_no_transaction(installed: Dom0) -> None:
    installed.output("shimctl", "install")
    program = installed.file(f"{PROGRAMS}/shimctl")
    content = program.read_bytes()
    program.write_text("#!/bin/sh\necho crashed >&2\nexit 1\n")
    text = installed.transaction("upgrade", "scrypt", repositories="lab,new")
    assert "crashed" in text
    assert installed.version("/usr/bin/scrypt") == NEW
    program.write_bytes(content)
    installed.output("shimctl", "reconcile")
    assert installed.shim_is_in_place(NEW)


def test_its_playbook_finds_nothing_to_do(installed: Dom0) -> None:
    """What the package brought is what the playbook would lay down."""
    if not installed.file("/usr/bin/ansible-playbook").exists():
        pytest.skip("no Ansible in this dom0")
    installed.output("shimctl", "install")
    play = f"ansible-playbook -i {CONFIG}/inventory playbooks/shim.yml"
    said = installed.output("sh", "-c", f"cd /usr/share/{PACKAGE} && {play}")
    assert "changed=0" in said
    assert "failed=0" in said
