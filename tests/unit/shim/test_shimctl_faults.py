# SPDX-License-Identifier: GPL-3.0-or-later
"""shimctl: at every instant /usr/bin/scrypt works, whatever happens.

strace stops shimctl at each call that changes a file, or lets that call fail.
"""

import fcntl
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from testing.shim.driver import PAYLOAD, limit_file_size, wait_for
from testing.shim.shimctl import FAST_CLOCK, Done, System, with_dpkg

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="shimctl changes things as root only")
# All calls by which a file, a folder, or what is known of one changes, and those before it lasts;
# openat also opens for reading.
CALLS = (
    "openat,creat,write,pwrite64,writev,sendfile,copy_file_range,splice,ftruncate,fallocate,"
    "fsync,fdatasync,rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,"
    "mkdir,mkdirat,rmdir,chmod,fchmod,fchmodat,chown,fchown,fchownat,lchown,utimensat,"
    "setxattr,fsetxattr,lsetxattr,flock"
)
CALL = re.compile(r"^(\w+)\((.*)", re.MULTILINE)


def installed(system: System) -> None:
    system.json("install")


def by_path(system: System) -> None:
    system.json("install", "--method", "path")


def upgraded(system: System) -> None:
    system.json("install")
    system.package(changed=True)


def refused(system: System) -> None:
    system.json("install", "--method", "path")
    system.package(other=(b"Please enter passphrase", b"Please enter passphrasf"))


def nothing(_system: System) -> None:
    """It is as the package left it."""


def debian(system: System) -> None:
    with_dpkg(system)
    system.json("install")


RECONCILE = ("reconcile", "--trigger", "boot")
SITUATIONS: dict[str, tuple[tuple[str, ...], Callable[[System], None]]] = {
    "install": (("install",), nothing),
    "install by path": (("install", "--method", "path"), nothing),
    "to replace": (("install", "--method", "replace"), by_path),
    "to path": (("install", "--method", "path"), installed),
    "reconcile": (RECONCILE, upgraded),
    "stand back": (RECONCILE, refused),
    "remove": (("remove",), installed),
    "install in Debian": (("install",), with_dpkg),
    "remove in Debian": (("remove",), debian),
}


def strace(system: System, log: Path, command: tuple[str, ...], *inject: str) -> Done:
    """Run shimctl under strace."""
    options = ("-qq", "-o", str(log), "-e", f"trace={CALLS}", *inject)
    return system.run(*command, prefix=("strace", *options))


def instants(system: System, log: Path, *, moved: bool = False) -> Iterator[tuple[str, int]]:
    """Return each call below the root that may change something, as its name and its count.

    With `moved`, leave out those before which nothing has moved since the one before them.
    """
    changed = True
    for name, count, rest in calls_below_root(system, log):
        if changed or not moved:
            yield name, count
        # A failed call changes nothing, nor does one that only waits.
        changed = name not in ("fsync", "fdatasync", "flock") and "= -1 E" not in rest


def calls_below_root(system: System, log: Path) -> Iterator[tuple[str, int, str]]:
    """Return name, count and the rest of the line of each call below the root."""
    counts: dict[str, int] = {}
    inside: set[str] = set()  # descriptors
    for name, rest in CALL.findall(log.read_text()):
        counts[name] = counts.get(name, 0) + 1
        descriptor = rest.partition(",")[0].partition(")")[0]
        if str(system.root) in rest and (name != "openat" or "O_CREAT" in rest):
            if name == "openat":
                inside.add(rest.rpartition("= ")[2].split(" ")[0])
            yield name, counts[name], rest
        elif name != "openat" and descriptor in inside:
            yield name, counts[name], rest


def prepared(system: System, prepare: Callable[[System], None], start: Path) -> None:
    """Bring the system into a situation, with systemd, and keep a copy of it."""
    system.units.mkdir(parents=True)
    prepare(system)
    shutil.copytree(system.root, start, symlinks=True)


def back_to(system: System, start: Path) -> None:
    """Let all be as it was at the start."""
    shutil.rmtree(system.root)
    shutil.copytree(start, system.root, symlinks=True)


def sound(system: System) -> None:
    """See that scrypt is the real one, or the shim with the real one behind; and works."""
    assert os.access(system.scrypt, os.X_OK)
    assert system.works()
    if system.scrypt.read_bytes()[:4] != b"\x7fELF":
        assert system.scrypt.read_bytes() == (PAYLOAD / "scrypt").read_bytes()
        assert system.real.read_bytes()[:4] == b"\x7fELF"
    if system.local.exists():
        assert system.local.read_bytes() == (PAYLOAD / "scrypt").read_bytes()
        assert system.scrypt.read_bytes()[:4] == b"\x7fELF"


STATE = "var/lib/qubes-dedup-backup/state.json"


def without_times(state: bytes) -> dict[str, object]:
    """Return what shimctl remembers but for when it was done, which differs."""
    keys = ("last", "last_change", "triggers")
    return {key: value for key, value in json.loads(state).items() if key not in keys}


def end_of(system: System) -> dict[str, object]:
    """Return all that there is but for when it was done, which differs."""
    found = system.contents()
    for name in ("diversions-old", "lock"):
        found.pop(f"var/lib/dpkg/{name}", None)
    if state := found.pop(STATE, None):
        assert isinstance(state, bytes)
        found["state"] = without_times(state)
    return found


def state_of(system: System, start: dict[str, tuple[object, ...]]) -> dict[str, object]:
    """Return all that there is with its rights; of its times, which are as they were at first."""
    found: dict[str, object] = {}
    for name, (content, mode, mtime, uid) in system.listing().items():
        kept = name in start and start[name][2] == mtime
        found[name] = (content, mode, uid, kept)
        if name == STATE and content:
            assert isinstance(content, bytes)
            found[name] = (without_times(content), mode, uid, kept)
    return found


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", SITUATIONS)
@pytest.mark.parametrize(
    "step", [5, pytest.param(1, marks=pytest.mark.thorough)], ids=["each fifth", "each"]
)
def test_killed_at_any_call_scrypt_works_and_the_next_run_completes(
    system: System, tmp_path: Path, name: str, step: int
) -> None:
    command, prepare = SITUATIONS[name]
    prepared(system, prepare, tmp_path / "start")
    assert strace(system, tmp_path / "log", command).returncode == 0
    expected = end_of(system)
    states: list[dict[str, object]] = []
    calls = list(instants(system, tmp_path / "log", moved=True))
    assert len(calls) > 10
    back_to(system, tmp_path / "start")
    start = system.listing()
    for call, count in calls[::step]:
        back_to(system, tmp_path / "start")
        kill = f"inject={call}:signal=KILL:when={count}"
        assert strace(system, tmp_path / "log", command, "-e", kill).returncode in (-9, 137)
        if (state := state_of(system, start)) not in states:
            states.append(state)
            shutil.copytree(system.root, tmp_path / "killed", symlinks=True)
            sound(system)
            assert system.run(*command).returncode == 0
            sound(system)
            assert end_of(system) == expected
            # If nobody runs it again, the guard at the next boot leaves nothing half done either.
            back_to(system, tmp_path / "killed")
            shutil.rmtree(tmp_path / "killed")
            system.trigger("boot")
            sound(system)
            assert at_an_end(system)
    assert len(states) >= (5 if step == 1 else 2)


def at_an_end(system: System) -> bool:
    """Tell whether the shim is wholly there, wholly away, or refused."""
    status = json.loads(system.run("status", "--json").stdout)
    away = (status["installed"], status["scrypt"], status["local"]) == ("no", "real", "missing")
    return status["healthy"] or away or "refused" in status["problems"][0]


@pytest.mark.thorough
# The main situations only: kills, which are harder, meet all of them.
@pytest.mark.parametrize("name", ["install", "install in Debian", "reconcile", "remove"])
def test_any_call_may_fail_and_the_next_run_completes(
    system: System, tmp_path: Path, name: str
) -> None:
    command, prepare = SITUATIONS[name]
    prepared(system, prepare, tmp_path / "start")
    assert strace(system, tmp_path / "log", command).returncode == 0
    expected, told = end_of(system), 0
    for call, count in list(instants(system, tmp_path / "log")):
        back_to(system, tmp_path / "start")
        fail = f"inject={call}:error=EIO:when={count}"
        done = strace(system, tmp_path / "log", command, "-e", fail)
        sound(system)
        assert "Traceback" not in done.stderr
        told += bool(done.stderr)
        if end_of(system) != expected:
            assert done.returncode == (0 if "--trigger" in command else 1)
            assert done.stderr.startswith("shimctl: ")
            assert not list(system.root.rglob(".*.shimctl")) or call.startswith("unlink")
            assert system.run(*command).returncode == 0
            assert end_of(system) == expected
    assert told >= 5


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[None]:
    """Give a folder a small filesystem of its own, with what was in it."""
    kept = folder.with_name(f"{folder.name}-kept")
    shutil.copytree(folder, kept)
    mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    try:
        shutil.copytree(kept, folder, dirs_exist_ok=True)
        shutil.rmtree(kept)
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def mount(*options: str) -> None:
    """Mount a filesystem."""
    subprocess.run(["mount", *options], check=True)


@pytest.mark.parametrize("command", [("install",), RECONCILE, ("remove",)])
def test_full_disk_leaves_a_working_scrypt(system: System, command: tuple[str, ...]) -> None:
    with mounted(system.root / "usr", "1M"):
        if command != ("install",):
            upgraded(system)
        filler = system.root / "usr/filler"
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while file.write(bytes(4096)):
                pass
        before = system.contents()
        done = system.run(*command)
        sound(system)
        if command == ("remove",):  # needs no room
            assert done.returncode == 0
        else:
            assert "No space left on device" in done.stderr
            assert done.returncode == (0 if "--trigger" in command else 1)
            assert {n: c for n, c in system.contents().items() if n.startswith("usr")} == {
                n: c for n, c in before.items() if n.startswith("usr")
            }
            filler.unlink()
            assert system.run(*command).returncode == 0
            assert system.json("status")["healthy"]


@pytest.mark.parametrize("command", [("install",), RECONCILE, ("remove",)])
def test_read_only_usr_leaves_a_working_scrypt(system: System, command: tuple[str, ...]) -> None:
    with mounted(system.root / "usr", "1M"):
        if command != ("install",):
            upgraded(system)
        before = system.contents()
        mount("-o", "remount,ro", str(system.root / "usr"))
        done = system.run(*command)
        assert "Read-only file system" in done.stderr
        assert done.returncode == (0 if "--trigger" in command else 1)
        sound(system)
        mount("-o", "remount,rw", str(system.root / "usr"))
        assert system.run(*command).returncode == 0
        assert end_of(system) != before
        sound(system)


@pytest.mark.parametrize("folder", ["usr/bin", "etc", "var"])
def test_missing_permissions_leave_a_working_scrypt(system: System, folder: str) -> None:
    for name in ("etc", "var", "run"):
        (system.root / name).mkdir()
    os.chown(system.root / folder, 65534, 65534)
    powerless = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    done = system.run("install", prefix=powerless)
    assert (done.returncode, done.stderr[:9]) == (1, "shimctl: ")
    assert "Permission denied" in done.stderr
    sound(system)
    system.json("install")
    assert system.json("status")["healthy"]


def test_limit_of_file_size_is_told(system: System) -> None:
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
        done = system.run("install", "--json", prefix=FAST_CLOCK)
        assert done.returncode == 1
        assert "another shimctl" in json.loads(done.stdout)["error"]


def test_many_at_once_agree(system: System) -> None:
    argv = [str(PAYLOAD / "shimctl"), "install", "--json", "--root", str(system.root)]
    processes = [subprocess.Popen(argv, stdout=subprocess.PIPE) for _ in range(4)]
    changed = [json.loads(process.communicate()[0])["changed"] for process in processes]
    assert sorted(changed) == [False, False, False, True]
    assert system.json("status")["healthy"]


def test_updates_and_triggers_at_once_end_well(system: System) -> None:
    system.json("install")
    argv = [str(PAYLOAD / "shimctl"), "reconcile", "--root", str(system.root), "--trigger"]
    for changed in (True, False, True):
        system.package(changed=changed)
        new = system.scrypt.read_bytes()
        processes = [subprocess.Popen([*argv, name]) for name in ("rpm", "dnf5", "path", "boot")]
        assert [process.wait() for process in processes] == [0] * 4
        sound(system)
        assert system.real.read_bytes() == new
        assert system.json("status")["healthy"]


def test_package_manager_that_interferes_is_noticed(system: System, tmp_path: Path) -> None:
    system.json("install")
    system.package(changed=True)
    # Held up between the look and the rename of the shim.
    hold = ("-e", "trace=fsync", "-e", "inject=fsync:delay_enter=3000000:when=1")
    argv = ["strace", "-qq", "-o", str(tmp_path / "log"), *hold, str(PAYLOAD / "shimctl")]
    process = subprocess.Popen([*argv, "reconcile", "--root", str(system.root)])
    state = system.root / "var/lib/qubes-dedup-backup/.state.json.shimctl"
    wait_for(state.exists, "the first change")
    system.package()  # the older one again
    new = system.scrypt.read_bytes()
    assert process.wait() == 0
    assert system.real.read_bytes() == new
    assert system.json("status")["healthy"]
