# SPDX-License-Identifier: GPL-3.0-or-later
"""directory: plain files, not encrypted, for file systems that deduplicate or share blocks.

    REPOSITORY/dedup-store-runs/RUN/0, 1, ...      payload objects
                                    manifest       the manifest object
                                    objects.json   the summary, length and SHA-256 of each object

A run is written as RUN.unfinished, flushed to the disk, and appears by one rename; to be removed it
is renamed back first. So what has a run's name is whole, whatever was killed, and what a killed
command leaves is told by its name. Runs don't depend on each other: any can be removed with `rm`.
Two puts at once work: each has a folder of its own.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from dedup_store import engine, folder, known, patience, trouble
from dedup_store.config import RUNS, Config
from dedup_store.errors import DamagedError, StoreError
from dedup_store.manifest import WHOLE, is_run_name, read_summary
from dedup_store.objectfile import ObjectFile, has_reflinks
from dedup_store.ordering import in_order
from dedup_store.pipes import BUFFER
from dedup_store.processes import ChildStream, Stream, read_all
from dedup_store.stored import StoredObject, Usage, files_bytes

FORMAT = 1
_UNFINISHED = ".unfinished"
_INDEX, _MANIFEST = "objects.json", "manifest"
_MAX_INDEX = 64 << 20
_HEAD = 4096  # bytes by which an object is known again
_NAME = re.compile(r"manifest|0|[1-9][0-9]{0,5}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class _Stored:
    """What an object was when it was stored."""

    length: int
    sha256: str


@dataclass(frozen=True)
class _Index:
    """A run's `objects.json`."""

    run: str
    summary: str
    objects: dict[str, _Stored]
    format: int = FORMAT


class Directory:
    """A folder with a folder for each run (see engine.Engine)."""

    def __init__(self, config: Config) -> None:
        """Use the repository of a profile."""
        self._config = config
        self._place = Path(config.repository)
        self._runs = self._place / RUNS

    def exists(self) -> bool:
        """Tell whether there is a repository; no password protects it."""
        return folder.check(self._config)

    def identity(self) -> str | None:
        """Give its id; one that is older than ids has none."""
        return known.directory_id(self._place)

    def create(self) -> None:
        """Make the repository; the last mkdir is what makes it one."""
        with _failing(f"repository {self._place} can't be made"):
            self._place.mkdir(mode=0o700, parents=True, exist_ok=True)
            known.make_directory_id(self._place)
            self._runs.mkdir(mode=0o700)
            folder.flush(self._place)
            folder.flush(self._place.parent)

    def key(self) -> None:
        """There is none."""

    def runs(self) -> list[engine.StoredRun]:
        """List the runs; one that can't be understood has an empty summary."""
        return [engine.StoredRun(name, self._summary(name)) for name in self._names("")]

    def leftovers(self) -> list[str]:
        """List what killed puts and removals left."""
        return self._names(_UNFINISHED)

    def forget(self, runs: Sequence[str]) -> None:
        """Remove these runs or leftovers."""
        gone = [self._runs / f"{run}{_UNFINISHED}" for run in runs]
        with _failing(f"a run in {self._runs} can't be removed"):
            for run, left in zip(runs, gone, strict=True):
                with contextlib.suppress(FileNotFoundError):  # it is a leftover
                    (self._runs / run).rename(left)
            folder.flush(self._runs)
            for left in gone:
                shutil.rmtree(left)

    def prune(self) -> None:
        """Nothing to do: forget has removed the files."""

    def unlock(self) -> None:
        """Nothing to do: there are no locks."""

    def check(self, *, read_data: bool) -> None:  # noqa: ARG002 (the engines' interface)
        """Look at the folder only: each run stands for itself."""
        self._names("")

    def stored_objects(self, run: str) -> dict[int, StoredObject]:
        """Give a run's payload objects, of those that are as long as they were."""
        found = {}
        for name, stored in _read_index(self._runs / run).objects.items():
            if name == _MANIFEST:
                continue
            with contextlib.suppress(StoreError):
                fd = _open_file(self._runs / run / name)
                if os.fstat(fd).st_size == stored.length:
                    found[int(name)] = StoredObject(stored.length)
                os.close(fd)
        return found

    def usage(self) -> Usage:
        """Tell what the repository takes."""
        names = [name for run in self._names("") for name in self._objects_of(run)]
        with _failing(f"{self._place} can't be read"):
            size = files_bytes(self._place, allocated=True)
        how = "the blocks of the repository's files; those that files share count for each"
        return Usage(size, how, len(names))

    def _objects_of(self, run: str) -> list[str]:
        with contextlib.suppress(StoreError):
            return [name for name in _read_index(self._runs / run).objects if name != _MANIFEST]
        return []

    def writer(self, run: str) -> "DirectoryWriter":
        """Begin a new run, which may share blocks with the newest whole one."""
        found = (read_summary(stored.summary, stored.run) for stored in self.runs())
        whole = in_order(summary for summary in found if summary and summary["status"] == WHOLE)
        newest = self._runs / whole[-1]["run"] if whole else None
        return DirectoryWriter(self._runs, run, newest)

    def manifest(self, run: str) -> bytes:
        """Read the manifest object of a run."""
        return read_all(self._read(run, [_MANIFEST]), engine.MAX_MANIFEST)

    def begin(self, run: str) -> None:
        """Nothing is won by it."""

    def payload(
        self,
        run: str,
        objects: Sequence[int],
        begun: ChildStream | None = None,  # noqa: ARG002
    ) -> Stream:
        """Read payload objects of a run."""
        return self._read(run, [str(number) for number in objects])

    def _read(self, run: str, names: list[str]) -> Stream:
        index = _read_index(self._runs / run)
        for name in names:
            if name not in index.objects:
                raise StoreError(f"object {name} of {run} is not in the repository")
        return DirectoryStream(self._runs / run, [(name, index.objects[name]) for name in names])

    def _names(self, ending: str) -> list[str]:
        """List the runs whose folders have this ending to their names."""
        with _failing(f"{self._runs} can't be read"), os.scandir(self._runs) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        runs = [name.removesuffix(ending) for name in names if name.endswith(ending)]
        return [run for run in runs if is_run_name(run)]

    def _summary(self, run: str) -> str:
        with contextlib.suppress(StoreError):
            return _read_index(self._runs / run).summary
        return ""


class DirectoryWriter:
    """Stores a run, an object as soon as it is closed (see engine.Writer)."""

    def __init__(self, runs: Path, run: str, older: Path | None) -> None:
        """Begin a run.

        Args:
            runs: the folder that has a folder for each run.
            run: its name.
            older: folder of the run to share blocks with, if the file system can.
        """
        self._run = run
        self._whole = runs / run
        self._folder = runs / f"{run}{_UNFINISHED}"
        self._older = older
        self._older_names: list[str] = []  # of its objects, when blocks can be shared
        self._stored: dict[str, _Stored] = {}
        self._object: ObjectFile | None = None

    def __enter__(self) -> "DirectoryWriter":
        """Make the folder."""
        with self._writing():
            if self._older and has_reflinks(self._whole.parent):
                with contextlib.suppress(StoreError):
                    self._older_names = list(_read_index(self._older).objects)
            self._folder.mkdir(mode=0o700)
        return self

    def __exit__(self, *_: object) -> None:
        """Remove what isn't a run."""
        if self._object:
            self._object.abandon()
        shutil.rmtree(self._folder, ignore_errors=True)  # what stays is for prune

    def open_object(self) -> None:
        """Begin the next object."""
        self._open(str(len(self._stored)), self._find_older)

    def write(self, data: memoryview) -> None:
        """Add to the open object."""
        if self._object:
            with self._writing():
                self._object.write(data)

    def close_object(self) -> None:
        """End the open object; then it is on the disk."""
        if self._object:
            with self._writing():
                self._object.finish()
            name, made, self._object = self._object.path.name, self._object, None
            self._stored[name] = _Stored(made.length, made.sha256)

    def finish(self) -> None:
        """Nothing to do: each object is complete when it is closed."""

    def put_manifest(self, file: IO[bytes], summary: str) -> None:
        """Store the manifest object, and give the run its name."""
        self._open(_MANIFEST)
        while data := file.read(BUFFER):
            self.write(memoryview(data))
        self.close_object()
        index = asdict(_Index(self._run, summary, self._stored))
        self._open(_INDEX)
        self.write(memoryview(json.dumps(index, separators=(",", ":")).encode() + b"\n"))
        self.close_object()
        with self._writing():
            folder.flush(self._folder)
            self._folder.rename(self._whole)
            folder.flush(self._whole.parent)

    def _open(self, name: str, find_older: Callable[[bytes], int | None] | None = None) -> None:
        with self._writing():
            self._object = ObjectFile(self._folder / name, find_older)

    def _find_older(self, beginning: bytes) -> int | None:
        """Open the older run's object that begins alike, else the one with the same number.

        A qube that is new in a backup moves the numbers of all that come after it.
        """
        if not self._older or not self._older_names or not self._object:
            return None
        same = self._object.path.name
        names = sorted(self._older_names, key=lambda name: name != same)
        heads = ((name, _head(self._older / name)) for name in names)
        alike = next((name for name, head in heads if head == beginning[:_HEAD]), same)
        with contextlib.suppress(StoreError):
            return _open_file(self._older / alike)
        return None

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        return _failing(f"{self._folder} can't be written")


class DirectoryStream:
    """Objects, one after the other, each compared with what was stored (see Stream)."""

    def __init__(self, run: Path, objects: list[tuple[str, _Stored]]) -> None:
        """Read from a run's folder."""
        self._run = run
        self._objects = objects
        self._fd: int | None = None
        self._hash = hashlib.sha256()
        self._length = 0

    def readinto(self, buffer: memoryview) -> int:
        """Read the next bytes.

        Raises:
            StoreError: an object is missing, or can't be read.
            DamagedError: an object isn't what was stored; found out at its end.
        """
        while self._objects:
            name, stored = self._objects[0]
            if self._fd is None:
                self._fd = _open_file(self._run / name)
                self._hash, self._length = hashlib.sha256(), 0
            with _failing(f"{self._run / name} can't be read"):
                got = os.readv(self._fd, [buffer])
            self._hash.update(buffer[:got])
            self._length += got
            if got and self._length <= stored.length:
                return got
            if got or _Stored(self._length, self._hash.hexdigest()) != stored:
                raise DamagedError(f"object {name} of {self._run.name} is damaged")
            self.close()
            self._objects.pop(0)
        return 0

    def close(self) -> None:
        """Close the file that is open."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _read_index(run: Path) -> _Index:
    """Read a run's index.

    Raises:
        StoreError: it can't be read.
        DamagedError: it makes no sense.
    """
    fd = _open_file(run / _INDEX)
    with os.fdopen(fd, "rb") as file, _failing(f"{run / _INDEX} can't be read"):
        text = file.read(_MAX_INDEX + 1)
    try:
        data = json.loads(text)
        if data["format"] == FORMAT:
            objects = {
                name: _Stored(item["length"], item["sha256"])
                for name, item in data["objects"].items()
            }
            if data["run"] == run.name and _is_sound(data["summary"], objects):
                return _Index(run.name, data["summary"], objects)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise DamagedError(f"the index of {run.name} can't be understood") from None
    if data["format"] != FORMAT:
        raise DamagedError(f"{run.name} is of a format that this version doesn't know")
    raise DamagedError(f"the index of {run.name} contradicts itself")


def _is_sound(summary: object, objects: dict[str, _Stored]) -> bool:
    return isinstance(summary, str) and all(
        _NAME.fullmatch(name) and type(item.length) is int and _SHA256.fullmatch(item.sha256)
        for name, item in objects.items()
    )


def _head(path: Path) -> bytes:
    """Give a file's first bytes; none when it can't be read."""
    with contextlib.suppress(StoreError, OSError), os.fdopen(_open_file(path), "rb") as file:
        return file.read(_HEAD)
    return b""


def _open_file(path: Path) -> int:
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
        raise StoreError(f"{path} is no regular file")
    return fd


@contextlib.contextmanager
def _failing(what: str) -> Iterator[None]:
    """Turn the system's errors into ours, and tell when it takes long."""
    try:
        with patience.waiting(lambda: "the repository's disk"):
            yield
    except OSError as error:
        raise trouble.of_file(error, what, "the repository's disk") from None
    patience.moved()
