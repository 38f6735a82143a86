# SPDX-License-Identifier: GPL-3.0-or-later
"""The record of repositories that this qube has used: an empty place isn't a new one then.

What holds a repository can be unplugged, unmounted, renamed or emptied, and something else can be
in its place. So each location has a file beside its lock, with what distinguishes its
repository from others. A location can have several: disks with the same label, used in turn.
"""

import contextlib
import hashlib
import json
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from dedup_store.config import Config, state_file
from dedup_store.engines.base import Engine
from dedup_store.engines.directory import layout
from dedup_store.errors import (
    DiskError,
    EngineError,
    QuestionError,
    StoreError,
    another_repository,
    clean,
)
from dedup_store.system import files, notify

_ID = re.compile(r"[0-9a-f]{64}")  # of restic's and borg's repositories
_BORG_ID = re.compile(r"^id = ([0-9a-f]{64})$", re.MULTILINE)  # borg/repository.py Repository.open
_MAX_FILE = 1 << 20
_QUESTION = "is what holds it attached, mounted, reachable, and not renamed?"


@dataclass(frozen=True)
class Record:
    """The record of a location.

    Attributes:
        location: the location.
        since: the day when its last repository was first used (UTC).
        marks: engines' ids of its repositories, and the results of _mark() for them.
    """

    location: str
    since: str
    marks: tuple[str, ...]


def read(config: Config) -> Record | None:
    """Return the record of a repository's location; None when nothing was ever there.

    Raises:
        StoreError: when it can't be read.
    """
    path = _path(config)
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(_MAX_FILE))
        return Record(str(found["location"]), str(found["since"]), tuple(found["marks"]))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{path} can't be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise StoreError(
            f"{path} is damaged: it says which repository is at {config.location}. Remove it if"
            " `dedup-store list` shows your runs"
        ) from None


def only_id(config: Config) -> str:
    """Return the id that a repository elsewhere must have; empty when it could be several.

    Raises:
        StoreError: the record can't be read.
    """
    if config.local_repository:
        return ""
    record = read(config)
    marks = record.marks if record else ()
    return marks[0] if len(marks) == 1 and _ID.fullmatch(marks[0]) else ""


def remember(config: Config, repository: Engine) -> None:
    """Record the repository that is there; one of plain files without an id gets one.

    Raises:
        StoreError: when it can't be looked at, or not written down.
    """
    old, mark = read(config), _mark(config)
    old_marks = old.marks if old else ()
    if old and mark in old_marks:
        return
    if config.engine == "directory" and mark is None:
        # it is older than ids, or its id was damaged
        with contextlib.suppress(OSError):  # it can't be written: then there is nothing to lose
            layout.make_id(Path(config.location))
            mark = _mark(config)
    needs_identity = mark is None or config.engine == "restic"
    found = [repository.identity() if needs_identity else None, mark]
    new = [item for item in found if item and item not in old_marks]
    if not old or new:
        since = time.strftime("%Y-%m-%d", time.gmtime())
        _write(_path(config), Record(config.location, since, (*old_marks, *new)))


def expect(config: Config, repository: Engine, *, to_write: bool) -> None:
    """Compare the repository that is there with the record.

    Args:
        config: the repository's.
        repository: what was opened.
        to_write: whether something will be changed in it: then another one is refused, and one
            where there was none before is remembered. For a reader, a warning will do, and
            nothing is asked of a repository that isn't in this qube.

    Raises:
        StoreError: when it is another one, or can't be opened.
    """
    record = read(config)
    if record and _mark(config) in record.marks:
        return
    try:
        if record and (to_write or config.local_repository):
            _compare(config, repository, record)
    except EngineError:
        if to_write:
            raise
        return  # the reader's next step fails with the reason
    except StoreError as error:
        if to_write:
            raise
        notify.warn(str(error))
    if to_write:
        try:
            remember(config, repository)
        except EngineError:
            return  # the next step fails with the reason
        except StoreError as error:  # a backup doesn't fail because of that
            notify.warn(f"it is not remembered that {config.location} is in use: {error}")


def require(config: Config, repository: Engine, record: Record) -> None:
    """Refuse to go on without the recorded repository.

    Raises:
        StoreError: it can't be opened, or is another one.
    """
    try:
        is_there = repository.exists()
        _compare(config, repository, record)
    except (QuestionError, DiskError):
        raise
    except EngineError as error:
        if config.local_repository:
            raise
        raise gone(config, record, str(error)) from None
    if not is_there:
        raise gone(config, record)


def _compare(config: Config, repository: Engine, record: Record) -> None:
    identity = repository.identity()
    if record.marks and identity not in record.marks:
        raise StoreError(another_repository(config.location, config.name, identity))


def gone(config: Config, record: Record, why: str = "") -> StoreError:
    """Return the error for a location whose repository isn't there."""
    before = f"{clean(why, 800)}: " if why else ""
    return StoreError(
        f"{before}the repository {config.location}, in use here since {record.since}, is gone:"
        f" {_QUESTION} Only to have a new, empty one there:"
        f" `dedup-store init --new --repository {config.name}`"
    )


def _mark(config: Config) -> str | None:
    """Return what identifies a repository in this qube without a start of the engine.

    Returns:
        None when that is unknown. For borg and directory it is what identity() gives; for
        restic, whose id is encrypted, a hash of the file that has it (`restic migrate` writes
        a new one, with the same id).
    """
    place = config.local_repository
    if place is None:
        return None
    with contextlib.suppress(OSError):
        if config.engine == "directory":
            return layout.read_id(place)
        with (place / "config").open("rb") as file:
            content = file.read(_MAX_FILE)
        if config.engine == "restic":
            return f"config {hashlib.sha256(content).hexdigest()}"
        if match := _BORG_ID.search(content.decode(errors="replace")):
            return match[1]
    return None


def _path(config: Config) -> Path:
    return state_file(config, "known")


def _write(path: Path, record: Record) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.replace(path, json.dumps(asdict(record), indent=1) + "\n")
    except OSError as error:
        raise StoreError(f"{path} can't be made: {error.strerror}") from None
