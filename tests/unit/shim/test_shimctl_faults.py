# SPDX-License-Identifier: GPL-3.0-or-later
"""shimctl: at every instant /usr/bin/scrypt works, whatever happens."""

import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from shim_driver import PAYLOAD, limit_file_size
from shimctl_system import System

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="shimctl changes things as root only")
# Runs shimctl and kills it just before its Nth change below the root (its last argument). Python
# tells audit hooks of every such call.
KILLER = """
import os, runpy, signal, sys
left = int(sys.argv.pop(1))
CHANGES = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.chown"}
def hook(event, arguments):
    global left
    if event in CHANGES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
        path = arguments[0]
        inside = isinstance(path, int) or str(path).startswith(sys.argv[-1])
        if inside and not (event == "os.remove" and not os.path.lexists(path)):
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
sys.addaudithook(hook)
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


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
