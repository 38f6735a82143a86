# SPDX-License-Identifier: GPL-3.0-or-later
"""shimctl: at every instant /usr/bin/scrypt works, and what a package shipped comes back."""

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from shim_driver import PAYLOAD, limit_file_size, real_scrypt

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
# Runs a program and kills it just before its Nth change of the filesystem. Python tells audit hooks
# of every such call.
KILLER = """
import os, runpy, signal, sys
left = int(sys.argv.pop(1))
CHANGES = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.chown"}
def hook(event, arguments):
    global left
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & 3
    if event in CHANGES or writes:
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
sys.addaudithook(hook)
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


Done = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class System:
    """A root folder as a package left it."""

    root: Path

    @property
    def scrypt(self) -> Path:
        """What everybody calls."""
        return self.root / "usr/bin/scrypt"

    @property
    def real(self) -> Path:
        """The real scrypt behind the shim."""
        return self.root / "usr/bin/scrypt.bak"

    @property
    def config(self) -> Path:
        """The shim's config."""
        return self.root / "etc/qubes-dedup-backup/scrypt.conf"

    def package(self, *, changed: bool = False) -> None:
        """Install or upgrade the scrypt package as rpm does: a new file is renamed into place."""
        new = self.root / "usr/bin/scrypt;new"
        shutil.copy2(real_scrypt(), new)
        if changed:
            with new.open("ab") as file:
                file.write(b"a later version")
        os.utime(new, (1_700_000_000, 1_700_000_000))
        new.rename(self.scrypt)

    def run(self, *arguments: str, prefix: tuple[str, ...] = ()) -> Done:
        """Run shimctl."""
        argv = [*prefix, str(PAYLOAD / "shimctl"), *arguments, "--root", str(self.root)]
        return subprocess.run(argv, capture_output=True, text=True, check=False)

    def json(self, *arguments: str, status: int = 0) -> dict[str, Any]:
        """Run shimctl --json, expect an exit status, return the result."""
        done = self.run(*arguments, "--json")
        assert (done.returncode, done.stderr) == (status, "")
        result = json.loads(done.stdout)
        assert isinstance(result, dict)
        return result

    def works(self) -> bool:
        """Tell whether /usr/bin/scrypt works: the real one, or the shim with one behind it."""
        done = subprocess.run([self.scrypt, "--version"], capture_output=True, check=False)
        return done.returncode == 0 and done.stdout.startswith(b"scrypt ")

    def listing(self) -> dict[str, tuple[object, ...]]:
        """Return all that there is, in a form to compare; without run, which a boot empties."""
        found: dict[str, tuple[object, ...]] = {}
        for path in self.root.rglob("*"):
            name = str(path.relative_to(self.root))
            if path.is_file() and not name.startswith("run/"):
                status = path.stat()
                found[name] = (path.read_bytes(), status.st_mode, status.st_mtime_ns, status.st_uid)
        return found

    def contents(self) -> dict[str, object]:
        """Return names and contents of all files."""
        return {name: what[0] for name, what in self.listing().items()}


@pytest.fixture
def system() -> Iterator[System]:
    """A root with the scrypt package installed."""
    root = Path(tempfile.mkdtemp(prefix="shimctl-"))
    try:
        (root / "usr/bin").mkdir(parents=True)
        made = System(root)
        made.package()
        yield made
    finally:
        shutil.rmtree(root)


def test_install_puts_the_shim_before_the_real_scrypt(system: System) -> None:
    before = system.scrypt.stat()
    result = system.json("install")
    assert result["changed"]
    assert system.scrypt.read_bytes() == SHIM
    assert system.scrypt.stat().st_mode & 0o7777 == 0o755
    assert system.scrypt.stat().st_nlink == 1
    assert system.real.stat().st_ino == before.st_ino
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
    system.json("install", "--mode", "plain")
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
    assert done.stdout.splitlines() == ["installed: yes", "scrypt: shim", "real: real", "mode: off"]


def test_mode_is_set_only_when_asked_for(system: System) -> None:
    system.json("install", "--mode", "plain")
    system.json("install")
    assert system.json("status")["mode"] == "plain"
    assert system.json("install", "--mode", "authenticated")["before"]["mode"] == "plain"
    assert system.json("status")["mode"] == "authenticated"


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
    shipped = system.scrypt.stat()
    kept = system.scrypt.rename(system.root / "usr/bin" / name)
    system.scrypt.write_text(GUIDE)
    system.scrypt.chmod(0o755)
    assert system.json("status", status=3)["scrypt"] == "guide"
    assert not system.json("remove")["changed"]
    assert system.json("install")["before"]["scrypt"] == "guide"
    assert system.json("status")["healthy"]
    assert system.real.stat().st_ino == shipped.st_ino
    assert kept.exists()
    system.json("remove")
    assert system.scrypt.stat().st_ino == shipped.st_ino


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
    assert "not understood" in system.json("status", status=3)["problems"][0]
    assert "not understood" in system.json("install", status=1)["error"]
    system.package()
    assert system.json("reconcile")["changed"]
    assert system.config.read_text() == "mode = best\n"
    assert system.json("install", "--mode", "plain")["changed"]
    assert system.json("status")["healthy"]


def installed(system: System) -> None:
    system.json("install")


def upgraded(system: System) -> None:
    system.json("install")
    system.package(changed=True)


SITUATIONS: dict[str, tuple[str, Callable[[System], None]]] = {
    "install": ("install", System.package),
    "reconcile": ("reconcile", upgraded),
    "remove": ("remove", installed),
}


@pytest.mark.parametrize("name", SITUATIONS)
def test_killed_at_any_change_scrypt_works_and_the_next_run_completes(
    system: System, tmp_path: Path, name: str
) -> None:
    command, prepare = SITUATIONS[name]
    prepare(system)
    shutil.copytree(system.root, tmp_path / "start")
    system.json(command)
    expected, seen = system.contents(), []
    for instant in range(1000):
        shutil.rmtree(system.root)
        shutil.copytree(tmp_path / "start", system.root)
        done = system.run(command, prefix=("/usr/bin/python3", "-I", "-c", KILLER, str(instant)))
        if done.returncode == 0:
            break
        assert done.returncode == -9
        if (contents := system.contents()) not in seen:
            seen.append(contents)
            assert system.works()
            system.json(command)
            assert system.works()
            assert system.contents() == expected
    assert system.contents() == expected
    assert len(seen) >= 4  # it was killed in between


def test_full_disk_leaves_a_working_scrypt(system: System) -> None:
    before = system.contents()
    argv = [str(PAYLOAD / "shimctl"), "install", "--json", "--root", str(system.root)]
    done = subprocess.run(
        argv, capture_output=True, text=True, preexec_fn=limit_file_size(4096), check=False
    )
    assert done.returncode == 1
    assert "File too large" in json.loads(done.stdout)["error"]
    assert system.works()
    assert system.scrypt.read_bytes() == before["usr/bin/scrypt"]
    system.json("install")
    assert system.json("status")["healthy"]


def test_lock_is_not_waited_for_forever(system: System) -> None:
    (system.root / "run").mkdir()
    with (system.root / "run/qubes-dedup-backup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another shimctl" in system.json("install", status=1)["error"]


def test_many_at_once_agree(system: System) -> None:
    argv = [str(PAYLOAD / "shimctl"), "install", "--json", "--root", str(system.root)]
    processes = [subprocess.Popen(argv, stdout=subprocess.PIPE) for _ in range(4)]
    changed = [json.loads(process.communicate()[0])["changed"] for process in processes]
    assert sorted(changed) == [False, False, False, True]
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
