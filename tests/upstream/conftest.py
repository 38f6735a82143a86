# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the tests against the real Qubes sources: see dom0.py for what they give.

All is skipped, saying so, unless QUBES_SRC names a folder with the checkouts.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from testing.upstream import sources as sources_module
from testing.upstream.corpus import corpus
from testing.upstream.dom0 import Dom0, new_dom0
from testing.upstream.sources import Sources

# Upstream's policy parser needs nothing but Python, so it runs in this process, a hundred times
# faster than by its tools. Only QUBES_SRC says where it is.
if checkouts := os.environ.get(sources_module.VARIABLE):
    sys.path.append(f"{checkouts}/qubes-core-qrexec")


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


@contextmanager
def maker(sources: Sources, factory: pytest.TempPathFactory) -> Iterator[Callable[[], Dom0]]:
    """Give a function that makes dom0s; they end together."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(new_dom0(factory.mktemp("dom0"), sources))


@pytest.fixture(scope="module")
def make_dom0(
    sources: Sources, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], Dom0]]:
    """Make as many dom0s as a module wants; each is a machine without qubes."""
    with maker(sources, tmp_path_factory) as make:
        yield make


@pytest.fixture(scope="session")
def session_old(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dom0]:
    """The machine of `old`."""
    with maker(sources, tmp_path_factory) as make:
        dom0 = make()
        dom0.make(corpus(tmp_path_factory.mktemp("images")))
        dom0.start()
        for engine in ("restic", "borg"):
            dom0.make_store(engine, engine)
        yield dom0


@pytest.fixture
def old(session_old: Dom0) -> Iterator[Dom0]:
    """The machine that backups are made on: the qubes of corpus.py, and a store of each engine."""
    yield session_old
    session_old.install_shim("authenticated")
    session_old.chunk_size()


@pytest.fixture
def new(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dom0]:
    """A new machine, with nothing but a template and a backup qube."""
    with maker(sources, tmp_path_factory) as make:
        dom0 = make()
        dom0.make([])
        dom0.start()
        yield dom0
