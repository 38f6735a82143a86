# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors that waiting doesn't mend: their kinds, the disk they are about, and what to do.

The one place for that, for all engines and for our own files; docs/troubleshooting.md has the same
table. What borg asks is in engines/borg/questions.py.
"""

import errno
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from dedup_store.errors import DiskError, EngineError, StoreError, clean

_MAX_WORDS = 220  # characters of what the engine said
_LITTLE = 1 << 20  # bytes; a disk with less is full


@dataclass(frozen=True)
class FailureKind:
    """A kind of error.

    Attributes:
        numbers: the system's, as borg gives them.
        words: the system's, as restic and rclone give them, and what else engines say.
        state: what is wrong with the disk.
        advice: what to do.
    """

    numbers: tuple[int, ...]
    words: str
    state: str
    advice: str

    def is_in(self, text: str) -> bool:
        """Return whether a line of an engine's is about it."""
        numbers = "|".join(map(str, self.numbers))
        return bool(re.search(rf"{self.words}|\[Errno (?:{numbers})\]", text, re.IGNORECASE))


READ_ONLY = FailureKind(
    (errno.EROFS,),
    "read-only file system",
    "is read-only",
    "attach it writable; if it isn't attached read-only, `sudo dmesg` in that qube says why",
)
# borg/repository.py check_free_space; 545 MB as soon as it has something to move in ten segments
NARROW = FailureKind(
    (),
    "insufficient free space to complete transaction",
    "is too small for borg",
    "borg demands that much free room to write or remove anything",
)
FULL = FailureKind(
    (errno.ENOSPC, errno.EDQUOT),
    "no space left on device|disk quota exceeded"
    "|file too big for remaining disk space",  # rclone lib/file/preallocate_unix.go ErrDiskFull
    "is full",
    "make room there",
)
DENIED = FailureKind(
    (errno.EACCES, errno.EPERM),
    r"permission denied(?! ?\(|, )|operation not permitted",  # not ssh's words for a wrong key
    "may not be used by this user",
    "`ls -la` there shows the owner",
)
FAILING = FailureKind(
    (errno.EIO, errno.ENXIO, errno.ENODEV, errno.ENOTCONN, errno.ESTALE, errno.EUCLEAN),
    "input/output error|no such device|transport endpoint is not connected"
    "|stale (?:nfs )?file handle|structure needs cleaning",
    "doesn't answer as a disk should",
    "attach it again; if that doesn't help, copy what can be read to another one"
    " (`sudo dmesg` in that qube says more)",
)
NO_ROOM = READ_ONLY.numbers + FULL.numbers  # nothing can be written
KINDS = (NARROW, READ_ONLY, FULL, DENIED, FAILING)
PRUNE = "`sudo qubes-dedup-backup forget` and `prune` in dom0 make room"

# What restic and rclone say each time they try something again, or gave up: internal/backend/retry
# and cmd/restic/global.go; rclone's log.
_TRIED = re.compile(r"returned error, retrying after|\) failed: |^rclone: .*\bERROR\b")
_OTHER_SIDE = re.compile(r"^(?:rclone|Remote): ")
# borg says without that mark why another borg didn't get its lock
_OF_LOCK = re.compile(r"acquire the lock|/lock\.(?:exclusive|roster)")
# a repository in a storage qube, as engines/storage_call.py names it
_STORAGE = re.compile(r"(?:rclone:([^:/]+)/|ssh://([^/]+)/\./)(.+)")


def kind_of(number: int | None) -> FailureKind | None:
    """Return the kind of one of the system's errors, None when it can pass."""
    return next((kind for kind in KINDS if number in kind.numbers), None)


def is_of_other_side(line: str) -> bool:
    """Return whether an engine's line came from where the repository is."""
    return bool(_OTHER_SIDE.search(line))


@dataclass(frozen=True)
class PermanentFailure:
    """An error that waiting doesn't mend.

    Attributes:
        kind: its kind.
        disk: where, in words.
        has_repository: whether the repository is there.
        line: what the engine said.
        more_room: how to enlarge the disk.
        removes: whether it was about to remove something.
    """

    kind: FailureKind
    disk: str
    has_repository: bool
    line: str
    more_room: str
    removes: bool

    def error(self, name: str, stderr: str) -> EngineError:
        """Return it as an error for the user.

        Args:
            name: the engine.
            stderr: the end of all that it said.
        """
        advice = self.kind.advice
        if self.kind is NARROW:
            advice += f": {self.more_room}"
        elif self.kind is FULL and self.has_repository:
            advice = self.more_room if self.removes else PRUNE
        words = clean(self.line, _MAX_WORDS)
        text = f"{self.disk} {self.kind.state}: {advice} ({name}: {words})"
        return DiskError(text, stderr, is_damage=self.kind is FAILING)


class EngineDisks:
    """The disks that an engine uses."""

    def __init__(self, variables: dict[str, str], *, removes: bool = False) -> None:
        """Take them from the environment that the engine is started with.

        Args:
            variables: the environment.
            removes: whether it is to remove something.
        """
        self._removes = removes
        home = variables["HOME"]
        self._home = Path(home)
        self._cache = variables.get("XDG_CACHE_HOME") or f"{home}/.cache"
        self._homes = [home, self._cache, variables.get("XDG_CONFIG_HOME") or f"{home}/.config"]
        self._temporary = variables.get("TMPDIR") or tempfile.gettempdir()
        self._repository = (
            variables.get("RESTIC_REPOSITORY") or variables.get("BORG_REPO") or "repository"
        )

    @property
    def _folder(self) -> Path | None:
        return Path(self._repository) if self._repository.startswith("/") else None

    def find(self, line: str, *, tried: bool) -> PermanentFailure | None:
        """Find an error that waiting doesn't mend in a line of an engine's.

        Args:
            line: what it said.
            tried: only in a line about something that is, or was, tried again; not what
                goes wrong with restic's cache, which it can do without.
        """
        if tried and (not _TRIED.search(line) or self._cache in line):
            return None
        for kind in KINDS:
            if kind.is_in(line):
                other = self._other_disk(line, kind)
                disk, more = other or self._repository_disk(), self._more_room()
                return PermanentFailure(kind, disk, not other, line, more, self._removes)
        return None

    def _other_disk(self, line: str, kind: FailureKind) -> str:
        """Name the disk, if it isn't the repository's."""
        if self._folder is None and _OTHER_SIDE.search(line):
            return ""
        if self._folder and str(self._folder) in line:
            return ""
        if self._folder is None and self._is_of_repository(line):
            return ""
        if any(folder in line for folder in self._homes):
            return home_disk(self._home)
        if f"{self._temporary}/" in line:
            return temporary_disk(self._temporary)
        here = _is_so(self._home, kind) and not (self._folder and _is_so(self._folder, kind))
        return home_disk(self._home) if here else ""

    def _is_of_repository(self, line: str) -> bool:
        """Return whether a line is about a repository outside this qube, or its lock."""
        if any(folder in line for folder in self._homes[1:] if folder != self._homes[0]):
            return False  # borg has a lock in its cache, too
        name = re.escape(self._repository.rpartition("/")[2])
        return bool(_OF_LOCK.search(line) or re.search(rf"/{name}(?:/|'|: )", line))

    def _more_room(self) -> str:
        if self._folder:
            return enlarge(self._folder, self._home)
        if match := _STORAGE.fullmatch(self._repository):
            qube = match[1] or match[2]
            return (
                f"in {qube}, `dedup-server discard {match[3]}` frees what earlier maintenance"
                f" removed; else enlarge its volume, `qvm-volume extend {qube}:private SIZE` in"
                " dom0"
            )
        return "make room there by other means"

    def _repository_disk(self) -> str:
        if self._folder:
            return repository_disk(self._folder, self._home)
        if match := _STORAGE.fullmatch(self._repository):
            return f"the disk of the repository {match[3]} in the qube {match[1] or match[2]}"
        return f"the disk of the repository {self._repository}"


def home_disk(home: Path) -> str:
    """Name the disk of the home folder."""
    return f"this qube's own volume (home folder {home}; not the repository's disk)"


def temporary_disk(folder: str) -> str:
    """Name the disk of temporary files."""
    return f"the disk of this qube's temporary folder {folder}, not the repository's,"


def repository_disk(repository: Path, home: Path) -> str:
    """Name the disk of a repository in this qube."""
    own = "this qube's own volume, with" if _is_own(repository, home) else "the disk with"
    return f"{own} the repository {repository},"


def enlarge(repository: Path, home: Path) -> str:
    """Return how a local repository's disk gets room that removing doesn't free."""
    if _is_own(repository, home):
        return f"enlarge it, `qvm-volume extend {os.uname().nodename}:private SIZE` in dom0"
    return "enlarge it, or remove something else from it"


def _is_own(repository: Path, home: Path) -> bool:
    try:
        return repository.stat().st_dev == home.stat().st_dev
    except OSError:
        return False


def _is_so(folder: Path, kind: FailureKind) -> bool:
    """Return whether a disk is full or read-only, as kind says."""
    try:
        status = os.statvfs(folder)
    except OSError:
        return kind is FAILING
    if kind is READ_ONLY:
        return bool(status.f_flag & os.ST_RDONLY)
    return kind is FULL and status.f_bavail * status.f_frsize < _LITTLE


def of_file(error: OSError, what: str, disk: str) -> StoreError:
    """Describe an error with a file of our own.

    Args:
        error: the system's.
        what: what couldn't be done, and where.
        disk: its disk, in words.
    """
    kind = kind_of(error.errno)
    if kind is None:
        return StoreError(f"{what}: {error.strerror}")
    text = f"{what}: {error.strerror}. {disk} {kind.state}: {kind.advice}"
    return DiskError(text, "", is_damage=kind is FAILING)
