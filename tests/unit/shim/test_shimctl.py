# SPDX-License-Identifier: GPL-3.0-or-later
"""shimctl: what it puts where, what it says of it, and what it leaves alone."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from testing.shim.driver import PAYLOAD, real_scrypt
from testing.shim.shimctl import System

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="shimctl changes things as root only")
SHIM = (PAYLOAD / "scrypt").read_bytes()
GUIDE = """#!/bin/sh
if [ "$1" = "enc" ]
then
    printf "Please enter passphrase: " >/dev/stderr
    printf "Please confirm passphrase: " >/dev/stderr
fi
cat "$2" > "$3"
"""


def metadata(path: Path) -> tuple[object, ...]:
    """Return all that `rpm -V` looks at."""
    status = path.stat()
    return path.read_bytes(), status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns


def test_install_puts_the_shim_before_the_real_scrypt(system: System) -> None:
    before = metadata(system.scrypt)
    result = system.json("install")
    assert result["changed"]
    assert system.scrypt.read_bytes() == SHIM
    assert system.scrypt.stat().st_mode & 0o7777 == 0o755
    assert system.scrypt.stat().st_nlink == 1
    assert metadata(system.real) == before
    assert system.real.stat().st_nlink == 1
    assert system.config.read_text().endswith("\nmode = authenticated\n")
    assert system.works()
    assert system.json("status")["healthy"]


def test_second_run_changes_nothing(system: System) -> None:
    system.json("install")
    before = system.listing()
    for command in ("install", "reconcile"):
        result = system.json(command)
        assert not result["changed"]
        assert result["before"] == result["after"]
    assert system.listing() == before
    system.json("remove")
    before = system.listing()
    assert not system.json("remove")["changed"]
    assert system.listing() == before


def test_remove_leaves_what_the_package_shipped(system: System) -> None:
    before = system.listing()
    system.json("install", "--mode", "off")
    assert system.json("remove")["changed"]
    assert system.listing() == before
    assert not (system.root / "etc/qubes-dedup-backup").exists()
    assert not (system.root / "var/lib/qubes-dedup-backup").exists()


def test_remove_keeps_ledgers_and_an_edited_config(system: System) -> None:
    system.json("install")
    ledger = system.root / "var/lib/qubes-dedup-backup/ledger/2024"
    ledger.parent.mkdir()
    ledger.write_text("{}\n")
    system.config.write_text("# mine\nmode = off\n")
    system.json("remove")
    assert ledger.exists()
    assert system.config.read_text() == "# mine\nmode = off\n"


@pytest.mark.sampled(4)
@pytest.mark.parametrize("arguments", [["install", "--mode", "off"], ["reconcile"], ["remove"]])
@pytest.mark.parametrize("start", ["package", "installed", "upgraded"])
def test_check_tells_the_truth_and_changes_nothing(
    system: System, start: str, arguments: list[str]
) -> None:
    if start != "package":
        system.json("install")
    if start == "upgraded":
        system.package(changed=True)
    before = system.listing()
    done = system.run(*arguments, "--check", "--json")
    told = json.loads(done.stdout)
    assert system.listing() == before
    done_for_real = system.json(*arguments)
    assert told == done_for_real
    assert done.returncode == (3 if told["changed"] else 0)
    assert told["changed"] == (told["before"] != told["after"])
    again = json.loads(system.run("status", "--json").stdout)
    assert {key: again[key] for key in told["after"]} == told["after"]


def test_status_says_what_is_in_place(system: System) -> None:
    result = system.json("status", status=3)
    assert (result["installed"], result["scrypt"], result["healthy"]) == ("no", "real", False)
    system.json("install", "--mode", "off")
    result = system.json("status")
    assert [result[key] for key in ("installed", "scrypt", "real", "mode", "problems")] == [
        "yes",
        "shim",
        "real",
        "off",
        [],
    ]
    done = system.run("status")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(
        "installed: yes\nmethod: replace\nscrypt: shim\nreal: real\nmode: off\n"
    )
    assert f"{system.scrypt}: shim, 0755, owner 0:0" in done.stdout.splitlines()


def test_mode_is_set_only_when_asked_for(system: System) -> None:
    system.json("install", "--mode", "off")
    system.json("install")
    assert system.json("status")["mode"] == "off"
    assert system.json("install", "--mode", "authenticated")["before"]["mode"] == "off"
    assert system.json("status")["mode"] == "authenticated"


def test_mode_that_wrote_in_clear_is_told_of_and_replaced_only_by_the_user(system: System) -> None:
    system.json("install")
    plain = "# as before\n  mode = plain # the guide's\n"
    system.config.write_text(plain)
    [problem] = system.json("status", status=3)["problems"]
    for text in ("`mode = plain`", "in clear", "counts as off", "shimctl install --mode"):
        assert text in problem
    assert "restore-guide" in problem
    assert system.json("install", status=1)["error"] == problem
    assert system.run("install", "--mode", "plain").returncode == 2
    system.package(changed=True)
    result = system.json("reconcile", status=1)
    assert (result["changed"], result["error"]) == (True, problem)
    assert system.scrypt.read_bytes() == SHIM
    assert system.config.read_text() == plain
    check = system.run("install", "--mode", "authenticated", "--check", "--json")
    assert (check.returncode, system.config.read_text()) == (3, plain)
    [step] = system.json("install", "--mode", "authenticated")["steps"]
    assert "set mode = authenticated" in step
    assert problem in step
    assert system.json("status")["healthy"]


def test_reconcile_puts_the_shim_around_a_new_binary(system: System) -> None:
    system.json("install")
    system.package(changed=True)
    new = system.scrypt.read_bytes()
    assert "reconcile" in system.json("status", status=3)["problems"][0]
    assert system.json("reconcile")["changed"]
    assert system.scrypt.read_bytes() == SHIM
    assert system.real.read_bytes() == new
    assert system.json("status")["healthy"]


def test_reconcile_does_nothing_where_nothing_is_installed(system: System) -> None:
    before = system.listing()
    assert not system.json("reconcile")["changed"]
    system.json("install")
    system.json("remove")
    system.package()
    assert not system.json("reconcile")["changed"]
    assert system.listing() == before


@pytest.mark.parametrize("damage", ["edited", "mode", "deleted"])
def test_damaged_shim_is_seen_and_repaired(system: System, damage: str) -> None:
    system.json("install")
    if damage == "edited":
        system.scrypt.write_bytes(SHIM + b"# edited\n")
    elif damage == "mode":
        system.scrypt.chmod(0o777)
    else:
        system.scrypt.unlink()
    assert system.json("status", status=3)["problems"]
    assert system.json("reconcile")["changed"]
    assert system.scrypt.read_bytes() == SHIM
    assert system.json("status")["healthy"]


def test_lost_real_scrypt_is_told_and_cured_by_the_package(system: System) -> None:
    system.json("install")
    system.real.unlink()
    [problem] = system.json("status", status=3)["problems"]
    assert str(system.real) in problem
    assert "reinstall" in problem
    before = system.listing()
    for command in ("install", "reconcile", "remove"):
        assert "reinstall" in system.json(command, status=1)["error"]
    assert system.listing() == before
    system.package()
    assert system.json("reconcile")["changed"]
    assert system.json("status")["healthy"]


@pytest.mark.parametrize("name", ["scrypt.bak", "scrypt.old"])
def test_installation_by_the_guide_is_adopted(system: System, name: str) -> None:
    shipped = metadata(system.scrypt)
    kept = system.scrypt.rename(system.root / "usr/bin" / name)
    system.scrypt.write_text(GUIDE)
    system.scrypt.chmod(0o755)
    assert system.json("status", status=3)["scrypt"] == "guide"
    assert not system.json("remove")["changed"]
    result = system.json("install")
    assert result["before"]["scrypt"] == "guide"
    assert any("guide" in step and "restore-guide" in step for step in result["steps"])
    assert system.json("status")["healthy"]
    assert metadata(system.real) == shipped
    assert kept.exists()
    system.json("remove")
    assert metadata(system.scrypt) == shipped


def test_guide_without_a_real_scrypt_is_refused(system: System) -> None:
    system.scrypt.write_text(GUIDE)
    before = system.listing()
    assert "reinstall" in system.json("install", status=1)["error"]
    assert system.listing() == before


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("scrypt", "link"),
        ("scrypt", "folder"),
        ("scrypt", "script"),
        ("scrypt", "other program"),
        ("scrypt.bak", "link"),
        ("scrypt.bak", "folder"),
        ("scrypt.bak", "script"),
    ],
)
def test_what_is_not_known_is_left_alone(system: System, name: str, what: str) -> None:
    path = system.root / "usr/bin" / name
    path.unlink(missing_ok=True)
    if what == "link":
        path.symlink_to(real_scrypt())
    elif what == "folder":
        path.mkdir()
    elif what == "script":
        path.write_text("#!/bin/sh\n")
    else:
        shutil.copy2("/bin/true", path)
    before = system.listing()
    assert str(path) in system.json("install", status=1)["error"]
    assert system.listing() == before


def test_broken_config_is_told_and_not_overwritten(system: System) -> None:
    system.json("install")
    system.config.write_text("mode = best\n")
    assert "malformed" in system.json("status", status=3)["problems"][0]
    assert "malformed" in system.json("install", status=1)["error"]
    system.package()
    assert "malformed" in system.json("reconcile", status=1)["error"]
    assert system.scrypt.read_bytes() == SHIM
    assert system.config.read_text() == "mode = best\n"
    assert system.json("install", "--mode", "off")["changed"]
    assert system.json("status")["healthy"]


def test_wrong_usage_and_missing_rights(system: System) -> None:
    assert system.run("instal").returncode == 2
    assert system.run("status", "--mode", "off").returncode == 2
    assert system.run("install", "--mode", "best").returncode == 2
    assert "Exit status" in system.run("--help").stdout


def test_user_without_rights_may_ask_but_not_change(system: System) -> None:
    system.json("install")
    system.root.chmod(0o755)
    shutil.copytree(PAYLOAD, system.root / "srv")  # where anybody may read it
    as_nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    argv = [*as_nobody, str(system.root / "srv/shimctl"), "--root", str(system.root)]
    done = subprocess.run([*argv, "remove"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "shimctl: remove needs root: run it with sudo\n")
    done = subprocess.run([*argv, "status"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "installed: yes")
