# SPDX-License-Identifier: GPL-3.0-or-later
"""A release upgrade with a reboot behind it: the shim is in place then, or the user is told.

The steps are those of QubesOS/qubes-dist-upgrade 4.2.2, scripts/qubes-dist-upgrade-r4.3.sh, in its
order, as far as they touch what is ours; docs/upgrades.md has the whole list, and
tests/upstream/test_release_upgrade.py sees that the script has no others.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testing.guard.dom0 import HOOKS, NEW, OLD, PACKAGE, PATH_UNIT, SECONDS, UNITS, Dom0, within

BOOT_UNIT = "qubes-dedup-backup-guard-boot.service"
MINE = "/etc/systemd/system-preset/00-mine.preset"
# What dom0 has of those: Fedora's, and QubesOS/qubes-core-admin-linux system-config/.
PRESETS = {
    "75-qubes-dom0.preset": "disable systemd-networkd.service\nenable qubes-qmemman.service\n",
    "99-default-disable.preset": "disable *\n",
    "99-qubes-default-disable.preset": "disable *\n",
}


@pytest.fixture
def fedora(clean: Dom0) -> Iterator[Dom0]:
    """dom0 with the presets that Qubes' dom0 has, and nothing of ours."""
    if not clean.boots:
        pytest.skip("no systemd runs in this dom0")
    folder = clean.file("/usr/lib/systemd/system-preset")
    for name, text in PRESETS.items():
        (folder / name).write_text(text)
    yield clean
    clean.clean()
    clean.file(MINE).unlink(missing_ok=True)
    for name in PRESETS:
        clean.file(f"/usr/lib/systemd/system-preset/{name}").unlink()


def upgrade(dom0: Dom0) -> None:
    """Do what the script does to dom0 before the reboot (--all-pre-reboot), and reboot."""
    # Stage 3, "distro-sync phase".
    dom0.transaction("distro-sync", "--best", "--allowerasing", repositories="lab,new")
    # Then restore_rpmsave_policy: of what we have, nothing is in /etc/qubes-rpc/policy.
    assert not list(dom0.file("/etc/qubes-rpc").glob("policy/*dedup*"))
    # Then this; and what was started by itself before, is enabled again.
    dom0.output("systemctl", "preset-all")
    dom0.reboot()


def enabled(dom0: Dom0) -> list[str]:
    """Return which units of the guard systemd starts at boot."""
    units = (PATH_UNIT, BOOT_UNIT)
    return [unit for unit in units if dom0.run("systemctl", "is-enabled", unit).returncode == 0]


def test_with_the_package(fedora: Dom0) -> None:
    """It is in no repository, and dnf doesn't know why it is there: it stays all the same."""
    fedora.output("sh", "-c", f"rpm --upgrade /srv/rpm-own/{PACKAGE}-*.rpm")
    fedora.output("shimctl", "install")
    upgrade(fedora)
    # The script's "Replace xscreensaver", dnf swap, removes what nothing needs any more; so does
    # this.
    fedora.transaction("autoremove", repositories="lab,new")
    assert fedora.shim_is_in_place(NEW)
    assert fedora.status()["problems"] == []
    assert fedora.status()["triggers"]["rpm"]["health"] == "ready"
    assert enabled(fedora) == [PATH_UNIT, BOOT_UNIT]


def test_without_package_and_hooks(fedora: Dom0) -> None:
    """As dnf 5 comes, dnf 4's hook isn't called any more: systemd is left, and goes on watching."""
    fedora.lay_down()
    hooks = HOOKS["dnf4"].rpartition("/")[0]
    fedora.output("mv", hooks, "/root/hooks")
    try:
        upgrade(fedora)
        assert fedora.shim_is_in_place(NEW)
        assert fedora.status()["problems"] == []
        assert enabled(fedora) == [PATH_UNIT, BOOT_UNIT]
        fedora.transaction("downgrade", "scrypt", repositories="lab")
        assert within(SECONDS, lambda: fedora.shim_is_in_place(OLD))
        assert fedora.status()["last"]["trigger"] == "path"
    finally:
        fedora.output("mv", "/root/hooks", hooks)


def test_with_nothing_but_the_boot(fedora: Dom0) -> None:
    """The path unit is masked, which stays the admin's word, and status says so."""
    fedora.lay_down()
    fedora.keep_only("boot")
    upgrade(fedora)
    assert fedora.shim_is_in_place(NEW)
    assert fedora.status()["last_change"]["trigger"] == "boot"
    assert enabled(fedora) == [BOOT_UNIT]
    assert str(fedora.file(f"{UNITS}/{PATH_UNIT}").readlink()) == "/dev/null"
    problems = fedora.status()["problems"]
    assert any("masked" in text for text in problems), problems


def test_a_guard_that_was_switched_off_is_told(fedora: Dom0) -> None:
    """A preset of the admin's own comes before ours; and here no other trigger is left."""
    fedora.lay_down()
    fedora.keep_only("path")
    fedora.file(MINE).write_text("disable *\n")
    upgrade(fedora)
    assert enabled(fedora) == []
    assert fedora.run("systemctl", "is-active", PATH_UNIT).returncode != 0
    status = fedora.run("shimctl", "status")
    assert status.returncode == 3
    for trigger in ("path", "boot"):
        assert f"problem: trigger {trigger}: broken: " in status.stdout

    fedora.output("shimctl", "reconcile")
    assert enabled(fedora) == [PATH_UNIT, BOOT_UNIT]


def test_a_change_while_python_is_replaced_is_not_lost(clean: Dom0) -> None:
    """Where the path unit is all there is, and shimctl can't start yet when it fires."""
    if not clean.boots:
        pytest.skip("no systemd runs in this dom0")
    clean.lay_down()
    clean.keep_only("path")
    tries = ("systemctl", "list-units", "--all", "--no-legend", "run-*.service")
    clean.output("mv", "/usr/bin/python3", "/usr/bin/python3.away")
    try:
        clean.output("cp", "-p", "/usr/bin/scrypt.bak", "/usr/bin/scrypt.new")
        clean.output("mv", "/usr/bin/scrypt.new", "/usr/bin/scrypt")
        assert within(30, lambda: "auto-restart" in clean.output(*tries))
        assert clean.scrypt() != clean.shim()
    finally:
        clean.output("mv", "/usr/bin/python3.away", "/usr/bin/python3")
    assert within(30, lambda: clean.shim_is_in_place(OLD))
