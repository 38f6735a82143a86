# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the modules' tests."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ansible.module_utils
import pytest

from testing.ansible.modules import Dom0, Modules
from testing.paths import PROJECT, PYTHONPATH

# The modules import what they share from Ansible's own package.
ansible.module_utils.__path__.append(str(PROJECT / "module_utils"))

# Which qubesadmin the modules use: the lab's, or upstream's when QUBESADMIN_DIR names a checkout.
CONFIGURE = """
import os, qubesadmin, qubesadmin.app, qubesadmin.config
qubesadmin.config.QUBESD_SOCKET = os.environ["TEST_QUBESD_SOCKET"]
qubesadmin.Qubes = qubesadmin.app.QubesLocal
"""
START_SECONDS = 30


@pytest.fixture
def modules() -> Modules:
    """The modules outside of dom0."""
    return Modules()


@contextmanager
def running_dom0(folder: Path) -> Iterator[Dom0]:
    """Run a dom0 with a qubesd of its own, and one template."""
    state, site = folder / "state", folder / "site"
    state.mkdir()
    site.mkdir()
    (site / "sitecustomize.py").write_text(CONFIGURE)
    with (folder / "qubesd.log").open("w") as log:
        daemon = subprocess.Popen(
            [sys.executable, "-m", "testing.ansible.daemon", str(state)],
            env=os.environ | {"PYTHONPATH": PYTHONPATH},
            stdin=subprocess.DEVNULL,
            stderr=log,
        )
    dom0 = Dom0(state, site)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not dom0.socket.exists():
            assert daemon.poll() is None, (folder / "qubesd.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield dom0
    finally:
        daemon.terminate()
        daemon.wait()


@pytest.fixture
def dom0(tmp_path: Path) -> Iterator[Dom0]:
    """A fresh dom0."""
    with running_dom0(tmp_path) as dom0:
        yield dom0


@pytest.fixture(scope="module")
def kept_dom0(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dom0]:
    """One dom0 for all tests of a file that leave it as they found it."""
    with running_dom0(tmp_path_factory.mktemp("dom0")) as dom0:
        yield dom0
