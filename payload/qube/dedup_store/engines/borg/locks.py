# SPDX-License-Identifier: GPL-3.0-or-later
"""The holders of borg's locks, and the removal of those of this qube's dead processes.

borg takes a lock as held as long as any process has its owner's number
(borg/platform/posix.pyx process_alive). Layout: borg/locking.py ExclusiveLock, LockRoster.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dedup_store.engines.borg import environment
from dedup_store.errors import EngineError, StoreError, clean
from dedup_store.system import notify

_LOCKED = "acquire the lock"
_EXCLUSIVE, _ROSTER = "lock.exclusive", "lock.roster"
_NAMES = 3  # of a command line: python, its script
_MAX_BYTES = 1 << 16


@dataclass(frozen=True)
class Owner:
    """The process that made a lock."""

    host: str
    pid: int

    def __str__(self) -> str:
        return f"process {self.pid} on {clean(self.host, 60)}"

    def may_live(self) -> bool:
        """Return whether it can still run, without a signal to anybody."""
        if self.host != environment.host_id():
            return True
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{self.pid}/cmdline").read_bytes().split(b"\0")[:_NAMES]
            return any(word.rpartition(b"/")[2].startswith(b"borg") for word in words)
        return False


class Waiting:
    """A wait for another borg, which is announced once.

    Args:
        folders: gives the repository, if it is in this qube, and borg's cache for it.
        seconds: to wait at most.
    """

    def __init__(self, folders: Callable[[], list[Path]], seconds: int) -> None:
        self._folders = folders
        self._end = time.monotonic() + seconds
        self._is_announced = False

    @staticmethod
    def is_about(error: StoreError) -> bool:
        """Return whether borg's error is that another one has a lock."""
        return _LOCKED in str(error)

    def is_for_dead(self) -> bool:
        """Return whether all holders of locks are dead."""
        owners = _owners(self._folders())
        return bool(owners) and not any(owner.may_live() for owner in owners)

    def go_on(self, error: EngineError) -> None:
        """Go on waiting: borg itself has waited already.

        Raises:
            EngineError: the time is up.
        """
        living = [str(owner) for owner in _owners(self._folders()) if owner.may_live()]
        if time.monotonic() >= self._end:
            if not living:
                raise EngineError(
                    "a borg that this qube doesn't see has locked the repository: wait for its end."
                    " If no borg works on it any more, run borg's own `break-lock` where the"
                    f" repository is ({clean(str(error), 200)})",
                    error.stderr,
                )
            words = clean(str(error), 200)
            raise EngineError(
                f"another borg has locked the repository ({living[0]}): wait for its end. If no"
                f" borg works on it any more, run borg's own `break-lock` ({words})",
                error.stderr,
            )
        if living and not self._is_announced:
            notify.say(f"waiting for another borg that has locked the repository ({living[0]})")
            self._is_announced = True


def remove_dead(folders: Iterable[Path]) -> None:
    """Remove locks whose owners are all dead; while no other command of ours is at work.

    Raises:
        StoreError: one can't be removed.
    """
    for folder in folders:
        owners = _owners([folder])
        if not owners or any(owner.may_live() for owner in owners):
            continue
        try:
            # while the exclusive lock is there, nobody else writes the roster
            (folder / _ROSTER).unlink(missing_ok=True)
            for entry in _entries(folder):
                entry.unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                (folder / _EXCLUSIVE).rmdir()
        except OSError as error:
            raise StoreError(
                f"a dead borg's lock in {folder} can't be removed: {error.strerror}"
            ) from None


def _entries(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return list((folder / _EXCLUSIVE).iterdir())
    return []


def _owners(folders: Iterable[Path]) -> list[Owner]:
    return [owner for folder in folders for owner in (*_of_exclusive(folder), *_of_roster(folder))]


def _of_exclusive(folder: Path) -> Iterator[Owner]:
    for entry in _entries(folder):  # HOST.PID-THREAD
        host, _, number = entry.name.rpartition("-")[0].rpartition(".")
        yield Owner(host, int(number)) if number.isdecimal() else Owner(entry.name, 0)


def _of_roster(folder: Path) -> list[Owner]:
    with contextlib.suppress(
        OSError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError
    ):
        with (folder / _ROSTER).open("rb") as file:
            roster = json.loads(file.read(_MAX_BYTES))
        rows = [row for kind in ("shared", "exclusive") for row in roster.get(kind, ())]
        return [Owner(str(host), int(pid)) for host, pid, _ in rows]
    return []
