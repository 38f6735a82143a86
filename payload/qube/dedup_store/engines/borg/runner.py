# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs of borg on a repository: with its password, past its locks and its questions.

A second put waits for the repository's lock (`lock_wait`), and so do `get` and `list`; the waiting
is ours, because borg would look only once a minute (locking.py TimeoutTimer: a tenth of the time
it may wait), also for the lock of a process that was killed.
"""

import os
import re
import signal
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, TypeVar

from dedup_store import engine_options
from dedup_store.config import Config
from dedup_store.engines.base import MAX_MANIFEST, Session
from dedup_store.engines.borg import counter, environment, locks, memory_home, questions
from dedup_store.engines.storage_call import storage_call
from dedup_store.errors import MOVED, EngineError, StoreError
from dedup_store.system import notify
from dedup_store.system.processes import Child, ChildStream, Command
from dedup_store.system.streams import read_all

_STOP = signal.SIGTERM  # borg then rolls back and removes its lock
_LOCK_TRY = 2  # seconds that borg itself waits for a lock; it looks ten times then
# In what borg says when it can't write its lock, which isn't a lock that others hold: EACCES,
# ENOSPC, EROFS, EDQUOT. Those who only read do without one: our own keeps removals away.
NOT_WRITABLE = re.compile(r"\[Errno (?:13|28|30|122)\]")
_READING = frozenset({"check", "extract", "info", "list"})
_WRITING = frozenset({"compact", "create", "delete"})
# borg can't make folders for repositories with other ids then, also not as root (counter.py)
_CONFINED = ("--bounding-set=-dac_override", "--inh-caps=-dac_override")
_MANIFEST_ID = "0" * 64  # borg/helpers/manifest.py Manifest.MANIFEST_ID
_ID = re.compile(r"^(?:id = |BORG_KEY )([0-9a-f]{64})$", re.MULTILINE)
# in a traceback: borg/cache.py CacheConfig and LocalCache read the cache's files, not all of which
# borg has flushed to the disk
_TORN_CACHE = re.compile(r'/cache\.py", line \d+, in (?:load|rollback|_do_open)\n')

T = TypeVar("T")


class BorgRunner:
    """A starter of borg for one command, with what it learnt about the repository."""

    def __init__(self, config: Config, session: Session) -> None:
        self._config = config
        self._session = session
        self._is_moved = False  # and that is accepted
        self._is_unlocked = False  # as it can't be written, or its lock's owner is dead
        self._memory_home: memory_home.MemoryHome | None = None  # as home can't be written
        self._id = session.known_id  # borg can't write where the repository has another one

    def when_unlocked(self, attempt: Callable[[], T], *, reads: bool = False) -> T:
        """Repeat something until it gets the repository's lock, within `lock_wait`.

        A cache that a power cut damaged is removed first; borg makes a new one.

        Args:
            attempt: runs borg, and can be repeated when it raises.
            reads: whether it only reads, and so can do without the lock when nothing can be
                written.

        Raises:
            QuestionError: a person must decide.
        """
        is_torn = was_torn = False
        waiting = locks.Waiting(self._lock_folders, self._config.lock_wait)
        while True:
            try:
                if is_torn:
                    self._once("delete", "--cache-only")
                    is_torn = False
                return attempt()
            except EngineError as error:
                is_known = bool(self._session.known_id)
                if question := questions.find(
                    error, self._config, is_moved=self._is_moved, is_known=is_known
                ):
                    raise question from None
                is_stuck = bool(NOT_WRITABLE.search(error.stderr))
                if reads and is_stuck and not self._is_unlocked:
                    self._is_unlocked = True
                elif _TORN_CACHE.search(error.stderr) and not was_torn:
                    notify.say("borg's cache is damaged, as by a power cut; borg makes a new one")
                    is_torn = was_torn = True
                elif is_stuck or not waiting.is_about(error):
                    raise
                elif waiting.is_for_dead() and reads and not self._is_moved:
                    self._is_unlocked, self._memory_home = True, memory_home.make()
                else:
                    waiting.go_on(error)

    def start(
        self, *arguments: str, feed: bool | IO[bytes] = False, cwd: Path | None = None
    ) -> Child:
        """Start borg on the repository; it reads the password from a file descriptor."""
        call = storage_call(self._config, maintenance=self._session.removes)
        if call:
            environment.require_safe_version()
        security = None
        if arguments[0] in _WRITING and "--cache-only" not in arguments:
            security = counter.prepare(self.identity(), self._encrypted_manifest)
        try:
            password = os.open(self._config.password_file, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError as error:
            raise StoreError(f"the password file can't be read: {error.strerror}") from None
        variables = environment.variables(is_moved=self._is_moved) | {
            "BORG_REPO": self._config.location,
            "BORG_PASSPHRASE_FD": str(password),
        }
        if call:
            variables |= {"BORG_REPO": call.location, "BORG_RSH": call.command}
        options = ["--lock-wait", str(min(self._config.lock_wait, _LOCK_TRY))]
        if self._is_unlocked and arguments[0] in _READING:
            options.append("--bypass-lock")
        if arguments[0] in _READING:
            variables |= self._memory_variables()
        limits: tuple[str, ...] = ()
        if security:
            variables["BORG_SECURITY_DIR"] = str(security)
            limits = _CONFINED if os.geteuid() == 0 else ()
        argv = ["borg", *options, *arguments]
        try:
            hint = call.hint if call else ""
            keep = (password, self._session.lock)
            removes = self._session.removes
            command = Command(
                argv, variables, _STOP, cwd, keep, hint=hint, limits=limits, removes=removes
            )
            return Child(command, feed)
        finally:
            os.close(password)

    def create_options(self) -> list[str]:
        """Return the arguments for `borg create` that the settings choose."""
        return engine_options.borg_arguments(self._config.compression, self._config.chunks)

    def run(self, *arguments: str) -> bytes:
        """Run borg to its end, and return its output."""
        reads = arguments[0] in _READING
        return self.when_unlocked(partial(self._once, *arguments), reads=reads)

    def _once(self, *arguments: str) -> bytes:
        stream = ChildStream(partial(self.start, *arguments))
        return read_all(stream, MAX_MANIFEST)

    def identity(self) -> str:
        """Return the repository's id, as its holder reports it, or as it must be."""
        if not self._id:
            if place := self._config.local_repository:
                try:
                    text = (place / "config").read_text(errors="replace")
                except OSError as error:
                    raise StoreError(f"{place / 'config'}: {error.strerror}") from None
            else:
                text = self.run("key", "export", "::").decode(errors="replace")
            if not (found := _ID.search(text)):
                raise StoreError(f"{self._config.location} has no id of borg's")
            self._id = found[1]
        return self._id

    def accept(self, kind: str) -> None:
        """Accept the repository as it is: moved, or older than this qube's record of it."""
        self._memory_home, self._is_moved = None, kind == MOVED
        if kind != MOVED:
            counter.forget_state(self.identity())

    def remove_dead_locks(self) -> None:
        """Remove the locks of dead processes, even if others have their numbers by now."""
        locks.remove_dead(self._lock_folders())

    def _lock_folders(self) -> list[Path]:
        """Return the folders in this qube that have borg's locks."""
        cache, repository = (
            counter.cache_folder(self.identity()),
            self._config.local_repository,
        )
        return [repository, cache] if repository else [cache]

    def _memory_variables(self) -> dict[str, str]:
        """Return borg's variables for reading when home can't be written."""
        if self._is_moved:  # what is accepted must be kept
            return {}
        if not self._memory_home and not memory_home.is_home_writable():
            self._memory_home = memory_home.make()
        return self._memory_home.variables() if self._memory_home else {}

    def _encrypted_manifest(self) -> bytes:
        with tempfile.TemporaryDirectory(prefix="dedup-store-") as folder_name:
            path = Path(folder_name) / "manifest"
            self.run("debug", "get-obj", "::", _MANIFEST_ID, str(path))
            try:
                return path.read_bytes()
            except OSError:
                raise StoreError("borg's manifest is missing in the repository") from None
