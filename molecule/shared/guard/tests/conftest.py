# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the guard's scenarios."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testing.guard.dom0 import Dom0


@pytest.fixture(scope="session")
def dom0() -> Dom0:
    """The running dom0."""
    return Dom0()


@pytest.fixture(scope="module")
def clean(dom0: Dom0) -> Iterator[Dom0]:
    """dom0 with the scrypt that the image has, and nothing of ours."""
    dom0.clean()
    yield dom0
    dom0.clean()
