# SPDX-License-Identifier: GPL-3.0-or-later
"""borg (1.2 and later, not 2): an archive RUN.payload and an archive RUN.manifest.

The payload's archive has a file per object (writer.py); the manifest's has the summary as its
comment. Before something is written, borg's counter is moved ahead (counter.py).
"""

import contextlib
import itertools
import json
import os
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from dedup_store.archive.manifest import is_run_name
from dedup_store.config import Config
from dedup_store.engines import folder
from dedup_store.engines.base import MAX_MANIFEST, RESERVE, Session, StoredRun, Usage
from dedup_store.engines.borg.runner import NOT_WRITABLE, BorgRunner
from dedup_store.engines.borg.summaries import Archive, Summaries
from dedup_store.engines.borg.writer import MANIFEST, PAYLOAD, BorgWriter, object_name
from dedup_store.errors import EngineError, QuestionError, StoreError
from dedup_store.system import notify
from dedup_store.system.files import files_bytes
from dedup_store.system.processes import ChildStream
from dedup_store.system.streams import Stream, read_all

# borg/archive.py Archive: while it is made, NAME.checkpoint, or NAME.checkpoint.NUMBER
_ARCHIVE = re.compile(r"([^.]+)\.(?:payload|manifest)(?:\.checkpoint(?:\.[0-9]+)?)?")
_AT_ONCE = 500  # archives in one command line
_CHECK_WRITES = (
    "borg checks nothing where it can't write; `dedup-store check --read-data` reads and compares"
    " all runs there instead"
)
_DAMAGE = 1  # exit code (borg/archiver.py do_check); a failure for another reason is 2


class Borg:
    """A borg repository (see base.Engine)."""

    def __init__(self, config: Config, session: Session) -> None:
        self._config = config
        self._borg = BorgRunner(config, session)
        self._summaries = Summaries(config)
        self._known: dict[str, list[str]] | None = None  # archives of each run, for lost_objects
        self._next: dict[str, str] = {}  # the run whose manifest is read after that of another
        self._begun: dict[str, ChildStream] = {}  # manifests, by their runs

    def identity(self) -> str:
        """Return the repository's id, as its holder reports it."""
        return self._borg.identity()

    def exists(self) -> bool:
        """Return whether the password opens the repository."""
        if not folder.check(self._config):
            return False
        try:
            self._probe()
        except QuestionError:
            raise
        except StoreError:
            if self._config.local_repository:
                raise
            return False  # remote: create() says what is wrong, if it isn't just new
        return True

    def _probe(self) -> None:
        self._borg.run("list", "--last", "1")

    def is_asking(self, kind: str) -> bool:
        """Return whether the repository changed since this qube last saw it.

        Raises:
            QuestionError: it isn't, in another way.
        """
        try:
            self._probe()
        except QuestionError as question:
            if question.kind != kind:
                raise
            return True
        return False

    def accept(self, kind: str) -> None:
        """Accept the repository as it is from now on."""
        self._borg.accept(kind)
        self._probe()

    def create(self) -> None:
        """Make the repository."""
        self._borg.run("init", "--encryption", "repokey-blake2", "--make-parent-dirs")

    def key(self) -> str:
        """Return the key, as `borg key import` takes it; its password encrypts it."""
        text = self._borg.run("key", "export", "::").decode(errors="replace")
        if not text.startswith("BORG_KEY "):
            raise StoreError("borg's key is malformed")
        return text

    def runs(self) -> list[StoredRun]:
        """List the runs."""
        found = self._manifests()
        runs = [(name.removesuffix(MANIFEST), comment) for name, comment in found.items()]
        return [StoredRun(run, comment) for run, comment in runs if is_run_name(run)]

    def leftovers(self) -> list[str]:
        """List the runs that have no manifest."""
        archives = self._archives()
        return [run for run, names in archives.items() if f"{run}{MANIFEST}" not in names]

    def forget(self, runs: Sequence[str]) -> None:
        """Remove all archives of these runs."""
        if not runs:
            return
        archives = self._archives()
        names = [name for run in runs for name in archives[run]]
        for kind in (True, False):  # a manifest's checkpoint is no manifest
            chosen = [name for name in names if name.endswith(MANIFEST) is kind]
            for start in range(0, len(chosen), _AT_ONCE):
                # never without a name: borg would delete all
                first, *more = chosen[start : start + _AT_ONCE]
                # Without checkpoints: between one and the next borg reads what is encrypted, and
                # then counts on from there, not from where it was (borg/crypto/low_level.pyx
                # AES256_CTR_BASE: reading and writing have the same `iv`).
                self._borg.run("delete", "--checkpoint-interval", "0", f"::{first}", *more)

    def prune(self) -> None:
        """Free the space of what was removed."""
        self._borg.run("compact")

    def unlock(self) -> None:
        """Remove the locks of dead processes, even if others have their numbers by now."""
        self._borg.remove_dead_locks()

    def check(self, *, read_data: bool) -> None:
        """Run borg's check, which others wait for, and which reads all files in any case.

        It needs to write (borg/repository.py check, save_config). Where it can't, it is left out
        if the caller reads all data anyway.
        """
        more = ["--verify-data"] if read_data else []

        def attempt() -> None:
            with Path(os.devnull).open("rb") as nothing:
                child = self._borg.start("check", *more, feed=nothing)
            child.judge(lambda code, _: code == _DAMAGE)

        try:
            self._borg.when_unlocked(attempt, reads=True)
        except EngineError as error:
            if not NOT_WRITABLE.search(error.stderr):
                raise
            if not read_data:
                raise EngineError(f"{_CHECK_WRITES}: {error}", error.stderr) from None
            notify.warn(f"borg's own check is left out, as it needs to write: {error}")

    def lost_objects(self, run: str, lengths: Sequence[int]) -> set[int]:
        """Return all payload objects of a run, unless their archive is there.

        Their lengths aren't compared: borg's check has compared each file's with its chunks
        (borg/archive.py ArchiveChecker.rebuild_refcounts), and to list the files of an archive is
        a start of borg.
        """
        if self._known is None:
            self._known = self._archives()
        is_there = f"{run}{PAYLOAD}" in self._known.get(run, ())
        return set() if is_there else set(range(len(lengths)))

    def payload_id(self, run: str) -> str:  # noqa: ARG002 -- the engines' interface
        """Return nothing: it is unknown."""
        return ""

    def usage(self) -> Usage:
        """Return the room that the repository takes."""
        if self._config.local_repository:
            size = files_bytes(self._config.local_repository, without=RESERVE)
            return Usage(size, "the sizes of the repository's files")
        try:
            size = json.loads(self._borg.run("info", "--json"))["cache"]["stats"]["unique_csize"]
        except (ValueError, KeyError, TypeError):
            raise StoreError("borg's statistics are malformed") from None
        return Usage(size, "the data that runs use, as borg counts them")

    def _archives(self) -> dict[str, list[str]]:
        """Find all archives of each run, with those that borg makes in between."""
        archives: dict[str, list[str]] = {}
        for archive in self._list("--consider-checkpoints"):
            match = _ARCHIVE.fullmatch(archive.name)
            if match and is_run_name(match[1]):
                archives.setdefault(match[1], []).append(archive.name)
        return archives

    def _manifests(self) -> dict[str, str]:
        """List the manifests' archives, by name, with their summaries."""
        archives = self._list("-a", f"*{MANIFEST}")
        known = self._summaries.known(archives)
        new = [index for index, (name, _) in enumerate(archives) if name not in known]
        if new:
            with contextlib.suppress(StoreError):  # one archive that is damaged is enough
                last = ("--last", str(len(archives) - new[0]))
                known |= self._comments(*last, "-a", f"*{MANIFEST}")
        for name, _ in archives:
            if name not in known:
                with contextlib.suppress(StoreError):
                    known |= self._comments("-a", name)
        self._summaries.keep(archives, known)
        return {name: known.get(name, "") for name, _ in archives}

    def _list(self, *options: str) -> list[Archive]:
        """List archives, by time."""
        return [Archive(name, key) for name, key in self._items("name", "id", *options)]

    def _comments(self, *options: str) -> dict[str, str]:
        """Read archives' comments, by name; this reads each archive."""
        return dict(self._items("name", "comment", "--format", "{comment}", *options))

    def _items(self, first: str, second: str, *options: str) -> list[tuple[str, str]]:
        """List archives, by time: two values of each."""
        output = self._borg.run("list", "--json", *options)
        try:
            items = json.loads(output)["archives"]
            return [(str(item[first]), str(item[second])) for item in items]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise StoreError("borg's list of archives is malformed") from None

    def writer(self, run: str) -> BorgWriter:
        """Begin a new run."""
        return BorgWriter(self._borg, self._summaries, run)

    @contextlib.contextmanager
    def reading_many(self, runs: Sequence[str]) -> Iterator[None]:
        """Let manifest() begin with the next run, as each is a start of borg."""
        self._next = dict(itertools.pairwise(runs))
        try:
            yield
        finally:
            self._next = {}
            for stream in self._begun.values():
                stream.close()
            self._begun.clear()

    def manifest(self, run: str) -> bytes:
        """Read the manifest object of a run."""
        begun, after = self._begun.pop(run, None), self._next.get(run)
        if after:
            self._begun[after] = ChildStream(partial(self._borg.start, *_manifest_of(after)))
        if begun:
            with contextlib.suppress(StoreError):  # it may have met another's lock
                return read_all(begun, MAX_MANIFEST)
        return self._borg.run(*_manifest_of(run))

    def begin(self, run: str) -> ChildStream:
        """Begin to read all payload objects of a run."""
        return self._extract(run)

    def payload(
        self,
        run: str,
        lengths: Sequence[int],  # noqa: ARG002 -- the engines' interface
        wanted: Sequence[int],
        begun: ChildStream | None = None,
    ) -> Stream:
        """Read payload objects of a run."""
        if begun:
            with contextlib.suppress(StoreError):  # it may have met another's lock
                return begun.await_data()
            begun.close()
        names = [object_name(number) for number in wanted]
        return self._borg.when_unlocked(lambda: self._extract(run, *names).await_data(), reads=True)

    def _extract(self, run: str, *names: str) -> ChildStream:
        archive = f"::{run}{PAYLOAD}"
        return ChildStream(partial(self._borg.start, "extract", "--stdout", archive, *names))


def _manifest_of(run: str) -> tuple[str, ...]:
    """Return borg's arguments for reading a manifest."""
    return "extract", "--stdout", f"::{run}{MANIFEST}", "manifest"
