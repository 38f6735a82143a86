# SPDX-License-Identifier: GPL-3.0-or-later
"""The removal of borg's lock when the processes of this qube that made it are gone.

borg takes them for living ones as long as any process has their number, as after a boot
(borg/platform/posix.pyx process_alive). Layout: borg/locking.py ExclusiveLock, LockRoster.
"""

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path

_OURS = "dedup-server@"
_EXCLUSIVE, _ROSTER = "lock.exclusive", "lock.roster"
_MAX_BYTES = 1 << 16
_NAMES = 3  # of a command line: python, its options, its script


def host_id() -> str:
    """Name this qube in locks.

    borg itself takes a network card's address, or without one a number that is new each time: then
    it would take each lock's owner for a living one.
    """
    return f"{_OURS}{socket.gethostname()}"


def remove_dead(path: Path) -> None:
    """Remove a repository's lock if all its owners are dead.

    The caller has the repository to itself, so no session of this program lives.

    Raises:
        OSError: it can't be removed.
    """
    owners = [*_of_exclusive(path), *_of_roster(path)]
    if not owners or any(_may_live(*owner) for owner in owners):
        return
    (path / _ROSTER).unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        for entry in (path / _EXCLUSIVE).iterdir():
            entry.unlink(missing_ok=True)
        (path / _EXCLUSIVE).rmdir()


def _may_live(host: str, pid: int) -> bool:
    if host != host_id():  # the disk was in another storage qube, or this one was renamed
        return not host.startswith(_OURS)
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:_NAMES]
        return any(word.rpartition(b"/")[2].startswith(b"borg") for word in words)
    return False


def _of_exclusive(path: Path) -> Iterator[tuple[str, int]]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for entry in (path / _EXCLUSIVE).iterdir():  # HOST.PID-THREAD
            host, _, number = entry.name.rpartition("-")[0].rpartition(".")
            yield (host, int(number)) if number.isdecimal() else ("", 0)


def _of_roster(path: Path) -> list[tuple[str, int]]:
    with contextlib.suppress(
        OSError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError
    ):
        with (path / _ROSTER).open("rb") as file:
            roster = json.loads(file.read(_MAX_BYTES))
        rows = [row for kind in ("shared", "exclusive") for row in roster.get(kind, ())]
        return [(str(host), int(pid)) for host, pid, _ in rows]
    return []
