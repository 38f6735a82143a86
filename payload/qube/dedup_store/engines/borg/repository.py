# SPDX-License-Identifier: GPL-3.0-or-later
"""borg (1.2 and later, not 2): an archive RUN.payload and an archive RUN.manifest.

The payload's archive has a file per object (engine_borg_writer.py); the manifest's has the summary
as its comment. Before something is written, borg's counter is moved ahead (borg_counter.py).
A second put waits for the repository's lock (`lock_wait`), and so do `get` and `list`; the waiting
is ours, because borg would look only once a minute (locking.py TimeoutTimer: a tenth of the time
it may wait), also for the lock of a process that was killed.
"""

import contextlib
import json
import os
import re
import signal
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

from dedup_store import (
    borg_counter,
    borg_environment,
    borg_locks,
    borg_questions,
    borg_shelter,
    engine,
    folder,
    storage,
    tell,
    tuning,
)
from dedup_store.borg_questions import MOVED, QuestionError
from dedup_store.config import Config
from dedup_store.errors import EngineError, StoreError
from dedup_store.lock import Lock
from dedup_store.manifest import is_run_name
from dedup_store.processes import Child, ChildStream, Command, Stream, read_all
from dedup_store.stored import StoredObject, Usage, files_bytes

if TYPE_CHECKING:
    from dedup_store.engine_borg_writer import BorgWriter

PAYLOAD, MANIFEST = ".payload", ".manifest"  # ends of archives' names
# borg/archive.py Archive: while it is made, NAME.checkpoint, or NAME.checkpoint.NUMBER
_ARCHIVE = re.compile(r"([^.]+)\.(?:payload|manifest)(?:\.checkpoint(?:\.[0-9]+)?)?")
_AT_ONCE = 500  # archives in one command line
_STOP = signal.SIGTERM  # borg then rolls back and removes its lock
_LOCK_TRY = 2  # seconds that borg itself waits for a lock; it looks ten times then
# In what borg says when it can't write its lock, which isn't a lock that others hold: EACCES,
# ENOSPC, EROFS, EDQUOT. Those who only read do without one: our own keeps removals away.
_NOT_WRITABLE = re.compile(r"\[Errno (?:13|28|30|122)\]")
_READING = frozenset({"check", "extract", "info", "list"})
_WRITING = frozenset({"compact", "create", "delete"})
# borg can't make folders for repositories with other ids then, also not as root (borg_counter.py)
_CONFINED = ("--bounding-set=-dac_override", "--inh-caps=-dac_override")
_MANIFEST_ID = "0" * 64  # borg/helpers/manifest.py Manifest.MANIFEST_ID
_ID = re.compile(r"^(?:id = |BORG_KEY )([0-9a-f]{64})$", re.MULTILINE)
# in a traceback: borg/cache.py CacheConfig and LocalCache read the cache's files, not all of which
# borg has flushed to the disk
_TORN_CACHE = re.compile(r'/cache\.py", line \d+, in (?:load|rollback|_do_open)\n')
_CHECK_WRITES = (
    "borg checks nothing where it can't write; `dedup-store check --read-data` reads and compares"
    " all runs there instead"
)
_DAMAGE = 1  # exit code (borg/archiver.py do_check); a failure for another reason is 2

T = TypeVar("T")


class Borg:
    """A borg repository (see engine.Engine)."""

    def __init__(self, config: Config, lock: Lock) -> None:
        """Use the repository of a profile."""
        self._config = config
        self._lock = lock
        self._is_moved = False  # and that is accepted
        self._is_unlocked = False  # as it can't be written, or its lock's owner is dead
        self._shelter: borg_shelter.Shelter | None = None  # as home can't be written
        self._id = ""

    def when_unlocked(self, attempt: Callable[[], T], *, reads: bool = False) -> T:
        """Do something as often as needed to get the repository's lock, within `lock_wait`.

        A cache that a power cut left in pieces is removed first; borg makes it anew.

        Args:
            attempt: runs borg, and can be repeated when it raises.
            reads: whether it only reads, and so can do without the lock when nothing can be
                written.

        Raises:
            QuestionError: a person has to decide.
        """
        is_torn = was_torn = False
        waiting = borg_locks.Waiting(self._lock_folders, self._config.lock_wait)
        while True:
            try:
                if is_torn:
                    self._once("delete", "--cache-only")
                    is_torn = False
                return attempt()
            except EngineError as error:
                if question := borg_questions.find(error, self._config, is_moved=self._is_moved):
                    raise question from None
                is_stuck = bool(_NOT_WRITABLE.search(error.said))
                if reads and is_stuck and not self._is_unlocked:
                    self._is_unlocked = True
                elif _TORN_CACHE.search(error.said) and not was_torn:
                    tell.say("borg's cache is damaged, as by a power cut; it is made anew")
                    is_torn = was_torn = True
                elif is_stuck or not waiting.is_about(error):
                    raise
                elif waiting.is_for_dead() and reads and not self._is_moved:
                    self._is_unlocked, self._shelter = True, borg_shelter.make()
                else:
                    waiting.go_on(error)

    def _lock_folders(self) -> list[Path]:
        """Give the folders in this qube that have borg's locks."""
        cache, repository = (
            borg_counter.cache_folder(self.identity()),
            self._config.local_repository,
        )
        return [repository, cache] if repository else [cache]

    def _sheltered(self) -> dict[str, str]:
        """Give borg's variables for what only reads, where home can't be written."""
        if self._is_moved:  # what is accepted must be kept
            return {}
        if not self._shelter and not borg_shelter.is_home_writable():
            self._shelter = borg_shelter.make()
        return self._shelter.variables() if self._shelter else {}

    def start(
        self, *arguments: str, feed: bool | IO[bytes] = False, cwd: Path | None = None
    ) -> Child:
        """Start borg on the repository; it reads the password from a file descriptor."""
        call = storage.storage_call(self._config, maintenance=self._lock.exclusive)
        if call:
            borg_environment.require_safe_version()
        security = None
        if arguments[0] in _WRITING and "--cache-only" not in arguments:
            security = borg_counter.prepare(self.identity(), self._encrypted_manifest)
        try:
            password = os.open(self._config.password_file, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError as error:
            raise StoreError(f"the password file can't be read: {error.strerror}") from None
        variables = borg_environment.variables(is_moved=self._is_moved) | {
            "BORG_REPO": self._config.repository,
            "BORG_PASSPHRASE_FD": str(password),
        }
        if call:
            variables |= {"BORG_REPO": call.location, "BORG_RSH": call.command}
        options = ["--lock-wait", str(min(self._config.lock_wait, _LOCK_TRY))]
        if self._is_unlocked and arguments[0] in _READING:
            options.append("--bypass-lock")
        if arguments[0] in _READING:
            variables |= self._sheltered()
        limits: tuple[str, ...] = ()
        if security:
            variables["BORG_SECURITY_DIR"] = str(security)
            limits = _CONFINED if os.geteuid() == 0 else ()
        argv = ["borg", *options, *arguments]
        try:
            hint = call.hint if call else ""
            keep = (password, self._lock.fd)
            removes = self._lock.exclusive
            return Child(Command(argv, variables, _STOP, cwd, keep, hint, limits, removes), feed)
        finally:
            os.close(password)

    def tuning(self) -> list[str]:
        """Give the arguments for `borg create` that the profile chose."""
        return tuning.borg_arguments(self._config.compression, self._config.chunks)

    def exists(self) -> bool:
        """Tell whether the password opens the repository."""
        if not folder.check(self._config):
            return False
        try:
            self._look()
        except QuestionError:
            raise
        except StoreError:
            if self._config.local_repository:
                raise
            return False  # remote: create() says what is wrong, if it isn't just new
        return True

    def _look(self) -> None:
        self._run("list", "--last", "1")

    def identity(self) -> str:
        """Give the repository's id, as whoever holds it says."""
        if not self._id:
            if place := self._config.local_repository:
                try:
                    text = (place / "config").read_text(errors="replace")
                except OSError as error:
                    raise StoreError(f"{place / 'config'}: {error.strerror}") from None
            else:
                text = self._run("key", "export", "::").decode(errors="replace")
            if not (found := _ID.search(text)):
                raise StoreError(f"{self._config.repository} doesn't tell borg's id of it")
            self._id = found[1]
        return self._id

    def _encrypted_manifest(self) -> bytes:
        with tempfile.TemporaryDirectory(prefix="dedup-store-") as folder_name:
            path = Path(folder_name) / "manifest"
            self._run("debug", "get-obj", "::", _MANIFEST_ID, str(path))
            try:
                return path.read_bytes()
            except OSError:
                raise StoreError("borg's manifest is missing in the repository") from None

    def is_asking(self, kind: str) -> bool:
        """Tell whether the repository isn't as this qube saw it last.

        Raises:
            QuestionError: it isn't, in another way.
        """
        try:
            self._look()
        except QuestionError as question:
            if question.kind != kind:
                raise
            return True
        return False

    def accept(self, kind: str) -> None:
        """Take the repository as it is from now on."""
        self._shelter, self._is_moved = None, kind == MOVED
        if kind != MOVED:
            borg_counter.forget_state(self.identity())
        self._look()

    def create(self) -> None:
        """Make the repository."""
        self._run("init", "--encryption", "repokey-blake2", "--make-parent-dirs")

    def key(self) -> str:
        """Give the key, as `borg key import` takes it; its password encrypts it."""
        text = self._run("key", "export", "::").decode(errors="replace")
        if not text.startswith("BORG_KEY "):
            raise StoreError("borg's key can't be understood")
        return text

    def runs(self) -> list[engine.StoredRun]:
        """List the runs."""
        found = self._manifests()
        runs = [(name.removesuffix(MANIFEST), comment) for name, comment in found]
        return [engine.StoredRun(run, comment) for run, comment in runs if is_run_name(run)]

    def leftovers(self) -> list[str]:
        """List the runs that have no manifest."""
        archives = self._archives()
        return [run for run, names in archives.items() if f"{run}{MANIFEST}" not in names]

    def forget(self, runs: Sequence[str]) -> None:
        """Remove all archives of these runs."""
        archives = self._archives()
        names = [name for run in runs for name in archives[run]]
        for kind in (True, False):  # a manifest's checkpoint is none
            chosen = [name for name in names if name.endswith(MANIFEST) is kind]
            for start in range(0, len(chosen), _AT_ONCE):
                first, *more = chosen[start : start + _AT_ONCE]  # without any, all would go
                # Without checkpoints: between one and the next borg reads what is encrypted, and
                # then counts on from there, not from where it was (borg/crypto/low_level.pyx
                # AES256_CTR_BASE: reading and writing have the same `iv`).
                self._run("delete", "--checkpoint-interval", "0", f"::{first}", *more)

    def prune(self) -> None:
        """Give back the space of what was removed."""
        self._run("compact")

    def unlock(self) -> None:
        """Remove what is left of dead processes, also if others have their numbers by now."""
        borg_locks.remove_dead(self._lock_folders())

    def check(self, *, read_data: bool) -> None:
        """Run borg's check, which others wait for, and which reads all files in any case.

        It needs to write (borg/repository.py check, save_config). Where it can't, it is left out
        if the caller reads all data anyway.
        """
        more = ["--verify-data"] if read_data else []

        def attempt() -> None:
            with Path(os.devnull).open("rb") as nothing:
                child = self.start("check", *more, feed=nothing)
            child.judge(lambda code, _: code == _DAMAGE)

        try:
            self.when_unlocked(attempt, reads=True)
        except EngineError as error:
            if not _NOT_WRITABLE.search(error.said):
                raise
            if not read_data:
                raise EngineError(f"{_CHECK_WRITES}: {error}", error.said) from None
            tell.warn(f"borg's own check is left out, as it needs to write: {error}")

    def stored_objects(self, run: str) -> dict[int, StoredObject]:
        """Give a run's payload objects."""
        output = self._run("list", "--json-lines", "--format", "{size}", f"::{run}{PAYLOAD}")
        try:
            items = map(json.loads, output.splitlines())
            return {int(item["path"]): StoredObject(item["size"]) for item in items}
        except (ValueError, KeyError, TypeError):
            raise StoreError(f"borg's list of {run}{PAYLOAD} can't be understood") from None

    def usage(self) -> Usage:
        """Tell what the repository takes."""
        if self._config.local_repository:
            size = files_bytes(self._config.local_repository)
            return Usage(size, "the sizes of the repository's files", None)
        try:
            size = json.loads(self._run("info", "--json"))["cache"]["stats"]["unique_csize"]
        except (ValueError, KeyError, TypeError):
            raise StoreError("borg's statistics can't be understood") from None
        return Usage(size, "the data that runs use, as borg counts them", None)

    def _archives(self) -> dict[str, list[str]]:
        """Find all archives of each run, with those that borg makes in between."""
        archives: dict[str, list[str]] = {}
        for name, _ in self._list("--consider-checkpoints"):
            match = _ARCHIVE.fullmatch(name)
            if match and is_run_name(match[1]):
                archives.setdefault(match[1], []).append(name)
        return archives

    def _manifests(self) -> list[tuple[str, str]]:
        """List the manifests' archives, by name and comment."""
        comment = ("--format", "{comment}")
        try:
            return self._list(*comment, "-a", f"*{MANIFEST}")
        except StoreError:  # one archive that is damaged is enough
            names = [name for name, _ in self._list("-a", f"*{MANIFEST}")]
        found = []
        for name in names:
            try:
                found += self._list(*comment, "-a", name)
            except StoreError:
                found.append((name, ""))
        return found

    def _list(self, *options: str) -> list[tuple[str, str]]:
        """List archives: name, and comment if that is asked for, which reads each archive."""
        output = self._run("list", "--json", *options)
        try:
            return [
                (item["name"], item.get("comment", "")) for item in json.loads(output)["archives"]
            ]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise StoreError("borg's list of archives can't be understood") from None

    def writer(self, run: str) -> "BorgWriter":
        """Begin a new run."""
        from dedup_store.engine_borg_writer import BorgWriter  # noqa: PLC0415  (it imports this)

        return BorgWriter(self, run)

    def manifest(self, run: str) -> bytes:
        """Read the manifest object of a run."""
        return self._run("extract", "--stdout", f"::{run}{MANIFEST}", "manifest")

    def begin(self, run: str) -> ChildStream:
        """Begin to read all payload objects of a run."""
        return self._extract(run)

    def payload(self, run: str, objects: Sequence[int], begun: ChildStream | None = None) -> Stream:
        """Read payload objects of a run."""
        if begun:
            with contextlib.suppress(StoreError):  # it may have met another's lock
                return begun.await_data()
            begun.close()
        names = [object_name(number) for number in objects]
        return self.when_unlocked(lambda: self._extract(run, *names).await_data(), reads=True)

    def _extract(self, run: str, *names: str) -> ChildStream:
        archive = f"::{run}{PAYLOAD}"
        return ChildStream(partial(self.start, "extract", "--stdout", archive, *names))

    def _run(self, *arguments: str) -> bytes:
        reads = arguments[0] in _READING
        return self.when_unlocked(partial(self._once, *arguments), reads=reads)

    def _once(self, *arguments: str) -> bytes:
        stream = ChildStream(partial(self.start, *arguments))
        return read_all(stream, engine.MAX_MANIFEST)


def object_name(number: int) -> str:
    """Name the file in the payload's archive that has an object."""
    return f"{number:06}"
