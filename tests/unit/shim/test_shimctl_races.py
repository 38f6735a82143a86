# SPDX-License-Identifier: GPL-3.0-or-later
"""shimctl: whatever a package manager puts there in the midst of its work is not lost.

strace stops shimctl behind each system call that names one of the programs, an update comes, and
shimctl goes on.
"""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from testing.shim.driver import PAYLOAD, real_scrypt, wait_for
from testing.shim.shimctl import System, succeed, with_dpkg

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="shimctl changes things as root only")
SHIM = (PAYLOAD / "scrypt").read_bytes()
CALLS = (
    "openat,newfstatat,stat,lstat,readlink,rename,renameat,renameat2,link,linkat,unlink,unlinkat,"
    "symlink,symlinkat"
)
CALL = re.compile(r"^(\w+)\((.*)", re.MULTILINE)
PROMPT = (b"Please enter passphrase", b"Please enter passphrasf")


def nothing(_system: System) -> None:
    """It is as the package left it."""


def installed(system: System) -> None:
    system.json("install")


def by_path(system: System) -> None:
    system.json("install", "--method", "path")


def upgraded(system: System) -> None:
    installed(system)
    update(system, b"an earlier update")


def damaged(system: System) -> None:
    """The shim is there in an older version, whose place is taken without any copy."""
    installed(system)
    system.scrypt.write_bytes(SHIM + b"# older\n")


def refused(system: System) -> None:
    installed(system)
    system.package(other=PROMPT)


def debian(system: System) -> None:
    with_dpkg(system)
    installed(system)


Situation = tuple[tuple[str, ...], Callable[[System], None]]
SITUATIONS: dict[str, Situation] = {
    "reconcile": (("reconcile",), upgraded),
    "reconcile, older shim": (("reconcile",), damaged),
    "remove": (("remove",), installed),
}
THOROUGH: dict[str, Situation] = {
    "install": (("install",), nothing),
    "to path": (("install", "--method", "path"), installed),
    "to replace": (("install", "--method", "replace"), by_path),
    "stand back": (("reconcile",), refused),
    "install in Debian": (("install",), with_dpkg),
    "remove in Debian": (("remove",), debian),
}


def update(system: System, text: bytes) -> bytes:
    """Let a package manager install another version: rpm, or dpkg with its diversions."""
    place = system.scrypt
    if (system.root / "var/lib/dpkg/status").exists():
        ask = ["dpkg-divert", "--root", str(system.root), "--truename", "/usr/bin/scrypt"]
        place = system.root / succeed(*ask).strip().removeprefix("/")
    new = place.with_name("scrypt;new")
    shutil.copy2(real_scrypt(), new)
    with new.open("ab") as file:
        file.write(text)
    new.rename(place)
    return place.read_bytes()


def calls(system: System, log: Path) -> list[tuple[str, int]]:
    """Return each call that names a program, as its name and its count.

    They begin with the last that only looks: whoever comes before is seen.
    """
    counts: dict[str, int] = {}
    found: list[tuple[str, int]] = []
    looking = True
    for name, rest in CALL.findall(log.read_text()):
        counts[name] = counts.get(name, 0) + 1
        if re.search(rf"{system.root}/usr/(local/)?bin/\.?scrypt", rest):
            looking = looking and not ("O_CREAT" in rest or name.startswith(("link", "rename")))
            found = [(name, counts[name])] if looking else [*found, (name, counts[name])]
    return found


def start(
    system: System, log: Path, command: tuple[str, ...], *inject: str
) -> subprocess.Popen[bytes]:
    """Start shimctl under strace."""
    argv = ["strace", "-qq", "-s", "300", "-o", str(log), "-e", f"trace={CALLS}", *inject]
    argv += [str(PAYLOAD / "shimctl"), *command, "--root", str(system.root)]
    return subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def slip_in(
    system: System, log: Path, command: tuple[str, ...], call: tuple[str, int], *inject: str
) -> bytes:
    """Let an update come behind a call of shimctl; return what it brought."""
    log.unlink()
    stop = f"inject={call[0]}:signal=STOP:when={call[1]}"
    strace = start(system, log, command, "-e", stop, *inject)
    wait_for(lambda: log.exists() and "stopped by SIGSTOP" in log.read_text(), f"{call}")
    new = update(system, f"behind {call}".encode())
    children = Path(f"/proc/{strace.pid}/task/{strace.pid}/children").read_text()
    os.kill(int(children), signal.SIGCONT)
    strace.communicate()
    assert strace.returncode in ((-signal.SIGKILL,) if inject else (0, 1))  # 1: refused
    return new


def check(system: System, command: tuple[str, ...], new: bytes, call: tuple[str, int]) -> None:
    """See that the update is there, and that the guard finds it, as the path unit calls it."""
    there = [path.read_bytes() for path in (system.scrypt, system.real) if path.exists()]
    assert new in there, call
    system.trigger("path")
    assert system.works()
    assert not list(system.root.rglob(".scrypt*"))
    if command[0] == "remove":
        assert system.scrypt.read_bytes() == new, call
        assert not system.real.exists()
        return
    real, shim = (
        (system.scrypt, system.local) if "path" in command else (system.real, system.scrypt)
    )
    assert (real.read_bytes() == new, shim.read_bytes() == SHIM) == (True, True), call


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "name", [*SITUATIONS, *(pytest.param(n, marks=pytest.mark.thorough) for n in THOROUGH)]
)
def test_update_behind_any_call_is_not_lost(system: System, tmp_path: Path, name: str) -> None:
    command, prepare = (SITUATIONS | THOROUGH)[name]
    prepare(system)
    first, log = tmp_path / "start", tmp_path / "log"
    shutil.copytree(system.root, first, symlinks=True)
    start(system, log, command).communicate()
    tried = calls(system, log)
    assert len(tried) > 8
    for call in tried:
        shutil.rmtree(system.root)
        shutil.copytree(first, system.root, symlinks=True)
        check(system, command, slip_in(system, log, command, call), call)


@pytest.mark.parametrize("command", ["reconcile", "remove"])
def test_update_that_was_exchanged_by_one_who_was_killed_comes_back(
    system: System, tmp_path: Path, command: str
) -> None:
    """It lies beside its place then, where nobody looks for it."""
    damaged(system)
    first, log = tmp_path / "start", tmp_path / "log"
    shutil.copytree(system.root, first, symlinks=True)
    start(system, log, (command,)).communicate()
    tried = calls(system, log)
    exchange = next(number for number, (name, _) in enumerate(tried) if name == "renameat2")
    shutil.rmtree(system.root)
    shutil.copytree(first, system.root, symlinks=True)
    kill = ("-e", "inject=renameat2:signal=KILL:when=2")  # as it is to go back
    new = slip_in(system, log, (command,), tried[exchange - 1], *kill)
    assert [path.name for path in system.root.rglob(".scrypt*")] == [".scrypt.shimctl-aside"]
    assert system.works()
    assert system.run(command).returncode == 0
    check(system, (command,), new, tried[exchange])


GUIDE = b'#!/bin/sh\nprintf "Please enter passphrase: " >&2\ncat "$2" >"$3"\n'
FRONT = {
    "the guide's script": GUIDE,
    "older shim": SHIM + b"# older\n",
    "another script": b"#!/bin/sh\n",
}


@pytest.mark.parametrize("content", FRONT.values(), ids=FRONT)
@pytest.mark.parametrize("front", [SHIM, None], ids=["shim", "nothing"])
def test_what_was_exchanged_out_of_the_front_never_comes_back(
    system: System, content: bytes, front: bytes | None
) -> None:
    """It lies there as a kill behind the exchange leaves it; only a program, an update, returns."""
    installed(system)
    real = system.real.read_bytes()
    if front is None:
        system.scrypt.unlink()
    left = system.scrypt.with_name(".scrypt.shimctl-aside")
    left.write_bytes(content)
    left.chmod(0o755)
    steps = system.json("reconcile")["steps"]
    assert not [step for step in steps if "guide" in step or "unknown" in step or "other" in step]
    assert (system.scrypt.read_bytes(), system.real.read_bytes()) == (SHIM, real)
    assert not left.exists()


def test_guide_s_script_in_front_does_not_come_back_behind_a_kill(
    system: System, tmp_path: Path
) -> None:
    system.scrypt.rename(system.real)
    system.scrypt.write_bytes(GUIDE)
    system.scrypt.chmod(0o755)
    first, log = tmp_path / "start", tmp_path / "log"
    shutil.copytree(system.root, first, symlinks=True)
    start(system, log, ("install",)).communicate()
    tried = [call for call in calls(system, log) if call[0] in ("renameat2", "unlink", "unlinkat")]
    assert len(tried) > 1  # the exchange, and what comes behind it
    for name, count in tried:
        shutil.rmtree(system.root)
        shutil.copytree(first, system.root, symlinks=True)
        kill = ("-e", f"inject={name}:signal=KILL:when={count}")
        assert start(system, log, ("install",), *kill).wait() == -signal.SIGKILL
        seen = tmp_path / "seen"
        again = start(system, seen, ("reconcile",))
        again.communicate()
        moved = [line for line in seen.read_text().splitlines() if line.startswith("rename(")]
        assert not [line for line in moved if f'aside", "{system.scrypt}"' in line]
        assert system.scrypt.read_bytes() == SHIM, name
        assert not list(system.root.rglob(".scrypt*"))


@pytest.mark.parametrize("name", ["EINVAL", "ENOSYS"])
def test_where_files_can_not_be_exchanged(system: System, tmp_path: Path, name: str) -> None:
    inject = ("-e", f"inject=renameat2:error={name}")
    for command in (("install",), ("reconcile",), ("install", "--method", "path"), ("remove",)):
        process = start(system, tmp_path / "log", command, *inject)
        assert (process.communicate()[1], process.returncode) == (b"", 0)
        assert system.works()
        if command == ("install",):
            assert system.scrypt.read_bytes() == SHIM
            update(system, b"a later version")
    assert system.scrypt.read_bytes().endswith(b"a later version")
    assert not list(system.root.rglob(".scrypt*"))
