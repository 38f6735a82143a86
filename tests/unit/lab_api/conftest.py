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

from testing.lab.harness import TEMPLATE, Lab


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
def work(app: qubesadmin.Qubes) -> qubesadmin.vm.QubesVM:
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
