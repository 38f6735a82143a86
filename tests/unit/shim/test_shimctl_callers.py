# SPDX-License-Identifier: GPL-3.0-or-later
"""A scrypt that is found before the shim is told of by whoever installs, updates or looks."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from testing.shim.driver import PAYLOAD, journal_at, real_scrypt
from testing.shim.shimctl import System

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="shimctl changes things as root only")
SHIM = (PAYLOAD / "scrypt").read_bytes()
GUIDE = '#!/bin/sh\nprintf "Please enter passphrase: " >&2\ncat "$2" >"$3"\n'
PERSONAL = ("root/bin", "root/.local/bin", "home/user/bin", "home/user/.local/bin")
SYSTEM = ("usr/local/sbin", "usr/local/bin", "usr/sbin")


def put(system: System, folder: str, content: str | bytes = GUIDE, mode: int = 0o755) -> Path:
    """Put a program scrypt into a folder."""
    path = system.root / folder / "scrypt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return path


@pytest.mark.sampled(4)
@pytest.mark.parametrize("folder", [*PERSONAL, *SYSTEM])
def test_scrypt_that_is_found_first_is_refused_by_all_and_left_alone(
    system: System, folder: str
) -> None:
    other = put(system, folder)
    before = system.listing()
    assert str(other) in system.json("install", status=1)["error"]
    assert f"{other} is" in " ".join(system.json("status", status=3)["problems"])
    assert system.listing() == before
    other.unlink()
    system.json("install")
    put(system, folder)
    system.package(changed=True)
    new = system.scrypt.read_bytes()
    with journal_at(system.root) as told:
        assert str(other) in system.trigger("path").stderr
        [warning] = [line for line in told() if line.startswith("<12>")]
    assert "needs you" in warning
    assert f"sudo rm {other}" in warning
    assert (system.scrypt.read_bytes(), system.real.read_bytes()) == (SHIM, new)
    for command in ("install", "reconcile"):
        result = system.json(command, status=1)
        assert (result["changed"], str(other) in result["error"]) == (False, True)
        assert system.run(command, "--check").returncode == 1
    [problem] = system.json("status", status=3)["problems"]
    assert f"{other} is" in problem
    assert other.read_text() == GUIDE
    other.unlink()
    assert not system.json("reconcile")["changed"]
    assert system.json("status")["healthy"]


@pytest.mark.parametrize("content", [GUIDE, "#!/bin/sh\n", "the real one", "the shim"])
def test_whatever_program_it_is(system: System, content: str) -> None:
    """A real scrypt there ends deduplication; a copy of the shim is one that nobody updates."""
    programs = {"the real one": real_scrypt().read_bytes(), "the shim": SHIM}
    system.json("install")
    other = put(system, "usr/local/sbin", programs.get(content, content))
    assert str(other) in system.json("reconcile", status=1)["error"]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("folder", [*PERSONAL, "usr/local/sbin"])
def test_by_path_as_well(system: System, folder: str) -> None:
    other = put(system, folder)
    before = system.listing()
    assert str(other) in system.json("install", "--method", "path", status=1)["error"]
    assert system.listing() == before
    other.unlink()
    system.json("install", "--method", "path")
    put(system, folder)
    assert str(other) in system.json("reconcile", status=1)["error"]
    assert str(other) in system.json("status", status=3)["problems"][0]
    other.unlink()
    put(system, "usr/sbin")  # behind /usr/local/bin in every PATH
    assert not system.json("reconcile")["changed"]
    assert system.json("status")["healthy"]


def test_the_same_program_under_another_name_is_not_in_the_way(system: System) -> None:
    """Fedora 42 has /usr/sbin as a link to bin."""
    (system.root / "usr/sbin").symlink_to("bin")
    put(system, "usr/local/sbin", mode=0o644)  # no program: whoever looks for one looks further
    (system.root / "home/user/bin/scrypt").mkdir(parents=True)
    (system.root / "root/bin").mkdir(parents=True)
    (system.root / "root/bin/scrypt").symlink_to(system.scrypt)
    (system.root / "root/.local/bin").mkdir(parents=True)
    (system.root / "root/.local/bin/scrypt").symlink_to(system.root / "gone")
    for command in ("install", "reconcile"):
        system.json(command)
    assert system.json("status")["healthy"]


def test_caller_with_a_path_of_its_own_is_told_of_beside_other_problems(tmp_path: Path) -> None:
    """The running system, in a namespace: its user's login shell has a folder of its own first."""
    script = f"""
set -e
mount -t tmpfs none {tmp_path}
for name in usr var etc home; do
    mkdir {tmp_path}/$name {tmp_path}/$name.work
    mount -t overlay -o lowerdir=/$name,upperdir={tmp_path}/$name,workdir={tmp_path}/$name.work \\
        none /$name
done
mount -t tmpfs none /run
rm -f /usr/local/bin/scrypt
{PAYLOAD}/shimctl install >&2
useradd --create-home --shell /bin/sh dom0user
groupadd --force qubes && usermod --append --groups qubes dom0user
mkdir /home/dom0user/odd
printf '#!/bin/sh\\n' >/home/dom0user/odd/scrypt && chmod -R 755 /home/dom0user
echo 'PATH=$HOME/odd:$PATH' >/home/dom0user/.profile
echo 'mode = plain' >/etc/qubes-dedup-backup/scrypt.conf
for command in "install --mode off" reconcile "reconcile --trigger boot"; do
    {PAYLOAD}/shimctl $command >/run/said 2>&1 || true
    grep -F "/home/dom0user/odd/scrypt is a scrypt that callers find before" /run/said >&2
done
echo 'mode = plain' >/etc/qubes-dedup-backup/scrypt.conf
{PAYLOAD}/shimctl status --json
"""
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 3, done.stderr
    status = json.loads(done.stdout)
    assert status["callers"]["login shell"] == "/home/dom0user/odd/scrypt"
    plain, odd = (line for line in status["problems"] if "trigger" not in line)
    assert "`mode = plain`" in plain
    assert "/home/dom0user/odd/scrypt is a scrypt that callers find before the shim" in odd


def test_every_command_of_qubes_dedup_backup_begins_with_it(system: System) -> None:
    system.json("install")
    other = put(system, "usr/local/bin")
    program = [PAYLOAD / "qubes-dedup-backup", "secrets", "--root", system.root]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert f"warning: {other} is found before the shim" in done.stderr
    shutil.rmtree(other.parent)
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert str(other) not in done.stderr


def test_advice_after_a_refusal_leads_to_an_installed_shim(system: System) -> None:
    other = put(system, "usr/local/bin")
    error = system.json("install", status=1)["error"]
    assert "then run the same command again" in error
    assert "reconcile" not in error
    problems = " ".join(system.json("status", status=3)["problems"])
    assert "then run `sudo shimctl install`" in problems
    assert "reconcile" not in problems
    other.unlink()
    system.json("install")
    assert system.scrypt.read_bytes() == SHIM


def test_reconcile_by_hand_says_that_there_is_no_shim(system: System) -> None:
    for arguments in ((), ("--check",)):
        done = system.run("reconcile", *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert "the shim isn't installed; `sudo shimctl install` installs it" in done.stdout
    with journal_at(system.root) as told:
        done = system.trigger("boot")
        assert (done.stdout, done.stderr, told()) == ("", "", [])
    system.json("install")
    assert system.run("reconcile").stdout == "nothing to do\n"


def test_state_that_was_lost_is_told_of_where_backups_were_made(system: System) -> None:
    system.json("install")
    (system.root / "var/lib/qubes-dedup-backup/state.json").unlink()
    ledger = system.root / "var/lib/qubes-dedup-backup/ledger"
    program = [PAYLOAD / "qubes-dedup-backup", "secrets", "--root", system.root]
    with journal_at(system.root) as told:
        for made in (False, True):
            if made:
                (ledger / "20261124T101500-1").touch()
            else:
                ledger.mkdir()
            system.trigger("boot")
            assert [line.startswith("<12>") for line in told()] == [True] * made
            assert ("new backups don't deduplicate" in system.run("reconcile").stdout) == made
            done = subprocess.run(program, capture_output=True, text=True, check=False)
            assert ("warning: backups were made with the scrypt shim" in done.stderr) == made
    system.json("install")
    assert system.json("status")["healthy"]
