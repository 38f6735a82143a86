# SPDX-License-Identifier: GPL-3.0-or-later
"""Calls of dedup-store in the backup qube, with a check of its replies' form."""

import re
from dataclasses import dataclass
from typing import Any

from backup_format.container import chunk_bytes
from backup_format.limits import MAX_MEMBERS
from dom0_common.text import clean

from dedup_backup.calls import qubesd, service
from dedup_backup.calls.service import Call
from dedup_backup.errors import BackupError
from dedup_backup.settings import StoreAddress

RUN = re.compile(r"[0-9]{8}T[0-9]{6}Z-([A-Za-z0-9-]{1,64})-[0-9a-f]{4}")  # 1: the backup id
MAX_RUNS = 100_000
_MAX_LENGTH = 1 << 50
SECRETS = ("password", "borg key")
ENGINES = ("restic", "borg", "directory")
UNENCRYPTED = "directory"  # the engine that has no password
UNENCRYPTED_WARNING = (
    "it is not encrypted: whoever can read its file system reads all backups in it"
)
PARTIAL = "partial"
_STATUSES = ("whole", PARTIAL, "opaque")
REMOVED = (PARTIAL, "unfinished")
# as dedup_store/archive/manifest.py names runs: also of a stream that was no backup
_ANY_RUN = re.compile(r"[0-9]{8}T[0-9]{6}Z-[A-Za-z0-9-]{1,80}")
_FORGET_AT_ONCE = 50  # its answer, with their names, is one line
_LONGEST_PRUNE = 7 * 24 * 3600  # seconds; it says nothing until its end
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Run:
    """A run, as the store describes it."""

    name: str
    status: str
    reason: str


@dataclass(frozen=True, slots=True)
class Member:
    """A member, as the store describes it.

    Attributes:
        name: its name, cleaned.
        container: `authenticated`, `scrypt`, `none`, or another word of dedup-store's.
        length: bytes of the payload.
        sha256: of the payload, in hex.
    """

    name: str
    container: str
    length: int
    sha256: str


@dataclass(frozen=True)
class Repository:
    """A repository, as the store describes it.

    Attributes:
        changed: whether it was, or would be, made.
        has_password: whether there was a password.
        engine: one of ENGINES.
        place: where it is, cleaned.
    """

    changed: bool
    has_password: bool
    engine: str
    place: str


class Store:
    """One repository in one qube."""

    def __init__(self, address: StoreAddress, patience: int | None = None) -> None:
        """Name the store; the first call starts the qube when it is off.

        Args:
            address: which.
            patience: seconds for each call (service.Call); None for the usual ones.
        """
        self._address = address
        self._patience = patience

    def runs(self, *, start: bool = True) -> list[Run]:
        """List the runs, in the store's own order; dom0 doesn't rely on it.

        Args:
            start: whether to start the qube for it.
        """
        with self._call("list", "--lines", autostart=start) as call:
            found = [_run(row) for row in call.lines(MAX_RUNS)]
            call.finish()
        return found

    def members(self, run: str) -> tuple[Run, list[Member]]:
        """List the members of a run, in the stream's order."""
        with self._call("show", "--lines", run) as call:
            rows = call.lines(MAX_MEMBERS + 1)
            head = next(rows, None)
            members = [_member(row) for row in rows]
            call.finish()
        if head is None or _run(head).name != run:
            raise BackupError(f"{self._address.qube} answered for another run")
        return _run(head), members

    def stream(self, run: str) -> Call:
        """Start to read the archive."""
        return self._call("get", run)

    def repository(self, *, make: bool, new: bool) -> Repository:
        """Make the repository, unless it exists; or only return whether it would be made.

        With `new`, also where there was another one before. The qube must be running: a check must
        not start it.
        """
        options = [] if make else ["--check"]
        if new:
            options.append("--new")
        with self._call("init", "--json", *options, autostart=False) as call:
            return _repository(call.answer())

    def secret_names(self) -> list[str] | None:
        """Return which of SECRETS exist, never their content. The qube must be running.

        Returns:
            None when the repository isn't encrypted, so that there never will be any.
        """
        with self._call("export-keys", "--names", "--json", autostart=False) as call:
            answer = call.answer()
        names = answer.get("secrets")
        if answer.get("engine") == UNENCRYPTED and names == []:
            return None
        if not isinstance(names, list) or any(name not in SECRETS for name in names):
            raise _malformed("its secrets")
        return [name for name in SECRETS if name in names]

    def set_password(self, password: bytes) -> bool:
        """Send the repository's password; return whether it was taken, or one existed."""
        with self._call("set-password", "--json", feed=True, autostart=False) as call:
            call.send(password + b"\n")
            return _flag(call.answer(), "changed")

    def forget(self, runs: list[str]) -> None:
        """Remove runs that it has.

        Raises:
            BackupError: it failed; it may have removed some.
        """
        for start in range(0, len(runs), _FORGET_AT_ONCE):
            some = runs[start : start + _FORGET_AT_ONCE]
            with self._call("forget", "--json", *some, patience=_LONGEST_PRUNE) as call:
                if call.answer().get("forgotten") != some:
                    raise _malformed("which runs it removed")

    def prune(self, keep: list[str]) -> list[tuple[str, str]]:
        """Remove what isn't whole, except keep; return each run and what it was."""
        keeping = ("--keep", *keep) if keep else ()
        with self._call("prune", "--lines", *keeping, patience=_LONGEST_PRUNE) as call:
            removed = [_removed(row) for row in call.lines(MAX_RUNS)]
            call.finish()
        return removed

    def _call(
        self,
        command: str,
        *arguments: str,
        feed: bool = False,
        autostart: bool = True,
        patience: int = service.PATIENCE,
    ) -> Call:
        words = ("dedup-store", command, "--repository", self._address.repository, *arguments)
        return service.call(
            self._address.qube,
            qubesd.exec_service(words),
            f"dedup-store {command}",
            feed=feed,
            autostart=autostart,
            patience=self._patience or patience,
        )


def _malformed(what: str) -> BackupError:
    return BackupError(f"malformed reply from the store, about {what}")


def _run(row: dict[str, Any]) -> Run:
    name, status, reason = row.get("run"), row.get("status"), row.get("reason")
    if not isinstance(name, str) or not RUN.fullmatch(name):
        raise _malformed("the name of a run")
    if status not in _STATUSES or not isinstance(reason, str):
        raise _malformed(f"the run {name}")
    return Run(name, status, clean(reason))


def _member(row: dict[str, Any]) -> Member:
    name, container = row.get("name"), row.get("container")
    length, sha256 = row.get("payload_length"), row.get("payload_sha256")
    # dedup-store's name for bytes that fit no archive; no member can have this name
    name = "(no member)" if name is None else name
    if (
        not (isinstance(name, str) and isinstance(container, str) and isinstance(sha256, str))
        or type(length) is not int
        or not 0 <= length <= _MAX_LENGTH
        or not _SHA256.fullmatch(sha256)
    ):
        raise _malformed("a member")
    length = chunk_bytes(container, length)
    return Member(clean(name, 120), clean(container, 20), length, sha256)


def _repository(row: dict[str, Any]) -> Repository:
    engine, place = row.get("engine"), row.get("location")
    if engine not in ENGINES or not isinstance(place, str):
        raise _malformed("its repository")
    flags = _flag(row, "changed"), _flag(row, "has_password")
    return Repository(*flags, engine=engine, place=clean(place))


def _removed(row: dict[str, Any]) -> tuple[str, str]:
    run, was = row.get("run"), row.get("was")
    if not isinstance(run, str) or not _ANY_RUN.fullmatch(run) or was not in REMOVED:
        raise _malformed("what it removed")
    return run, was


def _flag(row: dict[str, Any], key: str) -> bool:
    found = row.get(key)
    if not isinstance(found, bool):
        raise _malformed(f"'{key}'")
    return found
