# SPDX-License-Identifier: GPL-3.0-or-later
"""restic (0.14 and later): one snapshot for a run's payload objects, one for its manifest.

A snapshot has the tags `run=NAME` and `payload`, or `summary=...` for the manifest. Its id isn't
stored anywhere, so that `restic copy` to another repository keeps runs usable. All payload objects
are in one file (extents.py), with a constant time and name, so that an unchanged one has a known
tree. Two puts at once work: restic needs no exclusive lock to add data.
"""

import contextlib
import json
import os
from collections.abc import Callable, Collection, Iterator, Sequence
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
    StoredRun,
    Usage,
)
from dedup_store.engines.restic import mount
from dedup_store.engines.restic.extents import ExtentReader, extents, file_length
from dedup_store.engines.restic.runner import HOST, MANIFEST, PAYLOAD, READ_ONLY, ResticRunner
from dedup_store.engines.restic.writer import ResticWriter
from dedup_store.errors import DamagedError, DiskError, StoreError
from dedup_store.system import notify
from dedup_store.system.files import files_bytes, free_bytes
from dedup_store.system.processes import Child, ChildStream
from dedup_store.system.streams import Stream, read_all

_SNAPSHOTS = ("snapshots", "--json", "--host", HOST)
_MOST_BY_MOUNT = 0.6  # of what a dump must read: a mount takes up to 1.5 times as long for a byte
_AT_ONCE = 500  # snapshots in one command line
_MANY = 3  # manifests that take longer to dump than to read from a mount
# cmd/restic/cmd_check.go runCheck
_DAMAGE = (b"repository contains errors", b"LoadIndex returned errors")


@dataclass
class _Snapshots:
    """The snapshots of a run."""

    summary: str | None = None  # None without a manifest
    manifests: list[str] = field(default_factory=list)  # ids
    payloads: list[tuple[str, str]] = field(default_factory=list)  # ids and trees
    sizes: list[int] = field(default_factory=list)  # of the payloads, as far as restic notes them


class Restic:
    """A restic repository (see base.Engine)."""

    def __init__(self, config: Config, session: Session) -> None:
        self._config = config
        self._restic = ResticRunner(config, session)
        self._known: dict[str, _Snapshots] | None = None
        self._is_list_needed = False  # whether what was begun without it has failed
        self._id = ""
        self._sizes: dict[str, int] | None = None  # of payloads, by tree
        self._mount: mount.Mount | None = None

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
        found = self._snapshots()
        return [
            StoredRun(run, item.summary) for run, item in found.items() if item.summary is not None
        ]

    def writer(self, run: str) -> ResticWriter:
        """Begin a new run."""
        return ResticWriter(self._restic, run)

    @contextlib.contextmanager
    def reading_many(self, runs: Sequence[str]) -> Iterator[None]:
        """Let manifest() read from one mount, if there can be one."""
        if len(runs) >= _MANY and not mount.obstacle():
            with contextlib.suppress(StoreError):  # then each is a start of restic
                self._mount = mount.Mount(self._restic)
        try:
            yield
        finally:
            if self._mount:
                self._mount.close()
                self._mount = None

    def manifest(self, run: str) -> bytes:
        """Read the manifest object of a run."""
        if self._mount and (known := self._snapshots().get(run)) and known.manifests:
            with contextlib.suppress(StoreError):  # a dump says better what is wrong
                return self._mount.content(known.manifests[0], MANIFEST, MAX_MANIFEST)
        try:
            return read_all(ChildStream(self._dump(run, MANIFEST)), MAX_MANIFEST)
        except StoreError:
            if self._known is not None or run not in self._snapshots():
                raise
        # one damaged snapshot keeps restic from finding any by its tags; a list leaves it out
        self._is_list_needed = True
        return read_all(ChildStream(self._dump(run, MANIFEST)), MAX_MANIFEST)

    def begin(self, run: str) -> ChildStream:
        """Begin to read the payload of a run."""
        return ChildStream(self._dump(run, PAYLOAD))

    def payload(
        self,
        run: str,
        lengths: Sequence[int],
        wanted: Sequence[int],
        begun: ChildStream | None = None,
    ) -> Stream:
        """Read payload objects of a run: by a mount, unless a dump is as quick."""
        parts, is_all = extents(lengths, wanted), len(wanted) == len(lengths)
        if begun and self._is_list_needed:
            begun.close()
            begun = None
        to_read = sum(part.length for part in parts)
        if not is_all and to_read <= _MOST_BY_MOUNT * parts[-1].end:
            why = mount.obstacle()
            try:
                if not why:
                    return mount.MountedPayload(self._restic, run, parts)
            except StoreError as error:
                why = str(error)
            notify.say(f"restic also reads what comes before, because it can't mount: {why}")
        stream = begun or ChildStream(self._dump(run, PAYLOAD))
        return ExtentReader(stream, parts, is_all=is_all)

    def leftovers(self) -> list[str]:
        """List the runs that have no manifest."""
        return [run for run, item in self._snapshots().items() if item.summary is None]

    def forget(self, runs: Sequence[str]) -> None:
        """Remove all snapshots of these runs."""
        known, self._known = self._snapshots(), None
        manifests = [snapshot for run in runs for snapshot in known[run].manifests]
        payloads = [snapshot for run in runs for snapshot, _ in known[run].payloads]
        for ids in (manifests, payloads):
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

    def lost_objects(self, run: str, lengths: Sequence[int]) -> set[int]:
        """Return all payload objects of a run, or none: they are one file."""
        known = self._snapshots()[run]
        sizes: Collection[int | None] = known.sizes
        if len(known.sizes) < len(known.payloads):
            if self._sizes is None:
                self._sizes = self._find_sizes()
            sizes = [self._sizes.get(tree) for _, tree in known.payloads]
        return set() if file_length(lengths) in sizes else set(range(len(lengths)))

    def payload_id(self, run: str) -> str:
        """Return the tree that has the payload."""
        trees = [tree for _, tree in self._snapshots()[run].payloads]
        return trees[0] if len(trees) == 1 else ""

    def _find_sizes(self) -> dict[str, int]:
        """Find all payloads' sizes, with one start of restic unless trees are damaged.

        Output of `find --json`: cmd/restic/cmd_find.go statefulOutput; between the JSON it prints
        which trees it couldn't load.
        """
        known = dict(pair for item in self._snapshots().values() for pair in item.payloads)
        find = ("find", "--json", "--host", HOST, PAYLOAD)
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
                    if item.get("path") == f"/{PAYLOAD}":
                        sizes[tree] = item["size"]
        return sizes

    def usage(self) -> Usage:
        """Return the room that the repository takes."""
        if self._config.local_repository:
            size = files_bytes(self._config.local_repository, without=RESERVE)
            return Usage(size, "the sizes of the repository's files")
        statistics = ("stats", "--mode", "raw-data", "--json")
        try:
            size = json.loads(self._restic.run(*READ_ONLY, *statistics))["total_size"]
        except (ValueError, KeyError, TypeError):
            raise StoreError("restic's statistics are malformed") from None
        return Usage(size, "the data that runs use, as restic counts them")

    def _dump(self, run: str, name: str) -> Callable[[], Child]:
        """Return a starter for reading a file, found by its tags: a list would be another start.

        With a list that was read anyway, by its id.
        """
        find = ["--host", HOST, "--path", f"/{name}", "--tag", f"run={run}", "latest"]
        if known := (self._known or {}).get(run):
            ids = [item for item, _ in known.payloads] if name == PAYLOAD else known.manifests
            find = ids[:1] or find
        hint = f" (reading the {name} of {run})"
        return partial(self._restic.start, *READ_ONLY, "dump", *find, f"/{name}", hint=hint)

    def _snapshots(self) -> dict[str, _Snapshots]:
        """Find all snapshots by their tags, with one start of restic."""
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
    def _sort_in(snapshot: dict[str, Any], known: dict[str, _Snapshots]) -> None:
        tags = dict(tag.partition("=")[::2] for tag in snapshot.get("tags") or [])
        run = tags.get("run", "")
        if not is_run_name(run):
            return
        found = known.setdefault(run, _Snapshots())
        if "summary" in tags:
            found.summary = tags["summary"]
            found.manifests.append(snapshot["id"])
        elif PAYLOAD in tags:
            found.payloads.append((snapshot["id"], snapshot["tree"]))
            # restic 0.17 and later (internal/restic/snapshot.go SnapshotSummary)
            size = (snapshot.get("summary") or {}).get("total_bytes_processed")
            found.sizes += [size] if type(size) is int else []

    def is_asking(self, kind: str) -> bool:  # noqa: ARG002 -- the engines' interface
        """Return False: restic keeps no record of repositories in this qube."""
        return False

    def accept(self, kind: str) -> None:
        """Do nothing: there is nothing to accept."""
