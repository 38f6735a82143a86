# SPDX-License-Identifier: GPL-3.0-or-later
"""Upstream's tool restores by qubes.RestoreById, with upstream's services and with the lab's."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable

import pytest

from testing.paths import PROJECT
from testing.upstream.corpus import corpus
from testing.upstream.dom0 import QUBE, Dom0, complaints
from testing.upstream.sources import Sources

SERVICES = ("qubes.RegisterBackupLocation", "qubes.RestoreById")


@pytest.fixture(scope="module")
def stored(make_dom0: Callable[[], Dom0], tmp_path_factory: pytest.TempPathFactory) -> Dom0:
    """A dom0 with one backup in the store."""
    dom0 = make_dom0()
    images = corpus(tmp_path_factory.mktemp("images"))
    dom0.make(images)
    dom0.start()
    dom0.make_store("restic")
    dom0.backup(images[0].name, to="dedup-store put", qube=QUBE)
    return dom0


@pytest.fixture(params=["upstream", "lab"])
def dom0(stored: Dom0, sources: Sources, request: pytest.FixtureRequest) -> Dom0:
    """That dom0, with the services of one of the two in its qube."""
    lab = PROJECT / "lab/qube"
    folder = sources.agent / "qubes-rpc" if request.param == "upstream" else lab / "rpc"
    for name in SERVICES:
        installed = stored.machine.path(f"/usr/local/etc/qubes-rpc/{name}")
        shutil.copy(folder / name, installed)
        installed.chmod(0o755)  # as upstream's Makefile does
    shutil.copy(lab / "lib/restore-from", stored.machine.path("/usr/lib/qubes/restore-from"))
    stored.machine.run("install", "-d", "-o", "user", "-m", "700", "/run/user/1000")
    return stored


# The command fails when only a part of what it sends is read, and with it the service would.
RUN = "dedup-store get latest"


def call(dom0: Dom0, location: str = RUN) -> subprocess.Popen[str]:
    """Call qubes.RegisterBackupLocation from dom0."""
    command = "DEFAULT:QUBESRPC qubes.RegisterBackupLocation dom0"
    pipe = subprocess.PIPE
    held = dom0.machine.popen("qrexec-client", "-d", QUBE, command, stdin=pipe, stdout=pipe)
    assert held.stdin is not None
    held.stdin.write(f"{location}\n")
    held.stdin.flush()
    return held


def test_restored_while_the_location_is_registered(dom0: Dom0) -> None:
    registry = dom0.machine.path("/run/user/1000/qubes-backup-location")
    with call(dom0) as held:
        assert held.stdout is not None
        identity = held.stdout.readline().strip()
        assert [path.name for path in registry.iterdir()] == [identity]
        location = f"qubes.RestoreById+{identity}"
        options = ("--location-is-service", "--ignore-size-limit")
        done = dom0.restore(*options, source=location, qube=QUBE, verify_only=True)
        assert not complaints(done), done.stdout + done.stderr
    assert list(registry.iterdir()) == []
    late = dom0.restore(*options, source=location, qube=QUBE, verify_only=True, check=False)
    assert late.returncode != 0
    assert "Invalid location ID" in late.stderr


def test_the_command_s_own_failure_counts(dom0: Dom0) -> None:
    with call(dom0, "sh -c 'dedup-store get latest; exit 9'") as held:
        assert held.stdout is not None
        location = f"qubes.RestoreById+{held.stdout.readline().strip()}"
        done = dom0.restore("--location-is-service", source=location, qube=QUBE, check=False)
    assert done.returncode != 0
    assert "Backup header retrieval failed (exit code 9)" in done.stderr


def test_a_killed_call_is_no_registration(dom0: Dom0) -> None:
    registry = dom0.machine.path("/run/user/1000/qubes-backup-location")
    with call(dom0) as held:
        assert held.stdout is not None
        identity = held.stdout.readline().strip()
        process = (registry / identity).read_text().split()[0]
        dom0.machine.run("kill", "-9", process)
        held.wait()
        service = "/usr/local/etc/qubes-rpc/qubes.RestoreById"
        session = ("env", "XDG_RUNTIME_DIR=/run/user/1000")
        late = dom0.in_qube(*session, service, identity, check=False)
        assert (registry / identity).exists()
    (registry / identity).unlink()
    assert (late.returncode, late.stderr) == (1, "Invalid location ID\n")
