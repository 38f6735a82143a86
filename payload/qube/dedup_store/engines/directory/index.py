# SPDX-License-Identifier: GPL-3.0-or-later
"""objects.json of a run of plain files: its summary, and each object's length and SHA-256."""

import contextlib
import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dedup_store.errors import DamagedError, StoreError
from dedup_store.system import disk_errors, stall_watch

FORMAT = 1
INDEX, MANIFEST = "objects.json", "manifest"
UNFINISHED = ".unfinished"  # end of the name of a run's folder while it isn't whole
_MAX_INDEX = 64 << 20
_NAME = re.compile(r"manifest|0|[1-9][0-9]{0,5}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Stored:
    """An object's properties when it was stored."""

    length: int
    sha256: str


@dataclass(frozen=True)
class Index:
    """A run's `objects.json`."""

    run: str
    summary: str
    objects: dict[str, Stored]
    format: int = FORMAT


def read_index(run: Path) -> Index:
    """Read a run's index.

    Raises:
        StoreError: it can't be read.
        DamagedError: it is malformed.
    """
    fd = open_file(run / INDEX)
    with os.fdopen(fd, "rb") as file, failing(f"{run / INDEX} can't be read"):
        text = file.read(_MAX_INDEX + 1)
    try:
        data = json.loads(text)
        if data["format"] == FORMAT:
            objects = {
                name: Stored(item["length"], item["sha256"])
                for name, item in data["objects"].items()
            }
            if data["run"] == run.name and _is_sound(data["summary"], objects):
                return Index(run.name, data["summary"], objects)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise DamagedError(f"the index of {run.name} is malformed") from None
    if data["format"] != FORMAT:
        raise DamagedError(f"{run.name} is of a format that this version doesn't know")
    raise DamagedError(f"the index of {run.name} contradicts itself")


def _is_sound(summary: object, objects: dict[str, Stored]) -> bool:
    return isinstance(summary, str) and all(
        _NAME.fullmatch(name) and type(item.length) is int and _SHA256.fullmatch(item.sha256)
        for name, item in objects.items()
    )


def open_file(path: Path) -> int:
    """Open a regular file, and nothing else that may be in its place.

    Raises:
        StoreError: it is absent or something else.
    """
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(path, flags)
    except FileNotFoundError:
        raise StoreError(f"{path.name} of {path.parent.name} is not in the repository") from None
    except OSError as error:
        raise StoreError(f"{path} can't be read: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise StoreError(f"{path} isn't a regular file")
    return fd


@contextlib.contextmanager
def failing(what: str) -> Iterator[None]:
    """Turn the system's errors into ours, and report a long wait."""
    try:
        with stall_watch.waiting(lambda: "the repository's disk"):
            yield
    except OSError as error:
        raise disk_errors.of_file(error, what, "the repository's disk") from None
    stall_watch.moved()
