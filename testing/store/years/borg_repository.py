# SPDX-License-Identifier: GPL-3.0-or-later
"""A borg repository with the runs of a model, written by borg's own modules (of borg 1.2).

borg/archive.py Archive makes each archive, as `borg create` does (borg/archiver.py do_create), from
items that this makes. So what is in it has borg's form. What is left out is what `borg create` does
at the end of each archive, and what would take most of the time: to write the list of archives, the
transaction and the cache. All are written once, at the end. The numbers of references in the cache
(borg/cache.py LocalCache.chunks) are computed, not counted. Each piece of the model is a chunk.
"""

import contextlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from unittest import mock

import borg.logger
from borg.archive import Archive
from borg.cache import Cache
from borg.helpers import Manifest
from borg.item import ChunkListEntry, Item
from borg.repository import Repository
from dedup_store.engines.borg.writer import MANIFEST, PAYLOAD, object_name

from testing.store.driver import Store
from testing.store.years.model import MadeRun, Model


def fill(store: Store, model: Model) -> list[str]:
    """Add a model's runs to a repository; give their names."""
    borg.logger.configured = True  # as setup_logging() sets it, which would redirect all logging
    with _environment(store), Repository(str(store.repository), exclusive=True) as repository:
        manifest, key = Manifest.load(repository, Manifest.NO_OPERATION_CHECK)
        with Cache(repository, key, manifest) as cache:
            cache.begin_txn()
            writer = _Writer(repository, manifest, cache, model)
            with writer.one_transaction():
                names = [writer.add(run) for run in model.runs()]
            writer.count_references()
            manifest.write()
            repository.commit(compact=False)
            cache.commit()
    return names


class _Writer:
    """A writer of archives, in one transaction."""

    def __init__(
        self, repository: Repository, manifest: Manifest, cache: Cache, model: Model
    ) -> None:
        self._repository, self._manifest = repository, manifest
        self._key = manifest.key
        self._cache = cache
        self._model = model
        self._chunks: list[ChunkListEntry | None] = [None] * len(model.pieces)
        self._since = [0] * len(model.pieces)  # the number of the run that has a piece first
        self._number = 0

    @contextlib.contextmanager
    def one_transaction(self) -> Iterator[None]:
        """Keep archives from ending the transaction (borg/archive.py Archive.save)."""
        with (
            mock.patch.object(self._repository, "commit"),
            mock.patch.object(self._manifest, "write"),
            mock.patch.object(self._cache, "commit"),
        ):
            yield

    def add(self, run: MadeRun) -> str:
        """Store a run as BorgWriter does."""
        for piece in run.changed:
            self._retire(piece)
            self._chunks[piece] = self._store(self._model.pieces[piece])
            self._since[piece] = self._number
        self._number += 1
        with self._archive(run, PAYLOAD, "") as archive:
            for number, pieces in enumerate(self._model.objects):
                chunks = self._chunks[pieces.start : pieces.stop]
                archive.add_item(_item(object_name(number), chunks))
        with self._archive(run, MANIFEST, run.summary) as archive:
            name = self._key.id_hash(run.manifest)
            chunk = self._cache.add_chunk(name, run.manifest, archive.stats)
            archive.add_item(_item("manifest", [chunk]))
        return run.name

    @contextlib.contextmanager
    def _archive(self, run: MadeRun, kind: str, comment: str) -> Iterator[Archive]:
        made = Archive(
            self._repository, self._key, self._manifest, run.name + kind, self._cache, create=True
        )
        yield made
        when = datetime.fromtimestamp(run.made, UTC).replace(tzinfo=None)
        made.save(comment=comment, timestamp=when)

    def _store(self, data: bytes) -> ChunkListEntry:
        name, sealed = self._key.id_hash(data), self._key.encrypt(data)
        self._repository.put(name, sealed, wait=False)
        return ChunkListEntry(name, len(data), len(sealed))

    def _retire(self, piece: int) -> None:
        """Count the references of a chunk that no later run has."""
        if chunk := self._chunks[piece]:
            count = self._number - self._since[piece]
            self._cache.chunks.add(chunk.id, count, chunk.size, chunk.csize)

    def count_references(self) -> None:
        """Count those of the last run's."""
        for piece in range(len(self._chunks)):
            self._retire(piece)


def _item(path: str, chunks: list[ChunkListEntry]) -> Item:
    """Describe a file as `borg create --read-special` does for a named pipe of root's."""
    owner = {"uid": 0, "gid": 0, "user": None, "group": None}
    size = sum(chunk.size for chunk in chunks)
    return Item(path=path, mode=0o100600, mtime=0, size=size, chunks=chunks, **owner)


@contextlib.contextmanager
def _environment(store: Store) -> Iterator[None]:
    """Have borg's modules use the store's home and password."""
    kept = {key: value for key, value in os.environ.items() if key[:4] not in ("BORG", "XDG_")}
    secret = {"BORG_PASSPHRASE": store.password.read_text().strip()}
    with mock.patch.dict(os.environ, kept | store.environment | secret, clear=True):
        yield
