# SPDX-License-Identifier: GPL-3.0-or-later
"""A restic repository with the runs of a model.

dedup-store itself stores a small run. Its two snapshots and their trees, as restic wrote them, are
the pattern for all others (engines/restic/repository.py says what is in them): only lengths,
contents, tags and times are replaced. That run is then forgotten. Each piece of the model is a
blob.
"""

import hashlib
import json
from typing import Any

from dedup_store.engines.restic.extents import CUT, file_length

from testing.store.driver import Store
from testing.store.puts import small_backup
from testing.store.years.model import MadeRun, Model
from testing.store.years.restic_files import ResticFiles

_PLACEHOLDER = "0" * 64


def fill(store: Store, model: Model) -> list[str]:
    """Add a model's runs to a repository; give their names."""
    pattern = store.put(small_backup())["run"]
    patterns = _patterns(store, pattern)
    assert store.run("forget", pattern).returncode == 0
    files = ResticFiles(store.repository, store.password.read_text().strip())
    cut = files.blob("data", CUT)
    content = _Content(model, cut)
    names = []
    for run in model.runs():
        blobs: dict[bytes, str] = {}  # in a first run, some pieces are equal
        for piece in run.changed:
            data = model.pieces[piece]
            if data not in blobs:
                blobs[data] = files.blob("data", data)
            content.replace(piece, blobs[data])
        size = file_length(model.manifest.objects)
        patterns["payload"].add(files, run, f"run={run.name},payload", size, content.text())
        manifest = files.blob("data", run.manifest)
        tags = f"run={run.name},summary={run.summary}"
        patterns["manifest"].add(files, run, tags, len(run.manifest), f'"{manifest}"')
        names.append(run.name)
    files.finish()
    return names


class _Content:
    """The list of a payload's blobs, in a tree's JSON."""

    def __init__(self, model: Model, cut: str) -> None:
        self._row = len(_PLACEHOLDER) + 3
        rows: list[str] = []
        self._places: list[int] = []
        for pieces in model.objects:
            self._places += range(len(rows), len(rows) + len(pieces))
            rows += [_PLACEHOLDER] * len(pieces) + [cut]
        self._text = bytearray("".join(f'"{row}",' for row in rows).encode())

    def replace(self, piece: int, name: str) -> None:
        """Give a piece another blob."""
        begin = self._places[piece] * self._row + 1
        self._text[begin : begin + len(name)] = name.encode()

    def text(self) -> str:
        """Return the list."""
        return self._text[:-1].decode()


class _Pattern:
    """A snapshot of one file as restic made it, and its tree."""

    def __init__(self, snapshot: dict[str, Any], tree: dict[str, Any]) -> None:
        self._snapshot = {k: v for k, v in snapshot.items() if k not in ("id", "short_id")}
        (self._node,) = tree["nodes"]
        self._is_dated = not snapshot["time"].startswith("2000-01-01")

    def add(self, files: ResticFiles, run: MadeRun, tags: str, size: int, content: str) -> None:
        """Store a snapshot like it.

        Args:
            files: where to.
            run: its run.
            tags: its tags.
            size: bytes of its file.
            content: the ids of its blobs, as in a tree.
        """
        node = json.dumps(self._node | {"size": size, "content": [_PLACEHOLDER]})
        text = f'{{"nodes":[{node}]}}\n'.replace(f'"{_PLACEHOLDER}"', content).encode()
        made = hashlib.sha256(text).hexdigest()
        assert made == files.blob("tree", text)
        snapshot = self._snapshot | {"tree": made, "tags": tags.split(",")}
        if self._is_dated:
            snapshot["time"] = f"{run.name[:4]}-{run.name[4:6]}-{run.name[6:8]}T23:00:00Z"
        if "summary" in snapshot:  # restic 0.17 and later
            snapshot["summary"] = snapshot["summary"] | {"total_bytes_processed": size}
        files.snapshot(snapshot)


def _patterns(store: Store, run: str) -> dict[str, _Pattern]:
    """Read the snapshots of a run, by the names of their files."""
    found = {}
    for row in json.loads(store.native("snapshots", "--json", "--tag", f"run={run}")):
        snapshot = json.loads(store.native("cat", "snapshot", row["id"]))
        tree = json.loads(store.native("cat", "blob", row["tree"]))
        found[snapshot["paths"][0].strip("/")] = _Pattern(snapshot, tree)
    assert set(found) == {"payload", "manifest"}, found
    return found
