# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of the lab's daemon and of its client library share."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import qubesadmin
from qubesadmin import config
from qubesadmin.vm import QubesVM

from testing.lab.harness import TEMPLATE, Lab
from testing.paths import LAB


@contextlib.contextmanager
def make() -> Iterator[Lab]:
    # pytest's own folders have names too long for a socket's path.
    folder = Path(tempfile.mkdtemp(prefix="lab"))
    lab = Lab(folder)
    try:
        yield lab
    finally:
        lab.close()
        shutil.rmtree(folder)


def connect(lab: Lab) -> qubesadmin.Qubes:
    config.QUBESD_SOCKET = str(lab.socket("dom0", "qubesd.sock"))
    config.QREXEC_CLIENT = str(lab.state / "dom0bin/qrexec-client")
    config.QREXEC_SERVICES_DIR = str(lab.state / "dom0bin")
    return qubesadmin.Qubes()


@pytest.fixture
def lab() -> Iterator[Lab]:
    with make() as lab:
        yield lab


@pytest.fixture
def app(lab: Lab) -> qubesadmin.Qubes:
    return connect(lab)


@pytest.fixture
def work(app: qubesadmin.Qubes) -> QubesVM:
    """A new app qube, halted."""
    return app.add_new_vm("AppVM", "work", "red", TEMPLATE)


@pytest.fixture(scope="module")
def same_lab() -> Iterator[Lab]:
    """One lab for tests that leave it as it was, with a halted qube `work`."""
    with make() as lab:
        connect(lab).add_new_vm("AppVM", "work", "red", TEMPLATE)
        yield lab


@pytest.fixture
def same_app(same_lab: Lab) -> qubesadmin.Qubes:
    return connect(same_lab)


@pytest.fixture
def clean_lab(same_lab: Lab) -> Lab:
    """The lab that all tests of a file share, without what the test before laid down in it."""
    shutil.rmtree(same_lab.state / "roots/work", ignore_errors=True)
    for file in (*same_lab.policy_dir.iterdir(), *same_lab.state.glob("result*")):
        file.unlink()
    return same_lab


@pytest.fixture
def running(clean_lab: Lab, same_app: qubesadmin.Qubes) -> QubesVM:
    """The qube `work`, running, with the services of a real one."""
    for name in ("qubes.VMShell", "qubes.VMRootShell", "qubes.VMExec", "qubes.VMRootExec"):
        clean_lab.service("work", name, f'exec {LAB}/qube/rpc/{name} "$@"')
    for name in ("qubes.VMRootShell", "qubes.VMRootExec"):
        clean_lab.config("work", name, (LAB / "qube/rpc-config" / name).read_text())
    work = same_app.domains["work"]
    work.start()
    return work


@pytest.fixture
def halted(clean_lab: Lab, same_app: qubesadmin.Qubes) -> QubesVM:
    """The qube `idle`, halted, with a service `test.A`."""
    if "idle" not in same_app.domains:
        same_app.add_new_vm("AppVM", "idle", "red", TEMPLATE)
    idle: QubesVM = same_app.domains["idle"]
    if idle.is_running():
        idle.shutdown(wait=True)
    clean_lab.service("idle", "test.A", "echo reached")
    return idle
