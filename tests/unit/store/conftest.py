# SPDX-License-Identifier: GPL-3.0-or-later
"""Profiles with real, empty repositories."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from testing.store import archives
from testing.store.driver import Filled, Store, copy

ENGINES = ("restic", "borg", "directory")


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Store]:
    """An initialised repository per engine, to copy from: making restic's key takes seconds."""
    stores = {}
    for engine in ENGINES:
        store = Store(tmp_path_factory.mktemp(engine), engine)
        store.configure()
        store.make()
        stores[engine] = store
    return stores


@pytest.fixture
def directory_store(fresh: dict[str, Store], tmp_path: Path) -> Store:
    """An empty repository of plain files."""
    return copy(fresh["directory"], tmp_path)


@pytest.fixture(params=ENGINES)
def store(request: pytest.FixtureRequest, fresh: dict[str, Store], tmp_path: Path) -> Store:
    """An empty repository, of each engine."""
    return copy(fresh[request.param], tmp_path)


@pytest.fixture
def restic_store(fresh: dict[str, Store], tmp_path: Path) -> Store:
    """An empty repository, for what doesn't depend on the engine."""
    return copy(fresh["restic"], tmp_path)


@pytest.fixture
def borg_store(fresh: dict[str, Store], tmp_path: Path) -> Store:
    """An empty repository, for what doesn't depend on the engine and must be quick."""
    return copy(fresh["borg"], tmp_path)


def stream(seed: int) -> bytes:
    """A backup whose qubes work and vault have a payload object each."""
    qubes = archives.small_qubes()
    qubes[1].volumes["private"] = archives.noise(17 << 20, seed)
    qubes.insert(2, archives.Qube("vault", 8, volumes={"private": archives.noise(17 << 20, 8)}))
    return archives.join(archives.members(qubes))


@pytest.fixture(scope="session")
def streams() -> list[bytes]:
    """Two backups of the same qubes."""
    return [stream(7), stream(70)]


@pytest.fixture(scope="session")
def filler(
    fresh: dict[str, Store], streams: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, Path], Filled]:
    """Give repositories with two runs, which are stored once per engine."""

    @functools.cache
    def fill(engine: str) -> tuple[Store, list[str], list[Path]]:
        store = copy(fresh[engine], tmp_path_factory.mktemp(f"{engine}-filled"))
        runs = [store.put(streams[0])["run"]]
        before = set(store.repository.glob("data/*/*"))
        runs.append(store.put(streams[1])["run"])
        new = list(set(store.repository.glob("data/*/*")) - before)
        new.sort(key=lambda path: -path.stat().st_size)
        return store, runs, [path.relative_to(store.repository) for path in new]

    def give(engine: str, folder: Path) -> Filled:
        source, runs, new = fill(engine)
        store = copy(source, folder)
        return Filled(store, runs, streams, [store.repository / path for path in new])

    return give


@pytest.fixture(params=ENGINES)
def filled(
    request: pytest.FixtureRequest, filler: Callable[[str, Path], Filled], tmp_path: Path
) -> Filled:
    """Two runs, in a repository of each engine."""
    return filler(request.param, tmp_path)
