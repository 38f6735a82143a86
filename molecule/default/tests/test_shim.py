# SPDX-License-Identifier: GPL-3.0-or-later
"""What the shim role leaves in dom0, seen from outside."""

from __future__ import annotations

import json
import os

from qubeslab.paths import DOM0, LabPaths
from testinfra.host import Host

from testing.paths import PROJECT

testinfra_hosts = [f"podman://{LabPaths.named(os.environ['LAB_NAME']).container(DOM0)}"]


def test_scrypt_is_the_shim(host: Host) -> None:
    shim = host.file("/usr/bin/scrypt")
    assert shim.is_file and not shim.is_symlink
    assert (shim.user, shim.group, shim.mode) == ("root", "root", 0o755)
    assert shim.content == (PROJECT / "payload/dom0/scrypt").read_bytes()


def test_the_real_scrypt_is_kept(host: Host) -> None:
    real = host.file("/usr/bin/scrypt.bak")
    assert real.content[:4] == b"\x7fELF"
    assert real.mode == 0o755
    assert host.check_output("/usr/bin/scrypt.bak --version").startswith("scrypt 1.")


def test_other_calls_reach_the_real_scrypt(host: Host) -> None:
    shim = host.run("scrypt --version")
    real = host.run("scrypt.bak --version")
    assert (shim.rc, shim.stdout, shim.stderr) == (real.rc, real.stdout, real.stderr)


def test_status_is_healthy(host: Host) -> None:
    status = host.run("shimctl status --json")
    assert status.rc == 0, status.stderr
    facts = json.loads(status.stdout)
    assert (facts["changed"], facts["as_shipped"]) == (False, "yes")
    assert facts["package"].startswith("scrypt-1.")


def test_any_dom0_user_can_run_it(host: Host) -> None:
    assert host.check_output("runuser -u user -- scrypt --version").startswith("scrypt 1.")


def test_every_caller_finds_the_shim(host: Host) -> None:
    callers = json.loads(host.run("shimctl status --json").stdout)["callers"]
    assert callers == dict.fromkeys(("qubesd", "login shell", "sudo"), "/usr/bin/scrypt")


def test_guard_is_ready(host: Host) -> None:
    assert host.service("qubes-dedup-backup-guard.path").is_running
    for unit in ("qubes-dedup-backup-guard.path", "qubes-dedup-backup-guard-boot.service"):
        assert host.service(unit).is_enabled
    triggers = json.loads(host.run("shimctl status --json").stdout)["triggers"]
    assert [triggers[name]["health"] for name in ("dnf4", "path", "boot")] == ["ready"] * 3


REPLACE = "cp -p /usr/bin/scrypt.bak /usr/bin/new && mv /usr/bin/new /usr/bin/scrypt"
QUIET = "timeout 60 sh -c 'while pgrep -x shimctl; do sleep 0.1; done'"
IS_SHIM = "cmp -s /usr/bin/scrypt /usr/lib/qubes-dedup-backup/scrypt"


def test_shim_is_back_at_once_by_the_path_unit_alone(host: Host) -> None:
    for _ in range(8):  # more often than systemd's usual limit of starts
        assert host.run(REPLACE).rc == 0
        assert host.run(f"timeout 60 sh -c 'until {IS_SHIM}; do sleep 0.1; done'").rc == 0
    assert host.run("systemctl is-failed qubes-dedup-backup-guard.path").rc != 0


def test_shim_is_back_after_a_boot(host: Host) -> None:
    assert host.run("systemctl stop qubes-dedup-backup-guard.path").rc == 0
    assert host.run(QUIET).rc == 0  # runs for earlier changes may be under way
    assert host.run(REPLACE).rc == 0
    assert host.run(IS_SHIM).rc == 1
    # What systemd does at boot: start what multi-user.target wants.
    assert host.run("systemctl start multi-user.target").rc == 0
    assert host.run(f"timeout 60 sh -c 'until {IS_SHIM}; do sleep 0.1; done'").rc == 0
    assert host.service("qubes-dedup-backup-guard.path").is_running


def test_by_path_the_package_is_never_touched(host: Host) -> None:
    before = host.check_output("find /usr/bin /etc /usr/local | sort")
    assert host.run("shimctl install --method path").rc == 0
    verified = host.run("rpm -V scrypt")
    status = json.loads(host.run("shimctl status --json").stdout)
    again = host.run("shimctl install --method replace")
    assert (verified.rc, verified.stdout) == (0, "")
    assert status["healthy"], status["problems"]
    assert set(status["callers"].values()) == {"/usr/local/bin/scrypt"}
    assert again.rc == 0, again.stderr
    assert host.check_output("find /usr/bin /etc /usr/local | sort") == before


def test_remove_leaves_what_the_package_shipped(host: Host) -> None:
    assert host.run("shimctl remove").rc == 0
    verified = host.run("rpm -V scrypt")
    # The programs stay: whoever laid them down removes them. And what the scenario `salt` makes
    # beside the shim.
    others = "-path /usr/bin/qubes-dedup-backup -o -exec test -e {}/server.toml \\;"
    others += " -o -name 75-dedup-backup.policy -o -path '/var/lib/qubes/*'"
    places = "/etc /usr/bin /usr/local/bin /var/lib"
    found = host.run(f"find {places} -name '*dedup-backup*' -not \\( {others} \\)")
    # A run of the guard that was under way may still end.
    units = "systemctl list-units --all --no-legend qubes-dedup-backup\\*"
    gone = host.run(f"timeout 60 sh -c 'until [ -z \"$({units})\" ]; do sleep 0.1; done'")
    again = host.run("shimctl install")
    assert (verified.rc, verified.stdout) == (0, "")
    assert (found.stdout, gone.rc) == ("", 0)
    assert again.rc == 0, again.stderr


def test_the_command_is_in_the_path(host: Host) -> None:
    done = host.run("qubes-dedup-backup list")
    # There is no profile here; it says so, which shows that all its modules are there.
    assert (done.rc, "there is no /etc/qubes/backup" in done.stderr) == (2, True), done.stderr
