# SPDX-License-Identifier: GPL-3.0-or-later
"""What a release upgrade does to dom0's units and to dnf: the guard stays on, or it is told."""

import os
import subprocess

import pytest

from testing.shim.driver import PAYLOAD
from testing.shim.shimctl import DNF4, DNF5, HOOKS4, HOOKS5, System, with_plugin, with_systemd

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="shimctl changes things as root only")


def preset_all(system: System) -> list[str]:
    """Do what a release upgrade does; return which of the guard's units are enabled then."""
    argv = ["systemctl", "--quiet", f"--root={system.root}", "preset-all"]
    subprocess.run(argv, check=True, capture_output=True)
    return sorted(path.name for path in (system.units / "multi-user.target.wants").glob("*"))


def test_units_stay_enabled_when_all_presets_are_applied(system: System) -> None:
    with_systemd(system)
    presets = system.root / "usr/lib/systemd/system-preset"
    presets.mkdir(parents=True)
    # Fedora's and Qubes' last word.
    for name in ("75-qubes-dom0", "99-default-disable", "99-qubes-default-disable"):
        (presets / f"{name}.preset").write_text("disable *\n")
    system.json("install")
    both = ["qubes-dedup-backup-guard-boot.service", "qubes-dedup-backup-guard.path"]
    assert preset_all(system) == both
    assert system.json("status")["healthy"]

    # Without ours, as where an earlier version installed the shim.
    ours = system.root / "etc/systemd/system-preset/50-qubes-dedup-backup.preset"
    ours.unlink()
    assert preset_all(system) == []
    triggers = system.json("status", status=3)["triggers"]
    assert [triggers[name]["health"][:6] for name in ("path", "boot")] == ["broken"] * 2
    system.trigger("rpm")
    assert preset_all(system) == both
    system.json("remove")
    assert not ours.exists()


def test_hooks_follow_dnf_through_a_release_upgrade(system: System) -> None:
    """The plugin of dnf 4 goes, its folder in /etc stays, with our hook; that of dnf 5 comes."""
    system.units.mkdir(parents=True)
    with_plugin(system, DNF4, HOOKS4)
    dnf = system.root / "usr/bin/dnf"
    dnf.symlink_to("dnf-3")
    system.json("install")

    def health(name: str) -> str:
        return str(system.json("status")["triggers"][name]["health"])

    assert (health("dnf4"), health("dnf5")[:6]) == ("ready", "absent")
    dnf.unlink()
    dnf.symlink_to("dnf5")
    assert health("dnf4") == "absent: dnf is dnf 5 here"
    dnf.unlink()
    (system.root / DNF4).unlink()
    assert health("dnf4").endswith("is not installed")
    with_plugin(system, DNF5, HOOKS5)
    system.trigger("boot")
    assert health("dnf5") == "ready"


def said(system: System) -> list[str]:
    """Return what another program of ours in dom0 says on stderr."""
    argv = [str(PAYLOAD / "qubes-dedup-backup"), "secrets", "--root", str(system.root)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()


def test_other_programs_tell_when_no_trigger_is_left(system: System) -> None:
    with_systemd(system)
    assert said(system) == []  # nothing was installed
    system.json("install")
    assert said(system) == []
    for plugin in (DNF4, DNF5):
        (system.root / plugin).unlink()
    wants = system.units / "multi-user.target.wants"
    boot, path = sorted(wants.iterdir())
    path.unlink()
    assert said(system) == []  # the next boot will do it
    boot.unlink()
    [line] = said(system)
    assert "guard is off" in line
    assert "shimctl reconcile" in line
    system.json("reconcile")
    assert said(system) == []


@pytest.mark.parametrize("method", ["replace", "path"])
def test_other_programs_tell_when_the_shim_is_not_in_place(system: System, method: str) -> None:
    with_systemd(system)
    system.json("install", "--method", method)
    if method == "path":
        system.local.unlink()
    else:
        system.package(changed=True)
    [line] = said(system)
    assert str(system.local if method == "path" else system.scrypt) in line
    assert "is not the scrypt shim" in line
    system.json("remove")
    assert said(system) == []
