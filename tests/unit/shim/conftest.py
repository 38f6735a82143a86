# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the shim's tests."""

from collections.abc import Iterator

import pytest

from testing.shim.driver import Root, temporary_root
from testing.shim.shimctl import System, temporary_system


@pytest.fixture
def root() -> Iterator[Root]:
    """A root folder with the shim installed in it."""
    with temporary_root() as made:
        yield made


@pytest.fixture
def system() -> Iterator[System]:
    """A root folder as the scrypt package left it."""
    with temporary_system() as made:
        yield made
