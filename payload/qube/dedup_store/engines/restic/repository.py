# SPDX-License-Identifier: GPL-3.0-or-later
"""restic (0.14 and later): one snapshot per object.

An object's snapshot has the tags `run=NAME` and `object=N`, or `summary=...` for the manifest.
Its id isn't stored anywhere, so that `restic copy` to another repository keeps runs usable.
Payload objects have a constant time and file name, so that an unchanged one has a known tree.
Two puts at once work: restic needs no exclusive lock to add data.
"""

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from dedup_store.archive.manifest import is_run_name
from dedup_store.config import Config
from dedup_store.engines import folder
from dedup_store.engines.base import (
    MAX_MANIFEST,
    RESERVE,
    Session,
    StoredObject,
    StoredRun,
    Usage,
)
from dedup_store.engines.restic.runner import HOST, READ_ONLY, ResticRunner
from dedup_store.engines.restic.writer import ResticWriter
from dedup_store.errors import DamagedError, DiskError, StoreError
from dedup_store.system.files import files_bytes, free_bytes
from dedup_store.system.processes import Child, ChildStream
from dedup_store.system.streams import Stream, read_all

_SNAPSHOTS = ("snapshots", "--json", "--host", HOST)
_AT_ONCE = 500  # snapshots in one command line
# cmd/restic/cmd_check.go runCheck
_DAMAGE = (b"repository contains errors", b"LoadIndex returned errors")


@dataclass
class _Objects:
    """The snapshot ids of a run; `all` are those of manifests, and all others."""

    summary: str | None = None  # None without a manifest
    payload: dict[int, tuple[str, str]] = field(default_factory=dict)  # and their trees
    all: tuple[list[str], list[str]] = field(default_factory=lambda: ([], []))


class Restic:
    """A restic repository (see base.Engine)."""

    def __init__(self, config: Config, session: Session) -> None:
        self._config = config
        self._restic = ResticRunner(config, session)
        self._known: dict[str, _Objects] | None = None
        self._is_list_needed = False  # whether what was begun without it has failed
        self._id = ""
        self._sizes: dict[str, int] | None = None  # of payload objects, by tree

    def exists(self) -> bool:
        """Return whether the password opens the repository."""
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
        """Return its id (internal/restic/config.go Config)."""
        try:
            if not self._id:
                self._id = str(json.loads(self._restic.run(*READ_ONLY, "cat", "config"))["id"])
            return self._id
        except (ValueError, KeyError, TypeError):
            raise StoreError("restic's configuration is malformed") from None

    def create(self) -> None:
        """Make the repository."""
        self._restic.run("init")

    def key(self) -> None:
        """Return nothing: with the password, restic opens its own key in the repository."""

    def runs(self) -> list[StoredRun]:
        """List the runs."""
        found = self._objects()
        return [
            StoredRun(run, item.summary) for run, item in found.items() if item.summary is not None
        ]

    def writer(self, run: str) -> ResticWriter:
        """Begin a new run."""
        return ResticWriter(self._restic, run)

    def manifest(self, run: str) -> bytes:
        """Read the manifest object of a run."""
        try:
            return read_all(ChildStream(self._dump(run, "manifest")), MAX_MANIFEST)
        except StoreError:
            if self._known is not None or run not in self._objects():
                raise
        # one damaged snapshot keeps restic from finding any by its tags; a list leaves it out
        self._is_list_needed = True
        return read_all(ChildStream(self._dump(run, "manifest")), MAX_MANIFEST)

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
                self._restic.run_alone("forget", *ids[start : start + _AT_ONCE])

    def prune(self) -> None:
        """Free the space of what was removed.

        What is left of files that aren't needed as a whole is stored again first: as much as half
        of the room allows, so that the others go in any case.
        """
        place = self._config.local_repository
        limit = ["--max-repack-size", str(free_bytes(place) // 2)] if place else []
        self._restic.run_alone("prune", *limit)

    def unlock(self) -> None:
        """Remove the locks of dead processes, unless somebody else's restic can be running."""
        self._restic.remove_dead_locks()

    def check(self, *, read_data: bool) -> None:
        """Run restic's check without its lock, with which backups and restores would fail.

        Without it, what a put adds meanwhile can look like damage; so damage must be seen twice.
        """
        self._restic.leave_cache()
        try:
            self._check(read_data=read_data)
        except DamagedError:
            self._check(read_data=read_data)

    def _check(self, *, read_data: bool) -> None:
        more = ["--read-data"] if read_data else []
        with Path(os.devnull).open("rb") as nothing:
            child = self._restic.start(*READ_ONLY, "check", *more, feed=nothing)
        child.judge(lambda _, errors: any(mark in errors for mark in _DAMAGE))

    def stored_objects(self, run: str) -> dict[int, StoredObject]:
        """Return a run's payload objects."""
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
        find = ("find", "--json", "--host", HOST, "payload")
        try:
            found = json.loads(self._restic.run(*READ_ONLY, *find)) or []
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
                for line in self._restic.run(*READ_ONLY, "ls", "--json", snapshot).splitlines():
                    item = json.loads(line)
                    if item.get("path") == "/payload":
                        sizes[tree] = item["size"]
        return sizes

    def usage(self) -> Usage:
        """Return the room that the repository takes."""
        runs = [item for item in self._objects().values() if item.summary is not None]
        objects = sum(len(item.payload) for item in runs)
        if self._config.local_repository:
            size = files_bytes(self._config.local_repository, without=RESERVE)
            return Usage(size, "the sizes of the repository's files", objects)
        statistics = ("stats", "--mode", "raw-data", "--json")
        try:
            size = json.loads(self._restic.run(*READ_ONLY, *statistics))["total_size"]
        except (ValueError, KeyError, TypeError):
            raise StoreError("restic's statistics are malformed") from None
        return Usage(size, "the data that runs use, as restic counts them", objects)

    def _dump(self, run: str, name: str, number: int | None = None) -> Callable[[], Child]:
        """Return a starter for reading an object, found by its tags: a list would be another start.

        With a list that was read anyway, by its id.
        """
        tag = f"run={run}" if number is None else f"run={run},object={number}"
        find = ["--host", HOST, "--path", f"/{name}", "--tag", tag, "latest"]
        if known := (self._known or {}).get(run):
            if number is None:
                find = known.all[0][:1] or find
            elif number in known.payload:
                find = [known.payload[number][0]]
        what = name if number is None else f"{name} object {number}"
        hint = f" (reading the {what} of {run})"
        return partial(self._restic.start, *READ_ONLY, "dump", *find, f"/{name}", hint=hint)

    def _objects(self) -> dict[str, _Objects]:
        """Find all objects by their tags, with one start of restic."""
        if self._known is None:
            try:
                snapshots = json.loads(self._restic.run(*READ_ONLY, *_SNAPSHOTS)) or []
            except ValueError:
                raise StoreError("restic's list of snapshots is malformed") from None
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

    def is_asking(self, kind: str) -> bool:  # noqa: ARG002 -- the engines' interface
        """Return False: restic keeps no record of repositories in this qube."""
        return False

    def accept(self, kind: str) -> None:
        """Do nothing: there is nothing to accept."""
