# SPDX-License-Identifier: GPL-3.0-or-later
"""shimctl: where the shim goes, what it takes over, and what is refused; by path and with dpkg."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from testing.shim.driver import PAYLOAD, Root, line, real_scrypt
from testing.shim.shimctl import System, dpkg, succeed, with_dpkg

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="shimctl changes things as root only")
SHIM = (PAYLOAD / "scrypt").read_bytes()
PROMPT = (b"Please enter passphrase", b"Please enter passphrasf")
GUIDE = "#!/bin/sh\nprintf 'Please enter passphrase: ' >&2\ncat\n"


def version(program: Path) -> str:
    """Return what a program says of itself."""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def touched(path: Path) -> tuple[int, int]:
    """Return what changes with any change to a file."""
    return path.stat().st_ino, path.stat().st_ctime_ns


# ---- method path


def test_by_path_the_package_s_file_is_never_touched(system: System) -> None:
    before = system.listing()
    shipped = touched(system.scrypt)
    result = system.json("install", "--method", "path")
    assert result["after"]["method"] == "path"
    assert touched(system.scrypt) == shipped
    assert not system.real.exists()
    assert system.local.read_bytes() == SHIM
    assert system.local.stat().st_mode & 0o7777 == 0o755
    assert version(system.local) == version(system.scrypt)
    status = system.json("status")
    assert (status["healthy"], status["method"], status["local"]) == (True, "path", "shim")
    for command in ("install", "reconcile"):
        assert not system.json(command)["changed"]
    system.json("remove")
    assert touched(system.scrypt) == shipped
    assert system.listing() == before


def test_by_path_an_update_is_proven_and_recorded(system: System) -> None:
    system.json("install", "--method", "path")
    system.package(changed=True)
    assert "reconcile" in system.json("status", status=3)["problems"][0]
    system.trigger("path")
    assert system.json("status")["healthy"]
    system.package(other=PROMPT)
    new = touched(system.scrypt)
    system.trigger("rpm")
    assert not system.local.exists()
    assert touched(system.scrypt) == new
    assert "refused" in system.json("status", status=3)["problems"][0]
    system.package()
    system.trigger("rpm")
    assert system.local.read_bytes() == SHIM
    assert system.json("status")["healthy"]


def test_method_can_be_changed_and_is_else_kept(system: System) -> None:
    shipped = system.contents()["usr/bin/scrypt"]
    system.json("install")
    for method in ("path", "replace", "path"):
        system.json("install", "--method", method)
        status = system.json("status")
        assert (status["healthy"], status["method"]) == (True, method)
        assert system.works()
        assert system.real.exists() == (method == "replace")
        assert system.local.exists() == (method == "path")
        assert not system.json("install")["changed"]
    assert system.scrypt.read_bytes() == shipped


def test_by_path_the_guide_s_installation_ends(system: System) -> None:
    shipped = system.scrypt.read_bytes()
    system.scrypt.rename(system.real)
    system.scrypt.write_text(GUIDE)
    system.scrypt.chmod(0o755)
    steps = system.json("install", "--method", "path")["steps"]
    assert any("restore-guide" in step for step in steps)
    assert system.scrypt.read_bytes() == shipped
    assert system.json("status")["healthy"]


def test_by_path_another_scrypt_in_the_way_is_left_alone(system: System) -> None:
    system.local.parent.mkdir(parents=True)
    system.local.write_text("#!/bin/sh\n")
    before = system.listing()
    assert str(system.local) in system.json("install", "--method", "path", status=1)["error"]
    assert system.listing() == before


def test_by_path_the_shim_uses_the_package_s_file_and_its_root(root: Root) -> None:
    local = root.path / "usr/local/bin/scrypt"
    local.parent.mkdir(parents=True)
    root.scrypt.rename(local)
    root.real.rename(root.scrypt)
    root.scrypt, root.real = local, root.scrypt
    assert root.enc(b"payload", line()).status == 0
    assert len(root.ledger()) == 1
    assert root.dec(line()).status == 0
    assert (root.work / "out").read_bytes() == b"payload"
    assert root.becomes_real(root.start_enc(line(b"ordinary")))[0] == "enc"


def test_containers_are_restored_by_the_shim_where_it_was_laid_down(root: Root) -> None:
    root.enc(b"payload", line())
    root.scrypt = PAYLOAD / "scrypt"  # as PATH=/usr/lib/qubes-dedup-backup:$PATH would find it
    assert root.dec(line()).status == 0
    assert (root.work / "out").read_bytes() == b"payload"


# ---- links, owners, labels


@pytest.mark.parametrize("name", ["usr/bin/scrypt", "usr/bin/scrypt.bak", "usr/local/bin/scrypt"])
@pytest.mark.parametrize("what", ["symbolic", "hard"])
def test_links_are_refused(system: System, name: str, what: str) -> None:
    path, other = system.root / name, system.root / "usr/bin/other"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    shutil.copy2(real_scrypt(), other)
    if what == "symbolic":
        path.symlink_to(other)
    else:
        path.hardlink_to(other)
    before = system.listing()
    method = "path" if "local" in name else "replace"
    error = system.json("install", "--method", method, status=1)["error"]
    assert str(path) in error
    assert f"{what} link" in error
    assert system.listing() == before


def test_owner_mode_and_label_are_preserved(system: System) -> None:
    os.chown(system.scrypt, 3, 5)
    system.scrypt.chmod(0o751)
    label = b"system_u:object_r:bin_t:s0\0"
    os.setxattr(system.scrypt, "user.note", b"x")
    try:
        os.setxattr(system.scrypt, "security.selinux", label)
        labelled = True
    except OSError:
        labelled = False  # a container may forbid it, or a policy may not know it
    before = system.scrypt.stat()
    system.json("install")
    shim, real = system.scrypt.stat(), system.real.stat()
    assert (shim.st_uid, shim.st_gid, shim.st_mode & 0o7777) == (
        3,
        5,
        0o755,
    )  # who runs it reads it
    for field in ("st_uid", "st_gid", "st_mode", "st_mtime_ns", "st_size"):
        assert getattr(real, field) == getattr(before, field)
    assert os.getxattr(system.real, "user.note") == b"x"
    assert os.listxattr(system.scrypt) == (["security.selinux"] if labelled else [])
    if labelled:
        for path in (system.scrypt, system.real):
            assert os.getxattr(path, "security.selinux") == label
    assert system.json("status")["healthy"]
    system.json("remove")
    assert os.getxattr(system.scrypt, "user.note") == b"x"
    assert system.scrypt.stat().st_mode == before.st_mode


def test_changed_owner_of_the_shim_is_seen_and_repaired(system: System) -> None:
    system.json("install")
    os.chown(system.scrypt, 1000, 1000)
    assert "other shim" in system.json("status", status=3)["problems"][0]
    system.trigger("boot")
    assert system.scrypt.stat().st_uid == 0


def test_program_and_its_parts_leave_nothing_beside_themselves(system: System) -> None:
    copy = system.root / "srv"
    shutil.copytree(PAYLOAD, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for command in ("install", "status"):
        argv = [copy / "shimctl", command, "--root", system.root]
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    assert not list(copy.rglob("__pycache__"))


# ---- dpkg


@pytest.fixture
def debian(system: System) -> System:
    """A root where dpkg installed scrypt."""
    with_dpkg(system)
    return system


def diverted(system: System) -> str:
    """Return where dpkg puts the package's file."""
    argv = ("dpkg-divert", "--root", str(system.root), "--truename", "/usr/bin/scrypt")
    return succeed(*argv).strip()


def newer(tail: bytes = b"newer") -> bytes:
    """Return another scrypt that works."""
    return real_scrypt().read_bytes() + tail


def test_dpkg_is_told_to_divert(debian: System) -> None:
    before = debian.contents()
    debian.json("install")
    assert diverted(debian) == "/usr/bin/scrypt.bak"
    status = debian.json("status")
    assert (status["package"], status["diverted"]) == ("scrypt-1.0", "yes")
    assert status["as_shipped"] == "yes"
    assert not debian.json("install")["changed"]
    dpkg(debian, "1.1", newer())
    assert debian.scrypt.read_bytes() == SHIM  # at no time was it away
    assert debian.real.read_bytes() == newer()
    assert "another one" in debian.json("status", status=3)["problems"][0]
    debian.trigger("path")
    assert debian.json("status")["healthy"]
    assert debian.state()["package"] == "scrypt-1.1"
    debian.json("remove")
    assert diverted(debian) == "/usr/bin/scrypt"
    assert debian.scrypt.read_bytes() == newer()
    assert succeed("dpkg", "--root", str(debian.root), "--verify", "scrypt") == ""
    same = {name for name, content in debian.contents().items() if before.get(name) == content}
    assert {name for name in before if "dpkg" not in name} - same == {"usr/bin/scrypt"}


@pytest.mark.thorough
def test_diverted_binary_that_breaks_the_protocol_comes_to_the_front(debian: System) -> None:
    debian.json("install")
    bad = newer().replace(*PROMPT)
    dpkg(debian, "1.1", bad)
    assert "refused" in debian.trigger("path").stderr
    assert debian.scrypt.read_bytes() == debian.real.read_bytes() == bad
    assert debian.json("status", status=3)["installed"] == "yes"
    dpkg(debian, "1.2", newer())
    debian.trigger("path")
    assert debian.scrypt.read_bytes() == SHIM
    assert debian.real.read_bytes() == newer()
    assert debian.json("status")["healthy"]
    dpkg(debian, "1.3", bad)
    debian.trigger("path")
    debian.json("remove")
    assert debian.scrypt.read_bytes() == bad
    assert not debian.real.exists()
    assert diverted(debian) == "/usr/bin/scrypt"


def test_program_that_its_package_does_not_have_is_a_problem(debian: System) -> None:
    """As after an update that was lost; the package's own cures it."""
    debian.json("install")
    assert debian.json("status")["as_shipped"] == "yes"
    debian.real.write_bytes(newer(b"by hand"))
    debian.trigger("path")
    assert "it shipped another one" in debian.run("status").stdout
    status = debian.json("status", status=3)
    assert (status["as_shipped"], len(status["problems"])) == ("no", 1)
    assert f"{debian.real} is not the program that the package scrypt-1.0 has" in str(status)
    assert "reinstall" in status["problems"][0]
    dpkg(debian, "1.1", real_scrypt().read_bytes())
    debian.trigger("path")
    assert debian.json("status")["healthy"]


def test_shim_goes_when_its_package_is_gone(debian: System) -> None:
    debian.json("install")
    succeed("dpkg", "--root", str(debian.root), "--purge", "scrypt")
    assert not debian.real.exists()
    problems = debian.json("status", status=3)["problems"]
    assert any("no package owns" in problem for problem in problems)
    debian.json("remove")
    assert diverted(debian) == "/usr/bin/scrypt"
    assert not debian.scrypt.exists()


def test_diversion_of_somebody_else_is_respected(debian: System) -> None:
    argv = ["dpkg-divert", "--root", str(debian.root), "--local", "--no-rename"]
    succeed(*argv, "--divert", "/usr/bin/scrypt.mine", "--add", "/usr/bin/scrypt")
    before = debian.listing()
    error = debian.json("install", status=1)["error"]
    assert "dpkg-divert" in error
    assert "/usr/bin/scrypt.mine" in error
    assert debian.listing() == before
