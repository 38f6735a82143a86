# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the tests against the real Qubes sources: see dom0.py for what they give.

All is skipped, saying so, unless QUBES_SRC names a folder with the checkouts.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import sources as sources_module
from dom0 import Dom0, new_dom0
from sources import Sources


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip all without QUBES_SRC."""
    here = Path(__file__).parent
    if not os.environ.get(sources_module.VARIABLE):
        mark = pytest.mark.skip(reason="QUBES_SRC is not set: nothing runs against upstream")
        for item in items:
            if here in item.path.parents:
                item.add_marker(mark)


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """The checkouts, ready to run."""
    if problem := sources_module.missing():
        pytest.exit(problem, returncode=2)
    return sources_module.prepare(tmp_path_factory.mktemp("upstream"))


@pytest.fixture(scope="module")
def make_dom0(
    sources: Sources, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], Dom0]]:
    """Make as many dom0s as a module wants; each is a machine without qubes."""
    with ExitStack() as stack:

        def make() -> Dom0:
            folder = tmp_path_factory.mktemp("dom0")
            return stack.enter_context(new_dom0(folder, sources))

        yield make
