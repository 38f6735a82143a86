# SPDX-License-Identifier: GPL-3.0-or-later
"""restic (0.14 and later): one snapshot per object.

An object's snapshot has the tags `run=NAME` and `object=N`, or `summary=...` for the manifest.
Its id isn't noted anywhere, so that `restic copy` to another repository keeps runs usable.
Payload objects have a constant time and file name, so that an unchanged one has a known tree.
Two puts at once work: restic needs no exclusive lock to add data.
"""

import contextlib
import json
import os
import shlex
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

from dedup_store import engine, folder, restic_locks, storage, tuning
from dedup_store.config import Config
from dedup_store.errors import DamagedError, DiskError, StoreError
from dedup_store.lock import Lock
from dedup_store.manifest import is_run_name
from dedup_store.processes import Child, ChildStream, Command, Stream, environment, read_all
from dedup_store.reserve import Reserve
from dedup_store.stored import StoredObject, Usage, files_bytes

_HOST = "dedup-store"
_CONSTANT_TIME = "2000-01-01 00:00:00"
_STOP = signal.SIGINT  # restic then removes its lock
_MAX_LIST = 512 << 20
_SNAPSHOTS = ("snapshots", "--json", "--host", _HOST)
# Our own lock keeps removals away; restic would write one of its own, and wait 0.2 s for others
# (internal/restic/lock.go waitBeforeLockCheck).
_READ_ONLY = ("--no-lock",)
_CACHE_ROOM = 200 << 20  # bytes
_AT_ONCE = 500  # snapshots in one command line
# cmd/restic/cmd_check.go runCheck
_DAMAGE = (b"repository contains errors", b"LoadIndex returned errors")


@dataclass
class _Objects:
    """Snapshot ids of a run; `all` are those of manifests, and all others."""

    summary: str | None = None  # None without a manifest
    payload: dict[int, tuple[str, str]] = field(default_factory=dict)  # and their trees
    all: tuple[list[str], list[str]] = field(default_factory=lambda: ([], []))


def _has_room(variables: dict[str, str]) -> bool:
    """Tell whether restic's cache has room to grow; restic is slower without, or fails with it."""
    folder = Path(variables.get("XDG_CACHE_HOME") or f"{variables['HOME']}/.cache")
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        status = os.statvfs(folder)
    except OSError:
        return False
    is_writable = not status.f_flag & os.ST_RDONLY and os.access(folder, os.W_OK)
    return is_writable and status.f_bavail * status.f_frsize >= _CACHE_ROOM


class Restic:
    """A restic repository (see engine.Engine)."""

    def __init__(self, config: Config, lock: Lock) -> None:
        """Use the repository of a profile."""
        self._config = config
        self._lock = lock
        self._known: dict[str, _Objects] | None = None
        self._is_list_needed = False  # whether what was begun without it has failed
        self._id = ""
        self._sizes: dict[str, int] | None = None  # of payload objects, by tree
        self._options: list[str] = []

    def start(self, *arguments: str, feed: bool | IO[bytes] = False, hint: str = "") -> Child:
        """Start restic on the repository; the hint is for its error message."""
        call = storage.storage_call(self._config, maintenance=self._lock.exclusive)
        variables = environment() | {
            "RESTIC_REPOSITORY": call.location if call else self._config.repository,
            "RESTIC_PASSWORD_FILE": str(self._config.password_file),
        }
        # restic speaks to `rclone serve restic --stdio`, in the storage qube
        options = ["-o", f"rclone.program={call.command}"] if call else []
        if not _has_room(variables):
            options.append("--no-cache")
        argv = ["restic", "--quiet", *options, *self._options, *arguments]
        hint += call.hint if call else ""
        removes, keep = self._lock.exclusive, (self._lock.fd,)
        command = Command(argv, variables, _STOP, keep=keep, hint=hint, removes=removes)
        return Child(command, feed)

    def tuning(self) -> list[str]:
        """Give the arguments for `restic backup` that the profile chose."""
        return tuning.restic_arguments(self._config.compression, self._config.pack_size)

    def exists(self) -> bool:
        """Tell whether the password opens the repository."""
        if not folder.check(self._config):
            return False
        try:
            self.identity()
        except DiskError:
            raise
        except StoreError:
            if self._config.local_repository:
                raise
            return False  # remote: create() says what is wrong, if it isn't just new
        return True

    def identity(self) -> str:
        """Give its id (internal/restic/config.go Config)."""
        try:
            if not self._id:
                self._id = str(json.loads(self._run(*_READ_ONLY, "cat", "config"))["id"])
            return self._id
        except (ValueError, KeyError, TypeError):
            raise StoreError("restic's configuration can't be understood") from None

    def create(self) -> None:
        """Make the repository."""
        self._run("init")

    def key(self) -> None:
        """There is none: with the password, restic opens its own, in the repository."""

    def runs(self) -> list[engine.StoredRun]:
        """List the runs."""
        found = self._objects()
        return [
            engine.StoredRun(run, item.summary)
            for run, item in found.items()
            if item.summary is not None
        ]

    def writer(self, run: str) -> "ResticWriter":
        """Begin a new run."""
        return ResticWriter(self, run)

    def manifest(self, run: str) -> bytes:
        """Read the manifest object of a run."""
        try:
            return read_all(ChildStream(self._dump(run, "manifest")), engine.MAX_MANIFEST)
        except StoreError:
            if self._known is not None or run not in self._objects():
                raise
        # one damaged snapshot keeps restic from finding any by its tags; a list leaves it out
        self._is_list_needed = True
        return read_all(ChildStream(self._dump(run, "manifest")), engine.MAX_MANIFEST)

    def begin(self, run: str) -> ChildStream:
        """Begin to read the first payload object of a run."""
        return ChildStream(self._dump(run, "payload", 0))

    def payload(self, run: str, objects: Sequence[int], begun: ChildStream | None = None) -> Stream:
        """Read payload objects of a run."""
        rest = [self._dump(run, "payload", number) for number in objects]
        if begun and self._is_list_needed:
            begun.close()
            begun = None
        return begun.followed_by(rest[1:]) if begun else ChildStream(*rest)

    def leftovers(self) -> list[str]:
        """List the runs that have no manifest."""
        return [run for run, item in self._objects().items() if item.summary is None]

    def forget(self, runs: Sequence[str]) -> None:
        """Remove all snapshots of these runs."""
        known, self._known = self._objects(), None
        for kind in (0, 1):
            ids = [snapshot for run in runs for snapshot in known[run].all[kind]]
            for start in range(0, len(ids), _AT_ONCE):
                self._run_alone("forget", *ids[start : start + _AT_ONCE])

    def prune(self) -> None:
        """Give back the space of what was removed.

        What is left of files that aren't needed as a whole is stored anew first: as much as half
        of the room allows, so that the others go in any case.
        """
        room = Reserve(self._config).spare()
        limit = [] if room is None else ["--max-repack-size", str(room // 2)]
        self._run_alone("prune", *limit)

    def unlock(self) -> None:
        """Remove the locks of processes that are gone, unless somebody else's restic may run."""
        restic_locks.remove(self._run)

    def flush(self) -> None:
        """Have what was stored on the disk of a storage qube, too; a local one has it.

        The service begins by that (dedup_server engines/restic.py append_only), and ends without
        input.
        """
        call = storage.storage_call(self._config, maintenance=False)
        if call:
            argv, keep = shlex.split(call.command), (self._lock.fd,)
            how = Command(argv, environment(), _STOP, keep=keep, hint=call.hint)
            read_all(ChildStream(partial(Child, how, False)), 4096)

    def check(self, *, read_data: bool) -> None:
        """Run restic's check, without its lock: backups and restores would fail meanwhile.

        Without it, what a put adds meanwhile can look like damage; so damage must be seen twice.
        """
        self._options = ["--no-cache"]  # what is kept in this qube would hide damage
        try:
            self._check(read_data=read_data)
        except DamagedError:
            self._check(read_data=read_data)

    def _check(self, *, read_data: bool) -> None:
        more = ["--read-data"] if read_data else []
        with Path(os.devnull).open("rb") as nothing:
            child = self.start(*_READ_ONLY, "check", *more, feed=nothing)
        child.judge(lambda _, errors: any(mark in errors for mark in _DAMAGE))

    def stored_objects(self, run: str) -> dict[int, StoredObject]:
        """Give a run's payload objects."""
        if self._sizes is None:
            self._sizes = self._find_sizes()
        return {
            number: StoredObject(self._sizes[tree], tree)
            for number, (_, tree) in self._objects()[run].payload.items()
            if tree in self._sizes
        }

    def _find_sizes(self) -> dict[str, int]:
        """Find all payload objects' sizes, with one start of restic unless trees are damaged.

        Output of `find --json`: cmd/restic/cmd_find.go statefulOutput; between the JSON it prints
        which trees it couldn't load.
        """
        known = dict(pair for item in self._objects().values() for pair in item.payload.values())
        find = ("find", "--json", "--host", _HOST, "payload")
        try:
            found = json.loads(self._run(*_READ_ONLY, *find)) or []
            return {
                known[hit["snapshot"]]: hit["matches"][0]["size"]
                for hit in found
                if hit["snapshot"] in known
            }
        except (StoreError, ValueError):
            snapshots = {tree: snapshot for snapshot, tree in known.items()}
        sizes = {}
        for tree, snapshot in snapshots.items():
            with contextlib.suppress(StoreError, ValueError):
                for line in self._run(*_READ_ONLY, "ls", "--json", snapshot).splitlines():
                    item = json.loads(line)
                    if item.get("path") == "/payload":
                        sizes[tree] = item["size"]
        return sizes

    def usage(self) -> Usage:
        """Tell what the repository takes."""
        runs = [item for item in self._objects().values() if item.summary is not None]
        objects = sum(len(item.payload) for item in runs)
        if self._config.local_repository:
            size = files_bytes(self._config.local_repository)
            return Usage(size, "the sizes of the repository's files", objects)
        statistics = ("stats", "--mode", "raw-data", "--json")
        try:
            size = json.loads(self._run(*_READ_ONLY, *statistics))["total_size"]
        except (ValueError, KeyError, TypeError):
            raise StoreError("restic's statistics can't be understood") from None
        return Usage(size, "the data that runs use, as restic counts them", objects)

    def _dump(self, run: str, name: str, number: int | None = None) -> Callable[[], Child]:
        """Give what starts to read an object, found by its tags: a list would be a start more.

        With a list that was read anyway, by its id.
        """
        tag = f"run={run}" if number is None else f"run={run},object={number}"
        find = ["--host", _HOST, "--path", f"/{name}", "--tag", tag, "latest"]
        if known := (self._known or {}).get(run):
            if number is None:
                find = known.all[0][:1] or find
            elif number in known.payload:
                find = [known.payload[number][0]]
        what = name if number is None else f"{name} object {number}"
        hint = f" (reading the {what} of {run})"
        return partial(self.start, *_READ_ONLY, "dump", *find, f"/{name}", hint=hint)

    def _run(self, *arguments: str) -> bytes:
        """Run restic to its end, and give its output."""
        stream = ChildStream(partial(self.start, *arguments))
        return read_all(stream, _MAX_LIST)

    def _run_alone(self, *arguments: str) -> None:
        restic_locks.when_free(self._run, self._config.lock_wait, *arguments)

    def _objects(self) -> dict[str, _Objects]:
        """Find all objects by their tags, with one start of restic."""
        if self._known is None:
            try:
                snapshots = json.loads(self._run(*_READ_ONLY, *_SNAPSHOTS)) or []
            except ValueError:
                raise StoreError("restic's list of snapshots can't be understood") from None
            self._known = {}
            for snapshot in snapshots:
                self._sort_in(snapshot, self._known)
        return self._known

    @staticmethod
    def _sort_in(snapshot: dict[str, Any], known: dict[str, _Objects]) -> None:
        tags = dict(tag.partition("=")[::2] for tag in snapshot.get("tags") or [])
        run = tags.get("run", "")
        if not is_run_name(run):
            return
        objects = known.setdefault(run, _Objects())
        if "summary" in tags:
            objects.summary = tags["summary"]
            objects.all[0].append(snapshot["id"])
        elif tags.get("object", "").isdecimal():
            objects.payload[int(tags["object"])] = snapshot["id"], snapshot["tree"]
            objects.all[1].append(snapshot["id"])


class ResticWriter:
    """Stores a run, one restic process per object (see engine.Writer).

    A process is started when the object before is complete, as it must know its data, and not only
    when the next one begins: dom0 reads a whole volume before the first of its bytes comes
    (qubes-core-admin qubes/tarwriter.py get_sparse_map). The last one is for nothing.
    """

    def __init__(self, restic: Restic, run: str) -> None:
        """Begin a run."""
        self._restic = restic
        self._run = run
        self._count = 0
        self._child: Child | None = None
        self._next: Child | None = None

    def __enter__(self) -> "ResticWriter":
        """Begin."""
        self._start_next()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop what still runs."""
        for child in (self._child, self._next):
            if child:
                child.stop()

    def _start_next(self) -> None:
        tag = f"object={self._count}"
        self._next = self._backup("payload", tag, "--time", _CONSTANT_TIME)

    def open_object(self) -> None:
        """Begin the next object."""
        self._child, self._next = self._next, None
        self._count += 1

    def write(self, data: memoryview) -> None:
        """Add to the open object."""
        if self._child:
            self._child.write(data)

    def close_object(self) -> None:
        """End the open object."""
        self._wait()
        self._start_next()

    def finish(self) -> None:
        """Have the process that waits for another object end while the manifest is stored."""
        if self._next:
            self._next.interrupt()

    def _wait(self) -> None:
        """Wait until the object that restic has is complete."""
        if self._child:
            child, self._child = self._child, None
            try:
                child.finish()
            finally:
                child.stop()

    def put_manifest(self, file: IO[bytes], summary: str) -> None:
        """Store the manifest object."""
        self._child = self._backup("manifest", f"summary={summary}", feed=file)
        self._wait()
        self._restic.flush()

    def _backup(self, filename: str, tag: str, *more: str, feed: bool | IO[bytes] = True) -> Child:
        arguments = ["backup", "--stdin", "--stdin-filename", filename, "--host", _HOST]
        arguments += self._restic.tuning()
        return self._restic.start(*arguments, "--tag", f"run={self._run},{tag}", *more, feed=feed)
